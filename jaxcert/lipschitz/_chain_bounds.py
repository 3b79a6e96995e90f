"""Every method's bound on a chain of matrices, and on each difference of two of its outputs."""

import math
from collections.abc import Sequence

import numpy as np

from jaxcert.lipschitz import _multipliers
from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._averaged import averaged_upper, matrix_norm
from jaxcert.lipschitz._chain import Chain, factorise
from jaxcert.lipschitz._interior_point import TOLERANCE, best_multipliers
from jaxcert.lipschitz._rounding import gamma, up
from jaxcert.lipschitz._sweeps import swept_multipliers
from jaxcert.lipschitz._verified import singular_value_upper

# How far the multipliers are drawn into their domain when the factorisation refuses them.
_RETREATS = (1.0, 1.0 - 1e-9, 1.0 - 1e-6, 1.0 - 1e-3, 0.9)
_SMALL_RETREATS = (1.0, 1.0 - 1e-10, 1.0 - 1e-9, 1.0 - 1e-8, 1.0 - 1e-7, 1.0 - 1e-6)
# Methods whose program is solved, and the number of hidden neurons that are solved for together.
_OPTIMAL = ("lipsdp", "lipsdp_layer")
_MOST_NEURONS = 2000
# Number of rows times the cost of a program, up to which each row has one of its own: the cube of
# the neurons, and what a program of few neurons costs in the same unit.
_MOST_WORK_FOR_ROWS = 4e8
_LEAST_WORK = 6e5
# Multipliers that many rows share are better not taken to the very boundary that suits the worst.
_TOLERANCE_FOR_ROWS = 0.3


def matrices_upper(
    weights: Sequence[np.ndarray], slopes: SlopeRange, *, method: str, steps: int
) -> float:
    """A bound on the network of checked float64 matrices `[out, in]`."""
    weights = without_idle_neurons(weights)
    if any(not np.any(weight) for weight in weights):
        return 0.0
    weights, scale = normalised(weights)
    return up(float(_bounds(weights, slopes, method, steps, rows=None)[0]) * scale, terms=4)


def pairs_upper(
    weights: Sequence[np.ndarray], slopes: SlopeRange, *, method: str, steps: int
) -> np.ndarray:
    """Bounds `[classes, classes]` on the differences of two outputs."""
    classes = weights[-1].shape[0]
    result = np.zeros((classes, classes))
    first, second = np.triu_indices(classes, 1)
    weights = without_idle_neurons(weights)
    if any(not np.any(weight) for weight in weights):
        return result
    weights, scale = normalised(weights)
    rows = weights[-1][first] - weights[-1][second]
    bounds = _bounds(weights, slopes, method, steps, rows=rows)
    # The differences are rounded, which the layers before may magnify by no more than this.
    magnified = _product_upper(weights[:-1], slopes)
    bounds = bounds + gamma(1) * np.linalg.norm(rows, axis=1) * magnified
    bounds = bounds * (scale * (1.0 + gamma(8)))
    result[first, second] = result[second, first] = bounds
    return result


def without_idle_neurons(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The network without hidden neurons that are constant or have no effect.

    No difference of two outputs depends on them, but their multipliers have no bound.
    """
    kept = list(weights)
    # Forwards, since what reads constants alone is constant, and then backwards.
    for layer in range(len(kept) - 1):
        kept = _narrowed(kept, layer, np.any(kept[layer] != 0.0, axis=1))
    for layer in reversed(range(len(kept) - 1)):
        kept = _narrowed(kept, layer, np.any(kept[layer + 1] != 0.0, axis=0))
    return kept


def _narrowed(weights: list[np.ndarray], layer: int, used: np.ndarray) -> list[np.ndarray]:
    """The network with these neurons of a hidden layer alone, unless none is left."""
    if np.all(used) or not np.any(used):
        return weights
    narrow = [weights[layer][used], weights[layer + 1][:, used]]
    return [*weights[:layer], *narrow, *weights[layer + 2 :]]


def normalised(weights: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Weights divided by powers of two near their norms, and the product of the powers."""
    scaled, exponents = [], 0
    for weight in weights:
        largest = np.max(np.abs(weight))
        exponent = math.frexp(largest)[1]
        shrunk = np.ldexp(weight, -exponent)
        more = math.frexp(np.linalg.norm(shrunk) / math.sqrt(min(weight.shape)))[1]
        scaled.append(np.ldexp(shrunk, -more))
        exponents += exponent + more
    if not -1000 < exponents < 1000:
        raise ValueError(
            f"weights must have a product within float64, got norms near 2^{exponents}"
        )
    return scaled, math.ldexp(1.0, exponents)


def _product_upper(hidden: Sequence[np.ndarray], slopes: SlopeRange) -> float:
    """The product of the constants of some layers, an activation after each."""
    product = math.prod(singular_value_upper(weight) for weight in hidden)
    return product * (slopes.lipschitz ** len(hidden) * (1.0 + gamma(2 * len(hidden) + 2)))


def _bounds(
    weights: list[np.ndarray],
    slopes: SlopeRange,
    method: str,
    steps: int,
    rows: np.ndarray | None,
) -> np.ndarray:
    """A bound for the network, `[1]`, or for each row that may replace its last matrix."""

    def row_norms(matrix: np.ndarray) -> np.ndarray:
        return np.sqrt(np.sum(np.square(matrix), axis=1)) * (1.0 + gamma(matrix.shape[1]))

    hidden = weights[:-1]
    last = weights[-1] if rows is None else rows
    norms_of = matrix_norm if rows is None else row_norms
    if not hidden:
        return norms_of(last)
    if method == "product":
        return norms_of(last) * _product_upper(hidden, slopes) * (1.0 + gamma(4))
    if method == "averaged":
        return averaged_upper([*hidden, last], slopes, norms_of)
    if slopes.half_width == 0.0:
        raise ValueError(f"activation must have more than one slope for {method!r}, got {slopes}")
    if rows is None:
        return np.asarray([_verified_chain(weights, slopes, method, steps).matrix_upper(last)])
    neurons = sum(len(weight) for weight in hidden)
    if method in _OPTIMAL and len(rows) * (neurons**3 + _LEAST_WORK) <= _MOST_WORK_FOR_ROWS:
        # A program for each row.
        bounds = np.zeros(len(rows))
        for index, row in enumerate(rows):
            if np.any(row):
                chain = _verified_chain([*hidden, row[None]], slopes, method, steps)
                bounds[index] = chain.rows_upper(row[None])[0]
        return bounds
    chain = _verified_chain(weights, slopes, method, steps, tolerance=_TOLERANCE_FOR_ROWS)
    return chain.rows_upper(rows)


def _verified_chain(
    weights: list[np.ndarray],
    slopes: SlopeRange,
    method: str,
    steps: int,
    tolerance: float = TOLERANCE,
) -> Chain:
    """The chain with the multipliers of a method, drawn inwards until it is factorised."""
    if method in _OPTIMAL:
        found = _optimal_chain(weights, slopes, method == "lipsdp_layer", tolerance)
        if found is not None:
            return found
    scales, levels = _multipliers.propose(weights, slopes, method=method, steps=steps)
    for retreat in _RETREATS:
        multipliers = _multipliers.multipliers_of(weights, scales, levels * retreat, slopes)
        chain = None if multipliers is None else factorise(weights, multipliers, slopes)
        if chain is not None:
            return chain
    raise FloatingPointError(
        f"no multipliers of {method!r} pass the factorisation in float64; "
        "the weights are too badly scaled"
    )


def _optimal_chain(
    weights: list[np.ndarray], slopes: SlopeRange, by_layer: bool, tolerance: float
) -> Chain | None:
    """The chain at or near the optimum of the program; None where a descent must look for it."""
    if sum(len(weight) for weight in weights[:-1]) <= _MOST_NEURONS:
        best = best_multipliers(weights, slopes, by_layer=by_layer, tolerance=tolerance)
    else:
        best = swept_multipliers(weights, slopes, by_layer=by_layer, most_neurons=_MOST_NEURONS)
    if best is None:
        return None
    for retreat in _SMALL_RETREATS:
        # Smaller by one more factor for each layer, a strict inequality gains in every direction.
        drawn = [multiplier * retreat**layer for layer, multiplier in enumerate(best, start=1)]
        chain = factorise(weights, drawn, slopes)
        if chain is not None:
            return chain
    return None
