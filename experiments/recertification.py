"""Recertify a pruned or quantised network from the log of an earlier run, with fewer samples.

    python -m experiments.recertification --run runs/mnist/sigma_1.0 \
        --model runs/mnist/models/mnist_1.0 --change prune --share 0.05

reads the counts of an earlier `jaxcert certify`, changes the network, certifies the changed one by
`smoothing.recertify`, and then samples the changed network alone, in blocks, until its average
certified radius is the same at the same alpha. The ratio of samples is what recertification saves.
It runs the old network on some of its samples too, so the ratio of runs of a network is given.

Reference: Ugare, Suresh, Banerjee, Singh, Misailovic, "Incremental Randomized Smoothing
Certification", 2023, arXiv:2305.19521.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import data, models, report, smoothing

RESULTS = Path(__file__).resolve().parent / "results"
NOTES = """\
ACR: average certified radius, wrong and abstained count as 0. Earlier: the old network, as
logged. All at the alpha of the earlier run, that of recertification including the earlier bound.
Runs: of a network, an image; the old network runs only on samples on which the new one does not
say the class. Direct: images with so high an earlier bound that the new network alone is sampled.
Plain samples: of the new network alone, drawn in blocks until the ACR is reached, interpolated
within the last block. Where nearly every sample agrees, a disagreement is as rare as a vote for
another class and takes as many samples to bound: there an earlier run saves nothing, as at noise
0.25 and 0.5, where such images make most of the ACR.
"""


def pruned(classify: Any, share: float) -> Any:
    """Set the smallest weights of each kernel to 0, a given share of them."""

    def prune(kernel: jax.Array) -> jax.Array:
        magnitude = jnp.abs(kernel)
        return jnp.where(magnitude < jnp.quantile(magnitude, share), 0.0, kernel)

    return _change_kernels(classify, prune)


def quantised(classify: Any, bits: int) -> Any:
    """Round each kernel to signed integers of so many bits, with one scale an output channel."""
    largest = 2 ** (bits - 1) - 1

    def quantise(kernel: jax.Array) -> jax.Array:
        over_inputs = tuple(range(kernel.ndim - 1))
        scale = jnp.max(jnp.abs(kernel), axis=over_inputs, keepdims=True) / largest
        scale = jnp.maximum(scale, jnp.finfo(jnp.float32).tiny)
        return jnp.round(kernel / scale) * scale

    return _change_kernels(classify, quantise)


def _change_kernels(classify: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
    """Apply `change` to the kernels of a classifier: its arrays of two axes and more."""
    return jax.tree.map(
        lambda leaf: change(leaf) if jnp.ndim(leaf) >= 2 else leaf,
        classify,
    )


def earlier_run(
    folder: Path, fingerprint: str, *, limit: int | None
) -> tuple[np.ndarray, smoothing.Certificate, smoothing.Noise, dict[str, Any]]:
    """Read indices, labels, counts and noise of a run, and check whose counts they are."""
    manifest = report.read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{folder} holds no run of `jaxcert certify`")
    known = manifest["model"]["fingerprint"]
    if known != fingerprint:
        raise ValueError(f"the log is of the network {known[:12]}, got {fingerprint[:12]}")
    settings = manifest["settings"]
    noise = smoothing.parse_noise(settings["noise"])
    rows = report.read_log(folder / report.LOG_NAME).rows[:limit]
    classes = manifest["data"]["num_classes"]
    certificate = smoothing.certificate_from_counts(
        _matrix([row.selection for row in rows], classes),
        _matrix([row.counts for row in rows], classes),
        noise=noise,
        alpha=settings["alpha"],
    )
    return np.array([row.index for row in rows]), certificate, noise, settings


def _matrix(votes: Sequence[Any], classes: int) -> np.ndarray:
    matrix = np.zeros((len(votes), classes), np.int64)
    for row, counts in zip(matrix, votes, strict=True):
        for label, count in counts.items():
            row[label] = count
    return matrix


def average_radius(label: np.ndarray, radius: np.ndarray, truth: np.ndarray) -> float:
    """Average certified radius; wrong and abstained count as 0."""
    return float(np.mean(np.where(label == truth, radius, 0.0)))


def plain_samples_for(
    target: float,
    new: Any,
    images: np.ndarray,
    truth: np.ndarray,
    earlier: smoothing.Certificate,
    *,
    noise: smoothing.Noise,
    alpha: float,
    ids: np.ndarray,
    block: int,
    max_samples: int,
) -> tuple[float | None, list[tuple[int, float]]]:
    """Sample the new network alone until its average radius reaches the target.

    Returns:
        The samples an image at which it does, interpolated within a block, None if
        `max_samples` do not; and the average radius after each block.
    """
    counts = np.zeros_like(earlier.counts)
    curve: list[tuple[int, float]] = [(0, 0.0)]
    for index in range(-(-max_samples // block)):
        key = jax.random.fold_in(jax.random.key(2), index)
        counts += np.asarray(
            smoothing.class_counts(
                key, new, images, noise=noise, num_samples=block, ids=ids,
                num_classes=counts.shape[1],
            )
        )  # fmt: skip
        plain = smoothing.certificate_from_counts(
            earlier.selection_counts, counts, noise=noise, alpha=alpha
        )
        samples, average = (index + 1) * block, average_radius(plain.label, plain.radius, truth)
        before, average_before = curve[-1]
        curve.append((samples, average))
        print(f"  plain, {samples} samples: average radius {average:.4f}", flush=True)
        if average >= target:
            part = (target - average_before) / max(average - average_before, 1e-12)
            return before + part * (samples - before), curve[1:]
    return None, curve[1:]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Recertify, then find what the same average radius costs without the earlier run."""
    old = models.from_nnx(models.restore(options.model))
    indices, earlier, noise, settings = earlier_run(
        options.run, models.fingerprint(old), limit=options.count
    )
    if options.change == "prune":
        new, change = pruned(old, options.share), f"the smallest {options.share:.0%} pruned"
    else:
        new, change = quantised(old, options.bits), f"{options.bits}-bit kernels"
    dataset = data.load(options.dataset, "test")
    images, truth = dataset.images[indices], dataset.labels[indices]
    alpha = settings["alpha"]
    result = smoothing.recertify(
        jax.random.key(1), old, new, images, certificate=earlier, noise=noise, alpha=alpha,
        num_samples=options.num_samples, ids=indices,
    )  # fmt: skip
    average = average_radius(result.label, result.radius, truth)
    samples, runs = float(result.num_samples.mean()), float(result.num_runs.mean())
    print(f"{change}: recertified with {samples:.0f} samples, average radius {average:.4f}")
    plain, curve = plain_samples_for(
        average, new, images, truth, earlier, noise=noise, alpha=alpha, ids=indices,
        block=options.num_samples, max_samples=settings["num_samples"],
    )  # fmt: skip
    lost = result.disagreement_upper[~result.is_direct]
    return {
        "noise": str(noise),
        "change": change,
        "alpha": alpha,
        "num_images": len(indices),
        "earlier_samples": settings["num_samples"],
        "earlier_average_radius": average_radius(earlier.label, earlier.radius, truth),
        "average_radius": average,
        "samples": samples,
        "runs_of_a_network": runs,
        "direct_share": float(result.is_direct.mean()),
        "median_disagreement_upper": float(np.median(lost)) if lost.size else None,
        "plain_samples_for_the_same": plain,
        "fewer_samples": None if plain is None else plain / samples,
        "fewer_runs": None if plain is None else plain / runs,
        "plain_curve": curve,
    }


def format_table(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| noise | change | images | earlier ACR, N | ACR | samples | runs | direct "
        "| plain samples for the same ACR | fewer samples | fewer runs |",
        "| :--- | :--- " + "| ---: " * 9 + "|",
    ]
    for row in results:
        lines.append(
            f"| {row['noise']} | {row['change']} | {row['num_images']} "
            f"| {row['earlier_average_radius']:.4f}, {row['earlier_samples']:,} "
            f"| {row['average_radius']:.4f} | {row['samples']:,.0f} "
            f"| {row['runs_of_a_network']:,.0f} | {row['direct_share']:.0%} "
            f"| {_or_not_reached(row['plain_samples_for_the_same'], ',.0f')} "
            f"| {_or_not_reached(row['fewer_samples'], '.2f', 'x')} "
            f"| {_or_not_reached(row['fewer_runs'], '.2f', 'x')} |"
        )
    return "\n".join(lines)


def _or_not_reached(value: float | None, form: str, unit: str = "") -> str:
    return "not reached" if value is None else f"{value:{form}}{unit}"


def publish(result: dict[str, Any], folder: Path) -> None:
    """Add a result to those that a checkout keeps, in the place of one by the same command."""
    path = folder / "recertification.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [row for row in kept if row["command"] != result["command"]] + [result]
    kept.sort(key=lambda row: (row["noise"], row["change"]))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    commands = "\n".join(f"    {row['command']}" for row in kept)
    text = f"# Recertification of changed networks\n\n{commands}\n\n{format_table(kept)}\n\n{NOTES}"
    (folder / "recertification.md").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.recertification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder of the old network")
    parser.add_argument("--model", type=Path, required=True, help="folder of the old network")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--change", choices=("prune", "quantise"), default="prune")
    parser.add_argument("--share", type=float, default=0.05, help="weights to prune, in [0, 1)")
    parser.add_argument("--bits", type=int, default=8, help="of a quantised weight")
    parser.add_argument("--num-samples", type=int, default=3000, help="fresh samples an image")
    parser.add_argument("--count", type=int, help="images to use; all of the run by default")
    parser.add_argument("--output", type=Path, help="JSON file to write the result to")
    parser.add_argument("--publish", action="store_true", help="add to the committed results")
    options = parser.parse_args(arguments)
    result = measure(options)
    words = sys.argv[1:] if arguments is None else arguments
    result["command"] = f"python -m experiments.recertification {shlex.join(words)}"
    print(format_table([result]))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(
            json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    if options.publish:
        publish(result, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
