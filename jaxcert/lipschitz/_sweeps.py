"""Multipliers of LipSDP for large networks: the interior-point method on a few layers at a time.

With the multipliers of all other layers fixed, those of some consecutive layers solve a program of
the same form. What comes before enters by its last complement X = C C', as the first matrix
W C^-T; what comes after by R, the least that the complement of the last layer must exceed, as the
square of the last matrix. If the program's value is g in place of rho, everything before is scaled
by g / rho, and the whole inequality holds with g. So every window lowers the bound of the network.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._interior_point import solve, start
from jaxcert.lipschitz._multipliers import complement_factor, solve_right

# How close each sweep comes to the optimum of a window; what is loose leaves room for the others.
_TOLERANCES = (1e-2, 1e-3)
# Of 20 layers, two at a time ended a tenth above the optimum, three a fiftieth.
_FEWEST_LAYERS = 3
# Directions that ask for less than this part of the largest are left out of a window.
_NEGLIGIBLE = 1e-13


def swept_multipliers(
    weights: Sequence[np.ndarray], slopes: SlopeRange, *, by_layer: bool, most_neurons: int
) -> list[np.ndarray] | None:
    """Multipliers `[d_i]` of each hidden layer near the optimum; None where layers are too wide.

    Args:
      weights: as in `best_multipliers`.
      slopes: of the activation, with more than one slope.
      by_layer: whether all neurons of a layer have the same multiplier.
      most_neurons: of the layers that are solved together.
    """
    widths = [len(weight) for weight in weights[:-1]]
    if any(sum(widths[i : i + _FEWEST_LAYERS]) > most_neurons for i in range(len(widths))):
        return None
    try:
        multipliers, bound = start(weights, slopes, by_layer)
        square = bound * bound * (1.0 + _TOLERANCES[0])
        scaled = [square * multiplier for multiplier in multipliers]
        for tolerance in _TOLERANCES:
            for window in windows(widths, most_neurons):
                square = _improve(
                    weights, slopes, scaled, square, window, by_layer=by_layer, tolerance=tolerance
                )
    except np.linalg.LinAlgError:
        return None
    return [multiplier / square for multiplier in scaled]


def windows(widths: Sequence[int], most_neurons: int) -> list[slice]:
    """Runs of layers as long as may be, each from the middle of the one before."""
    found: list[slice] = []
    first, last = 0, 0
    while last < len(widths):
        last = first + 1
        while last < len(widths) and sum(widths[first : last + 1]) <= most_neurons:
            last += 1
        found.append(slice(first, last))
        first += max(1, (last - first) // 2)
    return found


def _improve(
    weights: Sequence[np.ndarray],
    slopes: SlopeRange,
    scaled: list[np.ndarray],
    square: float,
    window: slice,
    *,
    by_layer: bool,
    tolerance: float,
) -> float:
    """Solve the program of a window, change T in place, and return rho."""
    first = weights[0]
    for multiplier, weight in zip(scaled[: window.start], weights[1:], strict=False):
        first = solve_right(weight, complement_factor(first, multiplier / square, slopes))
    asked = weights[-1].T @ weights[-1]
    for layer in range(len(scaled) - 1, window.stop - 1, -1):
        factor = np.linalg.cholesky(np.diag(scaled[layer]) - asked)
        rows = scaled[layer][:, None] * weights[layer]
        half = scipy.linalg.solve_triangular(factor, slopes.middle * rows, lower=True)
        asked = half.T @ half - slopes.low * slopes.high * (weights[layer].T @ rows)
    values, vectors = np.linalg.eigh(asked)
    kept = values > _NEGLIGIBLE * values[-1]
    last = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    inner = [first, *weights[window.start + 1 : window.stop], last]
    found = solve(inner, slopes, by_layer=by_layer, tolerance=tolerance)
    if found is None or found[0] >= square:
        return square
    for layer in range(window.start):
        scaled[layer] = scaled[layer] * (found[0] / square)
    scaled[window] = [found[0] * multiplier for multiplier in found[1]]
    return found[0]
