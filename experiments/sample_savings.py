"""How many samples sequential and adaptive certification need, on the probabilities of real runs.

    JAXCERT_DATA_DIR=... python -m experiments.sample_savings

reads certification logs that Cohen, Rosenfeld and Kolter published, from the folder
`rs_published_logs` of JAXCERT_DATA_DIR, finds the failure probability that each was made with,
turns the radii of the CIFAR-10 logs back into probabilities, and runs the public verbs on
classifiers with exactly those: an input at sigma * ndtri(p) from the edge of a half-space. An
abstention only says p <= 1/2; it is replayed as p = 1/2, the hardest of these cases.

Every sample is counted: selection, pilot and estimation. The fixed reference spends
N = 100,000 on each image; its certified share and its average radius are expectations.

Reference: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
2019, arXiv:1902.02918.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from jaxcert import report, smoothing

RESULTS = Path(__file__).resolve().parent / "results"

NUM_SAMPLES = 100_000
SIGMAS = (0.25, 0.5, 1.0)
RADII = (0.25, 0.5, 0.75)
KNOWN_ALPHAS = (0.01, 0.001)
# Rule and `give_up` of each test that is measured; the last is the default.
TESTS = (
    ("betting", 0.0),
    ("one_sided_betting", 0.0),
    ("union", 0.0),
    ("spending", 0.0),
    ("betting", 0.1),
    ("spending", 0.1),
)
TOLERANCES = (0.05, 0.01)


def classify(inputs: jax.Array) -> jax.Array:
    """Class 1 on the half-line above 0."""
    return jnp.concatenate([-inputs, inputs], axis=1)


@functools.cache
def lower_bounds(alpha: float) -> np.ndarray:
    """The bound that every count of `NUM_SAMPLES` gives."""
    counts = np.arange(NUM_SAMPLES + 1)
    return smoothing.clopper_pearson_lower(counts, NUM_SAMPLES, alpha=alpha)


def certified_radii(sigma: float, alpha: float) -> np.ndarray:
    """The radius that every count of `NUM_SAMPLES` gives."""
    return smoothing.gaussian(sigma).radius(lower_bounds(alpha))


def possible_counts(log: report.Log, sigma: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """First count, and first beyond, whose radius prints as that of each certified row."""
    table = certified_radii(sigma, alpha)
    rows = [row for row in log.rows if row.predict != smoothing.ABSTAIN]
    radius = np.array([row.radius for row in rows])
    margin = np.array([row.resolution for row in rows]) * (1 + 1e-9)
    return np.searchsorted(table, radius - margin), np.searchsorted(table, radius + margin)


def misfits(log: report.Log, sigma: float, alpha: float) -> int:
    """Number of rows whose radius no count gives at this failure probability."""
    first, beyond = possible_counts(log, sigma, alpha)
    return int(np.count_nonzero(first >= beyond))


def probabilities(log: report.Log, sigma: float, alpha: float) -> np.ndarray:
    """Probability of the top class of each row."""
    first, beyond = possible_counts(log, sigma, alpha)
    certified = np.array([row.predict != smoothing.ABSTAIN for row in log.rows])
    success = np.full(len(log.rows), 0.5)
    success[certified] = ((first + beyond - 1) / 2 + 0.5) / (NUM_SAMPLES + 1)
    return success


def read_logs(folder: Path) -> Iterator[tuple[str, float, report.Log]]:
    """Yield name, sigma and log of every published run."""
    for path in sorted(folder.glob("*/*.tsv")):
        match = re.search(r"sigma_([0-9.]+)\.tsv$", path.name)
        assert match is not None, path
        yield path.stem, float(match[1]), report.read_log(path)


def known_alphas(folder: Path) -> list[dict[str, Any]]:
    """For each log, how many of its rows contradict each failure probability."""
    return [
        {
            "log": name,
            "rows": len(log.rows),
            "abstentions": sum(row.predict == smoothing.ABSTAIN for row in log.rows),
            "misfits": {str(alpha): misfits(log, sigma, alpha) for alpha in KNOWN_ALPHAS},
        }
        for name, sigma, log in read_logs(folder)
    ]


def replay_decisions(
    success: np.ndarray, sigma: float, radius: float, *, alpha: float, repeats: int
) -> list[dict[str, Any]]:
    """Samples and verdicts of each test at one radius, beside one look at `NUM_SAMPLES`."""
    inputs = jnp.asarray(sigma * special.ndtri(success)[:, None], jnp.float32)
    enough = int(np.argmax(certified_radii(sigma, alpha) >= radius))
    fixed = stats.binom.sf(enough - 1, NUM_SAMPLES, success).mean()
    rows = []
    for rule, give_up in TESTS:
        spent, verdicts = [], []
        for seed in range(repeats):
            decision = smoothing.decide_radius(
                jax.random.key(seed), classify, inputs, noise=smoothing.gaussian(sigma),
                radius=radius, num_classes=2, alpha=alpha, max_samples=NUM_SAMPLES, rule=rule,
                give_up=give_up, chunk_size=8192,
            )  # fmt: skip
            samples = decision.num_samples + decision.selection_counts.sum(axis=1)
            spent.append(samples.mean() / NUM_SAMPLES)
            verdicts.append(decision.verdict)
        rows.append(
            {
                "sigma": sigma,
                "radius": radius,
                "rule": rule,
                "give_up": give_up,
                "spent": float(np.mean(spent)),
                "spent_error": standard_error(spent),
                "certified": float(np.mean(np.equal(verdicts, smoothing.Verdict.CERTIFIED))),
                "refuted": float(np.mean(np.equal(verdicts, smoothing.Verdict.REFUTED))),
                "certified_by_fixed": float(fixed),
            }
        )
    return rows


def standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def expected_radii(
    success: np.ndarray, sizes: np.ndarray, sigma: float, alpha: float
) -> np.ndarray:
    """Radius `[images, sizes]` of the count that is expected, rounded to an integer."""
    counts = np.rint(success[:, None] * sizes).astype(np.int64)
    bounds = smoothing.clopper_pearson_lower(counts, sizes[None], alpha=alpha)
    return smoothing.gaussian(sigma).radius(bounds)


def with_known_probabilities(
    success: np.ndarray, sigma: float, tolerance: float, alpha: float
) -> dict[str, float]:
    """Share of the samples that rules would need that know p: by image, and for the average."""
    sizes = np.unique(np.geomspace(10, NUM_SAMPLES, 400).round().astype(np.int64))
    radius = expected_radii(success, sizes, sigma, alpha)
    reference = radius[:, -1]
    column = (radius >= (1 - tolerance) * reference[:, None]).argmax(axis=1)
    each = np.where(reference > 0, sizes[column], 0).mean()
    sizes, radius = np.append(0, sizes), np.pad(radius, ((0, 0), (1, 0)))
    low, high = 1e-12, 1.0
    for _ in range(60):
        price = np.sqrt(low * high)
        reached = (radius - price * sizes).argmax(axis=1)
        total = np.take_along_axis(radius, reached[:, None], axis=1).sum()
        low, high = (price, high) if total >= (1 - tolerance) * reference.sum() else (low, price)
    average = sizes[(radius - low * sizes).argmax(axis=1)].mean()
    return {"each": float(each / NUM_SAMPLES), "average": float(average / NUM_SAMPLES)}


def replay_adaptive(
    success: np.ndarray, sigma: float, *, alpha: float, repeats: int
) -> list[dict[str, Any]]:
    """Samples and loss of average radius of the adaptive certificates."""
    inputs = jnp.asarray(sigma * special.ndtri(success)[:, None], jnp.float32)
    table = certified_radii(sigma, alpha)
    rng = np.random.default_rng(0)
    reference = table[rng.binomial(NUM_SAMPLES, success, (200, len(success)))].mean()
    rows = []
    for tolerance in TOLERANCES:
        for allocation in ("each", "average"):
            spent, loss = [], []
            for seed in range(repeats):
                certificate = smoothing.certify_adaptive(
                    jax.random.key(seed), classify, inputs, noise=smoothing.gaussian(sigma),
                    num_classes=2, tolerance=tolerance, relative_to="max_samples",
                    allocation=allocation, max_samples=NUM_SAMPLES, alpha=alpha, chunk_size=8192,
                )  # fmt: skip
                spent.append(certificate.num_samples.mean() / NUM_SAMPLES)
                loss.append(1.0 - certificate.radius.mean() / reference)
            rows.append(
                {
                    "sigma": sigma,
                    "tolerance": tolerance,
                    "allocation": allocation,
                    "spent": float(np.mean(spent)),
                    "spent_error": standard_error(spent),
                    "loss": float(np.mean(loss)),
                    "loss_error": standard_error(loss),
                    "known_for_loss": with_known_probabilities(
                        success, sigma, float(np.mean(loss)), alpha
                    )[allocation],
                    "known_for_tolerance": with_known_probabilities(
                        success, sigma, tolerance, alpha
                    )[allocation],
                }
            )
    return rows


def markdown(result: Mapping[str, Any]) -> str:
    """The tables of a result."""
    lines = [
        "# Samples saved by deciding early and by adaptive sizes",
        "",
        f"    {result['command']}",
    ]
    lines += ["", f"alpha = {result['alpha']}, N = {NUM_SAMPLES:,}, {result['repeats']} keys, "]
    lines[-1] += "500 CIFAR-10 images a log; shares are of N on every image."
    lines += ["", "## The failure probability of each published log", ""]
    lines += ["Rows whose printed radius no count of 100,000 gives, by alpha.", ""]
    lines += ["| log | rows | abstained | .01 | .001 |", "| :--- | ---: | ---: | ---: | ---: |"]
    for row in result["alphas"]:
        cells = [row["log"], row["rows"], row["abstentions"]]
        cells += [row["misfits"][str(alpha)] for alpha in KNOWN_ALPHAS]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "## decide_radius", ""]
    lines += [
        "Samples as a share of N, selection included; in brackets the share of images that is"
    ]
    lines += ["certified, beside that of one Clopper-Pearson look at N samples.", ""]
    names = [f"{rule}{', giving up' if give_up else ''}" for rule, give_up in TESTS]
    lines.append(f"| sigma | radius | fixed N | {' | '.join(names)} |")
    lines.append(f"| ---: | ---: | ---: {'| ---: ' * len(TESTS)}|")
    decisions = result["decisions"]
    for start in range(0, len(decisions), len(TESTS)):
        group = decisions[start : start + len(TESTS)]
        cells = [f"{row['spent']:.4f} ({row['certified']:.4f})" for row in group]
        first = group[0]
        lines.append(
            f"| {first['sigma']} | {first['radius']} | 1 ({first['certified_by_fixed']:.4f}) "
            f"| {' | '.join(cells)} |"
        )
    lines += ["", "## certify_adaptive", ""]
    lines += ["Loss is against the average radius of fixed N at the same alpha. A rule that knows"]
    lines += ["every probability, and needs no pilot, has its samples given for the loss that was"]
    lines += ["realised, with the ratio to it, and for a loss of exactly the tolerance; the last"]
    lines += ["column is that ratio times the latter.", ""]
    lines.append(
        "| sigma | tolerance | allocation | share of N | loss | known p, this loss | ratio "
        "| known p, tolerance | share of N, tolerance |"
    )
    lines.append("| ---: | ---: | :--- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in result["adaptive"]:
        ratio = row["spent"] / row["known_for_loss"]
        lines.append(
            f"| {row['sigma']} | {row['tolerance']} | {row['allocation']} "
            f"| {row['spent']:.4f} ± {row['spent_error']:.4f} "
            f"| {row['loss']:.4f} ± {row['loss_error']:.4f} | {row['known_for_loss']:.4f} "
            f"| {ratio:.2f} | {row['known_for_tolerance']:.4f} "
            f"| {ratio * row['known_for_tolerance']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def run(folder: Path, *, alpha: float, repeats: int, command: str) -> dict[str, Any]:
    decisions, adaptive = [], []
    for sigma in SIGMAS:
        name = f"cifar10_resnet110_noise_{sigma:.2f}_test_sigma_{sigma:.2f}.tsv"
        (path,) = folder.glob(f"*/{name}")
        log = report.read_log(path)
        fitting = [value for value in KNOWN_ALPHAS if misfits(log, sigma, value) == 0]
        if len(fitting) != 1:
            raise ValueError(f"{path.name} must fit one of {KNOWN_ALPHAS}, it fits {fitting}")
        success = probabilities(log, sigma, fitting[0])
        for radius in RADII:
            decisions += replay_decisions(success, sigma, radius, alpha=alpha, repeats=repeats)
            print(f"sigma {sigma}: decided at {radius}", flush=True)
        adaptive += replay_adaptive(success, sigma, alpha=alpha, repeats=repeats)
        print(f"sigma {sigma}: certified adaptively", flush=True)
    return {
        "command": command,
        "alpha": alpha,
        "num_samples": NUM_SAMPLES,
        "repeats": repeats,
        "alphas": known_alphas(folder),
        "decisions": decisions,
        "adaptive": adaptive,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sample_savings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alpha", type=float, default=0.001)
    parser.add_argument("--repeats", type=int, default=2, help="keys to average over")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for table and JSON")
    options = parser.parse_args(arguments)
    home = os.environ.get("JAXCERT_DATA_DIR")
    if not home:
        parser.error("JAXCERT_DATA_DIR must name the folder that holds rs_published_logs")
    words = sys.argv[1:] if arguments is None else arguments
    options.output.mkdir(parents=True, exist_ok=True)
    result = run(
        Path(home) / "rs_published_logs",
        alpha=options.alpha,
        repeats=options.repeats,
        command=shlex.join(["python", "-m", "experiments.sample_savings", *words]),
    )
    (options.output / "sample_savings.json").write_text(json.dumps(result, indent=2) + "\n")
    table = markdown(result)
    (options.output / "sample_savings.md").write_text(table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
