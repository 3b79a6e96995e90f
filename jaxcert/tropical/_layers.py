"""The weights of an (Affine, ReLU, Affine) network, checked."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks


class Layers(NamedTuple):
    """`w2 @ relu(w1 @ x + b1) + b2`."""

    w1: jax.Array
    b1: jax.Array
    w2: jax.Array
    b2: jax.Array


def checked_layers(w1: ArrayLike, b1: ArrayLike, w2: ArrayLike, b2: ArrayLike) -> Layers:
    """Return the arrays as `Layers` of one dtype, or raise."""
    arrays = Layers(
        *(floating(n, a) for n, a in zip(Layers._fields, (w1, b1, w2, b2), strict=True))
    )
    if arrays.w1.ndim != 2 or arrays.w2.ndim != 2:
        raise ValueError(
            f"w1 and w2 must be matrices, got shapes {arrays.w1.shape} and {arrays.w2.shape}"
        )
    hidden, num_classes = arrays.w1.shape[0], arrays.w2.shape[0]
    if arrays.w2.shape[1] != hidden:
        raise ValueError(
            f"w2 must have one column a hidden unit, {hidden}, got shape {arrays.w2.shape}"
        )
    if num_classes < 2:
        raise ValueError(f"w2 must have at least two rows, got shape {arrays.w2.shape}")
    if arrays.b1.shape != (hidden,) or arrays.b2.shape != (num_classes,):
        raise ValueError(
            f"b1 and b2 must have shapes {(hidden,)} and {(num_classes,)}, "
            f"got {arrays.b1.shape} and {arrays.b2.shape}"
        )
    dtype = jnp.result_type(*arrays)
    return Layers(*(array.astype(dtype) for array in arrays))


def floating(name: str, value: Any) -> jax.Array:
    """Return `value` as a floating array of finite numbers, or raise."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {array.dtype}")
    if _checks.is_concrete(array) and not np.all(np.isfinite(np.asarray(array, np.float64))):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def host_rows(
    w1: ArrayLike, b1: ArrayLike, w2: ArrayLike, *, prefix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows `(w1_j, b1_j)`, `[h, d + 1]`, and `w2` in float64 on the host, or raise."""
    arrays = {f"{prefix}w1": w1, f"{prefix}b1": b1, f"{prefix}w2": w2}
    for name, value in arrays.items():
        if not _checks.is_concrete(value):
            raise TypeError(f"{name} must hold numbers, got a traced array: this runs on the host")
        # Only the checks: JAX may round float64 to float32.
        floating(name, value)
    rows, bias, weights = (np.asarray(value, np.float64) for value in arrays.values())
    if rows.ndim != 2 or bias.shape != rows.shape[:1]:
        raise ValueError(
            f"{prefix}w1 and {prefix}b1 must have shapes [h, d] and [h], "
            f"got {rows.shape} and {bias.shape}"
        )
    if weights.ndim != 2 or weights.shape[0] < 2 or weights.shape[1] != rows.shape[0]:
        raise ValueError(
            f"{prefix}w2 must have shape [classes, {rows.shape[0]}] with at least two classes, "
            f"got {weights.shape}"
        )
    return np.concatenate([rows, bias[:, None]], axis=1), weights


def lifted_norms(layers: Layers) -> jax.Array:
    """Lengths `[h]` of the rows of `(w1, b1)`, with a derivative at zero too."""
    squares = jnp.sum(layers.w1**2, axis=1) + layers.b1**2
    safe = jnp.where(squares > 0, squares, 1)
    return jnp.where(squares > 0, jnp.sqrt(safe), 0)
