"""Noise of unit scale from random words: elementwise quantile functions in float32.

A word is read as a sign bit and a 31-bit integer `m`; `(m + 1/2) / 2**32` in (0, 1/2] is then the
probability of the tail beyond the drawn magnitude. Small tails keep full relative precision, so
normals reach 6.3 standard deviations and no bit is spent twice.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SIGN_BIT = np.uint32(0x80000000)

# Giles, "Approximating the erfinv function", 2012: erfinv(x) / x as two polynomials in
# w = -log(1 - x**2), highest power first; the first in w - 2.5 for w < 5, then in sqrt(w) - 3.
_CENTRE = (
    (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087)
    + (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
)  # fmt: skip
_TAIL = (
    (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773)
    + (-0.0076224613, 0.00943887047, 1.00167406, 2.83297682)
)  # fmt: skip

# Moshier, "Methods and Programs for Mathematical Functions", 1989 (logf): log(1 + x) beyond
# x - x**2 / 2, on sqrt(1/2) - 1 <= x < sqrt(2) - 1.
_LOG = (
    (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1)
    + (-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)
)  # fmt: skip
_SQRT_HALF_BITS = np.int32(0x3F3504F3)


def standard_normal(words: jax.Array) -> jax.Array:
    """Map uint32 words to standard normal float32 values, elementwise."""
    tail = _tail_probability(words)
    exponent = -_log(tail * (4.0 - 4.0 * tail))
    centre = _polynomial(_CENTRE, exponent - 2.5)
    beyond = _polynomial(_TAIL, jnp.sqrt(exponent) - 3.0)
    ratio = jnp.where(exponent < 5.0, centre, beyond)
    return _with_sign_of(words, np.float32(np.sqrt(2.0)) * ratio * (1.0 - 2.0 * tail))


def standard_laplace(words: jax.Array) -> jax.Array:
    """Map uint32 words to float32 values of density `exp(-abs(x)) / 2`, elementwise."""
    return _with_sign_of(words, -_log(2.0 * _tail_probability(words)))


def standard_uniform(words: jax.Array) -> jax.Array:
    """Map uint32 words to float32 values uniform on [-1, 1], elementwise."""
    return _with_sign_of(words, 2.0 * _tail_probability(words))


def _tail_probability(words: jax.Array) -> jax.Array:
    magnitude = (words & ~_SIGN_BIT).astype(jnp.int32).astype(jnp.float32)
    return (magnitude + 0.5) * np.float32(2.0**-32)


def _with_sign_of(words: jax.Array, magnitude: jax.Array) -> jax.Array:
    bits = lax.bitcast_convert_type(magnitude, jnp.uint32) | (words & _SIGN_BIT)
    return lax.bitcast_convert_type(bits, jnp.float32)


def _log(values: jax.Array) -> jax.Array:
    """Natural logarithm of positive, normal float32 values, within two units in the last place.

    Plain arithmetic, so that it vectorises inside the fused loop on every backend.
    """
    bits = lax.bitcast_convert_type(values, jnp.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> 23
    x = lax.bitcast_convert_type(bits - (exponent << 23), jnp.float32) - 1.0
    series = x * x * (x * _polynomial(_LOG, x) - 0.5)
    return exponent.astype(jnp.float32) * np.float32(np.log(2.0)) + (x + series)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    """Evaluate a polynomial, highest power first, by Horner's rule."""
    value = jnp.full_like(x, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value
