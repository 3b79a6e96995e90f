"""What the 1-Lipschitz layers share: products in full precision, convolutions, transforms."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import _checks, lipschitz

_HIGHEST = jax.lax.Precision.HIGHEST


def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product without the reduced precision that accelerators default to."""
    return jnp.matmul(a, b, precision=_HIGHEST)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution `[n, h, w, in]` to `[n, h, w, out]`, padded with zeros; odd kernels."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=_HIGHEST
    )


def convolve_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transpose of `convolve`, `[n, h, w, out]` to `[n, h, w, in]`."""
    return convolve(x, kernel[::-1, ::-1].swapaxes(2, 3))


def check_odd(kernel_size: int) -> int:
    """Return the number of taps, or raise: an even kernel has no centre."""
    taps = _checks.positive_integer("kernel_size", kernel_size)
    if taps % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {taps}")
    return taps


def min_max(x: jax.Array) -> jax.Array:
    """Sort neighbouring features, GroupSort with groups of 2: its Jacobians are permutations."""
    if x.shape[-1] % 2:
        raise ValueError(f"features must be even for MinMax, got {x.shape[-1]}")
    first, second = x[..., 0::2], x[..., 1::2]
    return jnp.concatenate([jnp.maximum(first, second), jnp.minimum(first, second)], axis=-1)


def potential_upper(norm: float) -> float:
    r"""Lipschitz bound of :math:`x - 2 V \phi(V^T x)`, slopes of phi in [0, 1], by the norm of V.

    Its Jacobians I - 2 V D V^T are symmetric, with eigenvalues in [1 - 2 norm^2, 1].
    """
    return max(1.0, float(np.nextafter(2.0 * norm * norm, np.inf)) - 1.0)


def transfer_matrices(kernel: jax.Array, image_size: Sequence[int]) -> jax.Array:
    """Matrices of a circular convolution at half of the frequencies: `[h, w // 2 + 1, out, in]`."""
    taps = kernel.shape[0]
    if min(image_size) < taps:
        raise ValueError(f"images of {image_size} are smaller than the kernel of {taps} taps")
    height, width = image_size
    padded = jnp.zeros((height, width, *kernel.shape[2:]), kernel.dtype)
    padded = padded.at[:taps, :taps].set(kernel)
    # A centred kernel: tap k // 2 is the pixel itself.
    padded = jnp.roll(padded, (-(taps // 2), -(taps // 2)), axis=(0, 1))
    return jnp.fft.rfft2(padded, axes=(0, 1)).swapaxes(2, 3)


def apply_transfer(matrices: jax.Array, x: jax.Array) -> jax.Array:
    """Multiply the transform of `[n, h, w, in]` by `[h, w // 2 + 1, out, in]`."""
    spectrum = jnp.fft.rfft2(x, axes=(1, 2))
    product = jnp.einsum("uvoi,nuvi->nuvo", matrices, spectrum, precision=_HIGHEST)
    return jnp.fft.irfft2(product, s=x.shape[1:3], axes=(1, 2)).astype(x.dtype)


def complex_norm_upper(matrices: jax.Array) -> float:
    """A proved bound on the spectral norms of complex `[..., m, n]`, as real matrices."""
    values = np.asarray(matrices, np.complex128)
    real, imaginary = values.real, values.imag
    blocks = np.concatenate(
        [
            np.concatenate([real, -imaginary], axis=-1),
            np.concatenate([imaginary, real], axis=-1),
        ],
        axis=-2,
    )
    return float(np.max(lipschitz.spectral_norm_upper(blocks)))


def traced_norm_upper(matrix: jax.Array) -> jax.Array:
    """The differentiable bound on a spectral norm, also where the matrix is at hand.

    Layers divide by it: eagerly, compiled and in what they prove the number is then the same.
    """
    return jax.jit(lambda values: lipschitz.spectral_norm_upper(values))(matrix)


def traced_kernel_norm_upper(kernel: jax.Array, image_size: Sequence[int]) -> jax.Array:
    """The same for `convolve` on images `(height, width)`."""
    shape = (*image_size, kernel.shape[2])
    return jax.jit(lambda values: lipschitz.conv_spectral_norm_upper(values, input_shape=shape))(
        kernel
    )


def matrix_norm_upper(matrix: jax.Array | np.ndarray) -> float:
    """A proved bound on the spectral norm of a matrix as it was computed."""
    return float(lipschitz.spectral_norm_upper(np.asarray(matrix, np.float64)))


def kernel_norm_upper(kernel: jax.Array | np.ndarray, image_size: Sequence[int]) -> float:
    """A proved bound on the norm of `convolve` on images `(height, width)`."""
    shape = (*image_size, kernel.shape[2])
    values = np.asarray(kernel, np.float64)
    return float(lipschitz.conv_spectral_norm_upper(values, input_shape=shape))
