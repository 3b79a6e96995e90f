"""Linear residual layers (LiResNet), divided by the norm of the whole map."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcert import _checks
from jaxcert.models._initializers import he_normal
from jaxcert.models._linear_maps import (
    check_odd,
    convolve,
    kernel_norm_upper,
    matrix_norm_upper,
    multiply,
    traced_kernel_norm_upper,
    traced_norm_upper,
)


def residual_scale(depth: int) -> float:
    """What the initial weights of one of `depth` residual layers are multiplied by."""
    return float(depth) ** -0.5


class LiResNetLinear(nnx.Module):
    r"""Dense residual layer, divided by an upper bound of the norm of the residual map as a whole.

    .. math::
        y = \frac{(I + d^{-1/2} W) x}{\|I + d^{-1/2} W\|_2} + b

    The norm of I + W is far below the sum of the norms, :math:`1 + \|W\|`.

    Args:
      features: input and output features.
      depth: d, how many such layers follow each other.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.LiResNetLinear(4, depth=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 4))).shape, 0.999 < layer.lipschitz_upper() <= 1.0
      ((2, 4), True)

    References:
      Hu, Zou, Wang, Leino, Fredrikson, "Unlocking Deterministic Robustness Certification on
      ImageNet", 2023, arXiv:2301.12549.
    """

    def __init__(self, features: int, *, depth: int = 1, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        self.depth = _checks.positive_integer("depth", depth)
        self.kernel = nnx.Param(0.5 * he_normal(rngs.params(), (features, features)))
        self.bias = nnx.Param(jnp.zeros(features))

    def weight(self) -> jax.Array:
        """The matrix of the whole layer, `[features, features]`."""
        kernel = self.kernel[...] * residual_scale(self.depth)
        matrix = kernel + jnp.eye(kernel.shape[0], dtype=kernel.dtype)
        # The floor is for W = -I, whose map is 0.
        return matrix / (traced_norm_upper(matrix) * (1 + 1e-6) + 1e-6)

    def lipschitz_upper(self) -> float:
        """A proved bound on the norm of the matrix as it was computed."""
        return matrix_norm_upper(self.weight())

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, features]` to `[n, features]`."""
        return multiply(x, self.weight()) + self.bias[...]


class LiResNetConv(nnx.Module):
    """Convolution as a linear residual layer, padded with zeros, divided by its norm.

    Args:
      features: input and output channels.
      kernel_size: taps on each axis, odd.
      depth: how many such layers follow each other.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.LiResNetConv(4, depth=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 4))).shape
      (2, 8, 8, 4)

    References:
      Hu, Zou, Wang, Leino, Fredrikson, "Unlocking Deterministic Robustness Certification on
      ImageNet", 2023, arXiv:2301.12549.
    """

    def __init__(self, features: int, *, kernel_size: int = 3, depth: int = 1, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        taps = check_odd(kernel_size)
        self.depth = _checks.positive_integer("depth", depth)
        self.kernel = nnx.Param(0.5 * he_normal(rngs.params(), (taps, taps, features, features)))
        self.bias = nnx.Param(jnp.zeros(features))

    def weight(self, image_size: Sequence[int]) -> jax.Array:
        """The kernel of the whole layer on images `(height, width)`."""
        kernel = self.kernel[...] * residual_scale(self.depth)
        centre = kernel.shape[0] // 2
        merged = kernel.at[centre, centre].add(jnp.eye(kernel.shape[2], dtype=kernel.dtype))
        return merged / (traced_kernel_norm_upper(merged, image_size) * (1 + 1e-6) + 1e-6)

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """A proved bound on images `(height, width)`, of the kernel as it was computed."""
        return kernel_norm_upper(self.weight(image_size), image_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, features]` to the same shape."""
        return convolve(x, self.weight(x.shape[1:3])) + self.bias[...]
