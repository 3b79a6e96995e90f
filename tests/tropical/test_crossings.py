import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import tropical
from tests.tropical.networks import forward, random_network

SHAPES = [(3, 12, 2), (5, 12, 4), (3, 8, 8, 3)]


def on_device(layers):
    return [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in layers]


def dense_walk(layers, start, end):
    """Crossings as a walk of many small steps sees them: their places and labels."""
    place = np.linspace(0.0, 1.0, 40_001)
    labels = forward(layers, start + place[:, None] * (end - start)).argmax(axis=1)
    steps = np.flatnonzero(np.diff(labels))
    return (place[steps] + place[steps + 1]) / 2.0, labels[steps], labels[steps + 1]


@pytest.mark.parametrize("sizes", SHAPES)
def test_every_change_of_class_on_a_walk_is_found(sizes):
    """One trace serves all networks and segments of a shape, in float64 under jit and vmap."""
    rng = np.random.default_rng(0)
    chex.clear_trace_counter()
    # Past the middle, where the scores are balanced.
    starts = 3.0 * rng.normal(size=(6, sizes[0]))
    ends = 0.5 * rng.normal(size=starts.shape) - starts

    @jax.jit
    @chex.assert_max_traces(n=1)
    def cross(layers, start, end):
        return jax.vmap(lambda s, e: tropical.segment_crossings(layers, s, e, max_crossings=24))(
            start, end
        )

    total = 0
    with jax.enable_x64(True):
        for seed in range(6):
            layers = random_network(seed, sizes)
            found = jax.tree.map(np.asarray, cross(on_device(layers), starts, ends))
            assert found.position.dtype == np.float64
            assert np.all(found.complete)
            assert np.all(found.tied == 0.0)
            for n in range(starts.shape[0]):
                expected, before, after = dense_walk(layers, starts[n], ends[n])
                count = found.num_crossings[n]
                assert count == expected.size
                np.testing.assert_allclose(found.position[n, :count], expected, atol=3e-5)
                np.testing.assert_array_equal(found.before[n, :count], before)
                np.testing.assert_array_equal(found.after[n, :count], after)
                assert np.all(np.isinf(found.position[n, count:]))
                assert np.all(found.after[n, count:] == -1)
                points = starts[n] + found.position[n, :count, None] * (ends[n] - starts[n])
                best = np.sort(forward(layers, points), axis=1)
                np.testing.assert_allclose(best[:, -1], best[:, -2], rtol=0, atol=1e-9)
                total += count
    assert total > 20


def test_crossings_closer_than_any_walk_sees():
    """A class that wins on a piece of length 2e-9 only."""
    layers = [
        (np.array([[1.0], [-1.0]]), np.zeros(2)),
        (np.array([[-1.0, -1.0], [0.0, 0.0]]), np.array([1e-9, 0.0])),
    ]
    with jax.enable_x64(True):
        found = tropical.segment_crossings(on_device(layers), jnp.array([-1.0]), jnp.array([1.0]))
    assert int(found.num_crossings) == 2
    np.testing.assert_allclose(found.position[:2], [0.5 - 5e-10, 0.5 + 5e-10], rtol=1e-12)
    np.testing.assert_array_equal(found.after[:2], [0, 1])


def test_a_tie_on_an_open_piece_is_measured():
    """Both units are off on the first half: the scores agree there."""
    layers = [(jnp.array([[1.0], [2.0]]), None), (jnp.array([[1.0, 1.0], [0.0, 0.0]]), None)]
    found = tropical.segment_crossings(layers, jnp.array([-1.0]), jnp.array([1.0]))
    assert float(found.tied) == pytest.approx(0.5)
    away = tropical.segment_crossings(layers, jnp.array([1.0]), jnp.array([3.0]))
    assert float(away.tied) == 0.0
    assert int(away.num_crossings) == 0


def test_a_crossing_at_a_breakpoint_is_found_once():
    layers = [
        (jnp.array([[1.0], [-1.0]]), None),
        (jnp.array([[1.0, -1.0], [0.0, 0.0]]), None),
    ]
    found = tropical.segment_crossings(layers, jnp.array([-1.0]), jnp.array([3.0]))
    assert int(found.num_crossings) == 1
    assert float(found.position[0]) == pytest.approx(0.25)
    assert (int(found.before[0]), int(found.after[0])) == (1, 0)


def test_classes_that_compete():
    layers = random_network(4, (5, 12, 4))
    (w1, b1), (w2, b2) = layers
    rng = np.random.default_rng(5)
    start = jnp.asarray(3.0 * rng.normal(size=5))
    end = -start
    some = tropical.segment_crossings(on_device(layers), start, end, classes=(3, 1))
    alone = tropical.segment_crossings(on_device([(w1, b1), (w2[[3, 1]], b2[[3, 1]])]), start, end)
    np.testing.assert_allclose(some.position, alone.position, rtol=1e-5)
    mapped = np.where(np.asarray(alone.after) < 0, -1, np.array([3, 1])[np.asarray(alone.after)])
    np.testing.assert_array_equal(some.after, mapped)
    assert int(some.num_crossings) > 0


def test_derivative_of_a_position():
    """The first crossing moves with the weights as finite differences say."""
    with jax.enable_x64(True):
        layers = on_device(random_network(4, (5, 12, 4)))
        rng = np.random.default_rng(5)
        start = jnp.asarray(3.0 * rng.normal(size=5))

        def first(layers, start):
            return tropical.segment_crossings(layers, start, -start).position[0]

        assert np.isfinite(first(layers, start))
        gradient = jax.grad(first, argnums=(0, 1))(layers, start)
        direction = jax.tree.map(lambda g: rng.normal(size=g.shape), gradient)
        slope = sum(
            jnp.vdot(g, v)
            for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )

        def moved(step):
            shifted = jax.tree.map(lambda x, v: x + step * v, (layers, start), direction)
            return float(first(*shifted))

        assert float(slope) == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-5)
        assert abs(float(slope)) > 1e-3


def test_too_little_room_is_said():
    layers = on_device(random_network(1, (3, 8, 8, 3)))
    start = jnp.array([3.0, -2.0, 1.0])
    end = -start
    few = tropical.segment_crossings(layers, start, end, max_breakpoints=3)
    assert not bool(few.complete)
    walk = dense_walk(random_network(1, (3, 8, 8, 3)), np.asarray(start), np.asarray(end))
    assert walk[0].size > 1
    one = tropical.segment_crossings(layers, start, end, max_crossings=1)
    assert not bool(one.complete)
    assert int(one.num_crossings) == walk[0].size


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"start": np.zeros((2, 3))}, ValueError, r"start must have shape \(3,\).*jax.vmap"),
        ({"end": np.zeros(3, int)}, TypeError, "end must be floating"),
        ({"classes": (1,)}, ValueError, "at least two different"),
        ({"max_crossings": 0}, ValueError, "max_crossings"),
        ({"max_breakpoints": 2.5}, TypeError, "max_breakpoints must be an integer"),
        ({"layers": [(np.ones((2, 3)), None)]}, ValueError, "at least two layers"),
        ({"layers": [(np.ones((2, 3)), None), (np.ones((2, 3)), None)]}, ValueError, "2 columns"),
        ({"layers": [(np.ones((2, 3)), np.ones(3)), (np.ones((2, 2)), None)]}, ValueError, "shape"),
        ({"layers": [(np.ones((2, 3), int), None), (np.ones((2, 2)), None)]}, TypeError, "layers"),
    ],
)
def test_bad_input(change, error, words):
    good = {
        "layers": [(np.ones((2, 3)), np.ones(2)), (np.ones((2, 2)), None)],
        "start": np.zeros(3),
        "end": np.ones(3),
    } | change
    arrays = [good.pop(name) for name in ("layers", "start", "end")]
    with pytest.raises(error, match=words):
        tropical.segment_crossings(*arrays, **good)
