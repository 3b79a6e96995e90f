"""Interval and linear bounds of every layer: what they must enclose, and when they are exact."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxcert import attacks
from jaxcert.lipschitz import (
    Dense,
    Relu,
    _interval,
    _linear_relaxation,
    apply_layers,
    ball,
    interval_bounds,
    linear_bounds,
)
from tests.lipschitz.relu_networks import (
    conv_network,
    dense_network,
    jacobian_of,
    points_of_ball,
    scores_of,
    values_of_layers,
)

NETWORKS = {"dense": (dense_network, (6,)), "conv": (conv_network, (8, 8, 1))}


@functools.cache
def center_of(name):
    _, shape = NETWORKS[name]
    return np.random.default_rng(2).uniform(0.1, 0.9, size=(3, *shape)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("norm", "box", "method"))
def all_bounds(layers, center, radius, *, norm, box, method):
    region = ball(center, radius, norm=norm, box=box)
    if method == "interval":
        return interval_bounds(layers, region)
    return linear_bounds(layers, region, slopes=method)


def escapes(layers, bounds, points):
    """How many values of any layer at points `[count, b, *shape]` lie outside of their bounds."""
    count, batch = points.shape[:2]
    outside = 0
    values = values_of_layers(layers, points.reshape(-1, *points.shape[2:]))
    for value, (low, high) in zip(values, bounds, strict=True):
        value = value.reshape(count, batch, *value.shape[1:])
        low, high = (np.asarray(end, np.float64) for end in (low, high))
        assert np.all(low <= high)
        outside += int(np.sum((value < low) | (value > high)))
    return outside


GRID = [
    (name, norm, box, method)
    for name in NETWORKS
    for norm in ("linf", "l2", "l1")
    for box, method in (
        (None, "parallel"),
        ((0.0, 1.0), "adaptive"),
        ((0.0, 1.0), "interval"),
    )
]
# One of each norm, method and network; the rest of the grid is compiled in the slow tests.
FAST = {
    ("dense", "l2", None, "parallel"),
    ("dense", "l1", (0.0, 1.0), "adaptive"),
    ("dense", "linf", (0.0, 1.0), "interval"),
    ("conv", "linf", (0.0, 1.0), "adaptive"),
    ("conv", "l2", (0.0, 1.0), "interval"),
}


@pytest.mark.parametrize(
    ("name", "norm", "box", "method"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in GRID],
)
def test_bounds_enclose_every_layer(name, norm, box, method):
    build, _ = NETWORKS[name]
    layers, center = build(), center_of(name)
    rng = np.random.default_rng(3)
    for radius in (0.01, 0.3):
        bounds = all_bounds(layers, center, np.float32(radius), norm=norm, box=box, method=method)
        points = points_of_ball(rng, center, float(np.float32(radius)), norm, box, 300)
        assert escapes(layers, bounds, points) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_enclose_what_an_attack_finds(name, key):
    build, _ = NETWORKS[name]
    layers, center = build(), center_of(name)
    bounds = all_bounds(
        layers, center, np.float32(0.3), norm="linf", box=(0.0, 1.0), method="adaptive"
    )
    for target in range(3):
        attack = attacks.pgd(
            key, functools.partial(apply_layers, layers), center, np.full(3, target), radius=0.3,
            norm="linf", num_steps=10, bounds=(0.0, 1.0),
        )  # fmt: skip
        assert escapes(layers, bounds, np.asarray(attack.inputs)[None]) == 0
        assert not np.array_equal(attack.inputs, center)


@pytest.mark.parametrize("fault", ["offset", "radius", "coefficients"])
def test_broken_bounds_are_caught(fault, monkeypatch):
    """Each planted fault makes bounds that sampled values leave."""
    if fault == "offset":
        sound = _linear_relaxation.relax

        def relax(interval, *, slopes):
            line = sound(interval, slopes=slopes)
            return line._replace(offset=line.offset / 2)

        monkeypatch.setattr(_linear_relaxation, "relax", relax)
    elif fault == "radius":
        sound_around = _interval.around
        monkeypatch.setattr(
            _interval,
            "around",
            lambda layer, middle, radius: sound_around(layer, middle, radius / 2),
        )
    else:
        sound_step = _linear_relaxation._through_relu
        # The upper line for both signs, as if the relaxation were the function.
        monkeypatch.setattr(
            _linear_relaxation, "_through_relu",
            lambda rows, line: sound_step(rows, line._replace(lower=line.lower * 0 + 1)),
        )  # fmt: skip
    layers, center = dense_network(), center_of("dense")
    region = ball(center, 0.3)
    bounds = (
        interval_bounds(layers, region)
        if fault == "radius"
        else jax.jit(lambda region: linear_bounds(layers, region, slopes="adaptive"))(region)
    )
    points = points_of_ball(np.random.default_rng(3), center, 0.3, "linf", None, 2000)
    outside = escapes_without_order(layers, bounds, points)
    if fault == "coefficients":
        # The slope 1 is a lower line too: this twin stays sound, and shows the check is no alarm.
        assert outside == 0
    else:
        assert outside > 0


def escapes_without_order(layers, bounds, points):
    values = values_of_layers(layers, points.reshape(-1, *points.shape[2:]))
    shape = points.shape[:2]
    return sum(
        int(np.sum(value.reshape(*shape, *value.shape[1:]) < np.asarray(low))
            + np.sum(value.reshape(*shape, *value.shape[1:]) > np.asarray(high)))
        for value, (low, high) in zip(values, bounds, strict=True)
    )  # fmt: skip


def cancelling_network():
    """Large weights that cancel: in float32 the output is mostly rounding."""
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(40, 30)).astype(np.float32)
    last = np.concatenate([np.ones((1, 40)), np.full((1, 40), -1.0)], axis=1) * 3e3
    twice = np.concatenate([weight, weight + np.float32(1e-4)])
    return [
        Dense(jnp.asarray(twice), jnp.full(80, 100.0)), Relu(),
        Dense(jnp.asarray(last, jnp.float32), jnp.zeros(1)),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["interval", "adaptive"])
def test_rounding_is_included(method, monkeypatch):
    """At radius 0 the float32 bounds hold the float64 value, which float32 itself misses."""
    layers = cancelling_network()
    center = np.random.default_rng(6).uniform(size=(200, 30)).astype(np.float32)
    exact = scores_of(layers, center)
    computed = np.asarray(apply_layers(layers, center))
    assert np.abs(computed - exact).max() > 0.01

    def bounds(center):
        region = ball(center, 0.0)
        if method == "interval":
            return interval_bounds(layers, region)[-1]
        return linear_bounds(layers, region)[-1]

    low, high = jax.jit(bounds)(center)
    assert np.all((np.asarray(low, np.float64) <= exact) & (exact <= np.asarray(high, np.float64)))
    for module in (_interval, _linear_relaxation):
        monkeypatch.setattr(module, "gamma", lambda terms, dtype: 0.0)
        monkeypatch.setattr(module, "epsilon", lambda dtype: 0.0)
    low, high = jax.jit(lambda center: bounds(center))(center)
    assert np.any((np.asarray(low, np.float64) > exact) | (exact > np.asarray(high, np.float64)))


def test_linear_bounds_are_exact_where_no_neuron_changes_sign():
    layers = dense_network()
    center = center_of("dense")
    radius = np.float32(1e-3)
    bounds = all_bounds(layers, center, radius, norm="l2", box=None, method="parallel")
    stable = np.all([
        np.all((np.asarray(low) > 0) | (np.asarray(high) < 0), axis=1)
        for layer, (low, high) in zip(layers, bounds, strict=True) if isinstance(layer, Dense)
    ], axis=0)  # fmt: skip
    assert stable.any()
    for row in np.flatnonzero(stable):
        reach = radius * np.linalg.norm(jacobian_of(layers, center[row]), axis=1)
        middle = scores_of(layers, center[row : row + 1])[0]
        np.testing.assert_allclose(bounds[-1].lower[row], middle - reach, atol=6e-5)
        np.testing.assert_allclose(bounds[-1].upper[row], middle + reach, atol=6e-5)


def test_windows_give_what_whole_rows_give(monkeypatch):
    layers, center = conv_network()[:4], center_of("conv")
    region = ball(center, 0.05)
    bounds = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr("jaxcert.lipschitz._windows._LARGEST_SHARE", share)
        bounds[share] = jax.jit(lambda region: linear_bounds(layers, region))(region)
    intervals = jax.jit(functools.partial(interval_bounds, layers))(region)
    assert np.mean(bounds[0.0][2].upper < intervals[2].upper - 1e-3) > 0.5
    chex.assert_trees_all_close(bounds[0.0], bounds[1.0], atol=2e-5)


def test_only_neurons_of_open_sign_need_refining():
    layers, center = dense_network(), center_of("dense")
    region = ball(center, 0.1)
    whole, most, none = (
        jax.jit(functools.partial(linear_bounds, layers, refine=count))(region)
        for count in (None, 8, 0)
    )
    chex.assert_trees_all_close(most[-1], whole[-1], atol=1e-5)
    assert np.all(np.asarray(none[-1].upper) >= np.asarray(whole[-1].upper) - 1e-5)
    assert np.any(np.asarray(none[-1].upper) > np.asarray(whole[-1].upper) + 1e-3)


def triangle_program(layers, low, high, sign):
    """The largest value of a one-hidden-layer network when each ReLU is its triangle."""
    first, last = layers[0], layers[-1]
    weight, bias = np.asarray(first.weight, float), np.asarray(first.bias, float)
    hidden, inputs = weight.shape
    magnitude = np.abs(weight)
    middle, radius = (high + low) / 2, (high - low) / 2
    least = weight @ middle + bias - magnitude @ radius
    greatest = weight @ middle + bias + magnitude @ radius
    rows, limits = [], []
    for j in range(hidden):
        unit = np.eye(hidden)[j]
        if least[j] >= 0 or greatest[j] <= 0:
            active = least[j] >= 0
            for direction in (1, -1):
                rows.append(np.concatenate([-direction * weight[j] * active, direction * unit]))
                limits.append(direction * bias[j] * active)
            continue
        slope = greatest[j] / (greatest[j] - least[j])
        rows.append(np.concatenate([-slope * weight[j], unit]))
        limits.append(slope * (bias[j] - least[j]))
        rows.append(np.concatenate([weight[j], -unit]))
        limits.append(-bias[j])
        rows.append(np.concatenate([np.zeros(inputs), -unit]))
        limits.append(0.0)
    cost = np.concatenate([np.zeros(inputs), sign * np.asarray(last.weight, float)[0]])
    bounds = [*zip(low, high, strict=True), *[(None, None)] * hidden]
    program = optimize.linprog(-cost, A_ub=np.array(rows), b_ub=np.array(limits), bounds=bounds)
    assert program.status == 0
    return -program.fun + sign * float(np.asarray(last.bias)[0])


def encoding_of_maximum(rng):
    """max(x1, x2) as a network of one hidden layer, in one of infinitely many ways."""
    # max = x2 + relu(x1 - x2), an equal amount may go through relu(t) - relu(-t) = t, split freely.
    rows, last = [[1.0, -1.0], [0.0, 1.0], [0.0, -1.0]], [1.0, 1.0, -1.0]
    for _ in range(rng.integers(0, 4)):
        direction, share = rng.normal(size=2), rng.normal()
        rows += [direction, -direction, direction]
        last += [share, 0.0, -share]
    if rng.integers(2):  # the mean of both orders
        rows += [[-1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]
        last = [value / 2 for value in last] + [0.5, 0.5, -0.5]
    weight = np.asarray(rows, np.float32)
    return [
        Dense(jnp.asarray(weight), jnp.zeros(len(weight))), Relu(),
        Dense(jnp.asarray([last], jnp.float32), jnp.zeros(1)),
    ]  # fmt: skip


def padded_encoding(rng):
    """An encoding with as many hidden neurons as the largest, so that one program bounds all."""
    layers = encoding_of_maximum(rng)
    first, last = np.asarray(layers[0].weight), np.asarray(layers[-1].weight)
    missing = 15 - len(first)
    first = np.concatenate([first, np.zeros((missing, 2), np.float32)])
    last = np.concatenate([last, np.zeros((1, missing), np.float32)], axis=1)
    return [
        Dense(jnp.asarray(first), jnp.zeros(15)),
        Relu(),
        Dense(jnp.asarray(last), jnp.zeros(1)),
    ]


@jax.jit
def upper_of(layers, region):
    return linear_bounds(layers, region)[-1].upper


def test_no_relaxation_of_single_neurons_encodes_the_maximum_of_two():
    """Baader et al. 2024, arXiv:2311.04015: every encoding loses on some box; here on [0, 1]^2."""
    rng = np.random.default_rng(0)
    low, high = np.zeros(2), np.ones(2)
    points = rng.uniform(size=(100, 2))
    for _ in range(12):
        layers = padded_encoding(rng)
        np.testing.assert_allclose(scores_of(layers, points)[:, 0], points.max(axis=1), atol=1e-5)
        program = triangle_program(layers, low, high, 1.0)
        assert program > 1.2  # the true maximum is 1
        region = ball(jnp.full((1, 2), 0.5), 0.5)
        ours = float(upper_of(layers, region)[0, 0])
        assert ours >= program - 1e-5


def test_linear_bounds_are_never_better_than_the_triangle_program():
    layers = dense_network(seed=4, widths=(5, 9, 1))
    center = np.random.default_rng(4).uniform(size=(1, 5)).astype(np.float32)
    for radius in (0.1, 0.4):
        region = ball(center, radius)
        low, high = (np.asarray(end[0], float) for end in (region.lower, region.upper))
        for slopes in ("adaptive", "parallel"):
            bounds = jax.jit(functools.partial(linear_bounds, layers, slopes=slopes))(region)[-1]
            above = triangle_program(layers, low, high, 1.0)
            below = -triangle_program(layers, low, high, -1.0)
            assert above - 1e-5 <= float(bounds.upper[0, 0]) < above + 1.0
            assert below + 1e-5 >= float(bounds.lower[0, 0]) > below - 1.0


def test_one_trace_for_many_balls_and_vmap_agrees():
    layers, center = dense_network(), center_of("dense")

    @chex.assert_max_traces(n=1)
    def upper(layers, center, radius):
        return linear_bounds(layers, ball(center, radius))[-1].upper

    compiled = jax.jit(upper)
    whole = compiled(layers, center, jnp.full(3, 0.1))
    other = compiled(dense_network(1), center, jnp.full(3, 0.2))
    assert not np.allclose(whole, other)
    alone = jax.jit(jax.vmap(lambda one: linear_bounds(layers, ball(one[None], 0.1))[-1].upper[0]))(
        center
    )
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_float64_bounds_are_nearer_and_hold_too():
    layers, center = dense_network(), center_of("dense")
    narrow = all_bounds(layers, center, np.float32(0.1), norm="l2", box=None, method="parallel")
    with jax.enable_x64(True):
        region = ball(center.astype(np.float64), 0.1, norm="l2")
        wide = jax.jit(functools.partial(linear_bounds, layers, slopes="parallel"))(region)
        assert wide[-1].lower.dtype == jnp.float64
        points = points_of_ball(np.random.default_rng(0), center, 0.1, "l2", None, 200)
        assert escapes(layers, wide, points) == 0
    for low, high in zip(narrow[-1].lower, wide[-1].lower, strict=True):
        assert np.all(np.asarray(low) <= np.asarray(high) + 1e-9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n, r: linear_bounds(n, r, slopes="best"), ValueError, "slopes must be one of"),
        (lambda n, r: linear_bounds(n, r, refine=-1), ValueError, "refine must lie in"),
        (lambda n, r: linear_bounds(n, r.center), TypeError, "region must be a Ball"),
        (lambda n, r: interval_bounds(n[1:], r), ValueError, "takes vectors of 12"),
        (
            lambda n, r: interval_bounds([Dense(np.ones((2, 6)), np.ones(2))], r),
            TypeError,
            "layers must be float32 unless",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(dense_network(), ball(center_of("dense"), 0.1))
