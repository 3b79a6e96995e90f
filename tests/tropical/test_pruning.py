"""Tropical pruning against an oracle, the paper's method, and itself under transformations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxcert import tropical
from jaxcert.tropical import _shrinkage

HIDDEN, INPUTS, ROUNDS = 6, 3, 60


def random_network(seed, classes, *, hidden=HIDDEN, inputs=INPUTS):
    """Weights of which some are 0, as after an earlier pruning."""
    generator = np.random.default_rng(seed)
    w2 = generator.normal(size=(classes, hidden)) * (
        generator.uniform(size=(classes, hidden)) < 0.7
    )
    w1 = generator.normal(size=(hidden, inputs))
    return w1, generator.normal(size=hidden), w2, np.zeros(classes)


def generators(w1, b1, w2):
    """`G_ij` for all pairs `i != j`: `[pairs, h, d + 1]`."""
    rows = np.concatenate([w1, b1[:, None]], axis=1)
    classes = w2.shape[0]
    return np.stack(
        [
            (np.maximum(w2[i], 0) + np.maximum(-w2[j], 0))[:, None] * rows
            for i in range(classes)
            for j in range(classes)
            if i != j
        ]
    )


def objective_by_definition(network, pruned, penalty):
    old, new = generators(*network[:3]), generators(*pruned[:3])
    penalties = np.broadcast_to(penalty, (2,) if len(old) == 2 else ()).reshape(-1, 1)
    lengths = np.sqrt((new**2).sum(axis=2))
    return ((new - old) ** 2).sum() / 2 + (penalties * lengths).sum()


def least_objective(network, penalty):
    """The minimum of the convex problem of each neuron, by non-negative least squares."""
    w1, b1, w2, _ = network
    classes, total = w2.shape[0], 0.0
    for neuron in range(len(w1)):
        length = np.sqrt((w1[neuron] ** 2).sum() + b1[neuron] ** 2)
        rows, right, constant = [], [], 0.0
        for i in range(classes):
            for j in range(classes):
                if i != j:
                    wanted = (max(w2[i, neuron], 0) + max(-w2[j, neuron], 0)) * length
                    row = np.zeros(2 * classes)
                    row[i] = row[classes + j] = 1
                    rows.append(row)
                    right.append(wanted - penalty)
                    constant += (wanted**2 - (wanted - penalty) ** 2) / 2
        _, residual = optimize.nnls(np.array(rows), np.array(right))
        total += residual**2 / 2 + constant
    return total


def alternate_by_definition(network, penalty, rounds):
    """The paper's method with whole matrices, for two classes."""
    w1, b1, w2, _ = network
    rows = np.concatenate([w1, b1[:, None]], axis=1)
    first, second = generators(w1, b1, w2)
    v = np.maximum(w2[0], 0) + np.maximum(-w2[1], 0)
    w = np.maximum(w2[1], 0) + np.maximum(-w2[0], 0)
    for _ in range(rounds):
        square = v**2 + w**2
        safe = np.where(square > 0, square, 1)
        mean = (v[:, None] * first + w[:, None] * second) / safe[:, None]
        length = np.linalg.norm(mean, axis=1)
        shrunk = penalty * (v + w) / (safe * np.where(length > 0, length, 1))
        rows = np.maximum(1 - shrunk, 0)[:, None] * mean
        length = np.linalg.norm(rows, axis=1)
        safe = np.where(length > 0, length, 1)
        alive = length > 0
        v = alive * np.maximum((rows * first).sum(axis=1) / safe**2 - penalty / safe, 0)
        w = alive * np.maximum((rows * second).sum(axis=1) / safe**2 - penalty / safe, 0)
    new = np.stack([v[:, None] * rows, w[:, None] * rows])
    old = np.stack([first, second])
    return ((new - old) ** 2).sum() / 2 + penalty * np.linalg.norm(new, axis=2).sum()


def prune_many(*arguments, method):
    def one(w1, b1, w2, b2, penalty):
        return tropical.prune(w1, b1, w2, b2, penalty=penalty, method=method, num_rounds=ROUNDS)

    return jax.vmap(one)(*arguments)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_closed_form_is_the_minimum_and_never_above_the_alternation(classes):
    """The minimum by non-negative least squares, on 40 networks a number of classes."""
    penalties = np.random.default_rng(classes).uniform(0, 4, size=40)
    networks = [random_network(seed, classes) for seed in range(40)]
    gaps = []
    with jax.enable_x64(True):
        many = [np.stack(arrays) for arrays in zip(*networks, strict=True)]
        closed_all, turns_all = (
            jax.tree.map(np.asarray, prune_many(*many, penalties, method=method))
            for method in ("closed_form", "alternating")
        )
        for place, (network, penalty) in enumerate(zip(networks, penalties, strict=True)):
            closed, turns = (
                jax.tree.map(lambda array: array[place], both)  # noqa: B023
                for both in (closed_all, turns_all)
            )
            assert closed.objective.dtype == np.float64
            least = least_objective(network, penalty)
            np.testing.assert_allclose(closed.objective, least, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(
                closed.objective, objective_by_definition(network, closed, penalty), rtol=1e-11
            )
            np.testing.assert_allclose(
                turns.objective, objective_by_definition(network, turns, penalty), rtol=1e-10
            )
            gaps.append(float(turns.objective) / float(closed.objective) - 1)
    assert min(gaps) > -1e-12
    # The alternation stalls: it is strictly worse on some.
    assert max(gaps) > 1e-6


def test_two_classes_with_a_penalty_each():
    """Soft-thresholding of the rows of each zonotope, by definition."""
    network, penalty = random_network(3, 2), np.array([0.4, 1.1])
    with jax.enable_x64(True):
        pruned = tropical.prune(*network, penalty=penalty)
        turns = tropical.prune(*network, penalty=penalty, method="alternating")
    old, new = generators(*network[:3]), generators(*pruned[:3])
    lengths = np.linalg.norm(old, axis=2, keepdims=True)
    factors = np.maximum(1 - penalty[:, None, None] / np.where(lengths > 0, lengths, 1), 0)
    np.testing.assert_allclose(new, factors * old, atol=1e-12)
    assert 0 < np.count_nonzero(new[:, :, 0]) < np.count_nonzero(old[:, :, 0])
    assert float(turns.objective) >= float(pruned.objective) * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_alternation_is_that_of_whole_matrices(seed):
    network = random_network(seed, 2)
    with jax.enable_x64(True):
        turns = tropical.prune(*network, penalty=0.7, method="alternating", num_rounds=ROUNDS)
    expected = alternate_by_definition(network, 0.7, ROUNDS)
    np.testing.assert_allclose(turns.objective, expected, rtol=1e-10)


def test_alternation_in_batches_is_the_same(monkeypatch):
    scaled = np.random.default_rng(0).normal(size=(7, 3))
    whole = _shrinkage.alternate(jnp.asarray(scaled), jnp.full(3, 0.7), 10)
    monkeypatch.setattr(_shrinkage, "_MAX_PAIRS", 2 * 9)
    parts = _shrinkage.alternate(jnp.asarray(scaled), jnp.full(3, 0.7), 10)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_no_penalty_changes_nothing_and_a_large_one_removes_all():
    network = random_network(0, 4)
    with jax.enable_x64(True):
        for method in ("closed_form", "alternating"):
            same = tropical.prune(*network, penalty=0.0, method=method)
            alive = np.asarray(same.w1) != 0
            np.testing.assert_allclose(same.w1, np.where(alive, network[0], 0), atol=1e-14)
            np.testing.assert_allclose(generators(*same[:3]), generators(*network[:3]), atol=1e-12)
            gone = tropical.prune(*network, penalty=1e3, method=method)
            assert not any(np.any(array) for array in gone[:3])
            np.testing.assert_array_equal(gone.b2, network[3])


@pytest.mark.parametrize("classes", [2, 4])
def test_a_neuron_goes_at_its_score(classes):
    network = random_network(7, classes)
    with jax.enable_x64(True):
        scores = np.asarray(tropical.pruning_scores(*network[:3]))
        for neuron, score in enumerate(scores):
            before, after = (
                np.asarray(tropical.prune(*network, penalty=score * factor).w1)
                for factor in (1 - 1e-9, 1 + 1e-9)
            )
            assert np.any(before[neuron])
            assert not np.any(after[neuron])
            np.testing.assert_array_equal(np.any(after, axis=1), scores > score * (1 + 1e-9))


def test_score_of_neurons_that_say_nothing_is_zero():
    w2 = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    w1 = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    scores = tropical.pruning_scores(w1, np.zeros(3), w2)
    np.testing.assert_allclose(scores, [0, 0, 2])
    pruned = tropical.prune(w1, np.zeros(3), w2, np.zeros(3), penalty=0.5)
    np.testing.assert_allclose(pruned.w2[0], [0, 0, 0.75])
    assert np.all(np.isfinite(pruned.objective))


def test_penalty_for_weights_is_the_least():
    network = random_network(11, 5)
    full = np.count_nonzero(network[0]) + np.count_nonzero(network[2])

    def count(penalty):
        pruned = tropical.prune(*network, penalty=penalty)
        return int(np.count_nonzero(pruned.w1) + np.count_nonzero(pruned.w2))

    assert tropical.penalty_for_weights(*network[:3], num_weights=full) == 0.0
    for wanted in (full - 1, full // 2, 3, 0):
        penalty = tropical.penalty_for_weights(*network[:3], num_weights=wanted)
        assert count(penalty) <= wanted < count(penalty * (1 - 1e-6))


def test_jit_vmap_and_grad_of_the_objective_and_the_network():
    network = random_network(5, 3)
    penalties = np.array([0.2, 0.7, 1.3])
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(network, penalty):
        return tropical.prune(*network, penalty=penalty)

    with jax.enable_x64(True):
        stacked = jax.vmap(run, (None, 0))(network, penalties)
        for place, penalty in enumerate(penalties):
            alone = tropical.prune(*network, penalty=penalty)
            for one, many in zip(alone, stacked, strict=True):
                np.testing.assert_allclose(many[place], one, atol=1e-12)

        def value(penalty, w2):
            pruned = tropical.prune(*network[:2], w2, network[3], penalty=penalty)
            return pruned.objective + jnp.sum(pruned.w2**2)

        slope, weights = jax.jit(jax.grad(value, argnums=(0, 1)))(0.7, network[2])
        step = 1e-6
        numeric = (value(0.7 + step, network[2]) - value(0.7 - step, network[2])) / (2 * step)
        np.testing.assert_allclose(slope, numeric, rtol=1e-6)
        assert np.all(np.isfinite(weights))
        moved = network[2].copy()
        moved[0, 0] += step
        numeric = (value(0.7, moved) - value(0.7, network[2])) / step
        np.testing.assert_allclose(weights[0, 0], numeric, rtol=1e-4, atol=1e-5)


def test_single_precision_stays_single():
    network = tuple(value.astype(np.float32) for value in random_network(5, 3))
    with jax.enable_x64(True):
        assert {value.dtype for value in tropical.prune(*network, penalty=0.7)} == {
            np.dtype(np.float32)
        }


@pytest.mark.parametrize("method", ["closed_form", "alternating"])
def test_blocks_are_pruned_from_the_input_on(method):
    generator = np.random.default_rng(0)
    widths = [3, 6, 4, 3]
    layers = [
        (generator.normal(size=(out, into)), generator.normal(size=out))
        for into, out in zip(widths, widths[1:], strict=False)
    ]
    with jax.enable_x64(True):
        pruned = tropical.prune_blocks(layers, penalties=[1.0, 1.0], method=method)
        first = tropical.prune(*layers[0], *layers[1], penalty=1.0, method=method)
        second = tropical.prune(first.w2, first.b2, *layers[2], penalty=1.0, method=method)
    expected = [(first.w1, first.b1), (second.w1, second.b1), (second.w2, second.b2)]
    for (weight, bias), (wanted_weight, wanted_bias) in zip(pruned, expected, strict=True):
        np.testing.assert_allclose(weight, wanted_weight, atol=1e-12)
        np.testing.assert_allclose(bias, wanted_bias, atol=1e-12)


GOOD = random_network(0, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w1": np.full((HIDDEN, INPUTS), np.nan)}, ValueError, "w1 must be finite"),
        ({"w1": np.ones((HIDDEN, INPUTS), int)}, TypeError, "w1 must be floating"),
        ({"w1": np.ones(HIDDEN)}, ValueError, "w1 and w2 must be matrices"),
        ({"b1": np.ones(HIDDEN + 1)}, ValueError, "b1 and b2 must have shapes"),
        ({"w2": np.ones((1, HIDDEN))}, ValueError, "at least two rows"),
        ({"w2": np.ones((3, HIDDEN - 1))}, ValueError, "w2 must have one column"),
        ({"b2": np.ones(4)}, ValueError, "b1 and b2 must have shapes"),
        ({"penalty": -1.0}, ValueError, "penalty must be at least 0"),
        ({"penalty": np.ones(3)}, ValueError, "penalty must be a scalar for 3 classes"),
        ({"penalty": np.inf}, ValueError, "penalty must be finite"),
        ({"method": "magic"}, ValueError, "method must be one of"),
        ({"num_rounds": 0}, ValueError, "num_rounds"),
    ],
)
def test_bad_input(change, error, message):
    arguments = dict(zip(("w1", "b1", "w2", "b2"), GOOD, strict=True)) | {"penalty": 0.5}
    with pytest.raises(error, match=message):
        tropical.prune(**(arguments | change))


def test_bad_objective_and_blocks():
    with pytest.raises(ValueError, match="pruned_w1 and pruned_w2 must have shapes"):
        tropical.pruning_objective(*GOOD, *random_network(0, 4)[:3], penalty=0.5)
    with pytest.raises(ValueError, match="layers must be at least two"):
        tropical.prune_blocks([(GOOD[0], GOOD[1])], penalties=[])
    with pytest.raises(ValueError, match="one for each of 1 blocks"):
        tropical.prune_blocks([GOOD[:2], GOOD[2:]], penalties=[])
