"""The max-plus semiring: tropical sum, product, quotient, power, and the product of matrices."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# The neutral elements of the tropical sum and of the tropical product.
ZERO = -np.inf
ONE = 0.0


def add(x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Tropical sum.

    .. math::
        x \oplus y = \max(x, y)

    Args:
      x: numbers, -inf being the tropical zero.
      y: numbers that broadcast against x.

    Returns:
      The sum, element by element.

    Example:
      >>> from jaxcert import tropical
      >>> print(tropical.add(2.0, 3.0), tropical.add(tropical.ZERO, 3.0))
      3.0 3.0
    """
    return jnp.maximum(jnp.asarray(x), jnp.asarray(y))


def multiply(x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Tropical product.

    .. math::
        x \odot y = x + y

    Args:
      x: numbers, -inf being the tropical zero.
      y: numbers that broadcast against x.

    Returns:
      The product, element by element.

    Example:
      >>> from jaxcert import tropical
      >>> print(tropical.multiply(2.0, 3.0), tropical.multiply(tropical.ZERO, 3.0))
      5.0 -inf
    """
    return jnp.asarray(x) + jnp.asarray(y)


def divide(x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Tropical quotient.

    .. math::
        x \oslash y = x - y

    Args:
      x: numbers, -inf being the tropical zero.
      y: finite numbers that broadcast against x; the tropical zero divides nothing, not even
        itself, and gives NaN.

    Returns:
      The quotient, element by element.

    Example:
      >>> from jaxcert import tropical
      >>> print(tropical.divide(2.0, 3.0), tropical.divide(0.0, tropical.ZERO))
      -1.0 nan
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    return jnp.where(jnp.isneginf(y), jnp.nan, x - y)


def power(x: ArrayLike, exponent: ArrayLike) -> jax.Array:
    r"""Tropical power.

    .. math::
        x^{\odot a} = a \, x, \quad x^{\odot 0} = 0 \text{ also for } x = -\infty

    Args:
      x: numbers, -inf being the tropical zero.
      exponent: real numbers that broadcast against x. A negative power of the tropical zero gives
        NaN.

    Returns:
      The power, element by element.

    Example:
      >>> from jaxcert import tropical
      >>> print(tropical.power(2.0, 3.0), tropical.power(tropical.ZERO, 0.0))
      6.0 0.0
    """
    x, exponent = jnp.asarray(x), jnp.asarray(exponent)
    # Both branches are finite wherever they are not taken, so that gradients are, too.
    zero = jnp.isneginf(x)
    finite = jnp.where(zero, jnp.zeros_like(x), x) * exponent
    of_zero = jnp.where(exponent > 0, -jnp.inf, jnp.where(exponent == 0, 0.0, jnp.nan))
    return jnp.where(zero, of_zero.astype(finite.dtype), finite)


def matmul(x: ArrayLike, y: ArrayLike) -> jax.Array:
    r"""Tropical product of matrices: the heaviest paths of two steps.

    .. math::
        (X \odot Y)_{ij} = \max_k \, (X_{ik} + Y_{kj})

    Args:
      x: `[..., n, k]`, without +inf.
      y: `[..., k, m]`, without +inf.

    Returns:
      `[..., n, m]`; -inf everywhere if k = 0.

    Raises:
      ValueError: if a shape does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> weights = jnp.array([[0.0, 2.0], [-jnp.inf, 0.0]])
      >>> print(tropical.matmul(weights, jnp.array([[1.0], [5.0]])))
      [[7.]
       [5.]]
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2]:
        raise ValueError(
            f"x and y must have shapes [..., n, k] and [..., k, m], got {x.shape} and {y.shape}"
        )
    batch = jnp.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x = jnp.broadcast_to(x, (*batch, *x.shape[-2:]))
    y = jnp.broadcast_to(y, (*batch, *y.shape[-2:]))
    return jnp.max(x[..., :, :, None] + y[..., None, :, :], axis=-2, initial=-jnp.inf)


def identity(size: int) -> jax.Array:
    r"""The unit of the tropical product of matrices.

    .. math::
        I_{ij} = 0 \text{ for } i = j, \quad -\infty \text{ else}

    Args:
      size: rows, and columns.

    Returns:
      `[size, size]`.

    Example:
      >>> from jaxcert import tropical
      >>> print(tropical.identity(2))
      [[  0. -inf]
       [-inf   0.]]
    """
    return jnp.where(jnp.eye(size, dtype=bool), ONE, ZERO)


def matrix_power(x: ArrayLike, exponent: int) -> jax.Array:
    r"""Tropical power of a matrix: the heaviest paths of so many steps.

    .. math::
        X^{\odot k} = X \odot \dots \odot X

    Args:
      x: `[n, n]`, without +inf.
      exponent: how many factors, at least 0; static.

    Returns:
      `[n, n]`, by repeated squaring.

    Raises:
      ValueError: if the matrix is not square or the exponent negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> print(tropical.matrix_power(jnp.array([[0.0, 1.0], [2.0, 0.0]]), 3))
      [[3. 4.]
       [5. 3.]]
    """
    x = jnp.asarray(x)
    exponent = operator.index(exponent)
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        raise ValueError(f"x must be a square matrix, got shape {x.shape}")
    if exponent < 0:
        raise ValueError(f"exponent must be at least 0, got {exponent}")
    result = identity(x.shape[0]).astype(x.dtype)
    while exponent:
        if exponent % 2:
            result = matmul(result, x)
        exponent //= 2
        if exponent:
            x = matmul(x, x)
    return result
