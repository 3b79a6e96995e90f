"""Orthogonal layers by the Cayley transform, and the sandwich layers built from it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import _checks
from jaxcert.models._initializers import he_normal
from jaxcert.models._linear_maps import (
    apply_transfer,
    check_odd,
    complex_norm_upper,
    matrix_norm_upper,
    multiply,
    transfer_matrices,
)


def cayley(matrices: jax.Array) -> jax.Array:
    r"""Matrices with orthonormal columns from any, real or complex, `[..., m, n]` with m >= n.

    .. math::
        M = \begin{pmatrix} U \\ V \end{pmatrix}, \quad A = U - U^* + V^* V, \quad
        Q = \begin{pmatrix} (I + A)^{-1} (I - A) \\ -2 V (I + A)^{-1} \end{pmatrix}

    The symmetric part of I + A is at least I, so the solve is well posed for every M; a solve,
    since an inverse in low precision loses the orthogonality.
    """
    columns = matrices.shape[-1]
    top, rest = matrices[..., :columns, :], matrices[..., columns:, :]
    skew = top - top.conj().mT + multiply(rest.conj().mT, rest)
    identity = jnp.eye(columns, dtype=matrices.dtype)
    # One factorisation for both: (I + A)^{-1} (I - A) = 2 (I + A)^{-1} - I.
    inverse = jnp.linalg.solve(identity + skew, jnp.broadcast_to(identity, skew.shape))
    return jnp.concatenate([2.0 * inverse - identity, -2.0 * multiply(rest, inverse)], axis=-2)


def scaled_cayley(weight: jax.Array, scale: jax.Array) -> jax.Array:
    """The transform of `scale * weight / |weight|_F`, so that training sets the size alone."""
    square = jnp.sum(jnp.real(weight * weight.conj()), axis=(-2, -1), keepdims=True)
    return cayley(weight * (scale * jax.lax.rsqrt(square + 1e-12)))


def sandwich(
    x: jax.Array, first: jax.Array, last: jax.Array, log_scale: jax.Array, bias: jax.Array
) -> jax.Array:
    r"""The sandwich of `[n, in]`, with B `[hidden, in]` first and A `[hidden, out]` last.

    .. math::
        y = \sqrt 2 A^T \Psi \, \mathrm{ReLU}(\sqrt 2 \Psi^{-1} B x + b)
    """
    scale = jnp.exp(log_scale)
    hidden = jax.nn.relu(jnp.sqrt(2.0) * multiply(x, first.T) / scale + bias)
    return jnp.sqrt(2.0) * multiply(hidden * scale, last)


class CayleyLinear(nnx.Module):
    r"""Dense layer with orthonormal columns or rows, by the Cayley transform.

    .. math::
        Q = (I + A)^{-1} (I - A), \qquad A = -A^T

    Args:
      inputs: input features.
      outputs: output features.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.CayleyLinear(6, 4, rngs=nnx.Rngs(0))
      >>> weight = layer.weight()
      >>> bool(jnp.allclose(weight.T @ weight, jnp.eye(4), atol=1e-5))
      True

    References:
      Trockman, Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", 2021,
      arXiv:2104.07167. Wang, Manchester, "Direct Parameterization of Lipschitz-Bounded Deep
      Networks", 2023, arXiv:2301.11526.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        inputs = _checks.positive_integer("inputs", inputs)
        outputs = _checks.positive_integer("outputs", outputs)
        shape = (max(inputs, outputs), min(inputs, outputs))
        self.transposed = outputs > inputs
        self.kernel = nnx.Param(he_normal(rngs.params(), shape))
        self.scale = nnx.Param(jnp.linalg.norm(self.kernel[...]))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def weight(self) -> jax.Array:
        """The orthonormal matrix `[inputs, outputs]`."""
        matrix = scaled_cayley(self.kernel[...], self.scale[...])
        return matrix.T if self.transposed else matrix

    def lipschitz_upper(self) -> float:
        """A proved bound on the norm of the matrix as it was computed."""
        return matrix_norm_upper(self.weight())

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, inputs]` to `[n, outputs]`."""
        return multiply(x, self.weight()) + self.bias[...]


class CayleyConv(nnx.Module):
    """Circular convolution that is orthogonal, by the Cayley transform at each frequency.

    Args:
      features: input and output channels.
      kernel_size: taps on each axis, odd, of the kernel that is transformed.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.CayleyConv(4, rngs=nnx.Rngs(0))
      >>> x = jnp.arange(256.0).reshape(1, 8, 8, 4)
      >>> float(jnp.linalg.norm(layer(x)) / jnp.linalg.norm(x)).__round__(4)
      1.0

    References:
      Trockman, Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", 2021,
      arXiv:2104.07167.
    """

    def __init__(self, features: int, *, kernel_size: int = 3, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        taps = check_odd(kernel_size)
        self.kernel = nnx.Param(he_normal(rngs.params(), (taps, taps, features, features)))
        self.scale = nnx.Param(jnp.linalg.norm(self.kernel[...]))
        self.bias = nnx.Param(jnp.zeros(features))

    def transfer(self, image_size: Sequence[int]) -> jax.Array:
        """The unitary matrices of the frequencies: `[h, w // 2 + 1, features, features]`."""
        kernel = self.kernel[...]
        # Of the kernel as a whole: the transform at each frequency keeps its size.
        kernel = kernel * (self.scale[...] * jax.lax.rsqrt(jnp.sum(kernel**2) + 1e-12))
        return cayley(transfer_matrices(kernel, image_size))

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """A proved bound on images `(height, width)`, of the matrices as they were computed."""
        return complex_norm_upper(self.transfer(image_size))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, features]` to the same shape."""
        return apply_transfer(self.transfer(x.shape[1:3]), x) + self.bias[...]


class SandwichLinear(nnx.Module):
    r"""Sandwich layer, a 1-Lipschitz dense layer with its activation inside.

    .. math::
        y = \sqrt 2 A^T \Psi \, \mathrm{ReLU}(\sqrt 2 \Psi^{-1} B x + b), \qquad
        A A^T + B B^T = I

    Args:
      inputs: input features.
      outputs: output features, and hidden units.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.SandwichLinear(4, 6, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 4))).shape
      (2, 6)

    References:
      Wang, Manchester, "Direct Parameterization of Lipschitz-Bounded Deep Networks", 2023,
      arXiv:2301.11526.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        inputs = _checks.positive_integer("inputs", inputs)
        outputs = _checks.positive_integer("outputs", outputs)
        self.kernel = nnx.Param(he_normal(rngs.params(), (outputs + inputs, outputs)))
        self.scale = nnx.Param(jnp.linalg.norm(self.kernel[...]))
        self.log_scale = nnx.Param(jnp.zeros(outputs))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def blocks(self) -> jax.Array:
        """[A B]: `[outputs, outputs + inputs]`, with orthonormal rows."""
        return scaled_cayley(self.kernel[...], self.scale[...]).T

    def lipschitz_upper(self) -> float:
        r"""A proved bound from [A B] as it was computed: the square of its norm.

        With w = D B v and :math:`D^2 \le D` it is :math:`\|A^T w\|^2 \le s^2 \|w\|^2 - \|B^T w\|^2`
        and :math:`\|w\|^2 \le \|B^T w\| \|v\|`, so that the square of :math:`2 \|A^T w\|` is at
        most :math:`s^4`.
        """
        norm = matrix_norm_upper(self.blocks())
        return float(np.nextafter(norm * norm, np.inf))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, inputs]` to `[n, outputs]`."""
        blocks = self.blocks()
        hidden = blocks.shape[0]
        return sandwich(
            x, blocks[:, hidden:], blocks[:, :hidden], self.log_scale[...], self.bias[...]
        )


class SandwichConv(nnx.Module):
    """Sandwich layer of circular convolutions, with the Cayley transform at each frequency.

    Args:
      features: input, hidden and output channels.
      kernel_size: taps on each axis, odd, of the kernel that is transformed.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.SandwichConv(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 4))).shape
      (2, 8, 8, 4)

    References:
      Wang, Manchester, "Direct Parameterization of Lipschitz-Bounded Deep Networks", 2023,
      arXiv:2301.11526.
    """

    def __init__(self, features: int, *, kernel_size: int = 3, rngs: nnx.Rngs):
        features = _checks.positive_integer("features", features)
        taps = check_odd(kernel_size)
        # From `features` inputs to twice as many outputs: U and V, stacked.
        self.kernel = nnx.Param(he_normal(rngs.params(), (taps, taps, features, 2 * features)))
        self.scale = nnx.Param(jnp.linalg.norm(self.kernel[...]))
        self.log_scale = nnx.Param(jnp.zeros(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def blocks(self, image_size: Sequence[int]) -> jax.Array:
        """[A B] at each frequency: `[h, w // 2 + 1, features, 2 * features]`."""
        kernel = self.kernel[...]
        kernel = kernel * (self.scale[...] * jax.lax.rsqrt(jnp.sum(kernel**2) + 1e-12))
        return cayley(transfer_matrices(kernel, image_size)).conj().mT

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """A proved bound on images `(height, width)`, as in `SandwichLinear`."""
        norm = complex_norm_upper(self.blocks(image_size))
        return float(np.nextafter(norm * norm, np.inf))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, features]` to the same shape."""
        blocks = self.blocks(x.shape[1:3])
        features = blocks.shape[-2]
        last, first = blocks[..., :features], blocks[..., features:]
        scale = jnp.exp(self.log_scale[...])
        hidden = jnp.sqrt(2.0) * apply_transfer(first, x) / scale + self.bias[...]
        hidden = jax.nn.relu(hidden) * scale
        return jnp.sqrt(2.0) * apply_transfer(last.conj().mT, hidden)
