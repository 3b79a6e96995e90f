"""Operator norms of matrices: proved upper bounds, and an estimate from below."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._gram import gram_upper
from jaxcert.lipschitz._rounding import gamma, to_dtype_up
from jaxcert.lipschitz._verified import singular_value_upper

Order = int | float
_ORDERS = (1, 2, math.inf)


def spectral_norm_upper(matrix: ArrayLike, *, iterations: int = 12) -> jax.Array | np.ndarray:
    r"""Upper bound on the largest singular value of a matrix.

    .. math::
        \|W\|_2 = \max_{x \ne 0} \frac{\|W x\|_2}{\|x\|_2}

    Arrays at hand are bounded in float64 on the host: a Lanczos iteration proposes a value and a
    completed Cholesky factorisation of t I - W^T W proves it. Traced arrays (under `jax.jit`,
    `jax.vmap` or `jax.grad`) are bounded by a rescaled Gram iteration in their own dtype, which is
    differentiable.

    Args:
      matrix: floating `[..., m, n]`.
      iterations: squarings of the Gram iteration, for traced arrays only.

    Returns:
      The bounds `[...]`: for a JAX array one of its dtype, rounded up; otherwise float64.

    Raises:
      TypeError: if the matrix is not floating point.
      ValueError: if it has fewer than two axes, an empty axis, or an entry that is not finite.

    Guarantee:
      Sound, with an explicit rounding budget. On the host at most a relative 1e-6 above the norm
      wherever Lanczos converges. The Gram iteration is above it by at most a factor of
      rank^(2^-(iterations + 1)), 0.1% at rank 4096, and by the budget: below 1e-9 in float64, a
      few 0.1% in float32 at size 512.

    Example:
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> float(lipschitz.spectral_norm_upper(np.array([[3.0, 0.0], [4.0, 0.0]])))
      5.000000

    References:
      Delattre, Barthélemy, Araujo, Allauzen, "Efficient Bound of Lipschitz Constant for
      Convolutional Layers by Gram Iteration", 2023, arXiv:2305.16173. Rump, "Verification of
      Positive Definiteness", 2006.
    """
    checked = matrices("matrix", matrix)
    iterations = _checks.positive_integer("iterations", iterations, maximum=64)
    if isinstance(checked, np.ndarray):
        return host_result(matrix, _each(singular_value_upper, checked))
    return in_dtype(lambda value: gram_upper(value, iterations=iterations), checked)


def spectral_norm_estimate(
    key: jax.Array, matrix: ArrayLike, *, iterations: int = 100
) -> jax.Array:
    r"""Estimate of the largest singular value, from below, by power iteration.

    .. math::
        v \leftarrow W^T W v / \|W^T W v\|_2, \qquad \|W v\|_2 \le \|W\|_2

    Args:
      key: a typed key, for the first vector.
      matrix: floating `[..., m, n]`.
      iterations: number of steps.

    Returns:
      The estimates `[...]`, in the dtype of the matrix.

    Raises:
      TypeError: if the matrix is not floating point.
      ValueError: if it has fewer than two axes, an empty axis, or an entry that is not finite.

    Guarantee:
      None: rounding aside the value is below the norm, by as much as chance leaves it. It never
      serves as a certificate.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import lipschitz
      >>> float(lipschitz.spectral_norm_estimate(jax.random.key(0), jnp.diag(jnp.array([1., 4.]))))
      4.000000
    """
    key = _checks.typed_key("key", key)
    values = jnp.asarray(matrices("matrix", matrix, on_host=False))
    iterations = _checks.positive_integer("iterations", iterations)
    start = jax.random.normal(key, (*values.shape[:-2], values.shape[-1], 1), values.dtype)

    def normalised(vectors: jax.Array) -> jax.Array:
        norm = jnp.linalg.norm(vectors, axis=-2, keepdims=True)
        return vectors / jnp.where(norm == 0.0, jnp.ones_like(norm), norm)

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def step(_: int, vectors: jax.Array) -> jax.Array:
        return normalised(multiply(values.mT, normalised(multiply(values, vectors))))

    vectors = jax.lax.fori_loop(0, iterations, step, normalised(start))
    return jnp.linalg.norm(multiply(values, vectors), axis=(-2, -1))


def operator_norm_upper(matrix: ArrayLike, *, order: Order = 2) -> jax.Array | np.ndarray:
    r"""Upper bound on the norm of a matrix between l1, l2 or linf spaces.

    .. math::
        \|W\|_1 = \max_j \sum_i |W_{ij}|, \qquad \|W\|_\infty = \max_i \sum_j |W_{ij}|

    Args:
      matrix: floating `[..., m, n]`.
      order: 1, 2 or `math.inf`; 2 is `spectral_norm_upper`.

    Returns:
      The bounds `[...]`: for a JAX array one of its dtype, rounded up; otherwise float64.

    Raises:
      TypeError: if the matrix is not floating point.
      ValueError: if the order is another, or the matrix has fewer than two axes, an empty axis, or
        an entry that is not finite.

    Guarantee:
      Sound; for orders 1 and infinity exact up to the rounding budget of one sum.

    Example:
      >>> import math
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> matrix = np.array([[1.0, -2.0], [0.0, 3.0]])
      >>> [float(lipschitz.operator_norm_upper(matrix, order=order)) for order in (1, math.inf)]
      [5.000000, 3.000000]
    """
    order = norm_order("order", order)
    if order == 2:
        return spectral_norm_upper(matrix)
    checked = matrices("matrix", matrix)
    axis = -2 if order == 1 else -1

    def largest_sum(values: Any, xp: Any) -> Any:
        sums = xp.max(xp.sum(xp.abs(values), axis=axis), axis=-1)
        return sums * (1.0 + gamma(values.shape[axis], values.dtype))

    if isinstance(checked, np.ndarray):
        return host_result(matrix, largest_sum(checked, np))
    return in_dtype(lambda values: largest_sum(values, jnp), checked)


def norm_order(name: str, order: Any) -> Order:
    """Return 1, 2 or infinity, or raise."""
    if isinstance(order, bool) or order not in _ORDERS:
        raise ValueError(f"{name} must be 1, 2 or math.inf, got {order!r}")
    return math.inf if order == math.inf else int(order)


def matrices(name: str, value: Any, *, on_host: bool = True) -> jax.Array | np.ndarray:
    """Return `[..., m, n]`, as float64 on the host where it holds numbers, or raise."""
    checked = floating(name, value)
    if checked.ndim < 2:
        raise ValueError(f"{name} must have shape [..., m, n], got shape {checked.shape}")
    if 0 in checked.shape:
        raise ValueError(f"{name} must not be empty, got shape {checked.shape}")
    if not _checks.is_concrete(checked):
        return checked
    finite(name, checked)
    return np.asarray(checked).astype(np.float64) if on_host else checked


def floating(name: str, value: Any) -> jax.Array | np.ndarray:
    """Return a floating array, or raise."""
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {array.dtype}")
    return array


def finite(name: str, value: jax.Array | np.ndarray) -> None:
    """Raise unless an array at hand is finite."""
    if not np.all(np.isfinite(np.asarray(value).astype(np.float64))):
        raise ValueError(f"{name} must be finite, got NaN or infinity")


def host_result(argument: Any, values: np.ndarray) -> jax.Array | np.ndarray:
    """Give float64 values back in the kind of array that was passed, never smaller."""
    if isinstance(argument, jax.Array):
        return jnp.asarray(to_dtype_up(values, argument.dtype))
    return np.asarray(values)


def in_dtype(bound: Any, values: Any) -> jax.Array:
    """Apply a bound in the dtype of a traced array, or in float32 where that is smaller."""
    dtype = values.dtype
    if jnp.finfo(dtype).bits >= 32:
        return bound(values)
    unit = float(jnp.finfo(dtype).eps)
    return (bound(values.astype(jnp.float32)) * (1.0 + unit)).astype(dtype)


def _each(bound: Any, values: np.ndarray) -> np.ndarray:
    """Apply a bound on one matrix to each of `[..., m, n]`."""
    flat = values.reshape(-1, *values.shape[-2:])
    return np.asarray([bound(matrix) for matrix in flat]).reshape(values.shape[:-2])
