"""Magnitude pruning keeps what its scheme says, exactly so many."""

import jax
import numpy as np
import pytest

from jaxcert import tropical

SCHEMES = ("class_blind", "class_uniform", "class_distribution")


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    return [generator.normal(size=(4, 5)), 10 * generator.normal(size=(3, 4)) + 5]


def kept_by_definition(weights, number, scheme):
    """Masks by sorting on the host."""
    scales = [weight.std() if scheme == "class_distribution" else 1.0 for weight in weights]
    if scheme == "class_uniform":
        cuts = []
        for weight in weights:
            share = number * weight.size / sum(w.size for w in weights)
            assert share == int(share)
            cuts.append(np.sort(np.abs(weight).ravel())[::-1][int(share) - 1])
    else:
        scaled = [np.abs(w / scale).ravel() for w, scale in zip(weights, scales, strict=True)]
        threshold = np.sort(np.concatenate(scaled))[::-1][number - 1]
        cuts = [threshold * scale for scale in scales]
    return [np.abs(weight) >= cut * (1 - 1e-12) for weight, cut in zip(weights, cuts, strict=True)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_kept_weights_are_those_of_the_definition(weights, scheme):
    with jax.enable_x64(True):
        pruned = tropical.magnitude_prune(weights, num_weights=16, scheme=scheme)
    masks = kept_by_definition(weights, 16, scheme)
    for result, weight, mask in zip(pruned, weights, masks, strict=True):
        np.testing.assert_array_equal(result, np.where(mask, weight, 0))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("number", [0, 1, 13, 31, 32])
def test_exactly_so_many_stay(weights, scheme, number):
    pruned = tropical.magnitude_prune(weights, num_weights=number, scheme=scheme)
    assert sum(int(np.count_nonzero(weight)) for weight in pruned) == number


def test_the_schemes_differ(weights):
    counts = [
        int(np.count_nonzero(tropical.magnitude_prune(weights, num_weights=8, scheme=scheme)[0]))
        for scheme in SCHEMES
    ]
    # The second matrix has the larger entries, so a common threshold takes from the first.
    assert counts[0] == 0
    assert counts[1] == 5
    assert 0 < counts[2] < 8


def test_equal_weights_are_told_apart():
    pruned = tropical.magnitude_prune([np.ones(4)], num_weights=3, scheme="class_blind")
    np.testing.assert_array_equal(pruned[0], [1, 1, 1, 0])
    pruned = tropical.magnitude_prune(
        [np.ones(2), np.array([1.0, 5.0])], num_weights=2, scheme="class_distribution"
    )
    np.testing.assert_array_equal(pruned[0], [1, 1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights": []}, ValueError, "weights must not be empty"),
        ({"weights": [np.array([np.nan])]}, ValueError, r"weights\[0\] must be finite"),
        ({"weights": [np.array([1])]}, TypeError, r"weights\[0\] must be floating"),
        ({"num_weights": 9}, ValueError, "num_weights must be at most 2"),
        ({"num_weights": 0.5}, TypeError, "num_weights must be an integer"),
        ({"scheme": "largest"}, ValueError, "scheme must be one of"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"weights": [np.ones(2)], "num_weights": 1, "scheme": "class_blind"} | change
    with pytest.raises(error, match=message):
        tropical.magnitude_prune(
            arguments["weights"], num_weights=arguments["num_weights"], scheme=arguments["scheme"]
        )
