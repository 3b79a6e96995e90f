"""Lipschitz constants of Gabor layers: a closed form in the parameters, and the norm of a bank."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._convolution import conv_spectral_norm_upper
from jaxcert.lipschitz._geometry import Padding
from jaxcert.lipschitz._outward import round_up
from jaxcert.lipschitz._rounding import gamma, to_dtype_up
from jaxcert.lipschitz._spectral import finite, floating, spectral_norm_upper

# Operations behind an exponent or a sum, counted generously: squares, a product, an exponential.
_OPERATIONS = 32


def gabor_lipschitz_upper(
    inverse_width: ArrayLike,
    aspect_ratio: ArrayLike,
    amplitude: ArrayLike,
    *,
    kernel_size: int,
) -> jax.Array | np.ndarray:
    r"""Upper bound on the Lipschitz constant of a Gabor filter, whatever its rotation.

    For a filter of k by k taps, sampled at k equidistant points of [-1, 1] on each axis,

    .. math::
        g(x, y) = \alpha \exp(-\sigma^2 (x'^2 + \gamma^2 y'^2)) \cos(\lambda x' + \psi), \qquad
        \|g * \cdot\|_2 \le \|g\|_1 \le |\alpha|
        \Bigl(1 + (k - 1) e^{-4 \sigma^2 \min(1, \gamma^2) / (k - 1)^2}\Bigr)^2

    for odd k, and for even k with :math:`k e^{-\sigma^2 \min(1, \gamma^2) / (k - 1)^2}` in the
    parentheses. A rotation keeps :math:`x'^2 + y'^2`, and so
    :math:`x'^2 + \gamma^2 y'^2 \ge \min(1, \gamma^2) (x^2 + y^2)`: the bound holds for every
    rotation, frequency and phase. A bank of filters on one channel has at most the square root of
    the sum of their squared bounds.

    Args:
      inverse_width: sigma, floating, of any shape; the sign does not matter.
      aspect_ratio: gamma, floating.
      amplitude: alpha, floating; the three are broadcast.
      kernel_size: taps k on each axis.

    Returns:
      The bounds of the broadcast shape: for JAX arrays in their dtype, rounded up; for NumPy
      arrays and numbers float64.

    Raises:
      TypeError: if a parameter is not floating point.
      ValueError: if a parameter is not finite, or `kernel_size` is below 1.

    Guarantee:
      Sound for circular convolutions and for those padded with zeros, of any stride and any size
      of image, with an explicit rounding budget; for the filter in exact arithmetic. Not tight:
      with gamma = 0 it is the number of taps times the amplitude. `gabor_layer_lipschitz_upper`
      bounds the filters that a network computed, and much more tightly.

    Example:
      >>> from jaxcert import lipschitz
      >>> float(lipschitz.gabor_lipschitz_upper(2.0, 1.0, 1.0, kernel_size=3))
      1.074605

    References:
      Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
      Robustness", 2020, arXiv:1912.05661.
    """
    taps = _checks.positive_integer("kernel_size", kernel_size)
    named = {
        "inverse_width": inverse_width,
        "aspect_ratio": aspect_ratio,
        "amplitude": amplitude,
    }
    arrays = [floating(name, value) for name, value in named.items()]
    if all(_checks.is_concrete(array) for array in arrays):
        for name, array in zip(named, arrays, strict=True):
            finite(name, array)
        sigma, aspect, alpha = (np.asarray(array, np.float64) for array in arrays)
        with np.errstate(under="ignore", over="ignore"):
            values = _closed_form(sigma, aspect, alpha, taps, np)
        kinds = [a.dtype for a in named.values() if isinstance(a, jax.Array)]
        if not kinds:
            return np.asarray(values)
        return jnp.asarray(to_dtype_up(values, jnp.result_type(*kinds)))
    dtype = jnp.result_type(*arrays)
    wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
    traced = [jnp.asarray(array, wide) for array in arrays]
    bound = _closed_form(traced[0], traced[1], traced[2], taps, jnp)
    return bound if wide == dtype else round_up(bound.astype(dtype))


def gabor_layer_lipschitz_upper(
    filters: ArrayLike,
    *,
    input_shape: Sequence[int],
    mixing: ArrayLike | None = None,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
) -> jax.Array | np.ndarray:
    r"""Upper bound on the Lipschitz constant of a Gabor layer from the filters it computed.

    The layer applies the same filters to each channel, a ReLU, and a 1 by 1 convolution V. The
    channels form a block-diagonal map, whose norm is that of one block:

    .. math::
        L \le \|V\|_2 \, \max_\omega \Bigl(\sum_j |\hat g_j(\omega)|^2\Bigr)^{1/2}

    at stride 1, over the frequencies of a torus that contains the padded image.

    Args:
      filters: floating `[k, k, responses]`.
      input_shape: `(height, width, channels)` of one input.
      mixing: floating `[channels * responses, outputs]`, the 1 by 1 convolution; None for a bank
        alone.
      strides: pixels between outputs, one number or one an axis.
      padding: as in `conv_spectral_norm_upper`.

    Returns:
      The bound, a scalar: for JAX filters one of their dtype, rounded up; otherwise float64.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit or a value is not finite.

    Guarantee:
      Sound, with an explicit rounding budget; at stride 1 and circular padding, and without
      `mixing`, the norm itself but for that budget.

    Example:
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> bank = np.zeros((3, 3, 2))
      >>> bank[1, 1] = 3.0, 4.0
      >>> float(lipschitz.gabor_layer_lipschitz_upper(bank, input_shape=(8, 8, 3)).round(3))
      5.0

    References:
      Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", 2019, arXiv:1805.10408.
    """
    checked = floating("filters", filters)
    if checked.ndim != 3:
        raise ValueError(f"filters must have shape [k, k, responses], got shape {checked.shape}")
    if len(tuple(input_shape)) != 3:
        raise ValueError(f"input_shape must be (height, width, channels), got {input_shape}")
    height, width, channels = input_shape
    kernel = checked[:, :, None, :]
    bank = conv_spectral_norm_upper(
        kernel if not _is_jax(filters) else jnp.asarray(kernel),
        input_shape=(height, width, 1),
        strides=strides,
        padding=padding,
    )
    if mixing is None:
        return bank
    matrix = floating("mixing", mixing)
    if matrix.ndim != 2 or matrix.shape[0] != channels * checked.shape[-1]:
        raise ValueError(
            f"mixing must have shape [{channels} * {checked.shape[-1]}, outputs], "
            f"got shape {matrix.shape}"
        )
    norm = spectral_norm_upper(mixing)
    if isinstance(bank, np.ndarray) and isinstance(norm, np.ndarray):
        return np.asarray(np.nextafter(bank * norm, np.inf))
    return round_up(jnp.asarray(bank) * jnp.asarray(norm))


def _closed_form(sigma: Any, aspect: Any, alpha: Any, taps: int, xp: Any) -> Any:
    """The bound, with exponents rounded towards 0 and everything else up."""
    budget = gamma(_OPERATIONS, sigma.dtype)
    if taps == 1:
        return xp.abs(alpha) + xp.zeros_like(sigma * aspect)
    # Of the nearest point beside the centre, or of the four nearest to it if none is at it.
    nearest = (2.0 if taps % 2 else 1.0) / (taps - 1)
    least = xp.minimum(xp.ones_like(aspect), xp.abs(aspect))
    exponent = (sigma * least * nearest) ** 2 * (1.0 - budget)
    # What a flush to zero takes away, in the exponential and in the square below.
    tail = xp.exp(-exponent) * (1.0 + budget) + math.sqrt(float(jnp.finfo(sigma.dtype).tiny))
    axis = 1.0 + (taps - 1) * tail if taps % 2 else taps * tail
    return xp.abs(alpha) * (axis * axis) * (1.0 + budget)


def _is_jax(value: Any) -> bool:
    return isinstance(value, jax.Array)
