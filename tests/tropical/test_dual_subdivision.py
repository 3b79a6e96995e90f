"""Newton polytopes and the subdivision dual to the hypersurface."""

import itertools

import numpy as np
import pytest
from scipy import spatial

from jaxcert import tropical
from jaxcert.tropical import TropicalPolynomial, _dual_subdivision
from tests.tropical import zonotope_cases as cases


def polynomial(seed, count, variables):
    generator = np.random.default_rng(seed)
    return TropicalPolynomial(
        generator.normal(size=count), generator.normal(size=(count, variables))
    )


def check_subdivision(division, polynomial):
    """Cells tile the Newton polytope, and duality holds for every cell and edge."""
    a, c = division.points, division.coefficients
    values = c + division.dual_points @ a.T
    top = values.max(axis=1)
    for cell, row, maximum in zip(division.cells, values, top, strict=True):
        np.testing.assert_allclose(row[cell], maximum, atol=1e-9)
        others = np.setdiff1d(np.arange(len(a)), cell)
        assert np.all(row[others] < maximum - 1e-9)
    full = (
        np.asarray(polynomial.coefficients)
        + division.dual_points @ np.asarray(polynomial.exponents).T
    )
    np.testing.assert_allclose(full.max(axis=1), top, atol=1e-9)
    # An edge is normal to the piece of the hypersurface between the vertices of its cells.
    for i, j in division.edges:
        around = [k for k, cell in enumerate(division.cells) if {i, j} <= set(cell.tolist())]
        assert around
        for k, other in itertools.pairwise(around):
            step = division.dual_points[k] - division.dual_points[other]
            assert abs(step @ (a[i] - a[j])) < 1e-8 * (1 + np.linalg.norm(step))


@pytest.mark.parametrize(
    ("seed", "count", "variables"), [(0, 30, 2), (1, 60, 2), (2, 25, 3), (3, 12, 1)]
)
def test_random_subdivisions(seed, count, variables):
    f = polynomial(seed, count, variables)
    division = tropical.dual_subdivision(f)
    check_subdivision(division, f)
    np.testing.assert_array_equal(
        division.points, f.exponents[tropical.active_monomials(f).indices]
    )
    newton = tropical.newton_polytope(f)
    if variables == 1:
        assert len(newton) == 2
        assert len(division.edges) == len(division.cells) == len(division.points) - 1
        return
    hull = spatial.ConvexHull(f.exponents)
    np.testing.assert_array_equal(newton, f.exponents[np.sort(hull.vertices)])
    volumes = [spatial.ConvexHull(division.points[cell]).volume for cell in division.cells]
    assert sum(volumes) == pytest.approx(hull.volume, rel=1e-9)
    # Generic coefficients give a triangulation; Euler's formula counts its faces.
    assert all(len(cell) == variables + 1 for cell in division.cells)
    if variables == 2:
        assert len(division.points) - len(division.edges) + len(division.cells) == 1


def test_a_zonotopal_subdivision():
    """A sum of |l_i| in general position: the dual of an arrangement of affine lines.

    Three points of the arrangement, seven regions, nine edges; each cell is a parallelogram.
    """
    lines = [(np.array([1.0, 0.0]), 0.0), (np.array([0.0, 1.0]), 0.0), (np.array([1.0, 1.0]), 1.0)]
    f = TropicalPolynomial([0.0], [[0.0, 0.0]])
    for normal, offset in lines:
        factor = TropicalPolynomial([offset, -offset], [normal, -normal])
        f = tropical.polynomial_product(f, factor)
    division = tropical.dual_subdivision(f)
    check_subdivision(division, f)
    assert [len(cell) for cell in division.cells] == [4, 4, 4]
    assert (len(division.points), len(division.edges)) == (7, 9)
    expected = {(0.0, 0.0), (0.0, -1.0), (-1.0, 0.0)}
    assert {tuple(p.round(6) + 0.0) for p in division.dual_points} == expected
    # Corners come around each cell, so that it can be drawn.
    for cell in division.cells:
        corners = division.points[cell]
        steps = np.roll(corners, -1, axis=0) - corners
        np.testing.assert_allclose(steps[0], -steps[2], atol=1e-9)


@pytest.mark.parametrize(
    ("generators", "count", "edges"), [(np.eye(3), 8, 12), (cases.permutohedron(4), 24, 36)]
)
def test_edges_of_polytopes_whose_facets_are_no_triangles(generators, count, edges):
    vertices = tropical.vertices(tropical.Zonotope(np.zeros(3), generators)).points
    division = tropical.dual_subdivision(TropicalPolynomial(np.zeros(count), vertices))
    assert len(division.cells) == 1
    assert len(division.edges) == edges


def test_lifted_polytope():
    f = polynomial(4, 40, 2)
    lifted = tropical.lifted_polytope(f)
    hull = spatial.ConvexHull(np.column_stack([f.exponents, f.coefficients]))
    np.testing.assert_array_equal(lifted.indices, np.sort(hull.vertices))
    np.testing.assert_array_equal(
        lifted.indices[lifted.upper], tropical.active_monomials(f).indices
    )
    assert not np.all(lifted.upper)
    directions = np.column_stack([np.random.default_rng(0).normal(size=(50, 2)), np.ones(50)])
    np.testing.assert_allclose(
        (directions @ lifted.vertices.T).max(axis=1),
        tropical.evaluate(f, directions[:, :2]),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_exponents_on_a_line_in_the_plane():
    f = TropicalPolynomial([0.0, 0.5, 0.0], [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    division = tropical.dual_subdivision(f)
    assert division.edges.tolist() == [[0, 1], [1, 2]]
    check_subdivision(division, f)
    # The hypersurface is two parallel lines; their points in the span are reported.
    np.testing.assert_allclose(division.dual_points @ [2.0, -1.0], 0.0, atol=1e-12)


def test_a_single_monomial_has_nothing_to_divide():
    division = tropical.dual_subdivision(TropicalPolynomial([1.0, 0.0], [[1.0, 1.0]] * 2))
    assert division.cells == ()
    assert division.edges.shape == (0, 2)
    assert division.points.tolist() == [[1.0, 1.0]]


def test_a_hull_that_fails_is_an_error(monkeypatch):
    empty = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    monkeypatch.setattr(_dual_subdivision, "upper_hull", lambda *_: empty)
    with pytest.raises(RuntimeError, match="Qhull"):
        tropical.dual_subdivision(polynomial(0, 10, 2))
