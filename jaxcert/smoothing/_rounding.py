"""Directed rounding of float64 results."""

import numpy as np

# The special functions used here are accurate to a few units in the last place; their tests hold
# them to a tenth of this margin against arbitrary-precision references.
RELATIVE_MARGIN = 64 * np.finfo(np.float64).eps


def round_down(values: np.ndarray) -> np.ndarray:
    """Move nonnegative float64 values towards 0 by a relative 1.4e-14, more than their error."""
    return values * (1.0 - RELATIVE_MARGIN)


def round_up(values: np.ndarray) -> np.ndarray:
    """Move nonnegative float64 values away from 0 by a relative 1.4e-14, more than their error."""
    return values * (1.0 + RELATIVE_MARGIN)
