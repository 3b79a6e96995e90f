"""Noise from random words: elementwise quantile functions in float32.

A word is read as a sign bit and a 31-bit integer `m`; `(m + 1/2) / 2**32` in (0, 1/2] is then the
probability of the tail beyond the drawn magnitude. Small tails keep full relative precision, so
normals reach 6.3 standard deviations and no bit is spent twice.

The sign is chosen last, after the magnitude was scaled. So the scaled noise is rounded before it
is added to an input: the choice keeps a compiler from contracting product and sum into one
operation that rounds once, and noise has the same bits wherever it is drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SIGN_BIT = np.uint32(0x80000000)

# erfinv(x) / x as two polynomials in w = -log(1 - x**2), highest power first. For w < 5 in w - 2.5:
# Giles, "Approximating the erfinv function", 2012. Beyond, in sqrt(w) - 3: a minimax fit on
# 5 <= w <= 22.4, to a relative 1.2e-7; Giles stops at w = 16, short of tails of 2**-33.
_CENTRE = (
    (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087)
    + (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
)  # fmt: skip
_TAIL = (
    (3.71358616e-05, -0.000154247318, -2.12402953e-05, 0.00128510236, -0.00357024744)
    + (0.00577278307, -0.00765117321, 0.00943245896, 1.00167601, 2.83297712)
)  # fmt: skip

# Moshier, "Methods and Programs for Mathematical Functions", 1989 (logf): log(1 + x) beyond
# x - x**2 / 2, on sqrt(1/2) - 1 <= x < sqrt(2) - 1.
_LOG = (
    (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1)
    + (-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)
)  # fmt: skip
_SQRT_HALF_BITS = np.int32(0x3F3504F3)


def normal_magnitude(words: jax.Array) -> jax.Array:
    """Map uint32 words to the absolute values of standard normals, float32."""
    tail = _tail_probability(words)
    exponent = -_log(tail * (4.0 - 4.0 * tail))
    centre = _polynomial(_CENTRE, exponent - 2.5)
    beyond = _polynomial(_TAIL, jnp.sqrt(exponent) - 3.0)
    ratio = jnp.where(exponent < 5.0, centre, beyond)
    return np.float32(np.sqrt(2.0)) * ratio * (1.0 - 2.0 * tail)


def laplace_magnitude(words: jax.Array) -> jax.Array:
    """Map uint32 words to float32 values of density `exp(-x)`, `x >= 0`."""
    return -_log(2.0 * _tail_probability(words))


def uniform_magnitude(words: jax.Array) -> jax.Array:
    """Map uint32 words to float32 values uniform on [0, 1]."""
    return 2.0 * _tail_probability(words)


def with_sign_of(words: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Give nonnegative values the sign that the highest bit of the words says."""
    return jnp.where(words >= _SIGN_BIT, -magnitude, magnitude)


def _tail_probability(words: jax.Array) -> jax.Array:
    magnitude = (words & ~_SIGN_BIT).astype(jnp.int32).astype(jnp.float32)
    return (magnitude + 0.5) * np.float32(2.0**-32)


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
