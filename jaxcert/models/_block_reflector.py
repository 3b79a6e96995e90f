"""Orthogonal layers as block reflections of low rank (BRO)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
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

# Of the mean of the diagonal: the singular values |1 - 2 s^2 / (s^2 + epsilon)| stay below 1.
_EPSILON = 1e-5


def block_reflector(matrices: jax.Array) -> jax.Array:
    r"""Reflections `[..., m, m]` that fix the complement of the columns of V `[..., m, n]`.

    .. math::
        I - 2 V (V^* V + \epsilon I)^{-1} V^*
    """
    rows, columns = matrices.shape[-2:]
    gram = multiply(matrices.conj().mT, matrices)
    mean = jnp.real(jnp.trace(gram, axis1=-2, axis2=-1)) / columns
    # Without weights the solve is that of the smallest number instead of 0 / 0.
    epsilon = (_EPSILON * mean + 1e-12)[..., None, None]
    solved = jnp.linalg.solve(
        gram + epsilon * jnp.eye(columns, dtype=gram.dtype), matrices.conj().mT
    )
    return jnp.eye(rows, dtype=matrices.dtype) - 2.0 * multiply(matrices, solved)


class BROLinear(nnx.Module):
    r"""Orthogonal dense layer by a block reflection, or a leading block of one.

    .. math::
        W = I - 2 V (V^T V + \epsilon I)^{-1} V^T

    Args:
      inputs: input features.
      outputs: output features.
      rank: columns of V; None takes a quarter of the larger number of features.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.BROLinear(8, 8, rngs=nnx.Rngs(0))
      >>> bool(jnp.allclose(layer.weight() @ layer.weight(), jnp.eye(8), atol=1e-3))
      True

    References:
      Lai, Huang, Kung, Chen, "Enhancing Certified Robustness via Block Reflector Orthogonal Layers
      and Logit Annealing Loss", 2025, arXiv:2505.15174.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int | None = None, rngs: nnx.Rngs):
        self.inputs = _checks.positive_integer("inputs", inputs)
        self.outputs = _checks.positive_integer("outputs", outputs)
        size = max(self.inputs, self.outputs)
        columns = max(1, size // 4) if rank is None else rank
        columns = _checks.positive_integer("rank", columns, maximum=size)
        self.kernel = nnx.Param(he_normal(rngs.params(), (size, columns)))
        self.bias = nnx.Param(jnp.zeros(self.outputs))

    def weight(self) -> jax.Array:
        """The matrix `[inputs, outputs]`."""
        return block_reflector(self.kernel[...])[: self.inputs, : self.outputs]

    def lipschitz_upper(self) -> float:
        """A proved bound on the norm of the matrix as it was computed."""
        return matrix_norm_upper(self.weight())

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, inputs]` to `[n, outputs]`."""
        return multiply(x, self.weight()) + self.bias[...]


class BROConv(nnx.Module):
    """Convolution by a block reflection at each frequency of a padded image, cropped again.

    Args:
      features: input and output channels.
      kernel_size: taps on each axis, odd, of the kernel that is transformed.
      rank: channels of V; None takes a quarter of `features`.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.BROConv(4, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 4))).shape
      (2, 8, 8, 4)

    References:
      Lai, Huang, Kung, Chen, "Enhancing Certified Robustness via Block Reflector Orthogonal Layers
      and Logit Annealing Loss", 2025, arXiv:2505.15174.
    """

    def __init__(
        self, features: int, *, kernel_size: int = 3, rank: int | None = None, rngs: nnx.Rngs
    ):
        features = _checks.positive_integer("features", features)
        self.padding = check_odd(kernel_size) // 2
        columns = max(1, features // 4) if rank is None else rank
        columns = _checks.positive_integer("rank", columns, maximum=features)
        shape = (kernel_size, kernel_size, columns, features)
        self.kernel = nnx.Param(he_normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(features))

    def transfer(self, image_size: Sequence[int]) -> jax.Array:
        """The matrices of the frequencies of the padded image."""
        height, width = (side + 2 * self.padding for side in image_size)
        return block_reflector(transfer_matrices(self.kernel[...], (height, width)))

    def lipschitz_upper(self, image_size: Sequence[int]) -> float:
        """A proved bound on images `(height, width)`: padding and cropping have norm 1."""
        return complex_norm_upper(self.transfer(image_size))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, features]` to the same shape."""
        height, width = x.shape[1:3]
        pad = (self.padding, self.padding)
        padded = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
        out = apply_transfer(self.transfer((height, width)), padded)
        inside = slice(self.padding, self.padding + height)
        across = slice(self.padding, self.padding + width)
        return out[:, inside, across] + self.bias[...]
