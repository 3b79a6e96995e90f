"""What the rules refuse, and the batch size of least work by brute force."""

import jax
import numpy as np
import pytest

from jaxcert import batching
from tests.batching.rule_settings import settings_of

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"estimate": "guess"}, "estimate must be one of table, batch, exact"),
        ({"noise": "none"}, "noise must be one of mean_square"),
        ({"noise_cap": 0.0}, "noise_cap must be finite and above 0"),
        ({"strong_convexity": 0.0}, "strong_convexity must be finite and above 0"),
        ({"strong_convexity": -0.1}, "strong_convexity must be finite and above 0"),
        ({"strong_convexity": 50.0}, "must not exceed the smoothness"),
        ({"accuracy": -1.0}, "accuracy must be finite and above 0"),
        ({"decay": 1.0}, "decay must lie strictly between"),
    ],
)
def test_bad_settings(problem, change, words):
    with pytest.raises(ValueError, match=words):
        batching.adaptive_batch_sgd(problem.nice_sampling(), **(settings_of(problem) | change))


def test_bad_settings_of_the_distance_rule(problem):
    mu = problem.strong_convexity_lower
    with pytest.raises(ValueError, match="step_overhead must be at least 0"):
        batching.distance_aware_sgd(
            problem.nice_sampling(), strong_convexity=mu, step_overhead=-1.0
        )
    for wrong, words in ((0.0, "finite and above 0"), (50.0, "not exceed the smoothness")):
        with pytest.raises(ValueError, match=f"strong_convexity.*{words}"):
            batching.distance_aware_sgd(problem.nice_sampling(), strong_convexity=wrong)
    with pytest.raises(ValueError, match="distance_sq must be finite"):
        batching.distance_aware_sgd(problem.nice_sampling(), strong_convexity=mu, distance_sq=0.0)
    halves = batching.partition_nice(
        np.ones(4), part_smoothness=[1.0, 1.0], part_of_example=[0, 0, 1, 1]
    )
    with pytest.raises(ValueError, match="one part and uniform probabilities"):
        batching.distance_aware_sgd(halves, strong_convexity=0.5)
    weighted = batching.independent(np.ones(4), smoothness=1.0, importance="smoothness")
    with pytest.raises(ValueError, match="must go with uniform probabilities"):
        batching.adaptive_batch_sgd(weighted, strong_convexity=0.5, accuracy=1.0, estimate="batch")
    with pytest.raises(ValueError, match="microbatch_sizes must fall"):
        batching.batch_gradient(
            problem, np.zeros(4), problem.nice_sampling().draw(jax.random.key(0), 1),
            microbatch_sizes=(8, 16),
        )  # fmt: skip


def test_overhead_grows_the_batches_by_the_square_root(problem):
    """Far from where full batches begin: tau = sqrt(c (A + C') / (B + D')), by brute force."""
    sampling, mu = problem.nice_sampling(), problem.strong_convexity_lower
    x = problem.minimizer() + 0.3
    norms = problem.squared_norms(x)
    for overhead in (0.0, 1.0, 20.0, 400.0):
        rule = batching.distance_aware_sgd(
            sampling, strong_convexity=mu, distance_sq=3.0, estimate="exact",
            step_overhead=overhead,
        )  # fmt: skip
        state = rule.refresh(rule.init(x), norms)
        distance = float(state.distance_sq_estimate)
        sizes = np.arange(1, 31)
        mean = float(norms.examples.mean())
        variance = mean * (30 - sizes) / (29 * sizes)
        smooth = np.array([float(sampling.expected_smoothness(int(size))) for size in sizes])
        work = (sizes + overhead) * (smooth + variance / (float(mu) * distance))
        assert int(rule.plan(state).batch_size) == sizes[np.argmin(work)]
        step = 1 / (smooth + variance / (float(mu) * distance))[np.argmin(work)]
        assert float(rule.plan(state).step_size) == pytest.approx(step, rel=1e-12)
