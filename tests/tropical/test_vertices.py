"""Vertices of zonotopes: published counts, formulas, degenerate families, and each one's proof."""

import itertools
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial

from jaxcert import tropical
from jaxcert.tropical import Zonotope, _generic_cells
from tests.tropical import zonotope_cases as cases


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def check_vertices(found, zonotope):
    """Each vertex is the only farthest point in its direction; together they reach far enough."""
    base, generators = np.asarray(zonotope.base), np.asarray(zonotope.generators, float)
    lengths = np.linalg.norm(generators, axis=1)
    used = lengths > 0
    products = found.witness @ generators.T
    sines = np.abs(products[:, used]) / lengths[used]
    np.testing.assert_allclose(found.margin, sines.min(axis=1), rtol=1e-6, atol=1e-13)
    assert found.margin.min() > 0
    np.testing.assert_allclose(np.linalg.norm(found.witness, axis=1), 1.0, rtol=1e-12)
    size = np.abs(generators).sum() + np.abs(base).sum()
    expected = base + (products > 0) @ generators
    np.testing.assert_allclose(found.points, expected, rtol=0, atol=1e-12 * size)
    # Different witnesses could still select the same vertex.
    assert len(np.unique(products[:, used] > 0, axis=0)) == len(found.points)
    directions = normal(0, 200, base.size)
    support = cases.support_by_sums(base, generators, directions)
    reached = (directions @ found.points.T).max(axis=1)
    np.testing.assert_allclose(reached, support, rtol=1e-9, atol=1e-9 * size)
    if len(found.points) > 2 and np.linalg.matrix_rank(generators) > 2:
        half = len(found.points) // 2
        center = 2 * base + generators.sum(axis=0)
        np.testing.assert_allclose(
            found.points[:half] + found.points[half:] - center, 0, atol=1e-9 * size
        )


@pytest.mark.parametrize(
    ("generators", "count"), [pytest.param(g, n, id=name) for name, g, n, _ in cases.KNOWN]
)
def test_known_zonotopes(generators, count):
    zonotope = Zonotope(normal(0, generators.shape[1]), generators)
    found = tropical.vertices(zonotope)
    assert found.points.shape == (count, generators.shape[1])
    check_vertices(found, zonotope)


@pytest.mark.parametrize(
    ("dimension", "count"),
    [(1, 5), (2, 1), (2, 2), (2, 40), (3, 1), (3, 3), (3, 30), (4, 15), (5, 12), (6, 6), (6, 10)],
)
def test_general_position_has_as_many_vertices_as_the_formula(dimension, count):
    zonotope = Zonotope(normal(1, dimension), normal(dimension + count, count, dimension))
    found = tropical.vertices(zonotope)
    assert len(found.points) == cases.generic_count(count, dimension)
    check_vertices(found, zonotope)


@pytest.mark.parametrize(("size", "num_edges"), [(4, 4), (5, 7), (6, 9), (6, 12), (7, 11)])
@pytest.mark.parametrize("seed", range(3))
def test_graphical_zonotopes(seed, size, num_edges):
    """Vertices are acyclic orientations, and the volume counts spanning trees."""
    edges = cases.random_graph(seed, size, num_edges)
    zonotope = Zonotope(np.zeros(size - 1), cases.graphical(size, edges))
    found = tropical.vertices(zonotope)
    assert len(found.points) == cases.acyclic_orientations(size, edges)
    check_vertices(found, zonotope)
    with jax.enable_x64(True):
        volume = tropical.volume(Zonotope(np.zeros(size - 1), jnp.asarray(zonotope.generators)))
    assert float(volume) == pytest.approx(cases.spanning_trees(size, edges), abs=1e-9)


@pytest.mark.slow
def test_exceptional_root_system():
    """The 36 roots of E6 in R^8: 51840 vertices, the order of its reflection group."""
    roots = [
        s * np.eye(8)[i] + t * np.eye(8)[j]
        for i, j in itertools.combinations(range(8), 2)
        for s, t in ((1, 1), (1, -1))
    ]
    halves = (np.array((1, *s)) / 2 for s in itertools.product((1, -1), repeat=7))
    roots = np.array([*roots, *(h for h in halves if np.sum(h < 0) % 2 == 0)])
    assert len(roots) == 120
    first = roots[0]
    second = roots[np.flatnonzero(np.abs(roots @ first) == 1)[0]]
    e6 = roots[(roots @ first == 0) & (roots @ second == 0)]
    assert len(e6) == 36
    assert len(tropical.vertices(Zonotope(np.zeros(8), e6)).points) == 51840


@pytest.mark.parametrize("seed", range(4))
def test_same_vertices_as_the_hull_of_all_sums(seed):
    generators = normal(seed, 8, 3)
    sums = np.array(list(itertools.product((0, 1), repeat=8))) @ generators
    expected = sums[spatial.ConvexHull(sums).vertices]
    found = tropical.vertices(Zonotope(np.zeros(3), generators)).points
    np.testing.assert_allclose(
        found[np.lexsort(found.round(6).T)], expected[np.lexsort(expected.round(6).T)], atol=1e-12
    )


@pytest.mark.parametrize("width", [1e-2, 1e-4, 1e-6])
def test_nearly_coplanar_generators_are_told_apart(width):
    """Ten generators within microradians of a plane are in general position all the same.

    To take them apart by perturbing generators by 1e-6, as is usual, would give other vertices.
    """
    angles = np.linspace(0.1, 3.0, 10)
    bend = width * np.sin(7 * angles)
    generators = np.stack([np.cos(angles), np.sin(angles), bend], axis=1)
    zonotope = Zonotope(np.zeros(3), generators)
    found = tropical.vertices(zonotope)
    assert len(found.points) == cases.generic_count(10, 3)
    check_vertices(found, zonotope)
    assert found.margin.min() < width
    flat = Zonotope(np.zeros(3), generators * [1, 1, 0])
    assert len(tropical.vertices(flat).points) == 20


def test_flat_zonotopes_in_a_larger_space():
    generators = np.concatenate([normal(0, 9, 3) @ normal(1, 3, 6), np.zeros((1, 6))])
    generators = np.concatenate([generators, -0.3 * generators[:2]])
    zonotope = Zonotope(normal(2, 6), generators)
    found = tropical.vertices(zonotope)
    assert len(found.points) == cases.generic_count(9, 3)
    check_vertices(found, zonotope)


def test_points_and_segments():
    for generators in (np.zeros((0, 2)), np.zeros((3, 2))):
        point = tropical.vertices(Zonotope([1.0, 2.0], generators))
        assert point.points.tolist() == [[1.0, 2.0]]
        assert point.margin.tolist() == [np.inf]
    segment = tropical.vertices(Zonotope([1.0, 2.0], [[1.0, 1.0], [-2.0, -2.0]]))
    assert sorted(segment.points.tolist()) == [[-1.0, 0.0], [2.0, 3.0]]
    assert segment.margin == pytest.approx(1.0)


def test_more_generators_than_bits_in_a_word():
    zonotope = Zonotope(np.zeros(3), normal(0, 100, 3))
    found = tropical.vertices(zonotope)
    assert len(found.points) == 9902
    check_vertices(found, zonotope)


def test_a_list_with_a_repetition_is_not_taken_for_complete(monkeypatch):
    """Broken on purpose: a list that has a cell twice and another one never proves nothing."""
    inside = _generic_cells._inside

    def repeating(units, chosen, downwards):
        found = inside(units, chosen, downwards)
        return found if found.shape[1] == 1 else np.repeat(found[:, :1], found.shape[1], axis=1)

    zonotope = Zonotope(np.zeros(4), normal(0, 10, 4))
    expected = tropical.vertices(zonotope)
    monkeypatch.setattr(_generic_cells, "_inside", repeating)
    assert _generic_cells.generic_half_cells(normal(0, 10, 4)) is None
    # The other algorithm steps in.
    found = tropical.vertices(zonotope)
    assert len(found.points) == len(expected.points)
    check_vertices(found, zonotope)


def test_inverses_with_and_without_small_pivots():
    """The third matrix needs an exchange of rows, which the fast elimination does not make."""
    matrices = normal(0, 50, 4, 4)
    matrices[2, 0, 0] = 0.0
    found = _generic_cells._inverse(np.moveaxis(matrices, 0, -1))
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), np.linalg.inv(matrices), rtol=1e-9)
    matrices[7, 3] = matrices[7, 1]
    assert not np.isfinite(_generic_cells._inverse(np.moveaxis(matrices, 0, -1))[:, :, 7]).any()


def test_special_position_is_never_taken_for_general():
    for _, generators, _, _ in cases.KNOWN[1:6]:
        units = generators / np.linalg.norm(generators, axis=1, keepdims=True)
        assert _generic_cells.generic_half_cells(units) is None


def test_planar_vertices_go_around_and_need_no_square_of_memory():
    count = 20_000
    zonotope = Zonotope(np.zeros(2), normal(0, count, 2))
    tracemalloc.start()
    found = tropical.vertices(zonotope)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()
    assert len(found.points) == 2 * count
    edges = np.roll(found.points, -1, axis=0) - found.points
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    lengths = np.linalg.norm(edges, axis=1) * np.linalg.norm(following, axis=1)
    assert (turns / lengths).min() > -1e-6
    assert np.linalg.norm(edges, axis=1).sum() == pytest.approx(
        2 * np.linalg.norm(zonotope.generators, axis=1).sum(), rel=1e-9
    )
    # Each witness separates its vertex from its two neighbours.
    gain = np.sum(found.witness * found.points, axis=1)
    for shift in (1, -1):
        assert np.all(gain > np.sum(found.witness * np.roll(found.points, shift, axis=0), axis=1))


def test_planar_vertices_with_parallels_and_zeros():
    generators = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [-3.0, 0.0], [0.0, 1.0]])
    found = tropical.vertices(Zonotope([0.0, 0.0], generators))
    assert sorted(found.points.tolist()) == [[-3, 0], [-3, 3], [1, 0], [1, 3]]
    np.testing.assert_allclose(found.margin, np.sqrt(0.5))


@chex.assert_max_traces(n=1)
def traced_vertices_2d(zonotope):
    return tropical.vertices_2d(zonotope)


def test_vertices_2d_under_transformations():
    """One trace for a batch; the area of the polygon and its gradient are those of the volume."""
    batch = Zonotope(
        jnp.asarray(normal(0, 5, 2), jnp.float32), jnp.asarray(normal(1, 5, 6, 2), jnp.float32)
    )
    compiled = jax.jit(jax.vmap(traced_vertices_2d))
    polygons = compiled(batch)
    compiled(jax.tree.map(lambda x: 2 * x, batch))
    assert polygons.shape == (5, 12, 2)
    assert polygons.dtype == jnp.float32
    for row in range(5):
        one = jax.tree.map(lambda x, row=row: np.asarray(x[row]), batch)
        np.testing.assert_allclose(polygons[row], tropical.vertices(one).points, atol=1e-5)

    def area(zonotope):
        x, y = tropical.vertices_2d(zonotope).T
        return jnp.sum(x * jnp.roll(y, -1) - y * jnp.roll(x, -1)) / 2

    one = jax.tree.map(lambda x: x[0], batch)
    chex.assert_trees_all_close(jax.grad(area)(one), jax.grad(tropical.volume)(one), atol=1e-4)


def test_witnesses_make_all_vertices_differentiable():
    """Within the margins the vertices move with the generators and none comes or goes."""
    zonotope = Zonotope(np.zeros(3), normal(0, 6, 3))
    found = tropical.vertices(zonotope)
    lengths = np.linalg.norm(zonotope.generators, axis=1, keepdims=True)
    change = normal(1, 6, 3)
    change *= 0.99 * found.margin.min() * lengths / np.linalg.norm(change, axis=1, keepdims=True)

    def points(generators):
        return tropical.support_vertex(Zonotope(zonotope.base, generators), found.witness)

    with jax.enable_x64(True):
        value, slope = jax.jvp(points, (zonotope.generators,), (change,))
        moved = points(zonotope.generators + change)
    np.testing.assert_allclose(value, found.points, atol=1e-12)
    np.testing.assert_allclose(moved, value + slope, atol=1e-12)
    again = tropical.vertices(Zonotope(zonotope.base, zonotope.generators + change)).points
    assert len(again) == len(found.points)
    distances = np.linalg.norm(again[:, None] - np.asarray(moved), axis=2)
    assert distances.min(axis=1).max() < 1e-12


@pytest.mark.parametrize("generators", [np.zeros((0, 2)), np.zeros((2, 2))])
def test_vertices_2d_of_a_point(generators):
    points = tropical.vertices_2d(Zonotope([1.0, 2.0], generators))
    np.testing.assert_array_equal(points, np.broadcast_to([1.0, 2.0], points.shape))


@pytest.mark.parametrize(
    ("zonotope", "error", "message"),
    [
        (Zonotope([0.0, np.nan], np.eye(2)), ValueError, "base must be finite"),
        (Zonotope([0.0, 0.0], [[np.inf, 1.0]]), ValueError, "generators must be finite"),
        (Zonotope([0.0], np.eye(2)), ValueError, "generators must have shape"),
        (Zonotope(0.0, np.eye(2)), ValueError, "base must have shape"),
        (np.eye(2), TypeError, "must be a Zonotope"),
    ],
)
def test_bad_zonotopes(zonotope, error, message):
    with pytest.raises(error, match=message):
        tropical.vertices(zonotope)
    with pytest.raises(ValueError, match="in the plane"):
        tropical.vertices_2d(Zonotope(np.zeros(3), np.eye(3)))
