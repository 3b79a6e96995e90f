"""Bounds of Gabor layers against norms from Fourier transforms and dense matrices in float64."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import lipschitz

SIZES = (2, 3, 4, 5, 7)


def parameter_grid():
    """Every combination of angle, sigma, gamma, lambda and psi: six arrays of one axis."""
    axes = (
        np.linspace(0.0, np.pi, 25),
        np.array([0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0]),
        np.array([0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.7, -2.5]),
        np.array([0.0, 0.7, 2.0, 5.0]),
        np.array([0.0, 0.5, 1.0, np.pi / 2]),
    )
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])


def filters_of(angle, sigma, gamma, wave, phase, taps):
    """Filters `[n, k, k]` of amplitude 1, written out anew in float64."""
    x = np.linspace(-1.0, 1.0, taps)
    grid_x, grid_y = x[None, :, None], x[:, None, None]
    u = np.cos(angle) * grid_x - np.sin(angle) * grid_y
    v = np.sin(angle) * grid_x + np.cos(angle) * grid_y
    envelope = np.exp(-(sigma**2) * u**2 - (sigma * gamma * v) ** 2)
    return np.moveaxis(envelope * np.cos(wave * u + phase), -1, 0)


def spectral_norms(filters, period=32):
    """Largest modulus of the transform: the norm of the circular convolution at `period`."""
    taps = filters.shape[-1]
    waves = np.exp(2j * np.pi / period * np.outer(np.arange(period), np.arange(taps)))
    half = waves[: period // 2 + 1]
    norms = [
        np.abs(np.einsum("ui,nij->nuj", half, part) @ waves.T).max(axis=(1, 2))
        for part in np.array_split(filters, max(1, len(filters) // 4000))
    ]
    return np.concatenate(norms)


def naive_bound(sigma, gamma, taps):
    """The closed form as it reads without the rotation: one factor for each axis of the grid."""
    step = 2.0 / (taps - 1)
    factors = [np.exp(-((width * step) ** 2)) for width in (sigma, sigma * gamma)]
    return np.prod([1.0 + (taps - 1) * factor for factor in factors], axis=0)


def violations(norms, bounds):
    return int(np.count_nonzero(norms > bounds * (1.0 + 1e-12)))


@pytest.mark.parametrize("taps", SIZES)
def test_closed_form_holds_on_a_fine_grid_and_the_unrotated_one_does_not(taps):
    angle, sigma, gamma, wave, phase = parameter_grid()
    norms = spectral_norms(filters_of(angle, sigma, gamma, wave, phase, taps))
    bounds = lipschitz.gabor_lipschitz_upper(sigma, gamma, 1.0, kernel_size=taps)
    assert bounds.dtype == np.float64
    assert violations(norms, bounds) == 0
    # The bound is attained where sigma and the frequency vanish: all taps are equal.
    flat = (sigma == 0.0) & (wave == 0.0) & (phase == 0.0)
    np.testing.assert_allclose(norms[flat], bounds[flat], rtol=1e-9)
    if taps in (3, 5):
        assert violations(norms, naive_bound(sigma, gamma, taps)) > 20


def test_counterexample_to_the_unrotated_form():
    filters = filters_of(*np.array([[np.pi / 4], [2.0], [0.0], [0.0], [0.0]]), 3)
    (norm,) = spectral_norms(filters)
    np.testing.assert_allclose(norm, 3.54201, rtol=1e-5)
    assert naive_bound(2.0, 0.0, 3) < 3.11
    assert lipschitz.gabor_lipschitz_upper(2.0, 0.0, 1.0, kernel_size=3) >= norm


def convolution_matrix(filters, size, stride, padding):
    """The bank on one channel of `size` by `size` pixels, entry by entry: `[out, size**2]`."""
    taps = filters.shape[0]
    outputs = (size + 2 * padding - taps) // stride + 1
    matrix = np.zeros((outputs, outputs, filters.shape[-1], size, size))
    for p, q, i, j in itertools.product(range(outputs), range(outputs), range(taps), range(taps)):
        y, x = p * stride + i - padding, q * stride + j - padding
        if 0 <= y < size and 0 <= x < size:
            matrix[p, q, :, y, x] += filters[i, j]
    return matrix.reshape(-1, size * size)


@pytest.mark.parametrize(("taps", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (5, 2, 2)])
def test_bounds_hold_for_zero_padding_and_strides(taps, stride, padding):
    generator = np.random.default_rng(taps + stride)
    for _ in range(6):
        sigma, gamma, wave, phase = generator.normal(size=(4, 1)).repeat(8, axis=1)
        angle = 2 * np.pi * np.arange(8) / 8
        bank = np.moveaxis(filters_of(angle, sigma, gamma, wave, phase, taps), 0, -1)
        matrix = convolution_matrix(bank, 7, stride, padding)
        norm = np.linalg.norm(matrix, 2)
        upper = lipschitz.gabor_layer_lipschitz_upper(
            bank, input_shape=(7, 7, 1), strides=stride, padding=padding
        )
        closed = lipschitz.gabor_lipschitz_upper(sigma, gamma, 1.0, kernel_size=taps)
        assert norm <= upper <= np.sqrt(np.sum(np.abs(bank).sum(axis=(0, 1)) ** 2)) * 1.001
        assert upper <= np.linalg.norm(closed) * 1.001


def test_stacked_bank_is_exact_on_a_circle_and_below_the_sum_of_filters():
    angle = 2 * np.pi * np.arange(8) / 8
    bank = np.moveaxis(filters_of(angle, 0.5, 0.8, 1.0, 0.2, 5), 0, -1)
    upper = lipschitz.gabor_layer_lipschitz_upper(bank, input_shape=(16, 16, 3), padding="CIRCULAR")
    transformed = np.fft.fft2(bank, (16, 16), axes=(0, 1))
    exact = np.sqrt(np.sum(np.abs(transformed) ** 2, axis=-1)).max()
    assert exact <= upper <= exact * (1.0 + 1e-6)
    assert upper < 0.6 * spectral_norms(np.moveaxis(bank, -1, 0)).sum()


def test_layer_bound_is_attained_by_a_layer_that_is_linear_in_one_direction():
    # One filter that is the identity and a mixing matrix: the layer is relu(x) @ mixing.
    bank = np.zeros((3, 3, 1))
    bank[1, 1] = 2.0
    mixing = np.array([[3.0, 0.0], [0.0, 1.0]])
    upper = lipschitz.gabor_layer_lipschitz_upper(bank, input_shape=(6, 6, 2), mixing=mixing)
    np.testing.assert_allclose(upper, 6.0, rtol=1e-5)
    assert upper >= 6.0


def test_dtypes_transformations_and_one_trace():
    sigma, gamma, alpha = np.random.default_rng(0).normal(size=(3, 64))
    exact = lipschitz.gabor_lipschitz_upper(sigma, gamma, alpha, kernel_size=5)
    arguments = [jnp.asarray(values, jnp.float32) for values in (sigma, gamma, alpha)]
    single = [np.asarray(values, np.float64) for values in arguments]
    exact = lipschitz.gabor_lipschitz_upper(*single, kernel_size=5)
    eager = lipschitz.gabor_lipschitz_upper(*arguments, kernel_size=5)
    assert eager.dtype == jnp.float32
    assert np.all(np.asarray(eager, np.float64) >= exact)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def bound(*values):
        return lipschitz.gabor_lipschitz_upper(*values, kernel_size=5)

    traced = np.asarray(bound(*arguments), np.float64)
    assert np.all(np.asarray(bound(*arguments), np.float64) >= exact)
    np.testing.assert_allclose(traced, exact, rtol=1e-4)
    small = jax.jit(lambda *v: lipschitz.gabor_lipschitz_upper(*v, kernel_size=5))(
        *(values.astype(jnp.bfloat16) for values in arguments)
    )
    rounded = [np.asarray(values.astype(jnp.bfloat16), np.float64) for values in arguments]
    assert np.all(
        np.asarray(small, np.float64) >= lipschitz.gabor_lipschitz_upper(*rounded, kernel_size=5)
    )
    # Sharper envelopes have smaller bounds, so the gradient points there.
    slope = jax.grad(lambda s: lipschitz.gabor_lipschitz_upper(s, 0.8, 1.0, kernel_size=5))(1.0)
    assert slope < 0.0


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="inverse_width must be floating point"):
        lipschitz.gabor_lipschitz_upper(1, 1.0, 1.0, kernel_size=3)
    with pytest.raises(ValueError, match="amplitude must be finite"):
        lipschitz.gabor_lipschitz_upper(1.0, 1.0, np.nan, kernel_size=3)
    with pytest.raises(ValueError, match="kernel_size must lie in"):
        lipschitz.gabor_lipschitz_upper(1.0, 1.0, 1.0, kernel_size=0)
    with pytest.raises(ValueError, match=r"filters must have shape \[k, k, responses\]"):
        lipschitz.gabor_layer_lipschitz_upper(np.ones((3, 3, 1, 4)), input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="mixing must have shape"):
        lipschitz.gabor_layer_lipschitz_upper(
            np.ones((3, 3, 4)), input_shape=(8, 8, 2), mixing=np.ones((4, 5))
        )
    with pytest.raises(ValueError, match="must be finite"):
        lipschitz.gabor_layer_lipschitz_upper(np.full((3, 3, 2), np.inf), input_shape=(8, 8, 1))
