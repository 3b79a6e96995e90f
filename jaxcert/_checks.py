"""Eager argument checks: each error names the argument, what was expected and what came."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_concrete(value: Any) -> bool:
    """Whether `value` holds numbers that can be looked at now, rather than a traced array."""
    return not isinstance(value, jax.core.Tracer)


def probability(name: str, value: Any) -> float:
    """Return `value` as a float strictly between 0 and 1, or raise."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(f"{name} must be a real number in (0, 1), got {type(value).__name__}")
    number = float(value)
    if not 0.0 < number < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
    return number


def positive_integer(name: str, value: Any, *, minimum: int = 1, maximum: int = 2**30) -> int:
    """Return `value` as an int within [minimum, maximum], or raise."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    number = int(value)
    if not minimum <= number <= maximum:
        raise ValueError(f"{name} must lie in [{minimum}, {maximum}], got {number}")
    return number


def positive_number(name: str, value: Any) -> float:
    """Return `value` as a finite float greater than 0, or raise."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(f"{name} must be a real number above 0, got {type(value).__name__}")
    number = float(value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"{name} must be finite and above 0, got {value}")
    return number


def positive_values(name: str, value: Any) -> jax.Array:
    """Return `value` as a real array; raise if a value that is known now is not above 0."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"{name} must be real numbers above 0, got {array.dtype}")
        array = array.astype(float)
    if is_concrete(array) and not np.all(np.isfinite(np.asarray(array)) & (np.asarray(array) > 0)):
        raise ValueError(f"{name} must be finite and above 0, got {value}")
    return array


def typed_keys(name: str, key: Any) -> jax.Array:
    """Return `key` if it is an array of typed threefry keys, or raise.

    Only threefry derives the noise of a sample from that sample's own index alone; the `rbg`
    generators give other numbers under `vmap`, so their noise would depend on the chunk size.
    """
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        got = f"{key.dtype} array" if hasattr(key, "dtype") else type(key).__name__
        raise TypeError(f"{name} must be a typed key such as jax.random.key(7), got {got}")
    if "fry" not in str(key.dtype):
        raise ValueError(f"{name} must use the 'threefry2x32' generator, got {key.dtype}")
    return key


def typed_key(name: str, key: Any) -> jax.Array:
    """Return `key` if it is one typed threefry key, or raise."""
    if typed_keys(name, key).ndim != 0:
        raise ValueError(f"{name} must be a single key of shape (), got shape {key.shape}")
    return key


def floating_batch(name: str, inputs: Any) -> jax.Array | np.ndarray:
    """Return `inputs` as an array `[batch, *shape]` of floating type, or raise; values unseen."""
    array = inputs if isinstance(inputs, jax.Array) else np.asarray(inputs)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {array.dtype}; "
            "images with values 0..255 are divided by 255 first"
        )
    if array.ndim < 2:
        raise ValueError(
            f"{name} must have a leading batch axis, [batch, *shape], got shape {array.shape}; "
            "a single input is inputs[None]"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    return array


def finite_rows(name: str, array: Any) -> None:
    """Raise where a row of a floating array holds what is no finite number of float32."""
    finite = np.isfinite(np.asarray(array, dtype=np.float32)).reshape(array.shape[0], -1)
    bad = np.flatnonzero(~finite.all(axis=1))
    if bad.size:
        raise ValueError(f"{name} must be finite, got NaN or infinity in rows {_some(bad)}")


def batch_of_inputs(name: str, inputs: Any) -> jax.Array:
    """Return `inputs` as a floating array `[batch, *shape]` of finite numbers, or raise."""
    array = floating_batch(name, inputs)
    if is_concrete(array):
        finite_rows(name, array)
    return jnp.asarray(array)


def one_value_per_input(name: str, value: jax.Array, batch: int) -> None:
    """Raise unless `value` is a scalar or has shape `[batch]`."""
    if value.shape not in ((), (batch,)):
        raise ValueError(f"{name} must be a scalar or of shape ({batch},), got {value.shape}")


def _some(indices: np.ndarray, limit: int = 8) -> str:
    """List the first few of `indices` in words."""
    shown = ", ".join(str(int(i)) for i in indices[:limit])
    return shown if indices.size <= limit else f"{shown}, ... ({indices.size} in all)"
