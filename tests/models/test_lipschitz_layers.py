"""1-Lipschitz layers: sampled Jacobians, proved bounds, broken layers and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import models
from jaxcert.models import (
    _block_reflector,
    _cayley,
    _dominance,
    _linear_maps,
    _lmi_stacks,
    _skew_exponential,
)

TOLERANCE = 1e-5
IMAGE = (4, 5)

DENSE = {
    "aol": lambda rngs: models.AOLLinear(6, 4, rngs=rngs),
    "sll": lambda rngs: models.SLLLinear(6, hidden=5, rngs=rngs),
    "cpl": lambda rngs: models.CPLLinear(6, hidden=5, rngs=rngs),
    "cayley": lambda rngs: models.CayleyLinear(6, 4, rngs=rngs),
    "cayley, wide": lambda rngs: models.CayleyLinear(6, 8, rngs=rngs),
    "sandwich": lambda rngs: models.SandwichLinear(6, 4, rngs=rngs),
    "soc": lambda rngs: models.SOCLinear(6, rngs=rngs),
    "soc, 3 terms": lambda rngs: models.SOCLinear(6, terms=3, rngs=rngs),
    "bro": lambda rngs: models.BROLinear(6, 4, rank=3, rngs=rngs),
    "liresnet": lambda rngs: models.LiResNetLinear(6, depth=2, rngs=rngs),
    "gershgorin": lambda rngs: models.GershgorinStack((6, 8, 5, 4), rngs=rngs),
    "ldlt": lambda rngs: models.LDLTStack((6, 8, 5, 4), rngs=rngs),
}
CONVOLUTIONS = {
    "aol": lambda rngs: models.AOLConv(3, 4, rngs=rngs),
    "sll": lambda rngs: models.SLLConv(3, hidden=4, rngs=rngs),
    "cpl": lambda rngs: models.CPLConv(3, hidden=2, rngs=rngs),
    "cayley": lambda rngs: models.CayleyConv(3, rngs=rngs),
    "sandwich": lambda rngs: models.SandwichConv(3, rngs=rngs),
    "soc": lambda rngs: models.SOCConv(3, rngs=rngs),
    "bro": lambda rngs: models.BROConv(3, rank=2, rngs=rngs),
    "liresnet": lambda rngs: models.LiResNetConv(3, depth=2, rngs=rngs),
}


def random_weights(layer, *, draws=6, seed=0):
    """Weights of many sizes, `[draws, ...]` each; the first are all zero."""
    generator = np.random.default_rng(seed)
    sizes = np.geomspace(0.01, 10.0, draws)
    sizes[0] = 0.0

    def draw(path, variable):
        shape = np.shape(variable.get_value())
        values = generator.normal(size=(draws, *shape))
        # Scales are logarithms; those of the Cayley transform and biases are moderate too.
        is_kernel = any("kernel" in str(part) for part in path)
        factor = sizes if is_kernel else np.minimum(sizes, 1.5)
        return (values * factor.reshape(-1, *[1] * len(shape))).astype(np.float32)

    graphdef, state = nnx.split(layer)
    flat = {path: draw(path, variable) for path, variable in nnx.to_flat_state(state)}
    return graphdef, state, flat


def with_weights(graphdef, state, flat):
    pairs = [(path, variable.replace(flat[path])) for path, variable in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(pairs))


def jacobian_norms(build, shape, *, draws=6, inputs=4, gradients=True):
    """Spectral norms of Jacobians in float32 at random weights and inputs: `[draws, inputs]`.

    The second result says whether they, and with `gradients` those for the weights, are finite.
    """
    layer = build(nnx.Rngs(0))
    graphdef, state, flat = random_weights(layer, draws=draws)
    points = jnp.asarray(np.random.default_rng(1).normal(size=(inputs, *shape)) * 2, jnp.float32)

    def apply(weights, x):
        return with_weights(graphdef, state, weights)(x[None])[0].ravel()

    def both(weights):
        jacobians = jax.vmap(lambda x: jax.jacfwd(lambda v: apply(weights, v))(x))(points)
        if not gradients:
            return jacobians, ()
        return jacobians, jax.grad(lambda w: jnp.sum(jnp.sin(apply(w, points[0]))))(weights)

    jacobians, slopes = jax.jit(jax.vmap(both))(flat)
    matrices = np.asarray(jacobians, np.float64).reshape(draws, inputs, -1, math.prod(shape))
    finite = all(np.isfinite(leaf).all() for leaf in [matrices, *jax.tree.leaves(slopes)])
    return np.linalg.norm(np.nan_to_num(matrices), 2, axis=(-2, -1)), finite


def is_broken(build, shape, *, gradients=False):
    """The check that every layer must pass."""
    norms, finite = jacobian_norms(build, shape, gradients=gradients)
    return not finite or not norms.max() <= 1.0 + TOLERANCE


def slow_beyond(names, kept):
    """The names as parameters; those not kept are slow tests."""
    marks = {name: [] if name in kept else [pytest.mark.slow] for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("name", slow_beyond(DENSE, set(DENSE) - {"cayley, wide", "soc, 3 terms"}))
def test_jacobians_of_dense_layers_never_exceed_one(name):
    norms, finite = jacobian_norms(DENSE[name], (6,))
    assert finite
    assert norms.max() <= 1.0 + TOLERANCE
    # Not by shrinking everything, though random weights suit the stacks of layers less.
    assert norms[1:].max() > {"gershgorin": 0.1, "ldlt": 0.4}.get(name, 0.8)


@pytest.mark.parametrize("name", slow_beyond(CONVOLUTIONS, {"aol", "sll", "cayley", "soc", "bro"}))
def test_jacobians_of_convolutions_never_exceed_one(name):
    norms, finite = jacobian_norms(CONVOLUTIONS[name], (*IMAGE, 3))
    assert finite
    assert norms.max() <= 1.0 + TOLERANCE
    assert norms[1:].max() > 0.6


EVERY = [*DENSE, *(f"{name} convolution" for name in CONVOLUTIONS)]
QUICK = {"sll", "cayley", "ldlt", "cayley convolution", "sll convolution"}


@pytest.mark.parametrize("name", slow_beyond(EVERY, QUICK))
def test_proved_bounds_are_near_one(name):
    is_dense = name in DENSE
    build = DENSE[name] if is_dense else CONVOLUTIONS[name.removesuffix(" convolution")]
    layer = build(nnx.Rngs(3))
    upper = layer.lipschitz_upper() if is_dense else layer.lipschitz_upper(IMAGE)
    assert 0.05 < upper <= 1.0 + TOLERANCE


def without_absolute_values(monkeypatch):
    monkeypatch.setattr(_dominance, "absolute_gram", lambda weight: weight @ weight.T)
    return DENSE["aol"], (6,)


def without_absolute_values_in_a_kernel(monkeypatch):
    monkeypatch.setattr(jnp, "abs", lambda x: x)
    return CONVOLUTIONS["sll"], (*IMAGE, 3)


def with_half_the_diagonal(monkeypatch):
    whole = _dominance.dominating_diagonal
    monkeypatch.setattr(_dominance, "dominating_diagonal", lambda *a: whole(*a) / 2)
    return DENSE["sll"], (6,)


def without_a_floor(monkeypatch):
    monkeypatch.setattr(_dominance, "_FLOOR", 0.0)
    return DENSE["sll"], (6,)


def with_a_norm_from_power_iteration(monkeypatch):
    def estimate(matrix):
        vector = jnp.ones(matrix.shape[1])
        for _ in range(3):
            vector = matrix.T @ (matrix @ vector)
            vector = vector / (jnp.linalg.norm(vector) + 1e-12)
        return jnp.linalg.norm(matrix @ vector)

    monkeypatch.setattr(_linear_maps.lipschitz, "spectral_norm_upper", estimate)
    return DENSE["cpl"], (6,)


def with_the_norm_of_the_reshaped_kernel(monkeypatch):
    def reshaped(kernel, *, input_shape):
        del input_shape
        return jnp.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)

    monkeypatch.setattr(_linear_maps.lipschitz, "conv_spectral_norm_upper", reshaped)
    return CONVOLUTIONS["liresnet"], (*IMAGE, 3)


def with_an_inverse_in_low_precision(monkeypatch):
    def inverse(matrix, right):
        exact = jnp.linalg.inv(matrix).astype(jnp.bfloat16).astype(jnp.float32)
        return exact @ right

    monkeypatch.setattr(_cayley.jnp.linalg, "solve", inverse)
    return DENSE["cayley"], (6,)


def with_half_of_the_rows(monkeypatch):
    monkeypatch.setattr(
        _cayley, "scaled_cayley", lambda weight, scale: jnp.sqrt(2.0) * _cayley.cayley(weight)
    )
    return DENSE["sandwich"], (6,)


def with_a_truncation_that_is_not_bounded(monkeypatch):
    monkeypatch.setattr(_skew_exponential.math, "factorial", lambda n: math.inf)
    return DENSE["soc, 3 terms"], (6,)


def with_too_long_a_reflection(monkeypatch):
    monkeypatch.setattr(_block_reflector, "_EPSILON", -0.1)
    return DENSE["bro"], (6,)


def with_the_constant_multiplied_twice(monkeypatch):
    def weights(raw, log_scales):
        built, multipliers = _weights(raw, log_scales)
        return [*built[:-1], 4.0 * built[-1]], multipliers

    _weights = _lmi_stacks.ldlt_weights
    monkeypatch.setattr(_lmi_stacks, "ldlt_weights", weights)
    return DENSE["ldlt"], (6,)


@pytest.mark.parametrize(
    "breakage",
    [
        without_absolute_values,
        without_absolute_values_in_a_kernel,
        with_half_the_diagonal,
        without_a_floor,
        with_a_norm_from_power_iteration,
        with_the_norm_of_the_reshaped_kernel,
        with_an_inverse_in_low_precision,
        with_half_of_the_rows,
        with_a_truncation_that_is_not_bounded,
        with_too_long_a_reflection,
        with_the_constant_multiplied_twice,
    ],
)
def test_a_layer_broken_on_purpose_is_caught(monkeypatch, breakage):
    build, shape = breakage(monkeypatch)
    assert is_broken(build, shape, gradients=breakage is without_a_floor)


def test_proved_bounds_notice_broken_weights(monkeypatch):
    layer = DENSE["cayley"](nnx.Rngs(0))
    monkeypatch.setattr(type(layer), "weight", lambda self: 1.001 * jnp.eye(6, 4))
    assert layer.lipschitz_upper() > 1.0009
    stack = DENSE["ldlt"](nnx.Rngs(0))
    weights, multipliers = stack.weights()
    with pytest.raises(ValueError, match="do not satisfy"):
        _lmi_stacks.stack_lipschitz_upper([weights[0] * 2, *weights[1:]], multipliers)


def test_a_truncated_series_exceeds_one_by_less_than_its_remainder():
    # A rotation by one radian: the norms of the partial sums are known in closed form.
    skew = np.array([[0.0, -1.0], [1.0, 0.0]])
    for terms in (3, 6, 10):
        partial = sum(np.linalg.matrix_power(skew, k) / math.factorial(k) for k in range(terms))
        norm = np.linalg.norm(partial, 2)
        assert 1.0 < norm <= 1.0 + 1.0 / math.factorial(terms) or terms > 6
        applied = _skew_exponential.truncated_exponential(
            jnp.eye(2), lambda v: v @ jnp.asarray(skew.T, jnp.float32), terms=terms
        )
        expected = partial / (1.0 + 1.0 / math.factorial(terms))
        np.testing.assert_allclose(applied.T, expected, atol=1e-6)


def test_scales_of_a_dominating_diagonal_are_on_different_axes():
    products = jnp.array([[4.0, 1.0], [1.0, 1.0]])
    even = _dominance.dominating_diagonal(products, jnp.zeros(2))
    uneven = _dominance.dominating_diagonal(products, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(even, [5.0, 2.0], rtol=1e-5)
    np.testing.assert_allclose(uneven, [4.0 + math.e, 1.0 + 1.0 / math.e], rtol=1e-5)


def test_rows_at_the_border_may_exceed_the_autocorrelation_yet_the_norm_does_not():
    # Inside, the two taps of a channel cancel with those of the other; at the border they do not.
    kernel = np.zeros((3, 1, 2, 1))
    kernel[:, 0, 0, 0] = 1.0, 1.0, 0.0
    kernel[:, 0, 1, 0] = 1.0, -1.0, 0.0
    size = 6
    columns = [
        np.asarray(_linear_maps.convolve(unit.reshape(1, size, 1, 2), jnp.asarray(kernel)))
        for unit in np.eye(2 * size, dtype=np.float32)
    ]
    matrix = np.stack([column.ravel() for column in columns], axis=1)
    sums = np.abs(matrix.T @ matrix).sum(axis=1).reshape(size, 2)
    products = np.asarray(_dominance.absolute_autocorrelation(jnp.asarray(kernel)))
    # What an infinite image would give at every pixel bounds the norm, if not every row.
    diagonal = _dominance.dominating_diagonal(jnp.asarray(products), jnp.zeros(2))
    scaled = matrix / np.sqrt(np.tile(np.asarray(diagonal), size))
    assert np.linalg.norm(scaled, 2) <= 1.0
    assert sums.max() >= products.sum(axis=1).max() - 1e-6


def test_transposed_convolution_is_the_transpose():
    generator = np.random.default_rng(0)
    kernel = jnp.asarray(generator.normal(size=(3, 5, 2, 4)), jnp.float32)
    x = jnp.asarray(generator.normal(size=(1, 6, 7, 2)), jnp.float32)
    y = jnp.asarray(generator.normal(size=(1, 6, 7, 4)), jnp.float32)
    left = jnp.vdot(_linear_maps.convolve(x, kernel), y)
    right = jnp.vdot(x, _linear_maps.convolve_transposed(y, kernel))
    np.testing.assert_allclose(left, right, rtol=1e-4)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        models.SLLConv(4, kernel_size=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="widths must hold at least 3"):
        models.LDLTStack((4, 3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"rank must lie in \[1, 6\]"):
        models.BROLinear(6, 4, rank=7, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="smaller than the kernel"):
        models.CayleyConv(2, kernel_size=3, rngs=nnx.Rngs(0))(jnp.ones((1, 2, 2, 2)))
    with pytest.raises(ValueError, match="features must be even for MinMax"):
        _linear_maps.min_max(jnp.ones((2, 3)))
