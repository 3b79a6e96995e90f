"""Stacks of dense layers that satisfy one matrix inequality together: Gershgorin and LDLT.

With positive diagonals T_i the stack W_N relu(... relu(W_1 x)) is sqrt(rho)-Lipschitz if the block
tri-diagonal matrix with the diagonal rho I, 2 T_1, ..., 2 T_{N-2}, 2 T_{N-1} - W_N^T W_N and
-T_i W_i below it is positive semidefinite.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.scipy.linalg import solve_triangular

from jaxcert import _checks
from jaxcert.models._initializers import near_identity
from jaxcert.models._linear_maps import multiply

_FLOOR = 1e-6
# Relative room at which the inequality is tried, in turn; float32 weights need about 1e-6.
_ROOM = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def gershgorin_weights(
    raw: Sequence[jax.Array], log_scales: Sequence[jax.Array]
) -> tuple[list[jax.Array], list[jax.Array]]:
    r"""Weights and multipliers that make the inequality with rho = 1 diagonally dominant.

    .. math::
        T_i = \tfrac12 d_i^{-1} \bigl(|U_i| d_{i-1} + |U_{i+1}|^T d_{i+1}\bigr), \qquad
        W_i = T_i^{-1} U_i

    with :math:`|W_N^T W_N| d_{N-1}` as the last term, and the columns of U_1 divided by
    :math:`\max(1, |U_1|^T d_1 / d_0)` for the row of rho.

    Args:
      raw: U_1, ..., U_{N-1}, W_N, matrices `[out, in]`, at least two.
      log_scales: logarithms of d_0, ..., d_{N-1}.
    """
    scales = [jnp.exp(values) for values in log_scales]
    *inner, last = raw
    inner = list(inner)
    columns = multiply(jnp.abs(inner[0]).T, scales[1]) / scales[0]
    inner[0] = inner[0] / (jnp.maximum(1.0, columns) * (1.0 + 1e-6))
    couplings = [multiply(jnp.abs(matrix).T, scales[i + 1]) for i, matrix in enumerate(inner)]
    couplings.append(multiply(jnp.abs(multiply(last.T, last)), scales[-1]))
    weights, multipliers = [], []
    for index, matrix in enumerate(inner):
        row = multiply(jnp.abs(matrix), scales[index]) + couplings[index + 1]
        multiplier = 0.5 * (1.0 + 1e-6) * row / scales[index + 1] + _FLOOR
        weights.append(matrix / multiplier[:, None])
        multipliers.append(multiplier)
    return [*weights, last], multipliers


def ldlt_weights(
    raw: Sequence[jax.Array], log_shifts: jax.Array
) -> tuple[list[jax.Array], list[jax.Array]]:
    r"""Weights of a 1-Lipschitz stack by an LDL^T factorisation of the inequality, T_i = I.

    .. math::
        \tilde W_i = W_i R_i^{-1}, \quad R_i^T R_i = W_i^T W_i + a_i I, \quad
        S_i S_i^T = W_i W_i^T + a_i I

    .. math::
        V_1 = \sqrt 2 \tilde W_1, \quad
        V_i = 2 \sqrt{a_{i-1}} \tilde W_i S_{i-1}^{-1}, \quad
        V_N = \sqrt{2 a_{N-1}} \tilde W_N S_{N-1}^{-1}

    By the push-through identity the Schur complements are :math:`2 a_i (S_i S_i^T)^{-1}`.

    Args:
      raw: W_1, ..., W_N, matrices `[out, in]`, at least two.
      log_shifts: logarithms of a_1, ..., a_N: `[N]`.
    """
    shifts = jnp.exp(log_shifts)
    weights: list[jax.Array] = []
    lower = jnp.eye(raw[0].shape[1], dtype=raw[0].dtype)
    for index, matrix in enumerate(raw):
        outputs, inputs = matrix.shape
        gram = multiply(matrix.T, matrix) + shifts[index] * jnp.eye(inputs, dtype=matrix.dtype)
        upper = jnp.linalg.cholesky(gram)  # R^T
        tilde = solve_triangular(upper, matrix.T, lower=True).T
        if index == 0:
            weights.append(jnp.sqrt(2.0) * tilde)
        else:
            factor = 2.0 if index < len(raw) - 1 else jnp.sqrt(2.0)
            solved = solve_triangular(lower, tilde.T, lower=True, trans=1).T
            weights.append(factor * jnp.sqrt(shifts[index - 1]) * solved)
        gram = multiply(matrix, matrix.T) + shifts[index] * jnp.eye(outputs, dtype=matrix.dtype)
        lower = jnp.linalg.cholesky(gram)
    return weights, [jnp.ones(matrix.shape[0], matrix.dtype) for matrix in raw[:-1]]


def stack_lipschitz_upper(
    weights: Sequence[jax.Array | np.ndarray], multipliers: Sequence[jax.Array | np.ndarray]
) -> float:
    """A proved bound near 1 from the matrix inequality at hand, in float64.

    A Cholesky factorisation that runs to completion on the inequality less its rounding budget
    proves it (Rump, "Verification of Positive Definiteness", 2006).

    Raises:
      ValueError: if the inequality does not hold even with 1% to spare, or a multiplier is
        negative.
    """
    matrices = [np.asarray(weight, np.float64) for weight in weights]
    diagonals = [np.asarray(values, np.float64) for values in multipliers]
    if any(np.any(values < 0) for values in diagonals):
        raise ValueError("multipliers must not be negative")
    for room in _ROOM:
        last = matrices[-1] / (1.0 + room)
        inequality = _inequality(matrices[:-1], last, diagonals, rho=1.0 + room)
        size = len(inequality)
        # Of the factorisation by the trace, of the products by the squared Frobenius norms.
        total = float(np.trace(inequality)) + 2.0 * float(np.sum(last * last))
        total += float(np.sum(np.abs(inequality)))
        budget = 4.0 * (size + 10) * np.finfo(np.float64).eps * total
        try:
            np.linalg.cholesky(inequality - budget * np.eye(size))
        except np.linalg.LinAlgError:
            continue
        return (1.0 + room) ** 2
    raise ValueError("the weights do not satisfy the matrix inequality of their multipliers")


def _inequality(
    inner: Sequence[np.ndarray], last: np.ndarray, diagonals: Sequence[np.ndarray], rho: float
) -> np.ndarray:
    sizes = [inner[0].shape[1], *(len(values) for values in diagonals)]
    ends = np.cumsum(sizes)
    matrix = np.zeros((ends[-1], ends[-1]))
    np.fill_diagonal(matrix, np.concatenate([np.full(sizes[0], rho), *(2 * t for t in diagonals)]))
    for weight, diagonal, middle, size in zip(inner, diagonals, ends[:-1], sizes[:-1], strict=True):
        rows = slice(middle, middle + len(diagonal))
        columns = slice(middle - size, middle)
        matrix[rows, columns] = -diagonal[:, None] * weight
        matrix[columns, rows] = matrix[rows, columns].T
    block = slice(ends[-1] - sizes[-1], ends[-1])
    matrix[block, block] -= last.T @ last
    return matrix


class _Stack(nnx.Module):
    """Dense layers with ReLU between them."""

    def __init__(self, widths: Sequence[int], *, rngs: nnx.Rngs):
        sizes = [_checks.positive_integer("widths", width) for width in widths]
        if len(sizes) < 3:
            raise ValueError(f"widths must hold at least 3 numbers, two layers, got {widths}")
        pairs = zip(sizes[1:], sizes[:-1], strict=True)
        self.kernels = nnx.List([nnx.Param(near_identity(rngs.params(), p)) for p in pairs])
        self.biases = nnx.List([nnx.Param(jnp.zeros(size)) for size in sizes[1:]])

    def weights(self) -> tuple[list[jax.Array], list[jax.Array]]:
        """The weights `[out, in]` and the multipliers of the hidden layers."""
        raise NotImplementedError

    def lipschitz_upper(self) -> float:
        """A proved bound, from the weights as they were computed."""
        return stack_lipschitz_upper(*self.weights())

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, widths[0]]` to `[n, widths[-1]]`."""
        weights, _ = self.weights()
        for index, (weight, bias) in enumerate(zip(weights, self.biases, strict=True)):
            x = multiply(jax.nn.relu(x) if index else x, weight.T) + bias[...]
        return x


class GershgorinStack(_Stack):
    """1-Lipschitz dense layers with ReLU between them, by diagonal dominance.

    Args:
      widths: features of the input, of each hidden layer and of the output.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> stack = models.GershgorinStack((4, 6, 6, 3), rngs=nnx.Rngs(0))
      >>> stack(jnp.ones((2, 4))).shape, stack.lipschitz_upper() < 1.00001
      ((2, 3), True)

    References:
      Juston, Norris, Nottage, Soylemezoglu, "L-Lipschitz Gershgorin ResNet Network", 2025,
      arXiv:2502.21279.
    """

    def __init__(self, widths: Sequence[int], *, rngs: nnx.Rngs):
        super().__init__(widths, rngs=rngs)
        self.log_scales = nnx.List([nnx.Param(jnp.zeros(width)) for width in widths[:-1]])

    def weights(self) -> tuple[list[jax.Array], list[jax.Array]]:
        """The weights `[out, in]` and the multipliers of the hidden layers."""
        return gershgorin_weights(
            [kernel[...] for kernel in self.kernels], [scale[...] for scale in self.log_scales]
        )


class LDLTStack(_Stack):
    """1-Lipschitz dense layers with ReLU between them, by an LDL^T factorisation.

    Args:
      widths: features of the input, of each hidden layer and of the output.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> stack = models.LDLTStack((4, 6, 6, 3), rngs=nnx.Rngs(0))
      >>> stack(jnp.ones((2, 4))).shape, stack.lipschitz_upper() < 1.00001
      ((2, 3), True)

    References:
      Juston, Sreenivas, Nottage, Soylemezoglu, "LDLT L-Lipschitz Network: Generalized Deep
      End-To-End Lipschitz Network Construction", 2025, arXiv:2512.05915.
    """

    def __init__(self, widths: Sequence[int], *, rngs: nnx.Rngs):
        super().__init__(widths, rngs=rngs)
        self.log_shifts = nnx.Param(jnp.zeros(len(widths) - 1))

    def weights(self) -> tuple[list[jax.Array], list[jax.Array]]:
        """The weights `[out, in]` and the multipliers of the hidden layers."""
        return ldlt_weights([kernel[...] for kernel in self.kernels], self.log_shifts[...])
