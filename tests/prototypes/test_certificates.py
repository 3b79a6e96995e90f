import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxcert import prototypes
from jaxcert.prototypes import _half_spaces, _host


def random_case(seed, dimension, clusters, num_classes=3, n=30):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_classes * clusters, dimension))
    labels = np.repeat(np.arange(num_classes), clusters)
    features = generator.normal(size=(n, dimension))
    return features, prototypes.Prototypes(centres, labels)


def nearest_label(points, table):
    distances = ((points[:, None] - np.asarray(table.centres)[None]) ** 2).sum(axis=2)
    return np.asarray(table.labels)[distances.argmin(axis=1)]


def shortest_way(feature, table, rival):
    """To where `rival` is nearer than each centre of the class: Lawson and Hanson's program."""
    label = nearest_label(feature[None], table)[0]
    own = table.centres[table.labels == label]
    normals = table.centres[rival] - own
    middles = (table.centres[rival] + own) / 2
    offsets = np.sum(normals * (middles - feature), axis=1)
    system = np.vstack([normals.T, offsets])
    target = np.append(np.zeros(len(feature)), 1.0)
    multipliers, _ = nnls(system, target, maxiter=10_000)
    residual = system @ multipliers - target
    return -residual[:-1] / residual[-1]


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 64, 512])
@pytest.mark.parametrize("clusters", [1, 4])
def test_radius_is_the_exact_distance_to_another_class(dimension, clusters):
    features, table = random_case(dimension + clusters, dimension, clusters)
    found = prototypes.centroid_certificate(features, table)
    np.testing.assert_array_equal(found.label, nearest_label(features, table))
    for feature, label, radius, rival in zip(
        features, found.label, found.feature_radius, found.rival, strict=True
    ):
        ways = [
            shortest_way(feature, table, other) for other in np.flatnonzero(table.labels != label)
        ]
        exact = min(np.linalg.norm(way) for way in ways)
        assert radius <= exact
        assert radius == pytest.approx(exact, rel=1e-7, abs=1e-11)
        # A little beyond, at the rival that is named, the class changes.
        edge = feature + shortest_way(feature, table, rival)
        within = edge + 1e-6 * (feature - edge)
        beyond = edge + 1e-6 * (table.centres[rival] - edge)
        assert nearest_label(within[None], table)[0] == label
        assert nearest_label(beyond[None], table)[0] != label


@pytest.mark.parametrize("clusters", [1, 3])
def test_no_point_within_the_radius_has_another_class(clusters):
    features, table = random_case(9, 4, clusters, n=60)
    found = prototypes.centroid_certificate(features, table)
    generator = np.random.default_rng(1)
    directions = generator.normal(size=(4000, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for feature, label, radius in zip(features, found.label, found.feature_radius, strict=True):
        points = feature + radius * directions
        assert (nearest_label(points, table) == label).all()


def test_the_same_check_refutes_an_inflated_radius_and_the_farthest_rival():
    """Without the minimum over rivals, or with a radius a tenth too large, points are found."""
    features, table = random_case(5, 3, 2, n=60)
    found = prototypes.centroid_certificate(features, table)
    refuted = 0
    for feature, label, radius, rival in zip(
        features, found.label, found.feature_radius, found.rival, strict=True
    ):
        way = shortest_way(feature, table, rival)
        point = feature + 1.1 * radius * way / np.linalg.norm(way)
        refuted += nearest_label(point[None], table)[0] != label
    assert refuted == len(features)


def test_a_lipschitz_constant_halved_on_purpose_is_caught():
    features, table = random_case(2, 5, 2)
    scale = 3.0  # the encoder x -> 3 x has this constant
    inputs = features / scale
    sound = prototypes.centroid_certificate(features, table, lipschitz=scale)
    halved = prototypes.centroid_certificate(features, table, lipschitz=scale / 2)
    for radius, expected in ((sound.radius, 0), (halved.radius, len(inputs))):
        ways = np.stack(
            [shortest_way(z, table, j) for z, j in zip(features, sound.rival, strict=True)]
        )
        attacked = inputs + radius[:, None] * ways / np.linalg.norm(ways, axis=1, keepdims=True)
        changed = nearest_label(scale * attacked, table) != sound.label
        assert changed.sum() == expected
    np.testing.assert_allclose(sound.radius, sound.feature_radius / scale)


def test_several_centres_gain_over_the_nearest_one():
    features, table = random_case(3, 6, 5, n=200)
    found = prototypes.centroid_certificate(features, table).feature_radius
    distances = np.linalg.norm(features[:, None] - table.centres[None], axis=2)
    nearest = distances.argmin(axis=1)
    simple = np.full(len(features), np.inf)
    for row, own in enumerate(nearest):
        for rival in np.flatnonzero(table.labels != table.labels[own]):
            gap = np.linalg.norm(table.centres[rival] - table.centres[own])
            value = (distances[row, rival] ** 2 - distances[row, own] ** 2) / (2 * gap)
            simple[row] = min(simple[row], value)
    assert (found >= simple - 1e-9).all()
    assert (found > simple * 1.01).sum() >= 5


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e7])
def test_rounding_is_paid_for_far_from_the_origin(offset):
    """On the line the boundary is known: the exact distance is never exceeded."""
    table = prototypes.Prototypes(np.array([[offset], [offset + 3.0]]), np.array([0, 1]))
    features = offset + np.linspace(-2, 1.4999, 50)[:, None]
    found = prototypes.centroid_certificate(features, table)
    # Sums of such numbers are exact, so this distance has one rounding at most.
    exact = (offset + 1.5) - features[:, 0]
    assert (found.feature_radius <= exact).all()
    np.testing.assert_allclose(found.feature_radius, exact, atol=1e-6 + 1e-8 * offset)


@pytest.mark.parametrize(("count", "accuracy"), [(3, 1e-8), (6, 2e-3)])
def test_dual_bound_holds_for_a_single_sweep_and_is_near_exact_in_the_end(
    monkeypatch, count, accuracy
):
    """Six half-spaces in three dimensions are dependent, and the ascent alone is slow there."""
    generator = np.random.default_rng(4)
    normals = generator.normal(size=(40, count, 3))
    offsets = np.abs(generator.normal(size=(40, count)))
    grams = normals @ normals.swapaxes(1, 2)
    best = _half_spaces.distance_to_intersection_lower(grams, offsets, gram_error=1e-14)
    monkeypatch.setattr(_half_spaces, "_SWEEPS", 1)
    monkeypatch.setattr(_half_spaces, "_ROUNDS", 1)
    early = _half_spaces.distance_to_intersection_lower(grams, offsets)
    feasible = 0
    for a, g, low, high in zip(normals, offsets, early, best, strict=True):
        system = np.vstack([a.T, g])
        multipliers, residual = nnls(system, np.append(np.zeros(3), 1.0), maxiter=10_000)
        if residual < 1e-8:
            continue  # an empty intersection: any bound holds
        feasible += 1
        difference = system @ multipliers - np.append(np.zeros(3), 1.0)
        exact = np.linalg.norm(difference[:-1] / difference[-1])
        assert low <= exact * (1 + 1e-9)
        assert high == pytest.approx(exact, rel=accuracy)
        assert high <= exact * (1 + 1e-9)
    assert feasible > 10


@pytest.mark.parametrize("clusters", [1, 3])
def test_soft_radius_is_never_refuted_by_ascent_and_is_exact_for_one_centre(clusters):
    features, table = random_case(8, 4, clusters, n=40)
    variance = 0.7
    found = prototypes.soft_certificate(features, table, variance=variance)

    def scores(points):
        # 40 x k x d differences, in float64.
        squares = ((points[:, None] - np.asarray(table.centres)[None]) ** 2).sum(axis=2)
        weights = np.exp(-squares / (2 * variance))
        return np.log(
            np.stack([weights[:, table.labels == c].sum(axis=1) for c in range(3)], axis=1)
        )

    np.testing.assert_array_equal(found.label, scores(features).argmax(axis=1))
    generator = np.random.default_rng(6)
    for _ in range(300):
        directions = generator.normal(size=features.shape)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        moved = features + found.feature_radius[:, None] * directions
        assert (scores(moved).argmax(axis=1) == found.label).all()
    if clusters == 1:
        hard = prototypes.centroid_certificate(features, table)
        np.testing.assert_allclose(found.feature_radius, hard.feature_radius, rtol=1e-8)


def test_soft_rule_over_the_nearest_centres_only_has_no_lipschitz_constant():
    """The published rule, over the top centres, jumps: the check would refute any radius."""
    centres = np.array([[0.0], [1.0], [2.2], [-2.0]])
    labels = np.array([0, 1, 1, 0])

    def top_two_scores(point):
        squares = (point - centres[:, 0]) ** 2
        kept = np.argsort(squares)[:2]
        return np.array([np.exp(-squares[kept][labels[kept] == c]).sum() for c in (0, 1)])

    switch = (0.0 + 2.2) / 2  # where the second nearest centre changes class
    jump = np.abs(top_two_scores(switch + 1e-9) - top_two_scores(switch - 1e-9)).max()
    assert jump > 0.1
    table = prototypes.Prototypes(centres, labels)
    around = np.array([[switch - 1e-6], [switch + 1e-6]])
    smooth = np.asarray(
        prototypes.soft_scores(jnp.asarray(around), table, num_classes=2, variance=0.5)
    )
    assert np.abs(smooth[0] - smooth[1]).max() < 1e-4


def test_large_batches_are_certified_in_parts(monkeypatch):
    features, table = random_case(12, 3, 3, n=50)
    whole = prototypes.centroid_certificate(features, table)
    monkeypatch.setattr(_host, "_ROWS", 7)
    parts = prototypes.centroid_certificate(features, table)
    np.testing.assert_array_equal(whole.label, parts.label)
    np.testing.assert_allclose(whole.feature_radius, parts.feature_radius, rtol=1e-12)


@pytest.mark.parametrize(
    ("centres", "labels", "features", "message"),
    [
        (np.zeros((2, 3)), [0, 1], np.zeros((4, 3)), "equal centres 0 and 1 of classes 0 and 1"),
        (np.eye(3), [1, 1, 1], np.zeros((4, 3)), "at least two classes, got class 1 only"),
        (np.eye(3), [0, 1, 2], np.zeros((4, 2)), r"features must have shape \[n, 3\]"),
        (np.eye(3), [0, 1], np.zeros((4, 3)), r"labels must have shape \(3,\)"),
        (np.zeros((0, 3)), [], np.zeros((4, 3)), r"centres must have shape \[k, d\]"),
        (np.full((2, 3), np.nan), [0, 1], np.zeros((4, 3)), "centres must be finite"),
        (np.eye(3), [0, 1, 2], np.full((4, 3), np.inf), "features must be finite"),
    ],
)
def test_bad_input_is_named(centres, labels, features, message):
    table = prototypes.Prototypes(centres, np.array(labels, int))
    with pytest.raises(ValueError, match=message):
        prototypes.centroid_certificate(features, table)
    with pytest.raises(ValueError, match=message):
        prototypes.soft_certificate(features, table, variance=1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_settings_must_be_positive(value):
    features, table = random_case(1, 2, 1)
    with pytest.raises(ValueError, match="lipschitz must be finite and above 0"):
        prototypes.centroid_certificate(features, table, lipschitz=value)
    with pytest.raises(ValueError, match="variance must be finite and above 0"):
        prototypes.soft_certificate(features, table, variance=value)


def test_types_that_do_not_fit_are_named():
    features, table = random_case(1, 2, 1)
    with pytest.raises(TypeError, match="features must be floating point, got int64"):
        prototypes.centroid_certificate(np.ones((4, 2), np.int64), table)
    with pytest.raises(TypeError, match=r"prototypes.labels must be integers, got float64"):
        prototypes.centroid_certificate(features, table._replace(labels=table.labels / 2))


def test_classes_of_unequal_size_and_centres_that_nearly_coincide():
    """Three, two and one centre; two of different classes are 1e-9 apart, far from the others."""
    generator = np.random.default_rng(11)
    centres = generator.normal(size=(6, 3))
    centres[5] = centres[0] + [1e-9, 0, 0]
    table = prototypes.Prototypes(centres, np.array([0, 0, 1, 2, 1, 1]))
    features = generator.normal(size=(40, 3))
    found = prototypes.centroid_certificate(features, table)
    np.testing.assert_array_equal(found.label, nearest_label(features, table))
    exact = np.array([
        min(
            np.linalg.norm(shortest_way(feature, table, other))
            for other in np.flatnonzero(table.labels != label)
        )
        for feature, label in zip(features, found.label, strict=True)
    ])  # fmt: skip
    # The oracle itself loses digits to the two centres.
    assert (found.feature_radius <= exact + 1e-5).all()
    assert np.median(found.feature_radius / exact) > 1 - 1e-6


def test_duplicate_centres_of_one_class_do_no_harm():
    features, table = random_case(7, 3, 2)
    doubled = prototypes.Prototypes(
        np.concatenate([table.centres, table.centres]), np.concatenate([table.labels] * 2)
    )
    np.testing.assert_allclose(
        prototypes.centroid_certificate(features, doubled).feature_radius,
        prototypes.centroid_certificate(features, table).feature_radius,
        rtol=1e-7,
    )
