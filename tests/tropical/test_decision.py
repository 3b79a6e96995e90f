import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import tropical
from tests.tropical.networks import arguments, forward, random_network


def with_zonotopes(layers, directions, *, classes, cancel, bias=True):
    """Support values `[n, classes]` of the decision zonotopes, in float64."""
    w1, b1, w2, b2 = arguments(layers)
    with jax.enable_x64(True):
        zonotopes = tropical.decision_zonotopes(
            w1, b1 if bias else None, w2, b2 if bias else None, classes=classes, cancel=cancel
        )
        return np.stack([tropical.support(z, directions) for z in zonotopes], axis=1)


def lifted(points):
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_support_difference_is_the_difference_of_the_scores(seed, cancel):
    layers = random_network(seed, (4, 9, 3))
    points = np.random.default_rng(seed).normal(size=(50, 4)) * 3.0
    scores = forward(layers, points)
    for pair in ((0, 1), (2, 0)):
        support = with_zonotopes(layers, lifted(points), classes=pair, cancel=cancel)
        np.testing.assert_allclose(
            support[:, 0] - support[:, 1], scores[:, pair[0]] - scores[:, pair[1]], atol=1e-12
        )
    support = with_zonotopes(layers, lifted(points), classes=None, cancel=cancel)
    np.testing.assert_allclose(support - support[:, :1], scores - scores[:, :1], atol=1e-12)
    np.testing.assert_array_equal(support.argmax(axis=1), scores.argmax(axis=1))


@pytest.mark.parametrize("cancel", [True, False])
def test_without_biases_in_the_space_of_the_inputs(cancel):
    layers = random_network(7, (3, 6, 2), bias=0.0)
    points = np.random.default_rng(1).normal(size=(40, 3))
    support = with_zonotopes(layers, points, classes=(0, 1), cancel=cancel, bias=False)
    scores = forward(layers, points)
    np.testing.assert_allclose(
        support[:, 0] - support[:, 1], scores[:, 0] - scores[:, 1], atol=1e-13
    )


def test_generators_and_shifts_of_the_paper():
    """Segments [A^+, A^-] lifted to (A^+, c) and (A^-, 0), with their weights and shifts."""
    layers = random_network(3, (2, 5, 2))
    a, c1, b, c2 = arguments(layers)
    positive, negative = np.maximum(b, 0.0), np.maximum(-b, 0.0)
    a_plus, a_minus = np.maximum(a, 0.0), np.maximum(-a, 0.0)
    with jax.enable_x64(True):
        zonotopes = tropical.decision_zonotopes(a, c1, b, c2, classes=(0, 1), cancel=False)
    directions = np.random.default_rng(0).normal(size=(30, 3))
    for this, other, zonotope in ((0, 1, zonotopes[0]), (1, 0, zonotopes[1])):
        weight = positive[this] + negative[other]
        shift = np.append((negative[this] + positive[other]) @ a_minus, c2[this])
        ends = np.stack([np.column_stack([a_plus, c1]), np.column_stack([a_minus, 0.0 * c1])])
        expected = directions @ shift + (
            weight * np.max(np.einsum("ejk,nk->nej", ends, directions), axis=1)
        ).sum(axis=1)
        with jax.enable_x64(True):
            np.testing.assert_allclose(tropical.support(zonotope, directions), expected, atol=1e-12)


def test_a_unit_generates_one_of_two_cancelled_zonotopes():
    w1, b1, w2, b2 = arguments(random_network(3, (2, 5, 2)))
    first, second = tropical.decision_zonotopes(w1, b1, w2, b2, classes=(0, 1))
    lengths = [np.linalg.norm(z.generators, axis=1) for z in (first, second)]
    assert np.all((lengths[0] == 0.0) != (lengths[1] == 0.0))


def test_swapped_parts_would_be_noticed():
    """Giving B^+ of both classes to one zonotope, the classical slip, breaks the identity."""
    layers = random_network(0, (4, 9, 2))
    (w1, b1), (w2, b2) = layers
    wrong = [(w1, b1), (np.array([w2[0], -w2[1]]), b2)]
    points = np.random.default_rng(0).normal(size=(20, 4))
    support = with_zonotopes(wrong, lifted(points), classes=(0, 1), cancel=False)
    scores = forward(layers, points)
    assert np.abs(support[:, 0] - support[:, 1] - scores[:, 0] + scores[:, 1]).max() > 0.1


def test_transformations():
    """One trace for networks of a shape, a batch of them, and the caller's dtype."""
    networks = [random_network(seed, (3, 6, 2)) for seed in range(3)]
    stacked = [np.stack(group) for group in zip(*map(arguments, networks), strict=True)]
    point = np.array([0.3, -1.0, 0.5, 1.0])

    @chex.assert_max_traces(n=1)
    def lead(w1, b1, w2, b2):
        one, two = tropical.decision_zonotopes(w1, b1, w2, b2, classes=(0, 1))
        u = jnp.asarray(point, w1.dtype)
        return tropical.support(one, u) - tropical.support(two, u)

    compiled = jax.jit(jax.vmap(jax.value_and_grad(lead)))
    chex.clear_trace_counter()
    value, gradient = compiled(*(jnp.asarray(a, jnp.float32) for a in stacked))
    compiled(*(jnp.asarray(2.0 * a, jnp.float32) for a in stacked))
    assert value.dtype == gradient.dtype == jnp.float32
    for n, layers in enumerate(networks):
        scores = forward(layers, point[None, :3])[0]
        assert float(value[n]) == pytest.approx(scores[0] - scores[1], abs=1e-5)
        w1, b1, w2, _ = arguments(layers)
        on = (w1 @ point[:3] + b1 > 0) * (w2[0] - w2[1])
        np.testing.assert_allclose(gradient[n], on[:, None] * point[:3], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"w1": np.ones((2, 2), int)}, TypeError, "w1 must be floating"),
        ({"w1": np.full((2, 2), np.nan)}, ValueError, "w1 must be finite"),
        ({"w2": np.ones((2, 3))}, ValueError, "w2 must have one column a hidden unit"),
        ({"w2": np.ones(2)}, ValueError, "w2 must be a matrix"),
        ({"b1": np.ones(3)}, ValueError, "b1 must have shape"),
        ({"b2": np.ones(3)}, ValueError, "b2 must have shape"),
        ({"classes": (0, 2)}, ValueError, "classes must lie in"),
        ({"classes": (0,)}, ValueError, "at least two different"),
        ({"cancel": 1}, TypeError, "cancel must be a bool"),
    ],
)
def test_bad_input(change, error, words):
    good = {"w1": np.ones((2, 2)), "b1": np.ones(2), "w2": np.ones((2, 2)), "b2": np.ones(2)}
    settings = {"classes": (0, 1)} | {n: v for n, v in change.items() if n in ("classes", "cancel")}
    good |= {name: value for name, value in change.items() if name in good}
    with pytest.raises(error, match=words):
        tropical.decision_zonotopes(*good.values(), **settings)
