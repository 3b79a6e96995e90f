"""Tropical polynomials and rational maps as pytrees: values, sums, products, powers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import _zonotope


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TropicalPolynomial:
    r"""A maximum of finitely many affine functions.

    .. math::
        f(x) = \bigoplus_i c_i \odot x^{\odot a_i} = \max_i \, (c_i + \langle a_i, x \rangle)

    Exponents are real; an exponent that occurs twice counts with its larger coefficient, and a
    coefficient -inf is a monomial that is not there.

    Attributes:
      coefficients: c, `[k]`.
      exponents: a, `[k, n]`.
    """

    coefficients: Any
    exponents: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RationalMap:
    r"""A vector of differences of tropical polynomials.

    .. math::
        x \mapsto (f_i \oslash g_i)(x) = f_i(x) - g_i(x), \quad i = 1, \dots, p

    Attributes:
      numerators: f, `p` polynomials in the same variables.
      denominators: g, as many.
    """

    numerators: tuple[TropicalPolynomial, ...]
    denominators: tuple[TropicalPolynomial, ...]


def evaluate(function: TropicalPolynomial | RationalMap, points: ArrayLike) -> jax.Array:
    r"""The values of a tropical polynomial, or of a rational map.

    .. math::
        \max_i \, (c_i + \langle a_i, x \rangle)

    Works under jit, vmap and grad.

    Args:
      function: in n variables.
      points: x, `[..., n]`.

    Returns:
      `[...]` for a polynomial, `[..., p]` for a map with p components.

    Raises:
      TypeError: if `function` is neither.
      ValueError: if a shape does not fit.

    Example:
      >>> from jaxcert import tropical
      >>> absolute = tropical.TropicalPolynomial([0.0, 0.0], [[1.0], [-1.0]])
      >>> print(tropical.evaluate(absolute, [[-3.0], [2.0]]))
      [3. 2.]
      >>> one = tropical.TropicalPolynomial([1.0], [[0.0]])
      >>> print(tropical.evaluate(tropical.RationalMap((absolute,), (one,)), [-3.0]))
      [2.]
    """
    if isinstance(function, RationalMap):
        if len(function.numerators) != len(function.denominators) or not function.numerators:
            raise ValueError(
                "function must have as many numerators as denominators, and one at least, got "
                f"{len(function.numerators)} and {len(function.denominators)}"
            )
        return jnp.stack(
            [
                evaluate(numerator, points) - evaluate(denominator, points)
                for numerator, denominator in zip(
                    function.numerators, function.denominators, strict=True
                )
            ],
            axis=-1,
        )
    return jnp.max(monomial_values(function, points), axis=-1)


def monomial_values(polynomial: TropicalPolynomial, points: ArrayLike) -> jax.Array:
    r"""The values of the monomials, of which the polynomial is the largest.

    .. math::
        c_i + \langle a_i, x \rangle

    Args:
      polynomial: in n variables.
      points: x, `[..., n]`.

    Returns:
      `[..., k]`.

    Raises:
      TypeError: if `polynomial` is none.
      ValueError: if a shape does not fit.

    Example:
      >>> from jaxcert import tropical
      >>> absolute = tropical.TropicalPolynomial([0.0, 0.0], [[1.0], [-1.0]])
      >>> print(tropical.monomial_values(absolute, [-3.0]))
      [-3.  3.]
    """
    coefficients, exponents = arrays(polynomial)
    points = _zonotope.direction_array("points", points, exponents.shape[1])
    products = jnp.einsum("...n,kn->...k", points, exponents, precision=jax.lax.Precision.HIGHEST)
    return jnp.broadcast_to(coefficients, products.shape) + products


def monomial_gap(polynomial: TropicalPolynomial, points: ArrayLike) -> jax.Array:
    r"""How far the largest monomial is above the next one: 0 exactly on the hypersurface.

    .. math::
        f(x) - \max_{i \, : \, a_i \ne a_{i^*}} (c_i + \langle a_i, x \rangle), \quad
        T(f) = \{ x : \text{the maximum is attained by two monomials at least} \}

    Monomials of the same exponent count as one. The decision boundary of a network is part of such
    a hypersurface, not all of it.

    Args:
      polynomial: in n variables.
      points: x, `[..., n]`.

    Returns:
      `[...]`, at least 0; infinite if there is but one exponent.

    Raises:
      TypeError: if `polynomial` is none.
      ValueError: if a shape does not fit.

    Example:
      >>> from jaxcert import tropical
      >>> exponents = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
      >>> corner = tropical.TropicalPolynomial([0.0, 0.0, 0.0], exponents)
      >>> print(tropical.monomial_gap(corner, [[2.0, 2.0], [3.0, 1.0]]))
      [0. 2.]
    """
    values = monomial_values(polynomial, points)
    _, exponents = arrays(polynomial)
    best = jnp.argmax(values, axis=-1)
    largest = exponents[best][..., None, :]
    shape = (*values.shape, exponents.shape[1])
    same = jnp.all(largest == jnp.broadcast_to(exponents, shape), axis=-1)
    others = jnp.max(jnp.where(same, -jnp.inf, values), axis=-1, initial=-jnp.inf)
    return jnp.max(values, axis=-1) - others


def on_hypersurface(
    polynomial: TropicalPolynomial, points: ArrayLike, *, tolerance: float = 0.0
) -> jax.Array:
    r"""Whether two monomials attain the maximum: the test of membership in T(f).

    .. math::
        \mathrm{gap}(x) \le \text{tolerance}

    Args:
      polynomial: in n variables.
      points: x, `[..., n]`.
      tolerance: the largest gap that counts as a tie, at least 0, in units of the values.

    Returns:
      bool `[...]`.

    Raises:
      TypeError: if `polynomial` is none.
      ValueError: if a shape does not fit or the tolerance is negative.

    Example:
      >>> from jaxcert import tropical
      >>> absolute = tropical.TropicalPolynomial([0.0, 0.0], [[1.0], [-1.0]])
      >>> print(tropical.on_hypersurface(absolute, [[-3.0], [0.0]]))
      [False  True]
    """
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    return monomial_gap(polynomial, points) <= tolerance


def polynomial_sum(polynomial: TropicalPolynomial, other: TropicalPolynomial) -> TropicalPolynomial:
    r"""Tropical sum of polynomials: the larger of the two functions.

    .. math::
        f \oplus g = \max(f, g), \quad P(f \oplus g) = \mathrm{conv}(P(f) \cup P(g))

    Args:
      polynomial: f, with k monomials.
      other: g, with l monomials in the same variables.

    Returns:
      The sum, with k + l monomials; `prune_monomials` drops those that never count.

    Raises:
      ValueError: if the numbers of variables differ.

    Example:
      >>> from jaxcert import tropical
      >>> identity = tropical.TropicalPolynomial([0.0], [[1.0]])
      >>> one = tropical.TropicalPolynomial([1.0], [[0.0]])
      >>> print(tropical.evaluate(tropical.polynomial_sum(identity, one), [[-3.0], [2.0]]))
      [1. 2.]
    """
    (c, a), (d, b) = _pair(polynomial, other)
    return TropicalPolynomial(jnp.concatenate([c, d]), jnp.concatenate([a, b]))


def polynomial_product(
    polynomial: TropicalPolynomial, other: TropicalPolynomial
) -> TropicalPolynomial:
    r"""Tropical product of polynomials: the sum of the two functions.

    .. math::
        f \odot g = f + g, \quad P(f \odot g) = P(f) + P(g)

    Args:
      polynomial: f, with k monomials.
      other: g, with l monomials in the same variables.

    Returns:
      The product, with k l monomials; `prune_monomials` drops those that never count.

    Raises:
      ValueError: if the numbers of variables differ.

    Example:
      >>> from jaxcert import tropical
      >>> absolute = tropical.TropicalPolynomial([0.0, 0.0], [[1.0], [-1.0]])
      >>> twice = tropical.polynomial_product(absolute, absolute)
      >>> print(tropical.evaluate(twice, [[-3.0], [2.0]]), twice.exponents.ravel())
      [6. 4.] [ 2.  0.  0. -2.]
    """
    (c, a), (d, b) = _pair(polynomial, other)
    return TropicalPolynomial(
        (c[:, None] + d[None]).reshape(-1), (a[:, None] + b[None]).reshape(-1, a.shape[1])
    )


def polynomial_power(polynomial: TropicalPolynomial, exponent: ArrayLike) -> TropicalPolynomial:
    r"""Tropical power of a polynomial: a multiple of the function.

    .. math::
        f^{\odot a} = a f, \quad P(f^{\odot a}) = a P(f), \quad a \ge 0

    Args:
      polynomial: f.
      exponent: a, a real number, at least 0. Where it is traced, this is not checked.

    Returns:
      The power, with as many monomials.

    Raises:
      ValueError: if the exponent is negative or no scalar: the result would not be convex.

    Example:
      >>> from jaxcert import tropical
      >>> absolute = tropical.TropicalPolynomial([0.0, 0.0], [[1.0], [-1.0]])
      >>> print(tropical.evaluate(tropical.polynomial_power(absolute, 2.5), [2.0]))
      5.0
    """
    coefficients, exponents = arrays(polynomial)
    exponent = jnp.asarray(exponent, exponents.dtype)
    if exponent.shape != ():
        raise ValueError(f"exponent must be a scalar, got shape {exponent.shape}")
    if not isinstance(exponent, jax.core.Tracer) and not exponent >= 0:
        raise ValueError(f"exponent must be at least 0, got {exponent}")
    # A monomial that is not there stays away, but for the power 0, which is the constant 0.
    absent = jnp.isneginf(coefficients) & (exponent > 0)
    scaled = jnp.where(jnp.isneginf(coefficients), 0, coefficients) * exponent
    return TropicalPolynomial(jnp.where(absent, -jnp.inf, scaled), exponents * exponent)


def arrays(polynomial: TropicalPolynomial) -> tuple[jax.Array, jax.Array]:
    """The fields of one polynomial as JAX arrays of one floating dtype, or raise."""
    if not isinstance(polynomial, TropicalPolynomial):
        raise TypeError(f"polynomial must be a TropicalPolynomial, got {type(polynomial).__name__}")
    coefficients = jnp.asarray(polynomial.coefficients)
    exponents = jnp.asarray(polynomial.exponents)
    check_shapes(coefficients.shape, exponents.shape)
    if not jnp.issubdtype(coefficients.dtype, jnp.floating):
        coefficients = coefficients.astype(jnp.result_type(float))
    return coefficients, exponents.astype(coefficients.dtype)


def check_shapes(coefficients: tuple[int, ...], exponents: tuple[int, ...]) -> None:
    """Raise unless the shapes are those of one polynomial."""
    if len(coefficients) != 1 or coefficients[0] == 0:
        raise ValueError(f"coefficients must have shape [k] with k >= 1, got {coefficients}")
    if len(exponents) != 2 or exponents[0] != coefficients[0] or exponents[1] == 0:
        raise ValueError(
            f"exponents must have shape [{coefficients[0]}, n] with n >= 1, got {exponents}"
        )


def _pair(
    polynomial: TropicalPolynomial, other: TropicalPolynomial
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    first, second = arrays(polynomial), arrays(other)
    if first[1].shape[1] != second[1].shape[1]:
        raise ValueError(
            "polynomials must have the same variables, got "
            f"{first[1].shape[1]} and {second[1].shape[1]} of them"
        )
    return first, second
