"""Newton polytopes of tropical polynomials, and the subdivision dual to the hypersurface."""

from typing import NamedTuple

import numpy as np
from scipy import spatial

from ._active import active_monomials, host_arrays, upper_hull
from ._polynomial import TropicalPolynomial


class LiftedPolytope(NamedTuple):
    """The hull of the exponents, lifted by their coefficients.

    Attributes:
      vertices: float64 `[v, n + 1]`, exponents with the coefficient last.
      indices: int64 `[v]`, the monomials.
      upper: bool `[v]`, whether a vertex can be seen from above: the active monomials.
    """

    vertices: np.ndarray
    indices: np.ndarray
    upper: np.ndarray


class DualSubdivision(NamedTuple):
    """The subdivision of the Newton polytope into the projections of the upper faces.

    Each cell is dual to a vertex of the hypersurface, each edge to one of its pieces of dimension
    n - 1, to which it is orthogonal, and each point to a region where the polynomial is affine.

    Attributes:
      points: float64 `[v, n]`, exponents of the active monomials.
      coefficients: float64 `[v]`, theirs.
      cells: the numbers of the corners of each maximal cell: around it for two variables, else
        increasing.
      edges: int64 `[e, 2]`, pairs of numbers of points, each edge once, sorted.
      dual_points: float64 `[cells, n]`, the vertex of the hypersurface of each cell, in the span of
        the exponents' differences.
    """

    points: np.ndarray
    coefficients: np.ndarray
    cells: tuple[np.ndarray, ...]
    edges: np.ndarray
    dual_points: np.ndarray


def newton_polytope(polynomial: TropicalPolynomial, *, tolerance: float = 1e-9) -> np.ndarray:
    r"""The vertices of the hull of the exponents.

    .. math::
        \Delta(f) = \mathrm{conv} \{ a_i \}

    Args:
      polynomial: in n variables; on the host, in float64.
      tolerance: a point closer to the hull of the others than this, relative to the width of all,
        is no vertex.

    Returns:
      float64 `[v, n]`, in the order of the monomials.

    Raises:
      TypeError: see `active_monomials`.
      ValueError: see `active_monomials`.

    Example:
      >>> from jaxcert import tropical
      >>> line = tropical.TropicalPolynomial([0.0, 1.0, 0.0], [[0.0], [1.0], [2.0]])
      >>> tropical.newton_polytope(line).ravel()
      array([0., 2.])
    """
    coefficients, exponents = host_arrays(polynomial)
    exponents = exponents[~np.isneginf(coefficients)]
    return exponents[_hull_vertices(exponents, tolerance)]


def lifted_polytope(polynomial: TropicalPolynomial, *, tolerance: float = 1e-9) -> LiftedPolytope:
    r"""The vertices of the hull of the exponents lifted by their coefficients.

    .. math::
        P(f) = \mathrm{conv} \{ (a_i, c_i) \}, \quad f(x) = h_{P(f)}((x, 1))

    Args:
      polynomial: in n variables; on the host, in float64.
      tolerance: see `newton_polytope`.

    Returns:
      A `LiftedPolytope`.

    Raises:
      TypeError: see `active_monomials`.
      ValueError: see `active_monomials`.

    Example:
      >>> from jaxcert import tropical
      >>> line = tropical.TropicalPolynomial([0.0, -1.0, 0.0], [[0.0], [1.0], [2.0]])
      >>> lifted = tropical.lifted_polytope(line)
      >>> lifted.indices, lifted.upper
      (array([0, 1, 2]), array([ True, False,  True]))
    """
    coefficients, exponents = host_arrays(polynomial)
    present = np.flatnonzero(~np.isneginf(coefficients))
    lifted = np.column_stack([exponents, coefficients])
    indices = present[_hull_vertices(lifted[present], tolerance)]
    active = active_monomials(polynomial, tolerance=tolerance).indices
    indices = np.union1d(indices, active)
    return LiftedPolytope(lifted[indices], indices, np.isin(indices, active))


def dual_subdivision(polynomial: TropicalPolynomial, *, tolerance: float = 1e-9) -> DualSubdivision:
    r"""The subdivision of the Newton polytope that is dual to the hypersurface.

    .. math::
        \delta(f) = \{ \pi(F) : F \text{ an upper face of } P(f) \}

    Args:
      polynomial: in n variables; on the host, in float64. Few variables: the number of faces grows
        exponentially.
      tolerance: monomials within this of the maximum belong to a cell, relative to the range of the
        values; see `active_monomials` too.

    Returns:
      A `DualSubdivision`.

    Raises:
      TypeError: see `active_monomials`.
      ValueError: see `active_monomials`.
      RuntimeError: if Qhull gives up on the lifted points.

    Example:
      >>> from jaxcert import tropical
      >>> exponents = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
      >>> corner = tropical.TropicalPolynomial([0.0, 0.0, 0.0], exponents)
      >>> division = tropical.dual_subdivision(corner)
      >>> len(division.cells), division.edges.tolist(), division.dual_points + 0.0
      (1, [[0, 1], [0, 2], [1, 2]], array([[0., 0.]]))

    References:
      Maclagan, Sturmfels, "Introduction to Tropical Geometry", 2015, ISBN 978-0-8218-5198-2.
    """
    coefficients, exponents = host_arrays(polynomial)
    active = active_monomials(polynomial, tolerance=tolerance).indices
    points, heights = exponents[active], coefficients[active]
    centered = points - np.mean(points, axis=0)
    _, values, basis = np.linalg.svd(centered, full_matrices=False)
    width = np.max(values, initial=0.0)
    rank = int(np.sum(values > 1e-12 * width))
    if rank == 0:
        nothing = np.zeros((0, exponents.shape[1]))
        return DualSubdivision(points, heights, (), np.zeros((0, 2), np.int64), nothing)
    positions = centered @ basis[:rank].T / width
    height = float(np.ptp(heights)) or 1.0
    scaled = (heights - np.max(heights)) / height
    cells, duals = _maximal_cells(scaled, positions, tolerance)
    edges = {
        (int(min(cell[a], cell[b])), int(max(cell[a], cell[b])))
        for cell in cells
        for a, b in polytope_edges(positions[cell])
    }
    if rank == 2:
        cells = [cell[_around(positions[cell])] for cell in cells]
    return DualSubdivision(
        points, heights, tuple(cells), np.array(sorted(edges), np.int64).reshape(-1, 2),
        duals @ basis[:rank] * (height / width),
    )  # fmt: skip


def polytope_edges(points: np.ndarray) -> list[tuple[int, int]]:
    """The edges of a polytope that has these points as vertices and is as large as its space."""
    count, rank = points.shape
    if rank == 1:
        return [(int(np.argmin(points)), int(np.argmax(points)))]
    if rank == 2:
        around = _around(points)
        return list(zip(around.tolist(), np.roll(around, -1).tolist(), strict=True))
    hull = spatial.ConvexHull(points)
    # Simplices of one facet share their equation; two vertices span an edge if no third one lies
    # in all of their common facets.
    distances = points @ hull.equations[:, :-1].T + hull.equations[:, -1]
    on_facet = np.unique(np.abs(distances) <= 1e-9 * np.max(np.abs(points)), axis=1)
    pairs = []
    for a in range(count):
        for b in range(a + 1, count):
            common = on_facet[a] & on_facet[b]
            if np.sum(common) >= rank - 1 and np.sum(np.all(on_facet[:, common], axis=1)) == 2:
                pairs.append((a, b))
    return pairs


def _hull_vertices(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Indices of the vertices of a hull: all of its points are upper ones at equal heights."""
    flat = TropicalPolynomial(np.zeros(points.shape[0]), points)
    return active_monomials(flat, tolerance=tolerance).indices


def _maximal_cells(
    heights: np.ndarray, positions: np.ndarray, tolerance: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """The monomials that tie at each vertex of the hypersurface, and those vertices."""
    normals, _ = upper_hull(heights, positions)
    if normals.shape[0] == 0:
        raise RuntimeError("Qhull gave up on the lifted exponents of the polynomial")
    up = normals[normals[:, -1] > 0.0]
    vertices = up[:, :-1] / up[:, -1:]
    values = heights + vertices @ positions.T
    top = np.max(values, axis=1, keepdims=True)
    tied = values >= top - tolerance * np.maximum(1.0, np.abs(top))
    tied = np.unique(tied, axis=0)
    # The triangulation of a flat cell gives it several times, now and then short of a corner.
    inside = tied.astype(np.int64) @ tied.T
    larger = (inside == tied.sum(axis=1)[:, None]) & ~np.eye(tied.shape[0], dtype=bool)
    cells = [np.flatnonzero(row) for row in tied[~np.any(larger, axis=1)]]
    duals = []
    for cell in cells:
        differences = positions[cell[1:]] - positions[cell[0]]
        rises = heights[cell[0]] - heights[cell[1:]]
        duals.append(np.linalg.lstsq(differences, rises, rcond=None)[0])
    return cells, np.array(duals)


def _around(points: np.ndarray) -> np.ndarray:
    """The order of points of a convex polygon around it."""
    centered = points - np.mean(points, axis=0)
    return np.argsort(np.arctan2(centered[:, 1], centered[:, 0]))
