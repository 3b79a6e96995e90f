"""Directed rounding of float64 results: move a value outwards by more than its error."""

import numpy as np

# Relative margins, each at least ten times the largest error that the tests find against
# arbitrary-precision references: logarithms and normal quantiles are good to a few units in the
# last place, confirmed inverses of the incomplete beta function to a few 1e-12 at large samples.
RADIUS_MARGIN = 64 * np.finfo(np.float64).eps
PROBABILITY_MARGIN = 1e-10


def round_down(values: np.ndarray, margin: float) -> np.ndarray:
    """Move nonnegative values towards 0 by the relative `margin`."""
    return values * (1.0 - margin)


def round_up(values: np.ndarray, margin: float) -> np.ndarray:
    """Move nonnegative values away from 0 by the relative `margin`."""
    return values * (1.0 + margin)
