"""Moves outwards by more than one rounding, for traced arrays of any precision."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def epsilon(dtype: DTypeLike) -> float:
    """Twice the unit roundoff."""
    return float(jnp.finfo(dtype).eps)


def smallest(dtype: DTypeLike) -> float:
    """The smallest normal number: what a flush to zero may lose."""
    return float(jnp.finfo(dtype).tiny)


def round_down(value: jax.Array) -> jax.Array:
    """At most the real number whose correct rounding is `value`."""
    return value - (epsilon(value.dtype) * jnp.abs(value) + smallest(value.dtype))


def round_up(value: jax.Array) -> jax.Array:
    """At least the real number whose correct rounding is `value`."""
    return value + (epsilon(value.dtype) * jnp.abs(value) + smallest(value.dtype))
