import itertools

import numpy as np
import pytest

from jaxcert import smoothing
from jaxcert.smoothing import _planning

TABLE = _planning.forecast("gaussian", 20_000, 0.001)
NOISES = {
    "gaussian": smoothing.gaussian(1.0),
    "laplace": smoothing.laplace(1.0),
    "uniform": smoothing.uniform(1.0),
}


@pytest.mark.parametrize("family", NOISES)
def test_the_forecast_is_the_mean_of_simulated_radii(family):
    noise, max_samples, alpha = NOISES[family], 20_000, 0.001
    table = _planning.forecast(family, max_samples, alpha)
    rng = np.random.default_rng(30)
    assert table.num_samples[0] == 0
    assert table.num_samples[-1] == max_samples
    for row in range(8, table.success.size, 16):
        for column in (1, 20, 40, len(table.num_samples) - 1):
            size = int(table.num_samples[column])
            counts = rng.binomial(size, table.success[row], 4000)
            bounds = smoothing.clopper_pearson_lower(np.arange(size + 1), size, alpha=alpha)
            radii = noise.radius(bounds)[counts]
            slack = 5 * radii.std() / np.sqrt(len(counts)) + 0.01 * radii.mean() + 2e-3
            assert abs(table.radius[row, column] - radii.mean()) < slack


def test_more_samples_are_never_expected_to_certify_less():
    assert np.all(np.diff(TABLE.radius, axis=1) > -2e-3)
    assert np.all(np.diff(TABLE.radius[10:], axis=0) > -2e-3)
    assert np.all(TABLE.radius <= TABLE.limit[:, None] + 2e-3)


def test_the_posterior_centres_on_what_was_drawn():
    weights = _planning.posterior(
        TABLE, np.array([900, 990]), np.array([1000, 1000]), _planning.flat_prior(TABLE)
    )
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(weights @ TABLE.success, [0.9, 0.99], atol=5e-3)


def test_the_leader_of_a_close_vote_may_be_the_wrong_class():
    weights = _planning.posterior(
        TABLE, np.array([51]), np.array([100]), _planning.flat_prior(TABLE)
    )
    assert 0.3 < weights.sum() < 0.8


def test_the_prior_finds_the_groups_of_a_batch():
    rng = np.random.default_rng(31)
    draws = np.full(600, 400)
    top = rng.binomial(draws, np.repeat([0.5, 0.9], 300))
    prior = _planning.fitted_prior(
        TABLE, np.maximum(top, draws - top), draws, _planning.flat_prior(TABLE)
    )
    np.testing.assert_allclose(prior.sum(), 1.0)
    near_half = (TABLE.success >= 0.46) & (TABLE.success < 0.56)
    near_top = (TABLE.success > 0.86) & (TABLE.success < 0.94)
    assert prior[near_half].sum() > 0.4
    assert prior[near_top].sum() > 0.45


def test_samples_for_each_are_the_least_that_suffice():
    radius = np.array([[0.0, 0.5, 0.93, 0.96, 0.99], [0.0, 0.0, 0.01, 0.02, 0.03]])
    reference, nothing = np.array([1.0, 1.0]), np.zeros(2)
    plan = _planning.samples_for_each(radius, reference, tolerance=0.05, forgiven=nothing)
    np.testing.assert_array_equal(plan, [3, 4])
    forgiven = np.full(2, 0.5)
    plan = _planning.samples_for_each(radius, reference, tolerance=0.05, forgiven=forgiven)
    np.testing.assert_array_equal(plan, [2, 4])
    plan = _planning.samples_for_each(
        radius, np.array([1.0, 0.02]), tolerance=0.05, forgiven=forgiven
    )
    np.testing.assert_array_equal(plan, [2, 0])


@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.3])
def test_samples_for_average_cost_least_among_all_plans(tolerance):
    """Against every combination; on concave curves the price finds the best up to one step."""
    sizes = np.array([0, 100, 200, 400, 800])
    ceilings = np.array([2.0, 1.0, 0.3, 0.05])
    radius = ceilings[:, None] * (1 - np.exp(-sizes / 150.0))
    reference = radius[:, -1]
    plan, price = _planning.samples_for_average(radius, reference, sizes, tolerance=tolerance)
    assert price > 0
    rows = np.arange(4)
    assert radius[rows, plan].sum() >= (1 - tolerance) * reference.sum()
    best = min(
        sizes[list(combination)].sum()
        for combination in itertools.product(range(5), repeat=4)
        if radius[rows, list(combination)].sum() >= (1 - tolerance) * reference.sum()
    )
    assert sizes[plan].sum() <= best + 400


def test_samples_for_average_out_of_reach_are_the_most_there_are():
    radius = np.array([[0.0, 0.5, 0.9]])
    sizes = np.array([0, 10, 20])
    plan, _ = _planning.samples_for_average(radius, np.array([3.0]), sizes, tolerance=0.05)
    np.testing.assert_array_equal(plan, [2])
    plan, _ = _planning.samples_for_average(0 * radius, np.array([0.0]), sizes, tolerance=0.05)
    np.testing.assert_array_equal(plan, [0])


@pytest.mark.parametrize("max_samples", [1, 10, 51])
def test_tiny_budgets(max_samples):
    table = _planning.forecast("gaussian", max_samples, 0.05)
    assert table.num_samples[-1] == max_samples
    assert np.all(np.isfinite(table.radius))
