"""The work that the theorem gives for every sampling, side by side."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments import adaptive_batch_runs as runs
from jaxcert import batching


def samplings(instance: runs.Instance, accuracy: float, distance_sq: float) -> dict[str, Any]:
    """Total work of every sampling over batch sizes, in passes, and the sizes of least work."""
    problem, n = instance.problem, instance.n
    each, smoothness = problem.example_smoothness_upper, problem.smoothness_upper
    settings: dict[str, Any] = {
        "strong_convexity": problem.strong_convexity_lower, "accuracy": accuracy,
    }  # fmt: skip
    found: dict[str, batching.Sampling] = {
        "nice": problem.nice_sampling(),
        "independent": batching.independent(each, smoothness=smoothness),
        "independent, importance": batching.independent(
            each, smoothness=smoothness, importance="smoothness"
        ),
        "with replacement": batching.with_replacement(each, smoothness=smoothness),
    }
    for number in (2, 3):
        parts = np.arange(n) * number // n
        means = []
        for part in range(number):
            rows = np.asarray(problem.features)[parts == part]
            curvature = np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]
            scale = 1.0 if problem.kind == "ridge" else 0.25
            means.append(scale * curvature * (1 + 1e-12) + float(problem.penalty))
        divided: dict[str, Any] = {"part_smoothness": np.array(means), "part_of_example": parts}
        found[f"{number} parts, nice"] = batching.partition_nice(each, **divided)
        found[f"{number} parts, independent"] = batching.partition_independent(each, **divided)
    rows_of = {}
    for name, sampling in found.items():
        norms = problem.squared_norms(instance.best, sampling=sampling)
        largest = int(sampling.max_batch_size)
        best = float(sampling.optimal_batch_size(norms, **settings))
        around = np.clip([np.floor(best), np.floor(best) + 1], 1, largest)
        taus = np.unique([*np.geomspace(1, largest, 40).round(), *around])
        work = jax.jit(
            jax.vmap(
                lambda tau, sampling=sampling, norms=norms: sampling.total_complexity(
                    tau, norms, distance_sq=distance_sq, **settings
                )
            )
        )(taus)
        # As published: without the gradients of the parts, which do not vanish at the optimum.
        alone = norms._replace(parts=0 * norms.parts)
        rows_of[name] = {
            "optimal_batch_size": best,
            "without_parts": float(sampling.optimal_batch_size(alone, **settings)),
            "largest": largest,
            "batch_sizes": taus.tolist(),
            "passes": [float(f"{value / n:.5g}") for value in np.asarray(work)],
            "least_passes": float(np.min(work)) / n,
        }
    return {"name": instance.name, "accuracy": accuracy, "samplings": rows_of}
