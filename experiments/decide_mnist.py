"""Time to decide a radius for MNIST images, beside certifying with N = 100,000 on each.

    JAXCERT_DATA_DIR=... python -m experiments.decide_mnist --models runs/mnist/models

takes the networks that `python -m experiments.cohen --preset mnist` trained, decides every image at
each radius, and times fixed sampling on the first few images, which cost the same each. Both run on
the same device in one process; compilation is part of both times.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcert import data, models, smoothing

RESULTS = Path(__file__).resolve().parent / "results"

NUM_SAMPLES = 100_000
# Sigma and radius.
CASES = ((0.25, 0.25), (0.25, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0))


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run a call; return its result, and seconds by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
    }


def compare(
    classify: Any, images: np.ndarray, sigma: float, radius: float, *, fixed_images: int
) -> dict[str, Any]:
    settings: dict[str, Any] = {"noise": smoothing.gaussian(sigma), "num_classes": 10}
    decision, decide_seconds = timed(
        lambda: smoothing.decide_radius(
            jax.random.key(0), classify, images, radius=radius, max_samples=NUM_SAMPLES, **settings
        )
    )
    certificate, fixed_seconds = timed(
        lambda: smoothing.certify(
            jax.random.key(0), classify, images[:fixed_images], num_samples=NUM_SAMPLES, **settings
        )
    )
    spent = decision.num_samples + decision.selection_counts.sum(axis=1)
    decided = decision.verdict[:fixed_images]
    agree = (decided == 0) | ((certificate.radius >= radius) == (decided > 0))
    images_ratio = len(images) / fixed_images
    return {
        "sigma": sigma,
        "radius": radius,
        "images": len(images),
        "samples_an_image": float(spent.mean()),
        "verdicts": {
            verdict.name.lower(): int((decision.verdict == verdict).sum())
            for verdict in smoothing.Verdict
        },
        "decide_seconds": decide_seconds,
        "fixed_images": fixed_images,
        "fixed_seconds": fixed_seconds,
        "agree": bool(agree.all()),
        "speed_up": {
            clock: images_ratio * fixed_seconds[clock] / decide_seconds[clock]
            for clock in decide_seconds
        },
    }


def markdown(result: dict[str, Any]) -> str:
    lines = ["# Time to decide a radius on MNIST", "", f"    {result['command']}", ""]
    lines += [f"On {result['device']}, alpha = 0.001, beside N = {NUM_SAMPLES:,} on each image."]
    lines += ["Fixed sampling was timed on fewer images and scaled.", ""]
    lines.append(
        "| sigma | radius | images | certified | refuted | undecided | samples an image "
        "| seconds | seconds fixed | faster (wall) | faster (processor) |"
    )
    lines.append(f"|{' ---: |' * 11}")
    for row in result["cases"]:
        verdicts, scale = row["verdicts"], row["images"] / row["fixed_images"]
        lines.append(
            f"| {row['sigma']} | {row['radius']} | {row['images']} | {verdicts['certified']} "
            f"| {verdicts['refuted']} | {verdicts['undecided']} | {row['samples_an_image']:.0f} "
            f"| {row['decide_seconds']['wall']:.1f} | {scale * row['fixed_seconds']['wall']:.0f} "
            f"| {row['speed_up']['wall']:.0f} | {row['speed_up']['processor']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.decide_mnist",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--images", type=int, default=200, help="test images, spread over the set")
    parser.add_argument("--fixed-images", type=int, default=1, help="images to time fixed N on")
    options = parser.parse_args(arguments)
    images = data.load("mnist", "test", num_images=options.images).images
    rows = []
    for sigma, radius in CASES:
        classify = models.from_nnx(models.restore(options.models / f"mnist_{sigma}"))
        row = compare(classify, images, sigma, radius, fixed_images=options.fixed_images)
        print(json.dumps(row), flush=True)
        rows.append(row)
    words = sys.argv[1:] if arguments is None else arguments
    device = jax.devices()[0]
    result = {
        "command": shlex.join(["python", "-m", "experiments.decide_mnist", *words]),
        "device": "a CPU core" if device.platform == "cpu" else device.device_kind,
        "cases": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decide_mnist.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "decide_mnist.md").write_text(markdown(result))
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
