"""1-Lipschitz layers by diagonal dominance: almost-orthogonal (AOL) and SDP-based (SLL) layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import _checks
from jaxcert.models._initializers import he_normal, near_identity, near_identity_kernel
from jaxcert.models._linear_maps import (
    check_odd,
    convolve,
    convolve_transposed,
    kernel_norm_upper,
    matrix_norm_upper,
    multiply,
    potential_upper,
)

# Added to every diagonal: without weights it would be 0 and be divided by. A larger one is sound.
_FLOOR = 1e-6
# For what rounding takes from the sums; `lipschitz_upper` proves what is left of it.
_SLACK = 1.0 + 1e-6


def dominating_diagonal(products: jax.Array, log_scale: jax.Array) -> jax.Array:
    r"""A diagonal T with T >= G for each symmetric G of entries at most `products`: `[c]`.

    .. math::
        T_i = \sum_j |G_{ij}| \, q_j / q_i

    Scaled by q the matrix T - G is diagonally dominant. q stands on the two different axes: with
    :math:`q_i / q_i` it would cancel and never be trained.
    """
    ratio = jnp.exp(log_scale[None, :] - log_scale[:, None])
    return jnp.sum(products * ratio, axis=1) * _SLACK + _FLOOR


def absolute_gram(weight: jax.Array) -> jax.Array:
    """|W W^T| of `[a, b]`, entry by entry: `[a, a]`."""
    return jnp.abs(multiply(weight, weight.T))


def absolute_autocorrelation(kernel: jax.Array) -> jax.Array:
    r"""Sums over all shifts of the absolute autocorrelation of `[h, w, in, out]`: `[in, in]`.

    .. math::
        R_{ij} = \sum_s \Bigl| \sum_{p, o} K_{p i o} K_{p + s, j o} \Bigr|

    These are the sums of rows of K^T K for the convolution on an infinite image. An image that is
    padded with zeros takes a part of its rows and columns, whose norm is not larger, though their
    own sums may be: at the border less cancels.
    """
    height, width = kernel.shape[:2]
    shifted = jax.lax.conv_general_dilated(
        kernel.transpose(2, 0, 1, 3),
        kernel.transpose(0, 1, 3, 2),
        (1, 1),
        [(height - 1, height - 1), (width - 1, width - 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.sum(jnp.abs(shifted), axis=(1, 2))


class AOLLinear(nnx.Module):
    r"""Almost-orthogonal dense layer, `y = W diag(t)^(-1/2) x + b`.

    .. math::
        t_i = \sum_j |W^T W|_{ij} \, q_j / q_i

    Args:
      inputs: input features.
      outputs: output features.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.AOLLinear(4, 6, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 4))).shape, layer.lipschitz_upper() <= 1.0
      ((2, 6), True)

    References:
      Prach, Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks",
      2022, arXiv:2208.03160.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        inputs = _checks.positive_integer("inputs", inputs)
        outputs = _checks.positive_integer("outputs", outputs)
        self.kernel = nnx.Param(near_identity(rngs.params(), (inputs, outputs)))
        self.log_scale = nnx.Param(jnp.zeros(inputs))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def weight(self) -> jax.Array:
        """The rescaled matrix `[inputs, outputs]`."""
        kernel = self.kernel[...]
        diagonal = dominating_diagonal(absolute_gram(kernel), self.log_scale[...])
        return kernel * jax.lax.rsqrt(diagonal)[:, None]

    def lipschitz_upper(self) -> float:
        """A proved bound on the norm of the matrix as it was computed."""
        return matrix_norm_upper(self.weight())

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, inputs]` to `[n, outputs]`."""
        return multiply(x, self.weight()) + self.bias[...]


class AOLConv(nnx.Module):
    """Almost-orthogonal convolution of stride 1, padded with zeros to the size of the image.

    Args:
      inputs: input channels.
      outputs: output channels.
      kernel_size: taps on each axis, odd.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.AOLConv(4, 4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 4))).shape
      (2, 8, 8, 4)

    References:
      Prach, Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks",
      2022, arXiv:2208.03160.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel_size: int = 3, rngs: nnx.Rngs):
        inputs = _checks.positive_integer("inputs", inputs)
        outputs = _checks.positive_integer("outputs", outputs)
        taps = check_odd(kernel_size)
        self.kernel = nnx.Param(near_identity_kernel(rngs.params(), (taps, taps, inputs, outputs)))
        self.log_scale = nnx.Param(jnp.zeros(inputs))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def weight(self) -> jax.Array:
        """The rescaled kernel `[k, k, inputs, outputs]`."""
        kernel = self.kernel[...]
        diagonal = dominating_diagonal(absolute_autocorrelation(kernel), self.log_scale[...])
        return kernel * jax.lax.rsqrt(diagonal)[:, None]

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """A proved bound on the norm on images `(height, width)`, of the kernel as computed."""
        return kernel_norm_upper(self.weight(), image_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, inputs]` to `[n, height, width, outputs]`."""
        return convolve(x, self.weight()) + self.bias[...]


class SLLLinear(nnx.Module):
    r"""SDP-based Lipschitz layer, a residual block whose Jacobian never exceeds norm 1.

    .. math::
        y = x - 2 W T^{-1} \mathrm{ReLU}(W^T x + b), \qquad
        T_i = \sum_j |W^T W|_{ij} \, q_j / q_i

    Args:
      features: input and output features.
      hidden: hidden units; None takes `features`.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.SLLLinear(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 4))).shape, layer.lipschitz_upper()
      ((2, 4), 1.0)

    References:
      Araujo, Havens, Delattre, Allauzen, Hu, "A Unified Algebraic Perspective on Lipschitz Neural
      Networks", 2023, arXiv:2303.03169.
    """

    def __init__(self, features: int, *, hidden: int | None = None, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        width = _checks.positive_integer("hidden", features if hidden is None else hidden)
        self.kernel = nnx.Param(he_normal(rngs.params(), (features, width)))
        self.log_scale = nnx.Param(jnp.zeros(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def diagonal(self) -> jax.Array:
        """T: `[hidden]`."""
        return dominating_diagonal(absolute_gram(self.kernel[...].T), self.log_scale[...])

    def lipschitz_upper(self) -> float:
        """A proved bound, from W and T as they were computed."""
        kernel, diagonal = (np.asarray(a, np.float64) for a in (self.kernel[...], self.diagonal()))
        return potential_upper(matrix_norm_upper(kernel / np.sqrt(diagonal)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, features]` to `[n, features]`."""
        kernel = self.kernel[...]
        hidden = jax.nn.relu(multiply(x, kernel) + self.bias[...])
        return x - 2.0 * multiply(hidden / self.diagonal(), kernel.T)


class SLLConv(nnx.Module):
    """SDP-based Lipschitz layer with convolutions of stride 1 that pad with zeros.

    Args:
      features: input and output channels.
      hidden: hidden channels; None takes `features`.
      kernel_size: taps on each axis, odd.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.SLLConv(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 4))).shape
      (2, 8, 8, 4)

    References:
      Araujo, Havens, Delattre, Allauzen, Hu, "A Unified Algebraic Perspective on Lipschitz Neural
      Networks", 2023, arXiv:2303.03169.
    """

    def __init__(
        self, features: int, *, hidden: int | None = None, kernel_size: int = 3, rngs: nnx.Rngs
    ):
        features = _checks.positive_integer("features", features)
        width = _checks.positive_integer("hidden", features if hidden is None else hidden)
        taps = check_odd(kernel_size)
        self.kernel = nnx.Param(he_normal(rngs.params(), (taps, taps, features, width)))
        self.log_scale = nnx.Param(jnp.zeros(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def diagonal(self) -> jax.Array:
        """T: `[hidden]`, the same at every pixel."""
        products = absolute_autocorrelation(self.kernel[...].swapaxes(2, 3))
        return dominating_diagonal(products, self.log_scale[...])

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """A proved bound on images `(height, width)`, from W and T as they were computed."""
        kernel, diagonal = (np.asarray(a, np.float64) for a in (self.kernel[...], self.diagonal()))
        return potential_upper(kernel_norm_upper(kernel / np.sqrt(diagonal), image_size))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, features]` to the same shape."""
        kernel = self.kernel[...]
        hidden = jax.nn.relu(convolve(x, kernel) + self.bias[...])
        return x - 2.0 * convolve_transposed(hidden / self.diagonal(), kernel)
