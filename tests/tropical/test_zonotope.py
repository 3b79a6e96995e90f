"""Support functions and images of zonotopes, under every transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import tropical
from jaxcert.tropical import Zonotope
from tests.tropical import zonotope_cases as cases

DIMENSION, COUNT, BATCH = 3, 7, 4


def zonotope(seed, dtype=None):
    generator = np.random.default_rng(seed)
    base, generators = generator.normal(size=DIMENSION), generator.normal(size=(COUNT, DIMENSION))
    return Zonotope(jnp.asarray(base, dtype), jnp.asarray(generators, dtype))


def directions(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, DIMENSION)))


@pytest.fixture
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("_x64")
def test_support_identities():
    one, other, u = zonotope(0), zonotope(1), directions(2, 20, 2)
    value = tropical.support(one, u)
    expected = cases.support_by_sums(np.asarray(one.base), one.generators, np.asarray(u))
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)
    # Positively homogeneous, subadditive, attained, additive over Minkowski sums.
    np.testing.assert_allclose(tropical.support(one, 3 * u), 3 * value, atol=1e-12)
    opposite = tropical.support(one, -u)
    assert jnp.all(value + opposite >= 0)
    vertex = tropical.support_vertex(one, u)
    np.testing.assert_allclose(jnp.sum(vertex * u, axis=-1), value, atol=1e-12)
    both = tropical.minkowski_sum(one, other)
    np.testing.assert_allclose(
        tropical.support(both, u), value + tropical.support(other, u), atol=1e-12
    )


@pytest.mark.usefixtures("_x64")
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_affine_image(rows):
    generator = np.random.default_rng(3)
    matrix, offset = generator.normal(size=(rows, DIMENSION)), generator.normal(size=rows)
    u = generator.normal(size=(30, rows))
    image = tropical.affine_image(zonotope(0), matrix, offset=offset)
    expected = tropical.support(zonotope(0), u @ matrix) + u @ offset
    np.testing.assert_allclose(tropical.support(image, u), expected, atol=1e-12)
    linear = tropical.affine_image(zonotope(0), matrix)
    np.testing.assert_allclose(linear.base + offset, image.base, atol=1e-12)


@pytest.mark.usefixtures("_x64")
def test_centre_and_base_are_one_convention():
    """A box about its centre: the trap of a factor 2 and of a shift."""
    box = tropical.from_center([1.0, -2.0, 0.5], np.diag([1.0, 2.0, 3.0]))
    u = directions(4, 50)
    expected = u @ jnp.array([1.0, -2.0, 0.5]) + jnp.abs(u) @ jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(tropical.support(box, u), expected, atol=1e-12)
    assert tropical.volume(box) == pytest.approx(2**3 * 6, abs=1e-9)


@pytest.mark.usefixtures("_x64")
def test_gradient_of_the_support_function():
    one, u = zonotope(0), directions(5, 10)
    slope = jax.grad(lambda v: jnp.sum(tropical.support(one, v)))(u)
    np.testing.assert_allclose(slope, tropical.support_vertex(one, u), atol=1e-12)
    # With respect to the zonotope: the direction itself for each generator that is taken.
    by_zonotope = jax.grad(lambda z: tropical.support(z, u[0]))(one)
    taken = (one.generators @ u[0] > 0)[:, None]
    np.testing.assert_allclose(
        by_zonotope.generators, np.asarray(taken) * np.asarray(u[0]), atol=1e-12
    )
    np.testing.assert_allclose(by_zonotope.base, u[0], atol=1e-12)


@chex.assert_max_traces(n=1)
def traced_support(one, u):
    return tropical.support(one, u)


def test_one_trace_serves_all_zonotopes_of_a_shape():
    compiled = jax.jit(traced_support)
    u = directions(6, 5).astype(jnp.float32)
    for seed in range(4):
        one = zonotope(seed, jnp.float32)
        found = compiled(one, u)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(
            found,
            cases.support_by_sums(np.asarray(one.base), one.generators, np.asarray(u)),
            rtol=1e-5,
            atol=1e-5,
        )


def test_vmap_over_zonotopes():
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(zonotope(s) for s in range(BATCH)))
    u = directions(7, 6)
    found = jax.vmap(tropical.support, (0, None))(batch, u)
    assert found.shape == (BATCH, 6)
    for seed in range(BATCH):
        np.testing.assert_allclose(found[seed], tropical.support(zonotope(seed), u), rtol=1e-5)
    sums = jax.vmap(tropical.minkowski_sum)(batch, batch)
    assert sums.generators.shape == (BATCH, 2 * COUNT, DIMENSION)


def test_sampled_vertices_are_vertices_and_depend_on_the_key(key):
    one = zonotope(0)
    every = tropical.vertices(one).points
    points = tropical.sample_vertices(key, one, num_directions=200)
    assert points.shape == (200, DIMENSION)
    distances = np.linalg.norm(np.asarray(points)[:, None] - every, axis=2)
    assert distances.min(axis=1).max() < 1e-5
    assert len(np.unique(distances.argmin(axis=1))) > len(every) / 3
    others = tropical.sample_vertices(jax.random.fold_in(key, 1), one, num_directions=200)
    assert not np.array_equal(points, others)


def test_empty_zonotopes():
    point = Zonotope(np.array([1.0, 2.0, 3.0]), np.zeros((0, 3)))
    assert tropical.support(point, [1.0, 1.0, 1.0]) == 6.0
    np.testing.assert_array_equal(tropical.support_vertex(point, [1.0, 0.0, 0.0]), [1, 2, 3])
    assert tropical.minkowski_sum(point, zonotope(0)).generators.shape == (COUNT, DIMENSION)
    assert tropical.volume(point) == 0.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tropical.support(np.eye(3), np.zeros(3)), TypeError, "must be a Zonotope"),
        (lambda: tropical.support(zonotope(0), np.zeros(2)), ValueError, "directions must have"),
        (lambda: tropical.support(Zonotope(np.zeros(2), np.eye(3)), np.zeros(2)), ValueError,
         "generators must have shape \\[m, 2\\]"),
        (lambda: tropical.support(Zonotope(np.zeros((4, 2)), np.zeros((4, 3, 2))), np.zeros(2)),
         ValueError, "base must have shape .* jax.vmap"),
        (lambda: tropical.support(Zonotope(np.zeros(1), np.ones((2, 1), complex)), [1.0]),
         TypeError, "real numbers"),
        (lambda: tropical.affine_image(zonotope(0), np.eye(2)), ValueError, "matrix must have"),
        (lambda: tropical.affine_image(zonotope(0), np.eye(3), offset=[1.0]), ValueError,
         "offset must have"),
        (lambda: tropical.minkowski_sum(zonotope(0), Zonotope([0.0], [[1.0]])), ValueError,
         "same space"),
        (lambda: tropical.from_center([0.0], np.eye(2)), ValueError, "generators must have"),
        (lambda: tropical.sample_vertices(3, zonotope(0), num_directions=2), TypeError, "key"),
        (lambda: tropical.sample_vertices(jax.random.key(0), zonotope(0), num_directions=0),
         ValueError, "num_directions"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
