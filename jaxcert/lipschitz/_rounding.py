"""Rounding budgets: the classical constants of floating-point error analysis, and moves outwards.

Every bound of this package adds what rounding may have taken from it. The budgets hold for sums in
any order and with fused multiply-add, so for every BLAS and accelerator that works in the stated
precision (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapters 3 and 10).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

# A few operations whose roundings are not counted one by one: a division, a square root, a sum.
_SPARE = 8


def gamma(terms: int, dtype: Any = np.float64) -> float:
    r"""Relative error of a sum of products: `n u / (1 - n u)` with a few terms to spare.

    u is the unit roundoff of the real numbers that `dtype` is made of; a complex product counts
    as four terms.
    """
    unit = float(jnp.finfo(dtype).eps) / 2.0
    count = terms + _SPARE
    if jnp.issubdtype(dtype, jnp.complexfloating):
        count *= 4
    if count * unit >= 0.01:
        raise ValueError(
            f"sums of {terms} terms in {np.dtype(dtype).name} have no useful rounding budget; "
            "pass float64"
        )
    return count * unit / (1.0 - count * unit)


def up(value: float, *, terms: int = 1) -> float:
    """Move a nonnegative float64 upwards by more than the error of `terms` operations."""
    return float(np.nextafter(value * (1.0 + gamma(terms)), np.inf))


def to_dtype_up(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Convert nonnegative float64 values to a dtype, never to a smaller number."""
    if not np.issubdtype(dtype, np.floating):  # bfloat16 is none of NumPy's own.
        unit = float(jnp.finfo(dtype).eps)
        return np.asarray(values * (1.0 + unit)).astype(dtype)
    converted = np.asarray(values).astype(dtype)
    below = converted.astype(np.float64) < values
    return np.where(below, np.nextafter(converted, np.asarray(np.inf, dtype)), converted)
