"""Membership, reduction and distances of zonotopes: one-sided answers and their proofs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxcert import tropical
from jaxcert.tropical import Zonotope
from tests.tropical import zonotope_cases as cases

METHODS = ("girard", "combastel", "pca")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def check_certificates(answer, zonotope, points):
    base, generators = np.asarray(zonotope.base), np.asarray(zonotope.generators)
    assert not np.any(answer.inside & answer.outside)
    assert np.all((answer.coefficients >= 0) & (answer.coefficients <= 1))
    reached = base + answer.coefficients @ generators
    gaps = np.linalg.norm(points - reached, axis=1)
    assert np.all(gaps <= answer.distance_upper)
    beyond = np.sum(answer.direction * points, axis=1) - np.array(
        [cases.support_by_sums(base, generators, u) for u in answer.direction]
    )
    assert np.all((answer.distance_lower > 0) == answer.outside)
    assert np.all(answer.distance_lower <= np.maximum(beyond, 0))
    assert np.all(answer.distance_lower <= answer.distance_upper)


@pytest.mark.parametrize(("dimension", "count"), [(1, 3), (2, 6), (3, 9), (5, 8)])
def test_membership_agrees_with_the_facets(dimension, count):
    zonotope = Zonotope(normal(0, dimension), normal(count, count, dimension))
    center = zonotope.base + zonotope.generators.sum(axis=0) / 2
    points = center + normal(1, 30, dimension) * np.linspace(0.2, 3, 30)[:, None]
    answer = tropical.contains(zonotope, points)
    found = tropical.facets(zonotope)
    excess = (points @ found.normals.T - found.offsets).max(axis=1)
    assert 3 <= np.sum(excess < 0) <= 27
    np.testing.assert_array_equal(answer.inside, excess < 0)
    np.testing.assert_array_equal(answer.outside, excess > 0)
    check_certificates(answer, zonotope, points)


def test_membership_in_flat_zonotopes_and_points():
    generators = normal(0, 5, 2) @ normal(1, 2, 4)
    flat = Zonotope(np.zeros(4), generators)
    inside = np.random.default_rng(2).uniform(size=(5, 5)) @ generators
    beside = inside + 1e-3 * np.linalg.svd(generators)[2][3]
    answer = tropical.contains(flat, np.concatenate([inside, beside]))
    assert answer.inside.tolist() == [True] * 5 + [False] * 5
    assert answer.outside.tolist() == [False] * 5 + [True] * 5
    check_certificates(answer, flat, np.concatenate([inside, beside]))
    point = Zonotope(np.array([1.0, 2.0]), np.zeros((0, 2)))
    answer = tropical.contains(point, [[1.0, 2.0], [1.0, 2.5]])
    assert answer.inside.tolist() == [True, False]
    assert answer.distance_lower[1] == pytest.approx(0.5)


def test_vertices_belong_and_points_just_beyond_do_not():
    """A point 1e-7 beyond a vertex is told apart, where least squares and a box test fail."""
    zonotope = Zonotope(normal(3, 3), normal(4, 8, 3))
    found = tropical.vertices(zonotope)
    assert np.all(tropical.contains(zonotope, found.points).inside)
    beyond = found.points + 1e-7 * found.witness
    answer = tropical.contains(zonotope, beyond)
    assert np.all(answer.outside)
    check_certificates(answer, zonotope, beyond)
    # The trap: one solution of the equations outside the box proves nothing.
    inside = found.points * 0.999 + 0.001 * found.points.mean(axis=0)
    solved = np.linalg.lstsq(zonotope.generators.T, (inside - zonotope.base).T, rcond=None)[0]
    assert np.any((solved < 0) | (solved > 1))
    assert np.all(tropical.contains(zonotope, inside).inside)


def test_a_solver_that_lies_is_not_believed(monkeypatch):
    """Broken on purpose: the answers rest on t and u, not on what the solver says of them."""
    zonotope = Zonotope(np.zeros(2), np.eye(2))
    points = np.array([[0.5, 0.5], [2.0, 0.5]])
    solve = optimize.linprog

    def lie(*arguments, **settings):
        result = solve(*arguments, **settings)
        result.x = np.random.default_rng(0).normal(size=result.x.shape)
        result.eqlin.marginals = np.array([-1.0, 0.3])
        return result

    monkeypatch.setattr(optimize, "linprog", lie)
    answer = tropical.contains(zonotope, points)
    assert not answer.outside[0]
    assert not np.any(answer.inside)
    check_certificates(answer, zonotope, points)


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [([[1.0]], ValueError, "points must have shape"), ([[np.nan, 0.0]], ValueError, "finite"),
     (np.zeros((2, 2, 2)), ValueError, "points must have shape")],
)  # fmt: skip
def test_bad_points(points, error, message):
    with pytest.raises(error, match=message):
        tropical.contains(Zonotope(np.zeros(2), np.eye(2)), points)
    with pytest.raises(ValueError, match="tolerance"):
        tropical.contains(Zonotope(np.zeros(2), np.eye(2)), [0.0, 0.0], tolerance=-1.0)


@pytest.mark.parametrize("method", METHODS)
def test_reduction_contains_every_vertex(method):
    """In float32, against the vertices and the facets of the result in float64."""
    generators = normal(5, 10, 3) * np.geomspace(1, 1e-3, 10)[:, None]
    zonotope = Zonotope(np.float32([100.0, -50.0, 0.3]), generators.astype(np.float32))
    points = tropical.vertices(zonotope).points
    for count in (3, 5, 8):
        reduced = tropical.reduce_order_upper(zonotope, num_generators=count, method=method)
        assert reduced.generators.shape == (count, 3)
        assert reduced.generators.dtype == jnp.float32
        found = tropical.facets(reduced)
        assert (points @ found.normals.T - found.offsets).max() <= 0
        size = np.abs(generators).sum()
        gap = found.offsets - cases.support_by_sums(
            np.asarray(zonotope.base, float), np.asarray(zonotope.generators, float), found.normals
        )
        assert gap.max() < size
    assert gap.max() < 0.1


def test_reduction_keeps_small_sets_and_is_traced_once():
    zonotope = Zonotope(jnp.zeros(2), jnp.asarray(normal(6, 4, 2), jnp.float32))
    same = tropical.reduce_order_upper(zonotope, num_generators=4)
    np.testing.assert_array_equal(same.generators, zonotope.generators)
    reduce = chex.assert_max_traces(
        lambda z: tropical.reduce_order_upper(z, num_generators=3, method="pca"), n=1
    )
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), zonotope)
    reduced = jax.jit(jax.vmap(reduce))(batch)
    assert reduced.generators.shape == (2, 3, 2)
    np.testing.assert_allclose(2 * reduced.generators[0], reduced.generators[1], rtol=1e-4)


def test_reduction_without_its_box_is_noticed():
    """Broken on purpose: to drop the small generators is no over-approximation."""
    generators = normal(7, 8, 2)
    zonotope = Zonotope(np.zeros(2), generators)
    dropped = Zonotope(np.zeros(2), generators[:5])
    found = tropical.facets(dropped)
    assert (tropical.vertices(zonotope).points @ found.normals.T - found.offsets).max() > 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [({"num_generators": 1}, ValueError, "num_generators must lie in \\[2"),
     ({"num_generators": 2.0}, TypeError, "num_generators must be an integer"),
     ({"num_generators": 3, "method": "scott"}, ValueError, "method must be one of")],
)  # fmt: skip
def test_bad_reductions(settings, error, message):
    with pytest.raises(error, match=message):
        tropical.reduce_order_upper(Zonotope(np.zeros(2), normal(0, 5, 2)), **settings)


def distance_by_vertices(one, other):
    """The Hausdorff distance: the largest distance of a vertex of one from the other."""

    def farthest(points, zonotope):
        distances = []
        for point in points:
            solved = optimize.lsq_linear(
                np.asarray(zonotope.generators).T, point - zonotope.base, bounds=(0, 1), tol=1e-14
            )
            distances.append(np.sqrt(2 * solved.cost))
        return max(distances)

    first, second = (tropical.vertices(z).points for z in (one, other))
    return max(farthest(first, other), farthest(second, one))


@pytest.mark.parametrize("seed", range(4))
def test_hausdorff_distance_lies_between_the_bounds(key, seed):
    one = Zonotope(normal(seed, 3), normal(10 + seed, 6, 3))
    other = Zonotope(
        one.base + 0.1 * normal(seed, 3), one.generators + 0.3 * normal(20 + seed, 6, 3)
    )
    with jax.enable_x64(True):
        lower = float(tropical.hausdorff_distance_lower(key, one, other))
        starts = float(tropical.hausdorff_distance_lower(key, one, other, num_steps=0))
        upper = float(tropical.hausdorff_distance_upper(one, other))
        assigned = float(tropical.hausdorff_distance_upper(one, other, matching="assignment"))
    exact = distance_by_vertices(one, other)
    assert lower <= exact + 1e-9
    assert lower == pytest.approx(exact, rel=1e-3)
    assert starts <= lower
    assert upper >= exact
    assert assigned >= exact


def test_upper_bound_knows_that_a_segment_has_no_sense(key):
    one = Zonotope(normal(0, 2), normal(1, 5, 2))
    turned = Zonotope(one.base + one.generators.sum(axis=0), -one.generators[::-1])
    with jax.enable_x64(True):
        assert tropical.hausdorff_distance_upper(one, turned, matching="assignment") < 1e-12
    assert tropical.hausdorff_distance_upper(one, turned) > 0.1
    assert tropical.hausdorff_distance_lower(key, one, turned, num_directions=8, num_steps=4) == 0
    padded = Zonotope(one.base, np.concatenate([one.generators, np.zeros((2, 2))]))
    assert tropical.hausdorff_distance_upper(padded, one) < 1e-3


def test_distance_bounds_under_transformations(key):
    batch = Zonotope(jnp.zeros((2, 3)), jnp.asarray(normal(0, 2, 6, 3), jnp.float32))
    other = jax.tree.map(lambda x: x + 0.1, batch)
    upper = jax.jit(jax.vmap(tropical.hausdorff_distance_upper))(batch, other)
    lower = jax.vmap(
        lambda a, b: tropical.hausdorff_distance_lower(key, a, b, num_directions=16, num_steps=8)
    )(batch, other)
    assert upper.dtype == lower.dtype == jnp.float32
    assert np.all(lower > 0.05)
    assert np.all(lower <= upper)
    one, two = (jax.tree.map(lambda x: x[0], z) for z in (batch, other))
    slope = jax.grad(tropical.hausdorff_distance_upper)(one, two)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    same = jax.grad(tropical.hausdorff_distance_upper)(one, one)
    assert np.all(np.isfinite(same.base))


def test_bad_distances(key):
    one, other = Zonotope([0.0], [[1.0]]), Zonotope(np.zeros(2), np.eye(2))
    for call in (
        lambda: tropical.hausdorff_distance_upper(one, other),
        lambda: tropical.hausdorff_distance_lower(key, one, other),
    ):
        with pytest.raises(ValueError, match="same space"):
            call()
    with pytest.raises(ValueError, match="matching must be one of"):
        tropical.hausdorff_distance_upper(one, one, matching="best")
    with pytest.raises(TypeError, match="typed key"):
        tropical.hausdorff_distance_lower(0, one, one)
