"""1-Lipschitz layers as steps down a convex potential (CPL)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import _checks
from jaxcert.models._initializers import he_normal
from jaxcert.models._linear_maps import (
    check_odd,
    convolve,
    convolve_transposed,
    kernel_norm_upper,
    matrix_norm_upper,
    multiply,
    potential_upper,
    traced_kernel_norm_upper,
    traced_norm_upper,
)

# Keeps the step finite where there are no weights; a larger divisor is sound.
_FLOOR = 1e-6


def convex_step(norm: jax.Array) -> jax.Array:
    """The longest step, `2 / norm^2`, for an upper bound of the norm: an estimate is no bound."""
    return 2.0 / (norm * norm * (1.0 + 1e-6) + _FLOOR)


def _not_zero(kernel: jax.Array) -> jax.Array:
    """The kernel, or a small constant one in place of zeros, where norms have no gradient."""
    return jnp.where(jnp.any(kernel != 0.0), kernel, jnp.full_like(kernel, _FLOOR))


class CPLLinear(nnx.Module):
    r"""Convex potential layer, a step against the gradient of a convex function.

    .. math::
        y = x - \frac{2}{\|W\|_2^2} W \, \mathrm{ReLU}(W^T x + b)

    The norm is an upper bound by Gram iteration, not the power iteration that is common here: a
    norm that is too small makes the step too long.

    Args:
      features: input and output features.
      hidden: hidden units; None takes `features`.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.CPLLinear(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 4))).shape, layer.lipschitz_upper()
      ((2, 4), 1.0)

    References:
      Meunier, Delattre, Araujo, Allauzen, "A Dynamical System Perspective for Lipschitz Neural
      Networks", 2022, arXiv:2110.12690.
    """

    def __init__(self, features: int, *, hidden: int | None = None, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        width = _checks.positive_integer("hidden", features if hidden is None else hidden)
        self.kernel = nnx.Param(he_normal(rngs.params(), (features, width)))
        self.bias = nnx.Param(jnp.zeros(width))

    def step(self) -> jax.Array:
        """What the gradient is multiplied by, `2 / norm^2`."""
        return convex_step(traced_norm_upper(_not_zero(self.kernel[...])))

    def lipschitz_upper(self) -> float:
        """A proved bound, from the weights and the step as they were computed."""
        kernel = np.asarray(self.kernel[...], np.float64)
        return potential_upper(matrix_norm_upper(kernel * np.sqrt(float(self.step()) / 2.0)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, features]` to `[n, features]`."""
        kernel = self.kernel[...]
        hidden = jax.nn.relu(multiply(x, kernel) + self.bias[...])
        return x - self.step() * multiply(hidden, kernel.T)


class CPLConv(nnx.Module):
    """Convex potential layer with convolutions of stride 1 that pad with zeros.

    Args:
      features: input and output channels.
      hidden: hidden channels; None takes `features`.
      kernel_size: taps on each axis, odd.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.CPLConv(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 4))).shape
      (2, 8, 8, 4)

    References:
      Meunier, Delattre, Araujo, Allauzen, "A Dynamical System Perspective for Lipschitz Neural
      Networks", 2022, arXiv:2110.12690.
    """

    def __init__(
        self, features: int, *, hidden: int | None = None, kernel_size: int = 3, rngs: nnx.Rngs
    ):
        features = _checks.positive_integer("features", features)
        width = _checks.positive_integer("hidden", features if hidden is None else hidden)
        taps = check_odd(kernel_size)
        self.kernel = nnx.Param(he_normal(rngs.params(), (taps, taps, features, width)))
        self.bias = nnx.Param(jnp.zeros(width))

    def step(self, image_size: Sequence[int]) -> jax.Array:
        """What the gradient is multiplied by on images `(height, width)`, `2 / norm^2`."""
        return convex_step(traced_kernel_norm_upper(_not_zero(self.kernel[...]), image_size))

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """A proved bound on images `(height, width)`, from weights and step as computed."""
        kernel = np.asarray(self.kernel[...], np.float64)
        scaled = kernel * np.sqrt(float(self.step(image_size)) / 2.0)
        return potential_upper(kernel_norm_upper(scaled, image_size))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, features]` to the same shape."""
        kernel = self.kernel[...]
        hidden = jax.nn.relu(convolve(x, kernel) + self.bias[...])
        return x - self.step(x.shape[1:3]) * convolve_transposed(hidden, kernel)
