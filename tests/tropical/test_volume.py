"""Volumes and facets of zonotopes."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import tropical
from jaxcert.tropical import Zonotope, _volume
from tests.tropical import zonotope_cases as cases


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def volume64(generators):
    with jax.enable_x64(True):
        generators = jnp.asarray(generators, jnp.float64)
        return float(tropical.volume(Zonotope(jnp.zeros(generators.shape[1]), generators)))


@pytest.mark.parametrize(
    ("generators", "volume"),
    [pytest.param(g, v, id=name) for name, g, _, v in cases.KNOWN if v is not None],
)
def test_known_volumes(generators, volume):
    assert volume64(generators) == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize(
    ("dimension", "count"), [(1, 4), (2, 9), (3, 8), (4, 8), (5, 7), (6, 8), (7, 8)]
)
def test_volume_is_the_sum_of_determinants(dimension, count):
    generators = normal(dimension, count, dimension)
    assert volume64(generators) == pytest.approx(cases.volume_by_determinants(generators), rel=1e-9)


def test_volume_in_several_blocks(monkeypatch):
    generators = normal(0, 11, 4)
    expected = volume64(generators)
    monkeypatch.setattr(_volume, "_CHUNK", 37)
    _volume._volume.clear_cache()
    assert volume64(generators) == pytest.approx(expected, rel=1e-12)
    _volume._volume.clear_cache()


def test_linear_maps_scale_the_volume():
    generators, matrix = normal(1, 8, 3), normal(2, 3, 3)
    assert volume64(generators @ matrix.T) == pytest.approx(
        abs(np.linalg.det(matrix)) * volume64(generators), rel=1e-9
    )


def test_flat_and_empty_zonotopes_have_no_volume():
    assert volume64(normal(3, 6, 2) @ normal(4, 2, 3)) == pytest.approx(0.0, abs=1e-12)
    assert volume64(np.zeros((0, 3))) == 0.0
    assert volume64(np.eye(3)[:2]) == 0.0


@chex.assert_max_traces(n=1)
def traced_volume(zonotope):
    return tropical.volume(zonotope)


def test_transformations():
    batch = Zonotope(jnp.zeros((3, 3), jnp.float32), jnp.asarray(normal(5, 3, 6, 3), jnp.float32))
    compiled = jax.jit(jax.vmap(traced_volume))
    found = compiled(batch)
    compiled(jax.tree.map(lambda x: x + 1, batch))
    assert found.dtype == jnp.float32
    expected = [cases.volume_by_determinants(np.asarray(g, float)) for g in batch.generators]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    generators = normal(6, 6, 3)
    with jax.enable_x64(True):
        slope = jax.grad(lambda g: tropical.volume(Zonotope(jnp.zeros(3), g)))(generators)
    slope = np.asarray(slope)
    step = 1e-6 * normal(7, 6, 3)
    change = volume64(generators + step) - volume64(generators - step)
    assert float(np.sum(slope * step)) == pytest.approx(change / 2, rel=1e-6)


def test_too_many_sets_are_refused_at_once():
    with pytest.raises(ValueError, match=r"got 1,175,445,251,780,800 sets from 200 generators"):
        tropical.volume(Zonotope(np.zeros(10), np.zeros((200, 10))))


@pytest.mark.parametrize(
    ("dimension", "count"), [(1, 3), (2, 6), (3, 3), (3, 9), (4, 8), (5, 8), (6, 8)]
)
def test_facets_in_general_position(dimension, count):
    zonotope = Zonotope(normal(0, dimension), normal(count, count, dimension))
    found = tropical.facets(zonotope)
    assert len(found.normals) == 2 * math.comb(count, dimension - 1)
    check_facets(found, zonotope)


@pytest.mark.parametrize(
    ("generators", "count"),
    [(cases.KNOWN[0][1], 12), (cases.KNOWN[1][1], 8), (cases.permutohedron(4), 14),
     (cases.permutohedron(5), 30), (cases.type_b(3), 26), (np.eye(4), 8)],
)  # fmt: skip
def test_known_facets(generators, count):
    """Twelve rhombi, six squares and two hexagons, and so on."""
    zonotope = Zonotope(np.zeros(generators.shape[1]), generators)
    found = tropical.facets(zonotope)
    assert len(found.normals) == count
    check_facets(found, zonotope)


def check_facets(found, zonotope):
    base, generators = np.asarray(zonotope.base), np.asarray(zonotope.generators, float)
    half, rank = len(found.normals) // 2, np.linalg.matrix_rank(generators)
    size = np.abs(generators).sum() + np.abs(base).sum()
    np.testing.assert_array_equal(found.normals[:half], -found.normals[half:])
    np.testing.assert_allclose(np.linalg.norm(found.normals, axis=1), 1.0, rtol=1e-12)
    expected = cases.support_by_sums(base, generators, found.normals)
    np.testing.assert_allclose(found.offsets, expected, atol=1e-12 * size)
    # Every vertex satisfies all of them, and each is attained by the corners of a facet.
    points = tropical.vertices(zonotope).points
    slack = found.offsets - points @ found.normals.T
    assert slack.min() > -1e-9 * size
    assert np.all(np.sum(slack < 1e-9 * size, axis=0) >= rank)
    np.testing.assert_allclose(
        points @ found.equality_normals.T,
        np.broadcast_to(found.equality_offsets, (len(points), base.size - rank)),
        atol=1e-9 * size,
    )
    # Minkowski: the facets balance, and the divergence theorem gives the volume.
    np.testing.assert_allclose(found.areas @ found.normals, 0.0, atol=1e-9 * found.areas.sum())
    if rank == base.size:
        volume = cases.volume_by_determinants(generators)
        assert found.areas @ found.offsets / rank == pytest.approx(volume, rel=1e-9)


def test_facets_of_flat_zonotopes():
    generators = normal(1, 7, 3) @ normal(2, 3, 5)
    zonotope = Zonotope(normal(3, 5), np.concatenate([generators, -2 * generators[:1]]))
    found = tropical.facets(zonotope)
    assert len(found.normals) == 2 * math.comb(7, 2)
    assert found.equality_normals.shape == (2, 5)
    check_facets(found, zonotope)
    np.testing.assert_allclose(found.equality_normals @ generators.T, 0.0, atol=1e-12)


def test_a_point_is_all_equalities():
    found = tropical.facets(Zonotope([1.0, 2.0], np.zeros((2, 2))))
    assert len(found.normals) == 0
    np.testing.assert_allclose(found.equality_normals.T @ found.equality_offsets, [1.0, 2.0])
