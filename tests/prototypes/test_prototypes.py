import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import prototypes, smoothing


@pytest.fixture
def key():
    return jax.random.key(3)


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    centres = jnp.asarray(generator.normal(size=(6, 4)), jnp.float32)
    return prototypes.Prototypes(centres, jnp.array([0, 0, 1, 1, 2, 2]))


@pytest.fixture
def features():
    return jnp.asarray(np.random.default_rng(1).normal(size=(25, 4)), jnp.float32)


def exact_squares(features, table):
    return ((np.float64(features)[:, None] - np.float64(table.centres)[None]) ** 2).sum(axis=2)


def test_distances_and_scores_agree_with_float64(features, table):
    squares = exact_squares(features, table)
    np.testing.assert_allclose(prototypes.centre_distances(features, table), squares, rtol=2e-5)
    by_class = squares.reshape(25, 3, 2)
    hard = prototypes.nearest_scores(features, table, num_classes=3)
    np.testing.assert_allclose(hard, -by_class.min(axis=2), rtol=2e-5)
    soft = prototypes.soft_scores(features, table, num_classes=3, variance=0.3)
    expected = np.log(np.exp(-by_class / 0.6).sum(axis=2))
    np.testing.assert_allclose(soft, expected, rtol=1e-4)


def test_distances_do_not_cancel_far_from_the_origin(table, features):
    far = prototypes.Prototypes(table.centres + 500, table.labels)
    squares = exact_squares(features + 500, far)
    np.testing.assert_allclose(prototypes.centre_distances(features + 500, far), squares, rtol=1e-3)


def test_scores_have_finite_gradients_and_compose(features, table):
    def total(variance):
        return prototypes.soft_scores(features, table, num_classes=3, variance=variance).sum()

    assert np.isfinite(jax.grad(total)(0.5))
    values = jax.vmap(jax.jit(total))(jnp.array([0.1, 0.5, 2.0]))
    np.testing.assert_allclose(values, [total(v) for v in (0.1, 0.5, 2.0)], rtol=1e-5)
    # Far from all centres the exponents are large; nothing overflows or vanishes.
    away = prototypes.soft_scores(features + 1e3, table, num_classes=3, variance=1e-3)
    assert np.isfinite(away).all()


def test_a_class_without_centre_scores_minus_infinity_and_makes_no_classifier(features, table):
    scores = prototypes.nearest_scores(features, table, num_classes=4)
    assert (scores[:, 3] == -jnp.inf).all()
    soft = prototypes.soft_scores(features, table, num_classes=4, variance=1.0)
    assert (soft[:, 3] == -jnp.inf).all()
    with pytest.raises(ValueError, match=r"a centre for each class, got none for \[3\]"):
        prototypes.classifier(lambda x: x, table, num_classes=4)


@pytest.mark.parametrize("variance", [None, 0.5])
def test_classifier_is_one_trace_and_can_be_smoothed(key, table, features, variance):
    @chex.assert_max_traces(n=1)
    def scores(classify, inputs):
        return classify(inputs)

    chex.clear_trace_counter()
    jitted = jax.jit(scores)
    for factor in (1.0, 2.0, 3.0):
        moved = prototypes.Prototypes(factor * table.centres, table.labels)
        classify = prototypes.classifier(
            jax.tree_util.Partial(jnp.multiply, jnp.float32(2.0)), moved,
            num_classes=3, variance=variance,
        )  # fmt: skip
        expected = exact_squares(2 * features, moved).argmin(axis=1) // 2
        if variance is None:
            np.testing.assert_array_equal(jitted(classify, features).argmax(axis=1), expected)
        else:
            assert jitted(classify, features).shape == (25, 3)
    certificate = smoothing.certify(
        key, classify, features[:4], noise=smoothing.gaussian(0.1), num_classes=3, num_samples=500
    )
    assert (certificate.counts.sum(axis=1) == 500).all()


def test_clusters_reach_the_optimum_of_separated_groups(key):
    generator = np.random.default_rng(5)
    means = 20 * generator.normal(size=(5, 3))
    points = np.concatenate([m + generator.normal(size=(30, 3)) for m in means])
    found = prototypes.cluster(key, jnp.asarray(points, jnp.float32), num_clusters=5)
    expected = np.stack([points[30 * i : 30 * i + 30].mean(axis=0) for i in range(5)])
    distances = np.linalg.norm(np.asarray(found.centres)[:, None] - expected[None], axis=2)
    np.testing.assert_allclose(distances.min(axis=0), 0, atol=1e-3)
    inertia = ((points - np.asarray(found.centres)[found.assignments]) ** 2).sum()
    np.testing.assert_allclose(found.inertia, inertia, rtol=1e-4)
    again = prototypes.cluster(key, jnp.asarray(points, jnp.float32), num_clusters=5)
    np.testing.assert_array_equal(found.centres, again.centres)


def test_points_of_weight_zero_are_not_there(key):
    points = jnp.array([[0.0], [1.0], [10.0], [11.0], [1e4]])
    weights = jnp.array([1.0, 1, 1, 1, 0])
    found = prototypes.cluster(key, points, num_clusters=2, weights=weights)
    np.testing.assert_allclose(sorted(found.centres[:, 0]), [0.5, 10.5])


def test_an_empty_cluster_moves_instead_of_vanishing():
    points = jnp.array([[0.0], [0.1], [5.0], [9.0]])
    start = jnp.array([[0.0], [0.05], [100.0]])
    found = prototypes._clusters._lloyd(points, jnp.ones(4), start, 10)
    assert len(np.unique(found.assignments)) == 3
    assert np.isfinite(found.centres).all()


def test_prototypes_of_unequal_classes(key):
    features = jnp.array([[0.0], [0.2], [4.0], [4.2], [9.0], [20.0]])
    labels = jnp.array([0, 0, 0, 0, 1, 1])
    found = prototypes.fit_prototypes(key, features, labels, num_classes=2, clusters_per_class=2)
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
    np.testing.assert_allclose(np.sort(found.centres[:2, 0]), [0.1, 4.1], atol=1e-5)
    np.testing.assert_allclose(np.sort(found.centres[2:, 0]), [9, 20], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": jnp.array([0, 0, 0, 1])}, "distinct points of each class, got 1 of class 1"),
        ({"labels": jnp.array([0, 0, 0, 0])}, "got 0 of class 1"),
        ({"labels": jnp.array([0, 1, 2, 1])}, r"labels must lie in \[0, 1\]"),
        ({"labels": jnp.array([0, 1])}, "labels must have shape"),
        ({"features": jnp.ones((4, 2))}, "got 1 of class 0"),
        ({"features": jnp.ones((4, 2, 2))}, r"features must have shape \[n, d\]"),
        ({"clusters_per_class": 0}, "clusters_per_class must lie in"),
    ],
)
def test_bad_classes_are_named(key, change, message):
    settings = {
        "features": jnp.arange(8.0).reshape(4, 2),
        "labels": jnp.array([0, 0, 1, 1]),
        "num_classes": 2,
        "clusters_per_class": 2,
    }
    settings |= change
    with pytest.raises(ValueError, match=message):
        prototypes.fit_prototypes(key, settings.pop("features"), settings.pop("labels"), **settings)


def test_bad_settings_are_named(key, table, features):
    with pytest.raises(ValueError, match="at least num_clusters = 3 distinct points"):
        prototypes.cluster(key, jnp.array([[1.0], [1.0], [2.0]]), num_clusters=3)
    with pytest.raises(ValueError, match="weights must be finite and at least 0"):
        prototypes.cluster(key, features, num_clusters=2, weights=jnp.full(25, -1.0))
    with pytest.raises(ValueError, match="variance must be finite and above 0"):
        prototypes.soft_scores(features, table, num_classes=3, variance=0.0)
    with pytest.raises(ValueError, match="labels must lie in"):
        prototypes.nearest_scores(features, table, num_classes=2)
    with pytest.raises(TypeError, match="encode|callable"):
        prototypes.classifier(None, table, num_classes=3)
