"""The certified distance between zonotopes before and after pruning, attacked and broken."""

import numpy as np
import pytest

from jaxcert import tropical


def random_pair(seed, classes=3, hidden=7, inputs=3):
    """A network, and another one that was pruned or moved at random."""
    generator = np.random.default_rng(seed)
    shapes = ((hidden, inputs), (hidden,), (classes, hidden))
    network = [generator.normal(size=shape) for shape in shapes]
    if seed % 2:
        return network, [weight + 0.3 * generator.normal(size=weight.shape) for weight in network]
    pruned = tropical.prune(*network, np.zeros(classes), penalty=float(generator.uniform(0.2, 3)))
    return network, [np.asarray(array) for array in pruned[:3]]


def generators(network, first, second):
    w1, b1, w2 = (np.asarray(value, np.float64) for value in network)
    rows = np.concatenate([w1, b1[:, None]], axis=1)
    return (np.maximum(w2[first], 0) + np.maximum(-w2[second], 0))[:, None] * rows


def largest_support_difference(old, new, *, num_directions=4000, num_steps=60):
    """The Hausdorff distance from below: random directions, then ascent from the best."""
    generator = np.random.default_rng(0)
    u = generator.normal(size=(num_directions, old.shape[1]))

    def difference(u):
        u = u / np.linalg.norm(u, axis=1, keepdims=True)
        return np.maximum(u @ old.T, 0).sum(axis=1) - np.maximum(u @ new.T, 0).sum(axis=1)

    u = u[np.argsort(-np.abs(difference(u)))[:20]]
    best, step = np.abs(difference(u)), 0.3
    for _ in range(num_steps):
        u = u / np.linalg.norm(u, axis=1, keepdims=True)
        moved = u + step * generator.normal(size=u.shape)
        value = np.abs(difference(moved))
        u, best = np.where((value > best)[:, None], moved, u), np.maximum(value, best)
        step *= 0.95
    return best.max()


@pytest.mark.parametrize("seed", range(8))
def test_no_direction_shows_a_larger_distance(seed):
    network, pruned = random_pair(seed)
    bound = tropical.pruning_distance_upper(*network, *pruned)
    assert np.all(np.diag(bound) == 0)
    for first in range(3):
        for second in range(3):
            if first != second:
                old, new = (generators(net, first, second) for net in (network, pruned))
                attacked = largest_support_difference(old, new)
                assert attacked <= bound[first, second]
                # The paper's objective, scaled: the bound is at least as tight.
                frobenius = np.sqrt(len(old)) * np.linalg.norm(new - old)
                assert bound[first, second] <= frobenius * (1 + 1e-9)
                assert bound[first, second] < 8 * attacked


def test_the_attack_finds_a_bound_that_is_too_small():
    """Half of the bound is refuted where a single neuron changed, for which the bound is exact."""
    network, _ = random_pair(0)
    pruned = [value.copy() for value in network]
    pruned[2][:, 2] = 0.0
    bound = tropical.pruning_distance_upper(*network, *pruned)
    old, new = (generators(net, 0, 1) for net in (network, pruned))
    attacked = largest_support_difference(old, new)
    np.testing.assert_allclose(attacked, np.linalg.norm(old[2] - new[2]), rtol=0.02)
    assert not attacked <= 0.5 * bound[0, 1]
    np.testing.assert_allclose(bound[0, 1], np.linalg.norm(old[2] - new[2]), rtol=1e-9)


def test_hull_of_both_zonotopes_is_as_near():
    """The support of a hull is the larger of the two, so its distance is at most the larger."""
    network, pruned = random_pair(3)
    bound = tropical.pruning_distance_upper(*network, *pruned)
    u = np.random.default_rng(1).normal(size=(5000, 4))
    u /= np.linalg.norm(u, axis=1, keepdims=True)

    def hull(net):
        supports = [
            np.maximum(u @ generators(net, *pair).T, 0).sum(axis=1) for pair in ((0, 1), (1, 0))
        ]
        return np.maximum(*supports)

    assert np.abs(hull(network) - hull(pruned)).max() <= max(bound[0, 1], bound[1, 0])


def test_nothing_pruned_is_no_distance():
    network, _ = random_pair(0)
    bound = tropical.pruning_distance_upper(*network, *network)
    assert np.all(bound >= 0)
    assert bound.max() < 1e-10
    empty = [np.zeros((2, 3)), np.zeros(2), np.zeros((2, 2))]
    assert tropical.pruning_distance_upper(*empty, *empty).max() == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: np.ones((7, 2))}, ValueError, "pruned_w1 and pruned_w2 must have shapes"),
        ({1: np.ones(3)}, ValueError, "pruned_w1 and pruned_b1 must have shapes"),
        ({2: np.ones((1, 7))}, ValueError, "pruned_w2 must have shape"),
        ({0: np.full((7, 3), np.nan)}, ValueError, "pruned_w1 must be finite"),
        ({2: np.ones((3, 7), int)}, TypeError, "pruned_w2 must be floating"),
    ],
)
def test_bad_input(change, error, message):
    network, pruned = random_pair(1)
    for place, value in change.items():
        pruned[place] = value
    with pytest.raises(error, match=message):
        tropical.pruning_distance_upper(*network, *pruned)
