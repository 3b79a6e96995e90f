"""Which monomials of a tropical polynomial ever attain the maximum, with a proof of each answer."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, spatial

from . import _lines, _polynomial
from ._polynomial import TropicalPolynomial

# Above this many variables the number of faces makes a hull slower than linear programs.
_HULL_VARIABLES = 6


class ActiveMonomials(NamedTuple):
    """The monomials without which a tropical polynomial would be another function.

    Attributes:
      indices: int64 `[v]`, increasing.
      points: float64 `[v, n]`, where the monomial is the largest one.
      gap: float64 `[v]`, by how much it is: the proof that it is needed, where above 0. A tie that
        rounding leaves open is kept, since the function is then the same.
    """

    indices: np.ndarray
    points: np.ndarray
    gap: np.ndarray


def active_monomials(polynomial: TropicalPolynomial, *, tolerance: float = 1e-9) -> ActiveMonomials:
    r"""The monomials that are the only largest one somewhere: the vertices of the upper hull.

    .. math::
        \{ i : \exists x \; \forall j \ne i \quad
        c_i + \langle a_i, x \rangle > c_j + \langle a_j, x \rangle \}

    A point proves each that is listed; for each other one, a convex combination of those that are
    listed lies above it, up to the tolerance. Candidates come from the convex hull of the lifted
    points, but neither answer relies on it: what it leaves open is decided by linear programs.

    Args:
      polynomial: in n variables; on the host, in float64.
      tolerance: a monomial is dropped if the function changes by no more than this, relative to the
        range of the coefficients.

    Returns:
      `ActiveMonomials`.

    Raises:
      TypeError: if the polynomial is traced or not real.
      ValueError: if a shape does not fit, an exponent is not finite, or a coefficient is NaN or
        +inf, or if all are -inf.
      RuntimeError: if a linear program was not solved.

    Example:
      >>> from jaxcert import tropical
      >>> line = tropical.TropicalPolynomial([0.0, -1.0, 0.0], [[0.0], [1.0], [2.0]])
      >>> tropical.active_monomials(line).indices
      array([0, 2])

    References:
      Clarkson, "More output-sensitive geometric algorithms", FOCS 1994.
    """
    coefficients, exponents = host_arrays(polynomial)
    candidates = _largest_of_each_exponent(coefficients, exponents)
    heights = coefficients[candidates] - np.max(coefficients[candidates])
    positions = exponents[candidates] - np.mean(exponents[candidates], axis=0)
    # In the span of the exponents and in units of the data: there the tolerance has a meaning.
    _, values, basis = np.linalg.svd(positions, full_matrices=False)
    width = np.max(values, initial=0.0)
    rank = int(np.sum(values > 1e-12 * width))
    height = float(np.ptp(heights)) or 1.0
    if rank == 0:
        return ActiveMonomials(candidates, np.zeros((1, exponents.shape[1])), np.full(1, np.inf))
    positions = positions @ basis[:rank].T / width
    points = _decide(heights / height, positions, tolerance)
    kept = np.flatnonzero(np.isfinite(points[:, 0]))
    witnesses = (points[kept] @ basis[:rank]) * (height / width)
    values_there = coefficients[candidates] + witnesses @ exponents[candidates].T
    own = values_there[np.arange(kept.size), kept].copy()
    values_there[np.arange(kept.size), kept] = -np.inf
    gap = own - np.max(values_there, axis=1)
    return ActiveMonomials(candidates[kept], witnesses, gap)


def prune_monomials(
    polynomial: TropicalPolynomial, *, tolerance: float = 1e-9
) -> TropicalPolynomial:
    r"""The same function with no monomial more than it needs.

    .. math::
        f(x) = \max_{i \text{ active}} (c_i + \langle a_i, x \rangle)

    Args:
      polynomial: in n variables; on the host, in float64.
      tolerance: see `active_monomials`.

    Returns:
      The polynomial of the active monomials, in their order, as NumPy arrays in float64.

    Raises:
      TypeError: see `active_monomials`.
      ValueError: see `active_monomials`.

    Example:
      >>> from jaxcert import tropical
      >>> line = tropical.TropicalPolynomial([0.0, -1.0, 0.0], [[0.0], [1.0], [2.0]])
      >>> tropical.prune_monomials(line).exponents.ravel()
      array([0., 2.])
    """
    coefficients, exponents = host_arrays(polynomial)
    kept = active_monomials(polynomial, tolerance=tolerance).indices
    return TropicalPolynomial(coefficients[kept], exponents[kept])


def host_arrays(polynomial: TropicalPolynomial) -> tuple[np.ndarray, np.ndarray]:
    """The fields of a polynomial in float64 on the host, or raise."""
    if not isinstance(polynomial, TropicalPolynomial):
        raise TypeError(f"polynomial must be a TropicalPolynomial, got {type(polynomial).__name__}")
    exponents = _lines.finite_matrix("exponents", polynomial.exponents)
    coefficients = np.asarray(polynomial.coefficients, np.float64)
    _polynomial.check_shapes(coefficients.shape, exponents.shape)
    if np.any(np.isnan(coefficients) | np.isposinf(coefficients)):
        raise ValueError("coefficients must be finite or -inf, got NaN or +inf")
    if np.all(np.isneginf(coefficients)):
        raise ValueError("coefficients must not all be -inf: the tropical zero has no monomial")
    return coefficients, exponents


def _largest_of_each_exponent(coefficients: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Indices, increasing, of one monomial for each exponent: the first of the largest."""
    order = np.lexsort((np.arange(coefficients.size), -coefficients))
    _, first = np.unique(exponents[order], axis=0, return_index=True)
    chosen = np.sort(order[first])
    return chosen[~np.isneginf(coefficients[chosen])]


def _decide(heights: np.ndarray, positions: np.ndarray, tolerance: float) -> np.ndarray:
    """A point `[k, r]` where each needed monomial is the largest, NaN for the others."""
    count, rank = positions.shape
    points = np.full((count, rank), np.nan)
    simplices = np.zeros((0, rank + 1), np.int64)
    if rank <= _HULL_VARIABLES:
        normals, simplices = upper_hull(heights, positions)
        guesses = _inside_normal_cones(normals, simplices, count)
        simplices = simplices[normals[:, -1] > 0.0]
        _mark(points, guesses, heights, positions, tolerance)
    # Random slopes are cheap to try, and for many variables the only guess.
    generator = np.random.default_rng(0)
    slopes = (
        generator.normal(size=(64 * rank, rank)) * np.exp2(np.arange(64 * rank) % 8 - 4)[:, None]
    )
    _mark(points, slopes, heights, positions, tolerance)
    open_questions = np.flatnonzero(np.isnan(points[:, 0]))
    covered = _below_a_simplex(open_questions, points, simplices, heights, positions, tolerance)
    remaining = open_questions[~covered].tolist()
    while remaining:
        one = remaining[-1]
        kept = np.flatnonzero(np.isfinite(points[:, 0]))
        slack, point = _largest_gap(one, kept, heights, positions)
        if slack <= tolerance:
            remaining.pop()
            continue
        # Above all that are kept, but another one may be higher still; a random slope breaks ties.
        values = heights + positions @ point
        tied = np.flatnonzero(values >= np.max(values) - tolerance)
        slope = generator.normal(size=rank)
        best = int(tied[np.argmax(positions[tied] @ slope)])
        if best in kept:
            # The program's own rounding: without a proof that it is not needed, this one stays.
            points[one] = point
            remaining.pop()
            continue
        trials = point + np.append(0.0, np.exp2(-np.arange(40.0)))[:, None] * slope
        points[best] = trials[np.argmax(_gaps(best, trials, heights, positions))]
        if best in remaining:
            remaining.remove(best)
    return points


def _gaps(one: int, points: np.ndarray, heights: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """By how much a monomial is above all others, at each point."""
    values = heights + points @ positions.T
    own = values[:, one].copy()
    values[:, one] = -np.inf
    return own - np.max(values, axis=1, initial=-np.inf)


def _mark(
    points: np.ndarray, guesses: np.ndarray, heights: np.ndarray, positions: np.ndarray,
    tolerance: float,
) -> None:  # fmt: skip
    """Enter the guesses at which one monomial is the largest by more than the tolerance."""
    for start in range(0, guesses.shape[0], 4096):
        chunk = guesses[start : start + 4096]
        rows = np.arange(chunk.shape[0])
        values = heights + chunk @ positions.T
        best = np.argmax(values, axis=1)
        top = values[rows, best]
        values[rows, best] = -np.inf
        clear = top - np.max(values, axis=1, initial=-np.inf) > tolerance
        points[best[clear]] = chunk[clear]


def _largest_gap(
    one: int, others: np.ndarray, heights: np.ndarray, positions: np.ndarray
) -> tuple[float, np.ndarray]:
    """The most, up to 1, by which a monomial can be above some others, and where."""
    rank = positions.shape[1]
    steeper = positions[others] - positions[one]
    found = optimize.linprog(
        np.append(np.zeros(rank), -1.0),
        A_ub=np.column_stack([steeper, np.ones(others.size)]),
        b_ub=heights[one] - heights[others],
        bounds=[(None, None)] * rank + [(None, 1.0)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.status != 0:
        raise RuntimeError(f"a linear program for monomial {one} was not solved: {found.message}")
    return float(found.x[-1]), found.x[:-1]


def upper_hull(heights: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outer normals `[f, r + 1]` and vertices `[f, r + 1]` of simplices of the lifted hull.

    A point far below keeps the hull from being flat; facets that touch it have a normal that does
    not point up. Empty if Qhull gives up.
    """
    lifted = np.column_stack([positions, heights])
    apex = np.append(np.mean(positions, axis=0), np.min(heights) - 1.0)
    try:
        hull = spatial.ConvexHull(np.vstack([lifted, apex]))
    except spatial.QhullError:
        return np.zeros((0, lifted.shape[1])), np.zeros((0, lifted.shape[1]), np.int64)
    normals = hull.equations[:, :-1].copy()
    below = np.any(hull.simplices == heights.size, axis=1) | (normals[:, -1] <= 1e-12)
    normals[below, -1] = np.minimum(normals[below, -1], 0.0)
    return normals, hull.simplices.astype(np.int64)


def _inside_normal_cones(normals: np.ndarray, simplices: np.ndarray, count: int) -> np.ndarray:
    """Points `[g, r]` at which vertices of the upper hull are the largest, if Qhull is right."""
    up = normals[:, -1] > 0.0
    total = np.zeros((count + 1, normals.shape[1]))
    upward = np.zeros_like(total)
    for corner in simplices.T:
        np.add.at(total, corner, normals)
        np.add.at(upward, corner[up], normals[up])
    vertex = upward[:count, -1] > 0.0
    total, upward = total[:count][vertex], upward[:count][vertex]
    # Enough of the facets that point up makes the sum point up, and leaves it inside the cone.
    enough = 1.0 + 2.0 * np.maximum(-total[:, -1:], 0.0) / upward[:, -1:]
    inside = total + enough * upward
    return inside[:, :-1] / inside[:, -1:]


def _below_a_simplex(
    questions: np.ndarray, points: np.ndarray, simplices: np.ndarray, heights: np.ndarray,
    positions: np.ndarray, tolerance: float,
) -> np.ndarray:  # fmt: skip
    """Whether a convex combination of kept monomials, the corners of a simplex, is no lower."""
    covered = np.zeros(questions.size, bool)
    proven = simplices[np.all(np.isfinite(points[simplices, 0]), axis=1)]
    if proven.shape[0] == 0 or questions.size == 0:
        return covered
    corners = np.concatenate([positions[proven], np.ones((*proven.shape, 1))], axis=2)
    spread = np.abs(np.linalg.det(corners)) > 1e-12
    proven, corners = proven[spread], corners[spread]
    inverse = np.linalg.inv(corners)
    for row, question in enumerate(questions):
        weights = np.append(positions[question], 1.0) @ inverse
        inside = np.flatnonzero(np.all(weights >= 0.0, axis=1))
        covered[row] = np.any(
            np.sum(weights[inside] * heights[proven[inside]], axis=1)
            >= heights[question] - tolerance
        )
    return covered
