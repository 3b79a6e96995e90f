"""The tropical attack: what it finds is true, near the nearest, and matched by a change of `w1`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxcert import tropical

HIDDEN, CLASSES, BATCH = 8, 3, 12
SETTINGS = {"bounds": (-1.0, 1.0), "confidence": 3.0}
# All three classes win somewhere in the box.
SEEDS = (2, 3, 5)


def random_network(seed):
    generator = np.random.default_rng(seed)
    w1, b1 = generator.normal(size=(HIDDEN, 2)), 0.4 * generator.normal(size=HIDDEN)
    w2, b2 = generator.normal(size=(CLASSES, HIDDEN)), 0.1 * generator.normal(size=CLASSES)
    return tuple(value.astype(np.float32) for value in (w1, b1, w2, b2))


def scores(network, points):
    w1, b1, w2, b2 = (value.astype(np.float64) for value in network)
    return np.maximum(points @ w1.T + b1, 0) @ w2.T + b2


def points_and_labels(seed, network):
    points = np.random.default_rng(seed + 100).uniform(-1, 1, (BATCH, 2)).astype(np.float32)
    return points, scores(network, points).argmax(axis=1).astype(np.int32)


def exact_distances(network, points):
    """Distance of each point to the exact boundary inside the box."""
    found = tropical.boundary_segments(*network, classes=None, box=[[-1.0, -1.0], [1.0, 1.0]])
    along = found.end - found.start
    spokes = points[:, None] - found.start
    share = np.sum(spokes * along, axis=2) / np.sum(along**2, axis=1)
    nearest = found.start + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1)


def test_success_is_true_and_near_the_nearest():
    """No attack gets below the distance to the exact boundary, and this one gets near it."""
    ratios = []
    for seed in SEEDS:
        network = random_network(seed)
        points, labels = points_and_labels(seed, network)
        found = tropical.tropical_attack(*network, points, labels, **SETTINGS)
        moved = np.asarray(found.inputs, np.float64)
        nearest = exact_distances(network, points)
        assert np.all((moved >= -1) & (moved <= 1))
        for place in range(BATCH):
            assert found.success[place]
            values = scores(network, moved[place][None])[0]
            # The found points lie on the boundary but for rounding in single precision.
            others = np.delete(values, labels[place])
            assert others.max() > values[labels[place]] - 1e-5
            length = np.linalg.norm(moved[place] - points[place])
            np.testing.assert_allclose(found.distance[place], length, rtol=1e-4, atol=1e-6)
        distance = np.asarray(found.distance)
        assert np.all(distance >= nearest - 1e-5)
        ratios.append(distance / nearest)
    assert np.median(np.concatenate(ratios)) < 1.02
    assert np.quantile(np.concatenate(ratios), 0.8) < 1.3


def test_the_change_of_weights_does_what_the_perturbation_does():
    network = random_network(3)
    points, labels = points_and_labels(3, network)
    found = tropical.tropical_attack(*network, points, labels, **SETTINGS)
    change = tropical.weight_perturbation(network[0], points, found.inputs - points)
    shifted = np.einsum("bhd,bd->bh", network[0][None] + np.asarray(change), points)
    np.testing.assert_allclose(shifted, found.inputs @ network[0].T, atol=1e-5)
    # D2 by its definition, over all ordered pairs of classes.
    weights = np.asarray(network[2])
    expected = np.zeros(BATCH)
    for i in range(CLASSES):
        for j in range(CLASSES):
            if i != j:
                scale = np.maximum(weights[i], 0) + np.maximum(-weights[j], 0)
                expected += np.sum((scale[:, None] * np.asarray(change)) ** 2, axis=(1, 2)) / 2
    done = np.asarray(found.success)
    np.testing.assert_allclose(found.generator_change[done], expected[done], rtol=1e-4)


def test_the_penalty_on_generators_lowers_their_change():
    totals = []
    for penalty in (0.0, 30.0):
        changes = []
        for seed in SEEDS:
            network = random_network(seed)
            found = tropical.tropical_attack(
                *network, *points_and_labels(seed, network), generator_penalty=penalty, **SETTINGS
            )
            changes.append(np.asarray(found.generator_change))
        totals.append(np.median(np.concatenate(changes)))
    assert totals[1] < totals[0]


def test_limits_on_both_changes_are_kept():
    network = random_network(2)
    points, labels = points_and_labels(2, network)
    free = tropical.tropical_attack(*network, points, labels, **SETTINGS)
    limited = tropical.tropical_attack(
        *network, points, labels, max_change=0.2, max_weight_change=0.5, **SETTINGS
    )
    assert np.sum(limited.success) < np.sum(free.success)
    assert np.abs(np.asarray(limited.inputs) - points).max() <= 0.2 + 1e-6
    change = tropical.weight_perturbation(
        network[0], points, limited.inputs - points, max_weight_change=0.5
    )
    reached = np.asarray(change)[np.asarray(limited.success)]
    assert reached.size > 0
    assert np.abs(reached).max() <= 0.5


def test_a_misclassified_input_stays():
    network = random_network(2)
    points, labels = points_and_labels(2, network)
    found = tropical.tropical_attack(*network, points, (labels + 1) % CLASSES, **SETTINGS)
    np.testing.assert_array_equal(found.inputs, points)
    np.testing.assert_array_equal(found.distance, np.zeros(BATCH))


def test_a_network_of_one_answer_is_not_fooled():
    network = (*random_network(2)[:2], np.zeros((CLASSES, HIDDEN), np.float32))
    bias = np.array([1, 0, 0], np.float32)
    points, _ = points_and_labels(2, random_network(2))
    found = tropical.tropical_attack(*network, bias, points, np.zeros(BATCH, np.int32), **SETTINGS)
    assert not np.any(found.success)
    assert np.all(np.isinf(found.distance))
    assert np.all(np.isinf(found.generator_change))


def test_the_origin_has_no_matching_weights():
    network = random_network(2)
    origin = np.zeros((1, 2), np.float32)
    label = scores(network, origin).argmax(axis=1)
    found = tropical.tropical_attack(*network, origin, label, **SETTINGS)
    assert found.success[0]
    assert np.isinf(found.generator_change[0])


def test_one_program_for_many_networks_and_settings():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(network, points, labels):
        return tropical.tropical_attack(*network, points, labels, **SETTINGS)

    for seed in SEEDS[:2]:
        network = random_network(seed)
        points, labels = points_and_labels(seed, network)
        alone = tropical.tropical_attack(*network, points, labels, **SETTINGS)
        for one, other in zip(alone, run(network, points, labels), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_networks_of_one_shape_are_attacked_at_once():
    networks = [random_network(seed) for seed in SEEDS]
    points, labels = zip(*map(points_and_labels, SEEDS, networks), strict=True)
    stacked = [np.stack(arrays) for arrays in zip(*networks, strict=True)]

    def run(*arguments):
        return tropical.tropical_attack(*arguments, **SETTINGS)

    together = jax.vmap(run)(*stacked, np.stack(points), np.stack(labels))
    for place, network in enumerate(networks):
        alone = run(*network, points[place], labels[place])
        np.testing.assert_array_equal(together.success[place], alone.success)
        np.testing.assert_allclose(together.distance[place], alone.distance, rtol=0.02, atol=1e-4)


def row_by_root(x, shift, limit):
    """The clipped row whose product with x is the shift, by root finding."""

    def missing(nu):
        return np.clip(nu * x, -limit, limit) @ x - shift

    end = 2 * limit / np.min(np.abs(x[x != 0])) * np.sign(shift)
    return np.clip(optimize.brentq(missing, 0, end, xtol=1e-14) * x, -limit, limit)


def test_least_change_within_a_limit():
    generator = np.random.default_rng(0)
    w1, x = generator.normal(size=(5, 4)), generator.normal(size=(1, 4))
    x[0, 1] = 0.0
    shift = 0.3 * generator.normal(size=(1, 4))
    with jax.enable_x64(True):
        free = np.asarray(tropical.weight_perturbation(w1, x, shift))[0]
        limit = 0.8 * np.abs(free).max()
        clipped = np.asarray(tropical.weight_perturbation(w1, x, shift, max_weight_change=limit))[0]
        slope = jax.grad(lambda eta: jnp.sum(tropical.weight_perturbation(w1, x, eta) ** 2))(shift)
    np.testing.assert_allclose(free, np.outer(w1 @ shift[0], x[0]) / (x[0] @ x[0]), rtol=1e-12)
    np.testing.assert_allclose(slope[0], 2 * w1.T @ (w1 @ shift[0]) / (x[0] @ x[0]), rtol=1e-10)
    wanted = w1 @ shift[0]
    possible = np.abs(wanted) <= limit * np.abs(x[0]).sum()
    assert np.any(possible & (np.abs(clipped) >= limit * (1 - 1e-12)).any(axis=1))
    for row, goal, can in zip(clipped, wanted, possible, strict=True):
        if can:
            np.testing.assert_allclose(row, row_by_root(x[0], goal, limit), atol=1e-10)
        else:
            assert np.all(np.isnan(row))
    with jax.enable_x64(True):
        tight = tropical.weight_perturbation(
            w1, x, shift, max_weight_change=0.5 * np.abs(wanted).max() / np.abs(x[0]).sum()
        )
    assert np.all(np.isnan(tight[0][np.abs(wanted).argmax()]))


NETWORK = random_network(2)
POINTS, LABELS = points_and_labels(2, NETWORK)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": POINTS[0]}, ValueError, "inputs must have a leading batch"),
        ({"inputs": np.zeros((BATCH, 3), np.float32)}, ValueError, "inputs must have shape"),
        ({"inputs": POINTS * 9}, ValueError, "inputs must lie within bounds"),
        ({"labels": LABELS[:3]}, ValueError, "labels must have shape"),
        ({"labels": LABELS + 7}, ValueError, "labels must lie in"),
        ({"labels": LABELS.astype(float)}, TypeError, "labels must be integers"),
        ({"bounds": (1.0, 0.0)}, ValueError, "bounds must be"),
        ({"confidence_decay": 1.5}, ValueError, "confidence_decay must lie"),
        ({"confidence": -1.0}, ValueError, "confidence must be"),
        ({"generator_penalty": np.nan}, ValueError, "generator_penalty must be"),
        ({"link": 0.0}, ValueError, "link must be above 0"),
        ({"max_change": 0.0}, ValueError, "max_change must be above 0"),
        ({"step": np.inf}, ValueError, "step must be above 0"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"w1": np.full((HIDDEN, 2), np.inf)}, ValueError, "w1 must be finite"),
    ],
)
def test_bad_input(change, error, message):
    arguments = dict(zip(("w1", "b1", "w2", "b2"), NETWORK, strict=True))
    arguments |= {"inputs": POINTS, "labels": LABELS, **SETTINGS}
    with pytest.raises(error, match=message):
        tropical.tropical_attack(**(arguments | change))


def test_bad_weight_perturbation():
    with pytest.raises(ValueError, match="w1, inputs and perturbations"):
        tropical.weight_perturbation(np.ones((2, 3)), np.ones((1, 3)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="max_weight_change"):
        tropical.weight_perturbation(
            np.ones((2, 3)), np.ones((1, 3)), np.ones((1, 3)), max_weight_change=0.0
        )
