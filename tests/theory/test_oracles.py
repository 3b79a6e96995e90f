"""The oracles of the claims, against quadrature and enumeration; and the power of the search."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special

from jaxcert import smoothing
from theory import binomial_bounds, prediction, smoothed_sets, stopping

DENSITIES = {
    "gaussian": (smoothed_sets.gaussian_cdf, lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi)),
    "laplace": (smoothed_sets.laplace_cdf, lambda x: np.exp(-np.abs(x)) / 2),
    "uniform": (smoothed_sets.uniform_cdf, lambda x: 0.5 * (np.abs(x) <= 1.0)),
}
CDFS = [pytest.param(cdf, id=name) for name, (cdf, _) in DENSITIES.items()]


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("x", [-3.5, -1.0, -0.2, 0.0, 0.7, 1.0, 2.9])
def test_distribution_function_is_the_integral_of_the_density(name, x):
    cdf, density = DENSITIES[name]
    kinks = [point for point in (-1.0, 0.0, 1.0) if point < x]
    integral, _ = integrate.quad(density, -40.0, x, points=kinks or None, limit=200)
    assert float(cdf(np.float64(x))) == pytest.approx(integral, abs=1e-9)


@pytest.mark.parametrize(("distance", "radius"), [(0.0, 1.0), (0.8, 1.7), (2.5, 2.0), (3.0, 4.0)])
def test_ball_probability_is_the_integral_over_slices(distance, radius):
    def slice_probability(x):
        # A slice of the ball is a disc, whose probability is that of an exponential variable.
        disc = 1.0 - math.exp(-(radius**2 - (x - distance) ** 2) / 2)
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * disc

    integral, _ = integrate.quad(slice_probability, distance - radius, distance + radius)
    parameters = np.array([[0.0, distance, 0.0, radius]])
    family = smoothed_sets.gaussian_balls(3)
    assert family.probability(parameters, np.zeros((1, 3)))[0] == pytest.approx(integral, abs=1e-9)


def test_shifting_the_noise_moves_the_set_the_other_way():
    rng = np.random.default_rng(8)
    ball = smoothed_sets.gaussian_balls(3)
    parameters, shifts = ball.draw(rng, 6), rng.normal(size=(6, 3))
    moved = parameters.copy()
    moved[:, :3] -= shifts
    np.testing.assert_allclose(
        ball.probability(parameters, shifts),
        ball.probability(moved, np.zeros((6, 3))),
        rtol=1e-12,
    )


@pytest.mark.parametrize("cdf", CDFS)
def test_sets_agree_where_families_overlap(cdf):
    # A box in one dimension is one interval; so is a pair whose second interval is empty.
    shifts = np.array([[0.3], [-0.4]])
    box = smoothed_sets.boxes(cdf, 1).probability(np.array([[0.1, 0.6]] * 2), shifts)
    pair = smoothed_sets.interval_pairs(cdf).probability(
        np.array([[-0.5, 1.2, 3.0, 0.0]] * 2), shifts
    )
    np.testing.assert_allclose(box, pair, atol=1e-15)
    edge = smoothed_sets.half_lines(cdf).probability(np.array([[0.7], [0.7]]), shifts)
    below = smoothed_sets.half_lines(cdf).probability(np.array([[-0.5], [-0.5]]), shifts)
    assert box[0] == pytest.approx(edge[0] - below[0], abs=1e-15)
    assert box[1] == pytest.approx(1.0 - (edge[1] - below[1]), abs=1e-15)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.9])
def test_exact_probability_counts_all_outcomes(p):
    members = np.array([0, 2, 5])
    total = sum(
        math.prod(p if bit else 1.0 - p for bit in outcome)
        for outcome in itertools.product([0, 1], repeat=5)
        if sum(outcome) in members
    )
    assert float(binomial_bounds.exact_probability(members, 5, p)) == pytest.approx(
        total, rel=1e-12
    )


def test_votes_are_all_outcomes_with_their_probabilities():
    race = np.array([0.5, 0.3, 0.2])
    votes = prediction.all_votes(3, 4)
    tally = {tuple(row): 0.0 for row in votes.tolist()}
    assert len(tally) == len(votes)
    for outcome in itertools.product(range(3), repeat=4):
        tally[tuple(outcome.count(c) for c in range(3))] += math.prod(race[c] for c in outcome)
    probability = np.exp(prediction.log_probabilities(votes, race))
    np.testing.assert_allclose(probability, list(tally.values()), rtol=1e-12)


def test_races_have_the_true_class_first():
    races = list(prediction.close_races(np.random.default_rng(0), 3))
    assert len(races) > 20
    for race in races:
        assert race.argmax() == 0
        assert race.sum() == pytest.approx(1.0)


def test_wrong_decisions_sum_over_all_paths():
    test = smoothing.SequentialTest(
        num_samples=np.array([2, 4, 5]),
        certify_from=np.array([2, 4, 4]),
        refute_to=np.array([-1, 1, 1]),
        give_up_from=np.array([3, 2, 6]),
        give_up_to=np.array([2, 2, 5]),
    )
    p, certified, refuted = 0.6, 0.0, 0.0
    for path in itertools.product([0, 1], repeat=5):
        probability = math.prod(p if success else 1.0 - p for success in path)
        counts = [sum(path[:n]) for n in test.num_samples]
        for count, upper, lower, first, last in zip(counts, *test[1:], strict=True):
            if count >= upper or count <= lower or first <= count <= last:
                certified += probability * (count >= upper)
                refuted += probability * (count <= lower)
                break
    assert stopping.wrong_decisions(test, p) == pytest.approx((certified, refuted), rel=1e-12)
    assert 0.1 < refuted < certified < 0.9


def test_search_climbs_to_sets_that_its_start_does_not_hold():
    """Balls come close to the extremal half-space only when they are large.

    No start is a counterexample to a radius that is 2 percent too large; the search finds one.
    """
    family = smoothed_sets.gaussian_balls(3)

    def too_large(scale, p):
        return 1.02 * scale * special.ndtri(np.maximum(p, 0.5))

    def worst(steps):
        rng = np.random.default_rng(4)
        return smoothed_sets.search(rng, family, too_large, order=2, starts=12, steps=steps)

    assert worst(0).margin > 0.01
    assert worst(300).margin < -1e-3
