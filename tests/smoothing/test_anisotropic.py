"""Ellipsoids and cross-polytopes: tight on linear classifiers, disjoint in a memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxcert import smoothing
from jaxcert.smoothing import ABSTAIN, AnisotropicNoise, RegionMemory, _region_geometry

DIRECTION = np.array([0.6, -0.3, 0.1], np.float32)
SCALES = np.array([[0.5, 1.0, 4.0], [0.25, 0.25, 0.25]], np.float32)
INPUTS = np.array([[0.7, 0.2, -0.4], [-0.3, 0.9, 0.5]], np.float32)


def linear(inputs):
    score = inputs @ DIRECTION
    return jnp.stack([-score, score], axis=1)


def noise_of(family, scales=SCALES):
    return AnisotropicNoise(family, jnp.asarray(scales))


@pytest.mark.parametrize("family", ["gaussian", "uniform"])
def test_region_of_a_linear_classifier_touches_its_boundary(family):
    """At the true probability: in l2 exactly; in l1 for one coordinate, where noise is uniform.

    The largest `w . d` over the region is `r` times the dual norm of `theta * w`.
    """
    weights = DIRECTION.astype(np.float64)
    scales = SCALES.astype(np.float64)
    if family == "uniform":
        weights = np.array([0.6, 0.0, 0.0])
    margin = np.abs(INPUTS.astype(np.float64) @ weights)
    if family == "gaussian":
        spread = np.linalg.norm(scales * weights, axis=1)
        p = special.ndtr(margin / spread)
    else:
        spread = np.abs(scales * weights).max(axis=1)
        margin = np.minimum(margin, 0.9 * spread)
        p = 0.5 + margin / (2 * spread)
    unit = smoothing.Noise(family, jnp.ones(()))
    reached = unit.radius(p) * spread
    np.testing.assert_allclose(reached, margin, rtol=1e-12)
    assert (reached <= margin).all()


@pytest.mark.parametrize("family", ["gaussian", "uniform"])
def test_certificates_of_a_linear_classifier(key, family):
    noise = noise_of(family)
    found = smoothing.certify_anisotropic(
        key, linear, INPUTS, noise=noise, num_classes=2, num_samples=20_000
    )
    margin = np.abs(INPUTS @ DIRECTION).astype(np.float64)
    dual = np.linalg.norm(SCALES * DIRECTION, axis=1, ord=2 if family == "gaussian" else np.inf)
    np.testing.assert_array_equal(found.label, (INPUTS @ DIRECTION > 0).astype(int))
    # Inside the true region, and close to it where the certificate is tight.
    assert (found.radius * dual <= margin).all()
    if family == "gaussian":
        assert (found.radius * dual >= 0.9 * margin).all()
    # An inflated region crosses the boundary: at its furthest point the answer changes.
    worst = SCALES**2 * DIRECTION / dual[:, None] if family == "gaussian" else None
    if worst is not None:
        sign = np.sign(INPUTS @ DIRECTION)[:, None]
        for factor, changed in ((1.0, False), (1.2, True)):
            moved = INPUTS - sign * factor * found.radius[:, None] * worst
            assert ((moved @ DIRECTION > 0) != found.label.astype(bool)).tolist() == [changed] * 2


def test_equal_scales_are_isotropic_noise(key):
    """The same draws, so the same counts as `class_counts`, for any ids and chunks."""
    settings = {"num_samples": 301, "num_classes": 2}
    ids = np.array([5, 2])
    expected = smoothing.class_counts(
        key, linear, INPUTS, noise=smoothing.gaussian(0.5), ids=ids, **settings
    )
    noise = noise_of("gaussian", np.full_like(SCALES, 0.5))
    found = smoothing.anisotropic_class_counts(
        key, linear, INPUTS, noise=noise, ids=ids, chunk_size=100, **settings
    )
    np.testing.assert_array_equal(found, expected)


def test_measures_of_a_region():
    noise = noise_of("gaussian")
    radius = np.array([2.0, 1.0])
    scales = SCALES.astype(np.float64)
    np.testing.assert_allclose(
        noise.proxy_radius(radius), radius * scales.prod(axis=1) ** (1 / 3), rtol=1e-14
    )
    np.testing.assert_allclose(noise.isotropic_radius(radius), radius * 0.5 ** np.array([1, 2]))
    ellipsoid = 4 / 3 * np.pi * radius**3 * scales.prod(axis=1)
    np.testing.assert_allclose(np.exp(noise.log_volume(radius)), ellipsoid, rtol=1e-13)
    octahedron = 8 / 6 * radius**3 * scales.prod(axis=1)
    np.testing.assert_allclose(
        np.exp(noise_of("uniform").log_volume(radius)), octahedron, rtol=1e-13
    )
    assert noise.log_volume([0.0, 1.0])[0] == -np.inf
    # The product of the scales of an image underflows; its geometric mean does not.
    small = AnisotropicNoise("gaussian", np.full((1, 28, 28, 1), 1e-3, np.float32))
    np.testing.assert_allclose(small.proxy_radius([2.0]), 2e-3, rtol=1e-6)


def steep(inputs):
    """Sensitive to the first coordinate, hardly to the second."""
    margin = 40.0 * (1 - jnp.abs(inputs[:, 0] + 0.1 * inputs[:, 1]))
    return jnp.stack([-margin, margin], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gaussian", "uniform"])
def test_optimised_region_holds_the_isotropic_one_and_is_larger(key, family):
    """Proxy radius at least the isotropic radius for every input, at the same noise of scale 1."""
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (10, 2)).astype(np.float32)
    sigma = np.float32(0.2)
    noise = smoothing.optimize_anisotropic(
        key, steep, points, isotropic_sigma=sigma, family=family, num_steps=60, num_samples=128
    )
    assert (noise.scales >= sigma).all()
    assert (noise.scales <= 16 * sigma * (1 + 1e-6)).all()
    settings = {"num_classes": 2, "num_samples": 5000}
    region = smoothing.certify_anisotropic(key, steep, points, noise=noise, **settings)
    ball = smoothing.certify(key, steep, points, noise=smoothing.Noise(family, sigma), **settings)
    proxy = noise.proxy_radius(region.radius)
    assert (proxy >= ball.radius).all()
    assert proxy.mean() > 1.5 * ball.radius.mean()
    # Where r does not drop the ball lies within the region, by projection.
    kept = region.radius * float(sigma) >= ball.radius
    assert (noise.isotropic_radius(region.radius)[kept] >= ball.radius[kept] * (1 - 1e-6)).all()


@pytest.mark.slow
def test_an_ascent_that_only_widens_loses_to_the_isotropic_start(key):
    """A learning rate that leaps to the cap: the comparison at the end goes back."""
    noise = smoothing.optimize_anisotropic(
        key, steep, np.zeros((1, 2), np.float32), isotropic_sigma=0.3, num_steps=1,
        num_samples=128, learning_rate=100.0, max_ratio=4.0,
    )  # fmt: skip
    assert noise.scales[0, 0] < 0.75


def region_stream(seed, count=14, size=2):
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-2, 2, (count, size)).astype(np.float32)
    scales = np.exp(rng.uniform(-1.5, 1.5, (count, size))).astype(np.float32)
    return inputs, rng.integers(0, 3, count), rng.uniform(0.2, 1.5, count), scales


def boundary(center, half_axes, norm, turns):
    """Points on the border of a region of the plane, just inside."""
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    if norm == "l1":
        circle /= np.abs(circle).sum(axis=1, keepdims=True)
    return center + (1 - 1e-9) * half_axes * circle


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("seed", range(4))
def test_memory_of_regions_keeps_classes_apart(norm, seed):
    """No border point of a region lies in a region of another class, nor a centre."""
    inputs, labels, radii, scales = region_stream(seed)
    memory = RegionMemory.init((2,), norm=norm, fingerprint="a", anisotropic=True)
    memory, answer = memory.insert(inputs, labels, radii, alpha=0.001, scales=scales)
    assert answer.overridden.any()
    assert answer.shrunk.any()
    half_axes = memory.radii[:, None] * memory.scales.astype(np.float64)
    turns = np.linspace(0, 2 * np.pi, 400)
    for i in range(len(memory)):
        points = boundary(memory.inputs[i].astype(np.float64), half_axes[i], norm, turns)
        for j in np.flatnonzero(memory.labels != memory.labels[i]):
            offsets = np.abs(points - memory.inputs[j]) / memory.scales[j]
            length = offsets.sum(axis=1) if norm == "l1" else np.linalg.norm(offsets, axis=1)
            assert (length > memory.radii[j]).all()
    # Answers inside a stored region are its own, over the whole region that was answered.
    for row in np.flatnonzero(answer.radius > 0):
        points = boundary(
            inputs[row].astype(np.float64), answer.radius[row] * scales[row], norm, turns[:-1:20]
        )
        points = inputs[row] + 0.999 * (points - inputs[row])
        assert set(memory.query(points.astype(np.float32)).label) == {answer.label[row]}


def touching(offset, radius, theirs, own, norm):
    """The largest disjoint radius in the plane, by the border of the other region."""
    turns = np.linspace(0, 2 * np.pi, 20_001)
    border = boundary(np.zeros(2), radius * theirs, norm, turns)
    scaled = np.abs(border - offset) / own
    return (scaled.sum(axis=1) if norm == "l1" else np.linalg.norm(scaled, axis=1)).min()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_disjoint_radius_is_the_largest(norm):
    rng = np.random.default_rng(1)
    for _ in range(20):
        theirs, own = np.exp(rng.uniform(-2, 2, (2, 1, 2)))
        direction = rng.normal(size=2)
        offset = direction / np.sum(np.abs(direction / theirs)) * rng.uniform(1.6, 6)
        (found,) = _region_geometry.disjoint_radii(offset[None], np.ones(1), theirs, own[0], norm)
        expected = touching(offset, 1.0, theirs[0], own[0], norm)
        assert found <= expected * (1 + 1e-8)
        assert found >= 0.98 * expected
    # Those that meet leave nothing, whatever the direction.
    (none,) = _region_geometry.disjoint_radii(
        np.array([[0.5, 0.1]]), np.ones(1), np.ones((1, 2)), np.ones(2), norm
    )
    assert none == 0.0


def test_equal_axes_give_the_same_memory_as_balls():
    inputs, labels, radii, _ = region_stream(3, count=25)
    balls = RegionMemory.init((2,), fingerprint="a")
    regions = RegionMemory.init((2,), fingerprint="a", anisotropic=True)
    balls, expected = balls.insert(inputs, labels, radii, alpha=0.001)
    regions, found = regions.insert(
        inputs, labels, 2 * radii, alpha=0.001, scales=np.full_like(inputs, 0.5)
    )
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_allclose(found.radius / 2, expected.radius, rtol=1e-9)
    assert len(balls) == len(regions)


def test_certify_with_memory_stores_the_scales(key):
    memory = RegionMemory.init((3,), fingerprint="a", anisotropic=True)
    certificate, memory = smoothing.certify_with_memory(
        key, linear, INPUTS, noise=noise_of("gaussian"), memory=memory, num_classes=2,
        num_samples=2000, model_fingerprint="a",
    )  # fmt: skip
    assert ABSTAIN not in certificate.label
    np.testing.assert_array_equal(memory.scales, SCALES)
    np.testing.assert_array_equal(memory.radii, certificate.radius)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"noise": smoothing.gaussian(1.0)}, TypeError, "noise must be an AnisotropicNoise"),
        ({"noise": noise_of("laplace")}, ValueError, "noise must be one of gaussian, uniform"),
        ({"noise": noise_of("gaussian", SCALES[:1])}, ValueError, "noise.scales must have the sh"),
        ({"noise": noise_of("gaussian", -SCALES)}, ValueError, "noise.scales must be finite and"),
        ({"alpha": 0.0}, ValueError, "alpha must lie strictly between 0 and 1"),
        ({"ids": np.arange(3)}, ValueError, "ids must have shape"),
    ],
)
def test_bad_noise(key, change, error, message):
    settings = {"noise": noise_of("gaussian"), "num_classes": 2} | change
    with pytest.raises(error, match=message):
        smoothing.certify_anisotropic(key, linear, INPUTS, **settings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"isotropic_sigma": -1.0}, ValueError, "isotropic_sigma must be finite and above 0"),
        ({"isotropic_sigma": [1.0] * 3}, ValueError, "isotropic_sigma must be a scalar or"),
        ({"regularization": -1.0}, ValueError, "regularization must be at least 0"),
        ({"max_ratio": 1.0}, ValueError, "max_ratio must be above 1"),
        ({"family": "laplace"}, ValueError, "family must be one of gaussian, uniform"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be finite and above 0"),
        ({"scores": "probabilities"}, ValueError, "must return probabilities that sum to 1"),
    ],
)
def test_bad_settings_of_the_search(key, change, error, message):
    settings = {"isotropic_sigma": 0.5} | change
    with pytest.raises(error, match=message):
        smoothing.optimize_anisotropic(key, linear, INPUTS, **settings)


@pytest.mark.slow
def test_search_with_broken_scores(key):
    def breaks(inputs):
        return linear(inputs) + jnp.where(inputs[:, :1] > 0.6, jnp.nan, 0.0)

    with pytest.raises(smoothing.NonFiniteScoresError, match="for 1 of 2 inputs, first row 0"):
        smoothing.optimize_anisotropic(
            key, breaks, INPUTS, isotropic_sigma=[0.01, 0.01], num_steps=2, num_samples=8
        )


def test_noise_is_a_pytree():
    noise = noise_of("gaussian")
    doubled = jax.tree.map(lambda scales: 2 * scales, noise)
    np.testing.assert_array_equal(doubled.scales, 2 * SCALES)
    assert doubled.norm == "l2"
    assert noise_of("uniform").norm == "l1"
