import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import attacks, smoothing

CLASSES, DIMENSION = 4, 6


@pytest.fixture
def key():
    return jax.random.key(11)


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(size=(CLASSES, DIMENSION)).astype(np.float32)


def matrix_scores(matrix, x):
    return x @ matrix.T


@pytest.fixture
def linear(weights):
    return jax.tree_util.Partial(matrix_scores, jnp.asarray(weights))


@pytest.fixture
def inputs():
    return jnp.asarray(np.random.default_rng(1).normal(size=(40, DIMENSION)), jnp.float32)


def boundary_distances(weights, inputs, norm):
    """Exact distances of a linear classifier in float64: the nearest of its hyperplanes."""
    weights, inputs = np.float64(weights), np.float64(inputs)
    scores = inputs @ weights.T
    labels = scores.argmax(axis=1)
    dual = 2 if norm == "l2" else 1
    distances = np.full(len(inputs), np.inf)
    for row, label in enumerate(labels):
        for other in set(range(CLASSES)) - {label}:
            gap = scores[row, label] - scores[row, other]
            slope = np.linalg.norm(weights[label] - weights[other], ord=dual)
            distances[row] = min(distances[row], gap / slope)
    return labels, distances


def float64_norms(found, inputs, norm):
    moved = (np.float64(found) - np.float64(inputs)).reshape(len(inputs), -1)
    return np.linalg.norm(moved, axis=1, ord=2 if norm == "l2" else np.inf)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_pgd_succeeds_just_beyond_the_exact_distance_and_never_within(
    key, linear, weights, inputs, norm
):
    labels, exact = boundary_distances(weights, inputs, norm)
    settings = {"norm": norm, "num_steps": 60, "objective": "multi_targeted"}
    beyond = attacks.pgd(key, linear, inputs, labels, radius=1.02 * exact, **settings)
    within = attacks.pgd(key, linear, inputs, labels, radius=(1 - 1e-5) * exact, **settings)
    assert beyond.success.all()
    assert not within.success.any()
    assert np.isinf(within.distance).all()
    assert (float64_norms(beyond.inputs, inputs, norm) >= exact * (1 - 1e-5)).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
def test_pgd_stays_in_the_ball_whatever_rounding_does(key, linear, inputs, norm, offset):
    far = inputs + offset
    labels = linear(far).argmax(axis=1)
    for radius in (1e-3, 0.5):
        found = attacks.pgd(
            key, linear, far, labels, radius=radius, norm=norm, num_steps=10, num_restarts=3
        )
        assert float64_norms(found.inputs, far, norm).max() <= radius


def test_without_room_for_rounding_a_perturbation_leaves_the_ball(key, linear, inputs, monkeypatch):
    monkeypatch.setattr(attacks._pgd, "_room_for_rounding", lambda inputs, radii, norm: radii)
    jax.clear_caches()
    far = inputs + 1000
    found = attacks.pgd(key, linear, far, linear(far).argmax(axis=1), radius=0.01, num_steps=10)
    assert float64_norms(found.inputs, far, "l2").max() > 0.01
    jax.clear_caches()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_reaches_the_exact_distance_of_a_linear_classifier(linear, weights, inputs, norm):
    labels, exact = boundary_distances(weights, inputs, norm)
    found = attacks.deepfool(linear, inputs, labels, norm=norm)
    assert found.success.all()
    np.testing.assert_allclose(found.distance, exact, rtol=1e-4, atol=2e-6)
    # Another score is the largest, but for the rounding of another compilation.
    scores, rows = np.array(linear(found.inputs)), np.arange(len(labels))
    own = scores[rows, labels]
    scores[rows, labels] = -np.inf
    assert (scores.max(axis=1) >= own - 1e-5).all()


def curved(x):
    """Inside the unit sphere the answer is 0; the boundary is curved."""
    return jnp.stack([1 - jnp.sum(x**2, axis=1), jnp.sum(x**2, axis=1) - 1], axis=1)


def test_deepfool_follows_a_curved_boundary():
    directions = np.random.default_rng(3).normal(size=(20, 5))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inputs = jnp.asarray(0.4 * directions, jnp.float32)
    found = attacks.deepfool(curved, inputs, jnp.zeros(20, int))
    np.testing.assert_allclose(found.distance, 0.6, atol=2e-3)


def test_bounds_hold_and_can_make_an_attack_impossible(key):
    def first_coordinate(x):
        return jnp.stack([x[:, 0] + 0.1, -x[:, 0] - 0.1], axis=1)

    inputs = jnp.array([[0.05, 0.5], [0.6, 0.9]])
    labels = jnp.array([0, 0])
    free = attacks.pgd(key, first_coordinate, inputs, labels, radius=1.0)
    boxed = attacks.pgd(key, first_coordinate, inputs, labels, radius=1.0, bounds=(0, 1))
    assert free.success.all()
    assert not boxed.success.any()
    assert boxed.inputs.min() >= 0
    assert boxed.inputs.max() <= 1
    near = attacks.deepfool(first_coordinate, inputs, labels, bounds=(0, 1))
    assert not near.success.any()


@pytest.mark.parametrize("objective", ["margin", "cross_entropy", "multi_targeted"])
def test_an_input_that_is_misclassified_counts_as_success(key, linear, inputs, objective):
    wrong = (linear(inputs).argmax(axis=1) + 1) % CLASSES
    found = attacks.pgd(key, linear, inputs, wrong, radius=0.0, num_steps=2, objective=objective)
    assert found.success.all()
    np.testing.assert_array_equal(found.distance, 0)
    assert attacks.deepfool(linear, inputs, wrong).distance.max() == 0


def test_restarts_find_what_a_flat_start_hides(key):
    def plateau(x):
        """No gradient within 0.5 of the origin, another answer beyond 0.8."""
        length = jnp.sqrt(jnp.sum(x**2, axis=1) + 1e-12)
        score = 0.3 - jax.nn.relu(length - 0.5)
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    inputs, labels = jnp.zeros((8, 3)), jnp.zeros(8, int)
    once = attacks.pgd(key, plateau, inputs, labels, radius=1.0)
    often = attacks.pgd(key, plateau, inputs, labels, radius=1.0, num_restarts=12)
    assert not once.success.any()
    assert often.success.all()


def test_scores_that_are_not_finite_are_no_success(key):
    def breaks(x):
        return jnp.stack([jnp.ones(len(x)), jnp.where(x[:, 0] > 0.1, jnp.nan, x[:, 0])], axis=1)

    inputs, labels = jnp.zeros((3, 2)), jnp.zeros(3, int)
    found = attacks.pgd(key, breaks, inputs, labels, radius=1.0, num_restarts=3)
    assert not found.success.any()
    assert not attacks.deepfool(breaks, inputs, labels).success.any()


def test_shrink_keeps_the_answer_and_gains_distance(key, linear, weights, inputs):
    labels, exact = boundary_distances(weights, inputs, "l2")
    far = attacks.pgd(key, linear, inputs, labels, radius=3 * exact, num_steps=20)
    near = attacks.shrink(linear, inputs, far.inputs, labels)
    assert near.success.all()
    assert (near.distance <= far.distance).all()
    assert (near.distance >= exact * (1 - 1e-5)).all()
    failed = attacks.shrink(linear, inputs, inputs, labels)
    assert not failed.success.any()


def test_smoothed_attack_agrees_with_the_certificate_of_a_linear_classifier(key):
    """Smoothing a half-space with Gaussian noise leaves it, so the radius is the distance."""
    halves = jax.tree_util.Partial(lambda x: 20 * jnp.stack([x[:, 0], -x[:, 0]], axis=1))
    noise = smoothing.gaussian(0.5)
    inputs = jnp.array([[0.2, 0.1], [0.4, -0.3], [0.6, 0.0]])
    exact = np.array([0.2, 0.4, 0.6])
    soft = attacks.smoothed_scores(key, halves, noise=noise, num_samples=256, shape=(2,))
    labels = jnp.zeros(3, int)
    beyond = attacks.pgd(key, soft, inputs, labels, radius=1.5 * exact)
    answers = smoothing.predict(
        jax.random.fold_in(key, 1), halves, beyond.inputs, noise=noise, num_classes=2
    )
    assert (answers.label == 1).all()
    certificate = smoothing.certify(
        key, halves, inputs, noise=noise, num_classes=2, num_samples=2000
    )
    within = attacks.pgd(key, soft, inputs, labels, radius=certificate.radius)
    answers = smoothing.predict(
        jax.random.fold_in(key, 2), halves, within.inputs, noise=noise, num_classes=2
    )
    assert (answers.label != 1).all()


def test_smoothed_scores_are_log_probabilities_with_a_gradient(key):
    network = jax.tree_util.Partial(lambda x: jnp.sin(3 * x))
    soft = attacks.smoothed_scores(
        key, network, noise=smoothing.gaussian(0.3), num_samples=32, shape=(5,)
    )
    inputs = jax.random.normal(key, (7, 5))
    np.testing.assert_allclose(jnp.exp(soft(inputs)).sum(axis=1), 1, atol=1e-5)
    # Row by row: another batch gives the same answers.
    np.testing.assert_allclose(soft(inputs[2:4]), soft(inputs)[2:4], atol=1e-6)
    gradient = jax.grad(lambda x: soft(x)[0, 1])(inputs)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0]).max() > 0
    assert np.abs(gradient[1:]).max() == 0


def test_one_trace_serves_other_weights_radii_and_keys(inputs, weights):
    labels = jnp.zeros(len(inputs), int)

    @chex.assert_max_traces(n=1)
    def attack(key, classify, radii):
        return attacks.pgd(key, classify, inputs, labels, radius=radii, num_steps=3).success

    chex.clear_trace_counter()
    for seed in range(4):
        classify = jax.tree_util.Partial(matrix_scores, jnp.asarray(weights + seed))
        jax.jit(attack)(jax.random.key(seed), classify, jnp.full(40, 0.1 + seed))


def test_attacks_compose_with_jit_and_vmap(key, linear, inputs):
    labels = linear(inputs).argmax(axis=1)

    def success(radius):
        return attacks.pgd(key, linear, inputs, labels, radius=radius, num_steps=8).success.mean()

    rates = jax.jit(jax.vmap(success))(jnp.array([0.01, 0.3, 10.0]))
    assert rates[0] <= rates[1] <= rates[2]
    assert rates[2] == 1
    jitted = jax.jit(lambda x: attacks.deepfool(linear, x, labels).distance)(inputs)
    plain = attacks.deepfool(linear, inputs, labels).distance
    np.testing.assert_allclose(jitted, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l7"}, "norm must be one of l2, linf, got 'l7'"),
        ({"objective": "hinge"}, "objective must be one of"),
        ({"radius": -1.0}, "radius must be finite and at least 0"),
        ({"radius": jnp.ones(3)}, "radius must be a scalar or of shape"),
        ({"step_size": float("nan")}, "step_size must be finite"),
        ({"num_steps": 0}, "num_steps must lie in"),
        ({"num_restarts": 0}, "num_restarts must lie in"),
        ({"bounds": (1, 0)}, "bounds must be"),
        ({"bounds": (0, 0.5)}, "inputs must lie within bounds"),
        ({"labels": jnp.zeros(3, int)}, "labels must have shape"),
        ({"labels": jnp.full(40, CLASSES)}, "labels must lie in"),
        ({"classify": lambda x: x[:, 0]}, "classify must return scores"),
        ({"inputs": jnp.full((40, DIMENSION), jnp.nan)}, "inputs must be finite"),
    ],
)
def test_bad_input_is_named(key, linear, inputs, change, message):
    settings = {"classify": linear, "inputs": inputs, "labels": jnp.zeros(40, int), "radius": 0.1}
    settings |= change
    arrays = [settings.pop(name) for name in ("classify", "inputs", "labels")]
    with pytest.raises(ValueError, match=message):
        attacks.pgd(key, *arrays, **settings)


def test_types_are_named(key, linear, inputs):
    with pytest.raises(TypeError, match="labels must be integers"):
        attacks.deepfool(linear, inputs, jnp.zeros(40))
    with pytest.raises(TypeError, match="key must be a typed key"):
        attacks.pgd(jax.random.PRNGKey(0), linear, inputs, jnp.zeros(40, int), radius=1.0)
    with pytest.raises(ValueError, match="perturbed must have the shape"):
        attacks.shrink(linear, inputs, inputs[:3], jnp.zeros(40, int))
    with pytest.raises(ValueError, match="one scale"):
        attacks.smoothed_scores(
            key, linear, noise=smoothing.gaussian(jnp.ones(3)), num_samples=4, shape=(2,)
        )
