"""Orthogonal layers as exponentials of skew-symmetric maps (SOC), with the truncation bounded."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcert import _checks
from jaxcert.models._initializers import he_normal
from jaxcert.models._linear_maps import check_odd, convolve, multiply


def truncated_exponential(
    x: jax.Array, skew: Callable[[jax.Array], jax.Array], *, terms: int
) -> jax.Array:
    r"""Apply the first terms of exp(A) to x, divided by a bound on their norm.

    .. math::
        S_m = \sum_{k < m} \frac{A^k}{k!}, \qquad
        \|S_m\|_2 \le 1 + \|S_m - e^A\|_2 \le 1 + \frac{\|A\|_2^m}{m!} \le 1 + \frac{1}{m!}

    for skew-symmetric A of norm at most 1: the exponential is orthogonal, and so is every
    exponential inside the integral that the remainder is.
    """
    total, power = x, x
    for index in range(1, terms):
        power = skew(power) / index
        total = total + power
    return total / (1.0 + 1.0 / math.factorial(terms))


def unit_skew(kernel: jax.Array) -> jax.Array:
    """A skew-symmetric matrix of norm at most 1, from any square one."""
    skew = kernel - kernel.T
    # Symmetric in absolute value, so that its rows bound the l2 norm as they do the others.
    return skew / jnp.maximum(1.0, jnp.max(_sums_upper(jnp.abs(skew), axes=(0,))))


def _sums_upper(values: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
    """Sums that are no smaller than in exact arithmetic, in whatever order they are taken."""
    terms = math.prod(values.shape[axis] for axis in axes) + 16
    return jnp.sum(values, axis=axes) * (1.0 + terms * float(jnp.finfo(values.dtype).eps))


def unit_skew_kernel(kernel: jax.Array) -> jax.Array:
    """A skew-symmetric convolution of norm at most 1, from any odd kernel `[k, k, c, c]`."""
    skew = kernel - kernel[::-1, ::-1].swapaxes(2, 3)
    return skew / jnp.maximum(1.0, jnp.max(_sums_upper(jnp.abs(skew), axes=(0, 1, 2))))


class SOCLinear(nnx.Module):
    r"""Orthogonal dense layer by a matrix exponential, for 1-Lipschitz at any number of terms.

    .. math::
        y = \frac{1}{1 + 1 / m!} \sum_{k < m} \frac{A^k}{k!} x + b, \qquad A = -A^T, \|A\|_2 \le 1

    Args:
      features: input and output features.
      terms: m; the factor that bounds the truncation is 1.2 at 3 terms and 1 + 3e-7 at 10.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.SOCLinear(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 4))).shape
      (2, 4)

    References:
      Singla, Feizi, "Skew Orthogonal Convolutions", 2021, arXiv:2105.11417.
    """

    def __init__(self, features: int, *, terms: int = 10, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        self.terms = _checks.positive_integer("terms", terms)
        self.kernel = nnx.Param(he_normal(rngs.params(), (features, features)))
        self.bias = nnx.Param(jnp.zeros(features))

    def lipschitz_upper(self) -> float:
        """1: the factor covers the truncation, and the bound of A its rounding."""
        return 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, features]` to `[n, features]`."""
        skew = unit_skew(self.kernel[...])
        return (
            truncated_exponential(x, lambda v: multiply(v, skew), terms=self.terms) + self.bias[...]
        )


class SOCConv(nnx.Module):
    """Orthogonal convolution by an exponential, padded with zeros to the size of the image.

    Args:
      features: input and output channels.
      kernel_size: taps on each axis, odd.
      terms: convolutions that are summed; see `SOCLinear`.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.SOCConv(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 4))).shape
      (2, 8, 8, 4)

    References:
      Singla, Feizi, "Skew Orthogonal Convolutions", 2021, arXiv:2105.11417.
    """

    def __init__(self, features: int, *, kernel_size: int = 3, terms: int = 10, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        taps = check_odd(kernel_size)
        self.terms = _checks.positive_integer("terms", terms)
        self.kernel = nnx.Param(he_normal(rngs.params(), (taps, taps, features, features)))
        self.bias = nnx.Param(jnp.zeros(features))

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """1 on images of any size, as in `SOCLinear`."""
        del image_size
        return 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, features]` to the same shape."""
        skew = unit_skew_kernel(self.kernel[...])
        return (
            truncated_exponential(x, lambda v: convolve(v, skew), terms=self.terms) + self.bias[...]
        )
