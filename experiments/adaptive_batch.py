"""Adaptive batch sizes against fixed ones, on convex problems whose optimum is known.

    JAXCERT_DATA_DIR=... python -m experiments.adaptive_batch --preset paper

runs, for data sets of LIBSVM and scikit-learn and two starts each, SGD with fixed batch sizes and
the step of the theorem, the published adaptive rule in all its variants, and the rule that follows
the distance, with ten seeds each. Costs are passes over the data, that is gradients of single
examples over n: those of the batches, and beside them all that was evaluated, full passes for
statistics included.
What was run is kept in the folder of raw results, row by row, and not run again.

Reference: Alfarra, Hanzely, Albasyoni, Ghanem, Richtarik, "Adaptive Learning of the Optimal Batch
Size of SGD", 2020, arXiv:2005.01097.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import adaptive_batch_report as report
from experiments import adaptive_batch_runs as runs
from experiments import adaptive_batch_samplings as side
from experiments import adaptive_batch_wall as wall
from jaxcert import batching

RESULTS = Path(__file__).resolve().parent / "results"
STARTS = ("far", "near")
STEP_OVERHEAD = 16.0
# What a step costs beside its gradients, in gradients, where the time is to be least.
TIMED_OVERHEADS = (0.0, STEP_OVERHEAD, 256.0)
# The sizes of the published figure, where it was reproduced.
PUBLISHED = {"bodyfat": (1, 25, 74, 75, 150, 252)}
# Budgets over the passes of full gradients, the second where all variants are run.
PATIENCE = (1.1, 2.0)
# Runs of the published rule to the letter take 250,000 steps where batches stay at one example.
FEW_SEEDS = 2


def adaptive(estimate: str, noise: str, capped: bool = False) -> runs.Build:
    """The published rule in one of its variants."""
    key = (estimate, noise, capped)
    if key not in _BUILT:

        def build(sampling: batching.Sampling, settings: Any) -> batching.BatchSizeRule:
            return batching.adaptive_batch_sgd(
                sampling, strong_convexity=settings["mu"], accuracy=settings["accuracy"],
                estimate=estimate, noise=noise,
                noise_cap=settings["noise_cap"] if capped else None,
            )  # fmt: skip

        # The same function for the same variant, so that it compiles once for each data set.
        _BUILT[key] = build
    return _BUILT[key]


_BUILT: dict[tuple[str, str, bool], runs.Build] = {}


def distance_aware(sampling: batching.Sampling, settings: Any) -> batching.BatchSizeRule:
    return batching.distance_aware_sgd(
        sampling, strong_convexity=settings["mu"], distance_sq=settings["distance_sq"],
        step_overhead=settings["step_overhead"],
    )  # fmt: skip


def summary(name: str, curve: runs.Curve, **extra: Any) -> dict[str, Any]:
    """The numbers of one row: means over seeds, infinity where a seed did not arrive."""
    with np.errstate(invalid="ignore"):
        hits, everything = curve.hits.mean(axis=0), (curve.hits + curve.full).mean(axis=0)
        spread = np.where(np.isfinite(hits), curve.hits.std(axis=0), np.nan)
    points = np.flatnonzero(np.isfinite(curve.distance).any(axis=0))
    kept = points[np.unique(np.linspace(0, len(points) - 1, 60).astype(int))]
    with np.errstate(all="ignore"):
        distance = np.nanmean(curve.distance[:, kept], axis=0)
        size = np.nanmean(curve.batch_size[:, kept], axis=0)
    return {
        "name": name,
        "seeds": len(curve.hits),
        "passes": finite(hits),
        "deviation": finite(spread),
        "all_passes": finite(everything),
        "steps": float(curve.steps.mean()),
        "stopped": finite(curve.stopped.mean(keepdims=True))[0],
        "curve": {
            "passes": np.round(curve.passes[kept], 3).tolist(),
            "distance": [float(f"{value:.4g}") for value in distance],
            "batch_size": [float(f"{value:.4g}") for value in size],
        },
        **extra,
    }


def finite(values: np.ndarray) -> list[float | None]:
    """JSON has no infinity."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]


def run_start(
    instance: runs.Instance, kind: str, folder: Path, *, seeds: int, exact: bool
) -> dict[str, Any]:
    """All rows of one data set from one start; those in the folder are not run again."""
    start, accuracy = instance.start(kind), instance.accuracy(kind)
    distance_sq = float(np.sum((start - instance.best) ** 2))
    relative = accuracy / distance_sq
    # The level that is nearest to the accuracy that was asked for.
    target = min(runs.LEVELS, key=lambda level: abs(np.log(level / relative)))
    optimum = runs.optimal_batch_size(instance, accuracy)
    middle = int(np.clip(optimum, 1, instance.n))
    n, problem = instance.n, instance.problem
    common: dict[str, Any] = {"seeds": seeds, "target": target}
    rows: list[dict[str, Any]] = []

    def row(name: str, run: Callable[..., runs.Curve], *arguments: Any, **settings: Any) -> None:
        shown, own = ("tau", "step_size", "group", "bound"), ("group", "bound")
        extra = {key: value for key, value in settings.items() if key in shown}
        settings = {key: value for key, value in settings.items() if key not in own}

        def made() -> dict[str, Any]:
            return summary(name, run(*arguments, **(common | settings)), **extra)

        rows.append(store(folder, f"{kind}, {name}", made))
        log(instance.name, kind, rows[-1])

    full = runs.run_fixed(
        instance, start, tau=n, step_size=runs.theory_step(instance, n, accuracy), budget=1e5,
        **common,
    )  # fmt: skip
    # What takes longer than full gradients is cut off soon after; the published two go on longer.
    budget = (PATIENCE[1] if exact else PATIENCE[0]) * float(
        full.hits[0, runs.LEVELS.index(target)]
    )
    sizes = sorted({1, max(middle // 3, 1), middle, (middle + n) // 2, n})
    sizes = list(PUBLISHED.get(instance.name, sizes))
    for tau in sizes:
        step = runs.theory_step(instance, tau, accuracy)
        row(
            f"fixed {tau}", runs.run_fixed, instance, start, tau=tau, step_size=step,
            budget=budget, group="fixed",
        )  # fmt: skip
    settings = {
        "mu": problem.strong_convexity_lower,
        "accuracy": accuracy,
        "noise_cap": 4 * float(np.mean(instance.norms.examples)),
    }
    variants = [
        ("adaptive, table", adaptive("table", "mean_square"), 0, seeds),
        ("adaptive, batch", adaptive("batch", "mean_square"), 0, seeds),
    ]
    if exact:
        # The last takes steps of one example for ever: full passes at every 50th step only.
        variants += [
            ("adaptive, exact mean square", adaptive("exact", "mean_square"), 1, seeds),
            ("adaptive, exact variance", adaptive("exact", "variance"), 1, seeds),
            ("adaptive, second moment", adaptive("exact", "second_moment", True), 50, FEW_SEEDS),
        ]
    for name, build, every, count in variants:
        row(
            name, runs.run_rule, instance, start, build=build, settings=settings,
            accuracy=accuracy, refresh_every=every, budget=budget, seeds=count, group="adaptive",
        )  # fmt: skip
    for name, overhead, known in (
        ("distance, known", 0.0, True),
        ("distance, measured", 0.0, False),
        (f"distance, measured, overhead {STEP_OVERHEAD:g}", STEP_OVERHEAD, False),
    ):
        bound = distance_sq if known else measured_bound(instance, start)
        row(
            name, runs.run_rule, instance, start, build=distance_aware, accuracy=accuracy,
            refresh_first=not known, budget=budget, group="distance", bound=bound,
            settings={"mu": settings["mu"], "distance_sq": bound, "step_overhead": overhead},
        )  # fmt: skip
    # A harder rival: fixed sizes whose steps are tuned by looking at the answer.
    best = min(row["passes"][runs.LEVELS.index(target)] or np.inf for row in rows)
    for tau, factor in ((1, 4), (1, 16), (1, 64), (middle, 2), (middle, 8), (n, 2)):
        step = factor * runs.theory_step(instance, tau, accuracy)
        limit = 1 / float(problem.nice_sampling().expected_smoothness(tau))
        row(
            f"tuned {tau} x{factor}", runs.run_fixed, instance, start, tau=tau,
            step_size=min(step, limit), budget=min(3 * best + 10, budget), group="tuned",
        )  # fmt: skip
    return {
        "start": kind, "distance_sq": distance_sq, "accuracy": accuracy, "target": target,
        "optimal_batch_size": optimum, "rows": rows,
    }  # fmt: skip


def measured_bound(instance: runs.Instance, start: np.ndarray) -> float:
    """Squared distance that the gradient at the start allows by strong convexity."""
    gradient = float(np.sum(np.asarray(instance.problem.gradient(start)) ** 2))
    return gradient / float(instance.problem.strong_convexity_lower) ** 2


def timed(instance: runs.Instance, result: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of the fixed batches that arrived, and of the rules."""
    mu = instance.problem.strong_convexity_lower

    def published(kind: str) -> Any:
        return {"mu": mu, "accuracy": instance.accuracy(kind)}

    def following(kind: str, overhead: float) -> Any:
        bound = measured_bound(instance, instance.start(kind))
        return {"mu": mu, "distance_sq": bound, "step_overhead": overhead}

    rules: dict[str, tuple[runs.Build, Any, bool]] = {
        "adaptive, table": (adaptive("table", "mean_square"), published, False)
    }
    for overhead in TIMED_OVERHEADS:
        name = "distance, measured" + (f", overhead {overhead:g}" if overhead else "")
        settings = functools.partial(following, overhead=overhead)
        rules[name] = (distance_aware, settings, True)
    return wall.wall_times(instance, {each["start"]: each for each in result["starts"]}, rules)


def log(name: str, kind: str, row: Mapping[str, Any]) -> None:
    clock = time.strftime("%H:%M:%S")
    print(f"{clock} {name} {kind} {row['name']}: {row['passes']}", flush=True)


def run_instance(
    instance: runs.Instance, folder: Path, *, seeds: int, exact: bool
) -> dict[str, Any]:
    problem = instance.problem
    return {
        "name": instance.name,
        "n": instance.n,
        "d": problem.num_features,
        "kind": problem.kind,
        "penalty_times_n": float(problem.penalty) * instance.n,
        "smoothness": float(problem.smoothness_upper),
        "largest_smoothness": float(np.max(problem.example_smoothness_upper)),
        "strong_convexity": float(problem.strong_convexity_lower),
        "mean_square": float(np.mean(instance.norms.examples)),
        "starts": [run_start(instance, kind, folder, seeds=seeds, exact=exact) for kind in STARTS],
    }


def side_by_side(instance: runs.Instance) -> dict[str, Any]:
    distance_sq = float(np.sum((instance.start("far") - instance.best) ** 2))
    return side.samplings(instance, instance.accuracy("far"), distance_sq)


def smoke_instance() -> runs.Instance:
    """Ridge regression on a few rows of scikit-learn's diabetes data, which need no file."""
    from sklearn import datasets

    features, targets = datasets.load_diabetes(return_X_y=True)
    return runs.instance("diabetes", "ridge", 10.0, features[:60], targets[:60] / 100)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.adaptive_batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=("smoke", "paper"), default="smoke")
    parser.add_argument("--data", action="append", default=[], help="run only these sets of paper")
    parser.add_argument("--raw", type=Path, default=Path("runs/adaptive_batch"))
    parser.add_argument("--output", type=Path, help="write the tables and figures here")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    folder = options.raw / options.preset
    with jax.enable_x64(True):
        if options.preset == "smoke":
            run_all(options.raw, "smoke", "diabetes", smoke_instance, seeds=2, exact=True)
        else:
            home = os.environ.get("JAXCERT_DATA_DIR")
            if not home:
                parser.error("JAXCERT_DATA_DIR must name the folder that holds libsvm")
            for setting in runs.SETTINGS:
                if not options.data or setting.name in options.data:
                    load = functools.partial(runs.load, Path(home) / "libsvm", setting)
                    run_all(options.raw, "paper", setting.name, load, seeds=10, exact=setting.exact)
    if options.output:
        parts = ("passes", "seconds", "samplings")
        report.write(
            options.output,
            *(sorted((folder / part).glob("*.json")) for part in parts),
            command=shlex.join(["python", "-m", "experiments.adaptive_batch", *words]),
        )  # fmt: skip
    return 0


def run_all(
    raw: Path, preset: str, name: str, load: Callable[[], runs.Instance], *, seeds: int, exact: bool
) -> None:
    """What one data set has to show; parts whose results are there already are left out."""
    kept: list[runs.Instance] = []

    def instance() -> runs.Instance:
        if not kept:
            kept.append(load())
        return kept[0]

    folder = raw / preset
    if exact:
        store(folder / "samplings", name, lambda: side_by_side(instance()))
    result = store(
        folder / "passes", name,
        lambda: run_instance(instance(), folder / "rows" / name, seeds=seeds, exact=exact),
    )  # fmt: skip
    store(folder / "seconds", name, lambda: timed(instance(), result))


def store(folder: Path, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run something, unless its result is in the folder already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(run()) + "\n")
        partial.rename(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
