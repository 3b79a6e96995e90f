"""Balls, cut to boxes, and linear functions on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxcert.lipschitz import ball
from jaxcert.lipschitz._balls import linear_minimum


def exact_minimum(row, center, radius, norm, box):
    """The minimum of a linear function, by a linear program, in closed form, or by bisection."""
    low, high = (-np.inf, np.inf) if box is None else (box[0] - center, box[1] - center)
    if norm == "linf":
        low, high = np.maximum(low, -radius), np.minimum(high, radius)
        return row @ center + np.minimum(row * low, row * high).sum()
    if norm == "l1":
        size = len(row)
        low, high = np.broadcast_to(low, size), np.broadcast_to(high, size)
        bounds = [(0, top) for top in high] + [(0, -bottom) for bottom in low]
        program = optimize.linprog(
            np.concatenate([row, -row]), A_ub=np.ones((1, 2 * size)), b_ub=[radius], bounds=bounds
        )
        return row @ center + program.fun
    if box is None:
        return row @ center - radius * np.linalg.norm(row)

    def length(multiplier):
        return np.linalg.norm(np.clip(-row / multiplier, low, high)) - radius

    if length(1e-9) <= 0:
        return row @ center + np.minimum(row * low, row * high).sum()
    multiplier = optimize.brentq(length, 1e-9, 1e3, xtol=1e-14)
    return row @ center + row @ np.clip(-row / multiplier, low, high)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_linear_minimum_is_below_and_near_the_exact_one(norm, box):
    rng = np.random.default_rng(0)
    radii = np.array([0.02, 0.3, 2.0], np.float32)
    center = rng.uniform(size=(3, 20)).astype(np.float32)
    center[:, :3] = [0.0, 1.0, 0.0]
    rows = rng.normal(size=(3, 4, 20)).astype(np.float32)
    found = np.asarray(linear_minimum(jnp.asarray(rows), ball(center, radii, norm=norm, box=box)))
    for index in np.ndindex(3, 4):
        exact = exact_minimum(
            rows[index].astype(float), center[index[0]].astype(float), float(radii[index[0]]),
            norm, box,
        )  # fmt: skip
        assert exact - 1e-3 < found[index] <= exact


def test_box_is_rounded_outwards():
    center = np.random.default_rng(0).uniform(size=(50, 7)).astype(np.float32)
    region = ball(center, np.float32(0.1))
    radius = float(np.float32(0.1))
    assert np.all(np.asarray(region.lower, np.float64) <= center.astype(np.float64) - radius)
    assert np.all(np.asarray(region.upper, np.float64) >= center.astype(np.float64) + radius)
    # A Python number that float32 rounds down still describes a ball that is no smaller.
    assert float(ball(center, 0.7).radius[0]) >= 0.7 > float(np.float32(0.7))
    assert np.all(np.asarray(ball(center[:2], [0.7, 0.7]).radius, float) >= 0.7)
    # So does a box: 0.1 becomes a larger number in float32, 0.7 a smaller one.
    middle = np.full((1, 1), 0.5, np.float32)
    boxed = ball(middle, 1.0, box=(0.1, 0.7))
    assert float(boxed.lower[0, 0]) <= 0.1 < float(np.float32(0.1))
    assert float(boxed.upper[0, 0]) >= 0.7 > float(np.float32(0.7))
    point = ball(center, 0.0)
    np.testing.assert_array_equal(point.lower, center)
    np.testing.assert_array_equal(point.upper, center)


@pytest.mark.parametrize(
    ("center", "radius", "settings", "error", "message"),
    [
        (jnp.ones((2, 3), int), 0.1, {}, TypeError, "center must be floating"),
        (np.ones((2, 3)), 0.1, {}, TypeError, "float32 unless JAX computes in float64"),
        (jnp.ones((2, 3), jnp.bfloat16), 0.1, {}, TypeError, "float32 or float64"),
        (jnp.ones(3), 0.1, {}, ValueError, "leading batch axis"),
        (jnp.array([[np.nan]]), 0.1, {}, ValueError, "center must be finite"),
        (jnp.ones((2, 3)), -0.1, {}, ValueError, "radius must be finite and at least 0"),
        (jnp.ones((2, 3)), jnp.ones(3), {}, ValueError, "radius must be a scalar or of shape"),
        (jnp.ones((2, 3)), 0.1, {"norm": "l3"}, ValueError, "norm must be one of"),
        (jnp.ones((2, 3)), 0.1, {"box": (0.0, 0.5)}, ValueError, "center must lie within box"),
        (jnp.ones((2, 3)), 0.1, {"box": (1.0, 0.0)}, ValueError, "a < b"),
    ],
)
def test_bad_balls_are_named(center, radius, settings, error, message):
    with pytest.raises(error, match=message):
        ball(center, radius, **settings)


def test_a_ball_is_a_pytree_that_keeps_its_kind():
    region = jax.jit(lambda radius: ball(jnp.ones((2, 3)), radius, norm="l1"))(0.5)
    assert region.norm == "l1"
    assert not region.clipped
    assert len(jax.tree.leaves(region)) == 4
