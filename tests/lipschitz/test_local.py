"""Jacobians over balls, and the Lipschitz constant over a ball from both sides."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert.lipschitz import (
    Dense,
    Relu,
    _jacobian,
    _local,
    ball,
    jacobian_bounds,
    linear_bounds,
    local_lipschitz_lower,
    local_lipschitz_upper,
)
from tests.lipschitz.relu_networks import (
    dense_network,
    draw,
    jacobian_of,
    points_of_ball,
    scores_of,
    values_of_layers,
)

ORDERS = {"l2": 2, "linf": np.inf, "l1": 1}
DUALS = {"l2": 2, "linf": 1, "l1": np.inf}
DIFFERENCES = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], np.float32)


@functools.cache
def centers():
    return np.random.default_rng(2).uniform(0.1, 0.9, size=(4, 6)).astype(np.float32)


@functools.partial(jax.jit, static_argnames="norm")
def from_both_sides(key, layers, radius, *, norm):
    """Lower bounds, upper bounds by intervals and by patterns, for the output and differences."""
    region = ball(centers(), radius, norm=norm)
    bounds = linear_bounds(layers, region)
    differences = {"functionals": DIFFERENCES}
    return {
        "bounds": bounds,
        "whole": (
            local_lipschitz_lower(key, layers, region, starts=6, steps=20),
            local_lipschitz_upper(layers, region, bounds=bounds, patterns=5),
            local_lipschitz_upper(layers, region, bounds=bounds),
        ),
        "differences": (
            local_lipschitz_lower(key, layers, region, starts=6, steps=20, **differences),
            local_lipschitz_upper(layers, region, bounds=bounds, patterns=5, **differences),
            local_lipschitz_upper(layers, region, bounds=bounds, **differences),
        ),
        "jacobian": jacobian_bounds(layers, region, bounds=bounds),
    }


def norm_of(matrix, norm):
    return np.linalg.norm(matrix, ORDERS[norm])


def product_of(layers, norm):
    return np.prod([
        norm_of(np.asarray(layer.weight, float), norm)
        for layer in layers if isinstance(layer, Dense)
    ])  # fmt: skip


@pytest.mark.parametrize("norm", ["l2", pytest.param("linf", marks=pytest.mark.slow)])
def test_the_constant_is_enclosed_and_never_above_the_product(norm, key):
    layers = dense_network()
    rng = np.random.default_rng(1)
    for radius in (0.02, 0.15, 3.0):
        found = from_both_sides(key, layers, np.float32(radius), norm=norm)
        points = points_of_ball(rng, centers(), float(np.float32(radius)), norm, None, 60)
        jacobians = np.array([[jacobian_of(layers, point) for point in batch] for batch in points])
        low, high = (np.asarray(end, float) for end in found["jacobian"])
        assert np.all((low <= jacobians) & (jacobians <= high))
        sampled = np.array([[norm_of(j, norm) for j in batch] for batch in jacobians]).max(axis=0)
        lower, patterns, intervals = (np.asarray(value, float) for value in found["whole"])
        assert np.all(lower <= patterns)
        assert np.all(sampled <= patterns)
        assert np.all(patterns <= intervals)
        assert np.all(intervals <= product_of(layers, norm) * (1 + 1e-3))
        lower, patterns, intervals = (np.asarray(value, float) for value in found["differences"])
        gradients = np.einsum("ko,nboi->nbki", DIFFERENCES.astype(float), jacobians)
        steepest = np.linalg.norm(gradients, DUALS[norm], axis=-1).max(axis=0)
        assert np.all(lower <= patterns)
        assert np.all(steepest <= patterns)
        assert np.all(patterns <= intervals)
        # The search is of use beside many samples.
        assert np.all(lower >= 0.8 * steepest)


@pytest.mark.parametrize(
    "norm", ["l2", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("linf", "l1"))]
)
def test_patterns_are_those_of_brute_force(norm):
    """All patterns of the open neurons, tried one by one in float64."""
    layers = dense_network(seed=3)
    region = ball(centers(), 0.06, norm=norm)

    @jax.jit
    def bound(region):
        bounds = linear_bounds(layers, region)
        upper = functools.partial(local_lipschitz_upper, layers, region, bounds=bounds, patterns=7)
        return bounds, upper(), upper(functionals=DIFFERENCES)

    bounds, whole, differences = bound(region)
    compared = 0
    for row in range(len(centers())):
        hidden = [bounds[position - 1] for position in (1, 3)]
        signs = [
            np.where(np.asarray(low[row]) >= 0, 1, np.where(np.asarray(high[row]) > 0, -1, 0))
            for low, high in hidden
        ]
        opened = [(i, j) for i, sign in enumerate(signs) for j in np.flatnonzero(sign == -1)]
        if not 0 < len(opened) <= 7:
            continue
        compared += 1
        best, steepest = 0.0, np.zeros(2)
        for pattern in itertools.product((0, 1), repeat=len(opened)):
            slopes = [sign.astype(float) for sign in signs]
            for (i, j), value in zip(opened, pattern, strict=True):
                slopes[i][j] = value
            first, second, last = (np.asarray(layers[k].weight, float) for k in (0, 2, 4))
            jacobian = last @ np.diag(slopes[1]) @ second @ np.diag(slopes[0]) @ first
            best = max(best, norm_of(jacobian, norm))
            gradients = np.linalg.norm(DIFFERENCES @ jacobian, DUALS[norm], axis=1)
            steepest = np.maximum(steepest, gradients)
        np.testing.assert_allclose(whole[row], best, rtol=1e-3)
        assert whole[row] >= best
        np.testing.assert_allclose(differences[row], steepest, rtol=1e-4)
        assert np.all(differences[row] >= steepest)
    assert compared >= 2


def test_one_hidden_layer_of_full_rank_is_exact_on_a_large_ball(key):
    """Every pattern occurs somewhere, so the constant is the largest over all of them."""
    rng = np.random.default_rng(0)
    layers = [
        Dense(draw(rng, 5, 7, fan_in=7), draw(rng, 5, fan_in=5)), Relu(),
        Dense(draw(rng, 2, 5, fan_in=5), jnp.zeros(2)),
    ]  # fmt: skip
    first, last = (np.asarray(layers[k].weight, float) for k in (0, 2))
    exact = max(
        np.linalg.norm(last @ np.diag(pattern) @ first, 2)
        for pattern in itertools.product((0.0, 1.0), repeat=5)
    )
    region = ball(jnp.zeros((1, 7)), 50.0, norm="l2")
    upper = jax.jit(lambda region: local_lipschitz_upper(layers, region, patterns=5))(region)
    lower = jax.jit(lambda key: local_lipschitz_lower(key, layers, region, starts=40, steps=4))(key)
    np.testing.assert_allclose(upper[0], exact, rtol=1e-3)
    assert float(lower[0]) <= exact <= float(upper[0])
    assert float(lower[0]) > 0.9 * exact


def test_a_bound_of_the_caller_caps_the_result():
    layers = dense_network(widths=(6, 4, 3))
    bound = functools.partial(local_lipschitz_upper, layers, refine=0, global_upper=0.25)
    capped = jax.jit(bound)(ball(centers(), 0.5, norm="l2"))
    np.testing.assert_allclose(capped, 0.25, rtol=1e-5)
    assert np.all(np.asarray(capped) >= 0.25)


def test_differences_of_scores_obey_the_constant():
    """|f(x) - f(y)| <= L |x - y| for pairs within the ball, in float64."""
    layers = dense_network()
    region = ball(centers(), 0.2, norm="l2")
    upper = np.asarray(jax.jit(lambda r: local_lipschitz_upper(layers, r))(region), float)
    rng = np.random.default_rng(5)
    one, other = (points_of_ball(rng, centers(), 0.2, "l2", None, 200) for _ in range(2))
    rise = scores_of(layers, one.reshape(-1, 6)) - scores_of(layers, other.reshape(-1, 6))
    ratio = np.linalg.norm(rise.reshape(200, 4, 3), axis=-1) / np.linalg.norm(one - other, axis=-1)
    assert np.all(ratio.max(axis=0) <= upper)


@pytest.mark.parametrize("fault", ["signs", "patterns"])
def test_broken_bounds_are_caught(fault, monkeypatch):
    layers = dense_network()
    region = ball(centers(), 0.4, norm="l2")
    sampled = np.array([
        max(norm_of(jacobian_of(layers, point), "l2") for point in points)
        for points in np.swapaxes(
            points_of_ball(np.random.default_rng(0), centers(), 0.4, "l2", None, 200), 0, 1
        )
    ])  # fmt: skip
    if fault == "signs":
        # As if every neuron kept the sign that it has in the middle of its interval.
        def ranges(layers, bounds, region):
            result = {}
            for position, layer in enumerate(layers):
                if isinstance(layer, Relu):
                    low, high = bounds[position - 1]
                    active = (low + high > 0).astype(low.dtype)
                    result[position] = _jacobian.Interval(active, active)
            return result

        monkeypatch.setattr(_local, "slope_ranges", ranges)
    else:
        # As if the pattern without any open neuron were the worst.
        monkeypatch.setattr(_local.jax.lax, "fori_loop", lambda low, high, step, start: start)
    patterns = 20 if fault == "patterns" else 0
    upper = local_lipschitz_upper(layers, region, refine=0, patterns=patterns)
    assert np.any(sampled > np.asarray(upper, float))


def test_lower_bound_ignores_points_of_uncertain_sign(key):
    """At the kink of |x| no slope is certain; off it the slope is 1."""
    layers = [
        Dense(jnp.array([[1.0], [-1.0]]), jnp.zeros(2)), Relu(),
        Dense(jnp.array([[1.0, 1.0]]), jnp.zeros(1)),
    ]  # fmt: skip
    search = jax.jit(functools.partial(local_lipschitz_lower, starts=2, steps=2))
    assert float(search(key, layers, ball(jnp.zeros((1, 1)), 0.0, norm="l2"))[0]) == 0.0
    around = ball(jnp.zeros((1, 1)), 0.5, norm="l2")
    np.testing.assert_allclose(search(key, layers, around), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"functionals": np.ones((2, 4), np.float32)}, ValueError, "functionals must have shape"),
        ({"patterns": 21}, ValueError, "patterns must lie in"),
        ({"slopes": "best"}, ValueError, "slopes must be one of"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        local_lipschitz_upper(dense_network(), ball(centers(), 0.1, norm="l2"), **settings)


def test_oracle_jacobian_is_that_of_differences():
    layers = dense_network()
    point = centers()[0].astype(float)
    steps = point + 1e-6 * np.eye(6)
    numeric = (values_of_layers(layers, steps)[-1] - scores_of(layers, point[None])) / 1e-6
    np.testing.assert_allclose(jacobian_of(layers, point), numeric.T, atol=1e-4)
