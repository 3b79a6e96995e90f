"""The simulation of adaptive batches."""

import jax
import numpy as np
import pytest

from experiments import adaptive_batch, adaptive_batch_runs


def test_full_gradients_take_the_passes_that_numpy_counts():
    with jax.enable_x64(True):
        instance = adaptive_batch.smoke_instance()
        start = instance.start("far")
        step = adaptive_batch_runs.theory_step(instance, instance.n, 1e-3)
        curve = adaptive_batch_runs.run_fixed(
            instance, start, tau=instance.n, step_size=step, seeds=3, target=1e-3, budget=100.0
        )
        rows, x, count = np.asarray(instance.problem.features), start, 0
        first = np.sum((x - instance.best) ** 2)
        while np.sum((x - instance.best) ** 2) > 1e-3 * first:
            residuals = rows @ x - instance.problem.targets
            x = x - step * (rows.T @ residuals / len(rows) + instance.problem.penalty * x)
            count += 1
    assert curve.hits.shape == (1, 3)
    assert curve.hits[0, 1] == count
    row = adaptive_batch.summary("full", curve)
    assert row["passes"][1] == count == row["all_passes"][1]
    assert row["curve"]["distance"][0] < 1.5


def test_the_rule_is_simulated_with_its_costs():
    """A full pass first is counted apart, and the distance reaches the target."""
    with jax.enable_x64(True):
        instance = adaptive_batch.smoke_instance()
        start = instance.start("near")
        settings = {
            "mu": instance.problem.strong_convexity_lower, "distance_sq": 1e3,
            "step_overhead": 4.0,
        }  # fmt: skip
        curve = adaptive_batch_runs.run_rule(
            instance, start, build=adaptive_batch.distance_aware, settings=settings, seeds=2,
            target=1e-2, budget=60.0, accuracy=1e-2, refresh_first=True,
        )  # fmt: skip
    assert np.all(np.isfinite(curve.hits[:, 0]))
    assert np.all(curve.full[:, 0] == 1)
    row = adaptive_batch.summary("rule", curve)
    assert row["all_passes"][0] == pytest.approx(row["passes"][0] + 1, abs=2e-3)
