"""Operator norms of convolutions with any padding by zeros, stride, group and dilation."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._banded import banded_upper
from jaxcert.lipschitz._frequencies import largest_squared_norm_upper, polyphase
from jaxcert.lipschitz._geometry import Axis, Padding, axes_of
from jaxcert.lipschitz._gram import gram_upper
from jaxcert.lipschitz._rounding import gamma, up
from jaxcert.lipschitz._spectral import Order, finite, floating, host_result, in_dtype, norm_order
from jaxcert.lipschitz._threads import one_blas_thread
from jaxcert.lipschitz._verified import scaled

# The border counts on images with a smaller side below this.
_BORDER_SIDE = 16
# Operations, about a second's, up to which the border of such an image is then counted.
_BORDER_OPERATIONS = 2**31


def conv_spectral_norm_upper(
    kernel: ArrayLike,
    *,
    input_shape: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    exact: bool | None = None,
    iterations: int = 6,
) -> jax.Array | np.ndarray:
    r"""Upper bound on the spectral norm of a convolution as a linear map.

    A convolution that pads with zeros is a part of a circular one on a larger torus of N pixels,
    whose norm is the largest of the norms of its transfer matrices: at a stride of s, with
    :math:`\hat K` the discrete Fourier transform of the kernel at N pixels, in one dimension

    .. math::
        \|K\|_2 \le \max_u \Big\| \tfrac{1}{\sqrt s}
        \big[\hat K(u), \hat K(u + N/s), \dots, \hat K(u + (s-1) N/s)\big] \Big\|_2

    and equal if the padding is circular and the stride divides the size.

    Args:
      kernel: floating `[h, w, in, out]`, or `[w, in, out]` in one dimension, `in` being the
        channels of one group.
      input_shape: `(height, width, channels)` of one input, or `(width, channels)`.
      strides: pixels between outputs, one number or one an axis.
      padding: `"SAME"`, `"SAME_LOWER"` or `"VALID"` as in `jax.lax`, numbers of zeros `(before,
        after)` for each axis, one number for all, or `"CIRCULAR"`.
      groups: feature groups.
      dilation: pixels between taps of the kernel, one number or one an axis.
      exact: bound the convolution on its own image, by a banded factorisation, instead of the one
        on the torus. On small images the border counts: a few percent at 8 by 8 pixels. Takes about
        `height * (width * in)^3` operations, and a kernel at hand. None does so, and keeps the
        smaller bound, where a side has fewer than 16 pixels and that number is below 2^31, about a
        second: 64 channels at 8 by 8.
      iterations: squarings of the Gram iteration, for traced kernels only.

    Returns:
      The bound, a scalar: for a JAX array one of its dtype, rounded up; otherwise float64.

    Raises:
      TypeError: if the kernel is not floating point, or traced although `exact` is asked for.
      ValueError: if shapes do not fit each other, as when the kernel has the axes `[out, in, h, w]`
        and the channels tell; if the padding is another one; if the kernel is not finite.

    Guarantee:
      Sound, with an explicit rounding budget: at least the largest singular value of the whole
      linear map. The torus is what it may exceed that by, on trained kernels by 2% at 16 by 16
      pixels and more, and by up to 8% at 8 by 8 where that is too large for the exact form; the
      proof adds at most a relative 1e-4. With `exact` a relative 1e-6 is left wherever Lanczos
      converges. A traced kernel (under `jax.jit`,
      `jax.vmap` or `jax.grad`) is bounded by Gram iteration in its own dtype, which is
      differentiable and exceeds the norm of a transfer matrix by at most a factor of
      rank^(2^-(iterations + 1)) and the budget.

    Example:
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> kernel = np.array([1.0, -0.5, 1.0]).reshape(3, 1, 1)
      >>> shape = (3, 1)
      >>> float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=shape, padding="CIRCULAR"))
      1.500000
      >>> float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=shape))
      1.914214
      >>> torus = lipschitz.conv_spectral_norm_upper(kernel, input_shape=shape, exact=False)
      >>> float(torus)  # Four pixels round.
      2.500000

    References:
      Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", 2019, arXiv:1805.10408.
      Delattre, Barthélemy, Araujo, Allauzen, "Efficient Bound of Lipschitz Constant for
      Convolutional Layers by Gram Iteration", 2023, arXiv:2305.16173.
    """
    checked = floating("kernel", kernel)
    axes, groups = axes_of(checked.shape, input_shape, strides, padding, groups, dilation)
    iterations = _checks.positive_integer("iterations", iterations, maximum=64)
    if _checks.is_concrete(checked):
        finite("kernel", checked)
        values = np.asarray(checked).astype(np.float64)
        bound = math.inf if exact else _spectral_on_host(values, axes, groups)
        if exact or (exact is None and _border_counts(values.shape, axes)):
            bound = min(bound, banded_upper(*_two_dimensional(values, axes), groups))
        return host_result(kernel, np.asarray(bound))
    if exact:
        raise TypeError("exact must be False for a traced kernel, which the host cannot factorise")
    return in_dtype(lambda values: _spectral_traced(values, axes, groups, iterations), checked)


def conv_operator_norm_upper(
    kernel: ArrayLike,
    *,
    input_shape: Sequence[int],
    order: Order = 2,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> jax.Array | np.ndarray:
    r"""Upper bound on the norm of a convolution between l1, l2 or linf spaces.

    .. math::
        \|K\|_\infty = \max_{p, o} \sum_{i} |K_{i o}|, \qquad
        \|K\|_1 = \max_{q, i} \sum_{o} |K_{i o}|

    with the sums over those taps that lie inside the input at output p, or that meet pixel q.

    Args:
      kernel: floating `[h, w, in, out]`, or `[w, in, out]` in one dimension.
      input_shape: `(height, width, channels)` of one input, or `(width, channels)`.
      order: 1, 2 or `math.inf`; 2 is `conv_spectral_norm_upper`.
      strides: as in `conv_spectral_norm_upper`, like all that follow.
      padding: zeros by name or number, or `"CIRCULAR"`.
      groups: feature groups.
      dilation: pixels between taps of the kernel.

    Returns:
      The bound, a scalar: for a JAX array one of its dtype, rounded up; otherwise float64.

    Raises:
      TypeError: if the kernel is not floating point.
      ValueError: if the order is another, shapes do not fit, or the kernel is not finite.

    Guarantee:
      Sound; for orders 1 and infinity exact up to the rounding budget of the sums, unless a
      circular kernel is longer than its axis.

    Example:
      >>> import math
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> kernel = np.ones((3, 3, 1, 2))
      >>> [float(lipschitz.conv_operator_norm_upper(kernel, input_shape=(2, 9, 1), order=order))
      ...  for order in (1, math.inf)]
      [12.000000, 6.000000]
    """
    order = norm_order("order", order)
    if order == 2:
        return conv_spectral_norm_upper(
            kernel, input_shape=input_shape, strides=strides, padding=padding, groups=groups,
            dilation=dilation,
        )  # fmt: skip
    checked = floating("kernel", kernel)
    axes, groups = axes_of(checked.shape, input_shape, strides, padding, groups, dilation)
    if _checks.is_concrete(checked):
        finite("kernel", checked)
        values = np.asarray(checked).astype(np.float64)
        return host_result(kernel, np.asarray(_largest_sum(values, axes, groups, order, np)))
    return in_dtype(lambda values: _largest_sum(values, axes, groups, order, jnp), checked)


def _largest_sum(kernel: Any, axes: Sequence[Axis], groups: int, order: Order, xp: Any) -> Any:
    """The largest sum of absolute taps at one output (linf) or one input (l1)."""
    magnitude = xp.abs(kernel)
    if order == math.inf:
        sums = xp.sum(magnitude, axis=-2)  # [*taps, out]
    else:
        shape = (*magnitude.shape[:-1], groups, magnitude.shape[-1] // groups)
        sums = xp.sum(xp.reshape(magnitude, shape), axis=-1)  # [*taps, in, groups]
    terms = math.prod(magnitude.shape)
    for index, axis in enumerate(axes):
        read = axis.inside()
        if order == math.inf:
            counts = (read >= 0).astype(kernel.dtype)
        else:
            counts = (read[None] == np.arange(axis.size)[:, None, None]).sum(axis=1)
            counts = counts.astype(kernel.dtype)
        sums = xp.moveaxis(
            xp.tensordot(counts, sums, axes=(1, index))
            if xp is np
            else jnp.tensordot(counts, sums, (1, index), precision=jax.lax.Precision.HIGHEST),
            0,
            index,
        )
    terms = magnitude.shape[-2] * magnitude.shape[-1] + sum(axis.taps for axis in axes)
    return xp.max(sums) * (1.0 + gamma(terms, kernel.dtype))


def _border_counts(shape: Sequence[int], axes: Sequence[Axis]) -> bool:
    """Whether a convolution is far from the one on a torus, and its own norm is within reach."""
    padded = [axis for axis in axes if not axis.circular]
    if not padded or min(axis.size for axis in padded) >= _BORDER_SIDE:
        return False
    height = axes[0].size if len(axes) == 2 else 1
    return height * (axes[-1].size * shape[-2]) ** 3 <= _BORDER_OPERATIONS


def _spectral_on_host(kernel: np.ndarray, axes: Sequence[Axis], groups: int) -> float:
    kernel, scale = scaled(kernel)
    if scale == 0.0:
        return 0.0
    kernel, axes = _two_dimensional(kernel, axes)
    with one_blas_thread():
        bound = largest_squared_norm_upper(polyphase(kernel, axes, groups))
    return up(math.sqrt(bound) * scale, terms=8)


def _spectral_traced(
    kernel: jax.Array, axes: Sequence[Axis], groups: int, iterations: int
) -> jax.Array:
    kernel, axes = _two_dimensional(kernel, axes)
    rows, columns = (_waves(axis, kernel.dtype) for axis in axes)
    matrices = _transfer(kernel, rows[: len(rows) // 2 + 1], columns, groups)
    error = _transfer_error(kernel, axes, rows.dtype)
    bound = jnp.max(gram_upper(matrices, iterations=iterations))
    # Accelerators take numbers below the smallest normal one for 0.
    flushed = float(jnp.finfo(kernel.dtype).tiny) * math.prod(kernel.shape)
    return (bound + error) * (1.0 + gamma(4, kernel.dtype)) + flushed


def _two_dimensional(kernel: Any, axes: Sequence[Axis]) -> tuple[Any, Sequence[Axis]]:
    """A convolution along one axis as one on images of height 1."""
    if len(axes) == 2:
        return kernel, axes
    return kernel[None], (Axis(1, 1, 1, 1, 0, 0, False), axes[0])


def _waves(axis: Axis, dtype: Any) -> np.ndarray:
    """Waves of the torus at the taps, by frequency and alias, `[N / s, s, taps]`, over sqrt(s).

    Written out, so that a kernel that is longer than the torus wraps around it, where a fast
    transform of length N would cut it off. A real kernel has conjugate values at u and -u, so half
    of the frequencies of one axis are enough.
    """
    period, stride = axis.torus
    frequency = np.arange(period // stride)[:, None] + np.arange(stride) * (period // stride)
    steps = frequency[..., None] * (np.arange(axis.taps) * axis.dilation) % period
    waves = np.exp(2j * np.pi / period * steps) / math.sqrt(stride)
    return waves.astype(np.result_type(dtype, np.complex64))


def _transfer(kernel: jax.Array, rows: np.ndarray, columns: np.ndarray, groups: int) -> jax.Array:
    """Transfer matrices `[frequencies * groups, out / groups, aliases * in]`, of some frequencies.

    Rows are waves `[u, a, taps]` along the height, columns `[v, b, taps]` along the width.
    """
    *taps, inputs, outputs = kernel.shape
    frequencies = len(rows) * len(columns)
    aliases = rows.shape[1] * columns.shape[1]
    waves = np.einsum("uai,vbj->uvabij", rows, columns).reshape(frequencies * aliases, -1)
    flat = jnp.reshape(kernel, (math.prod(taps), inputs, groups, outputs // groups))
    flat = jnp.reshape(jnp.transpose(flat, (0, 2, 3, 1)), (math.prod(taps), inputs * outputs))
    transformed = jnp.matmul(waves, flat.astype(waves.dtype), precision=jax.lax.Precision.HIGHEST)
    shape = (frequencies, aliases, groups, outputs // groups, inputs)
    stacked = jnp.transpose(jnp.reshape(transformed, shape), (0, 2, 3, 1, 4))
    return jnp.reshape(stacked, (frequencies * groups, outputs // groups, aliases * inputs))


def _transfer_error(kernel: jax.Array, axes: Sequence[Axis], dtype: Any) -> jax.Array:
    """Norm of what rounding may change in one transfer matrix.

    Each entry is a sum of taps times waves, and errs by at most gamma times the sum of the
    absolute taps; the waves themselves are good to a few units in the last place. The Frobenius
    norm of these errors, over all aliases, bounds their spectral norm; the root of the number of
    aliases and the factor of the waves cancel.
    """
    sums = jnp.sum(jnp.abs(kernel), axis=(0, 1))
    taps = math.prod(axis.taps for axis in axes)
    return jnp.sqrt(jnp.sum(sums * sums)) * (4.0 * gamma(taps + 8, dtype))
