"""Time to decide a radius for MNIST images, beside certifying with N = 100,000 on each.

    JAXCERT_DATA_DIR=... python -m experiments.decide_mnist --models runs/mnist/models --publish

takes the networks that `python -m experiments.cohen --preset mnist` trained, decides every image at
each radius, and certifies some of them one by one with fixed N, each of which costs the same. Both
run on the same device in one process. Each is compiled beforehand, by calls that are not timed.
`--preset smoke` does the same in seconds with the digits, on networks of the same name.
"""

from __future__ import annotations

import argparse
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Preset:
    """What to decide and to certify.

    Attributes:
        dataset: Name of the data set; the networks' folders are named by it and by sigma.
        cases: Sigma and radius of each row of the table.
        num_images: Test images to decide, spread over the set.
        fixed_images: How many of them to certify with fixed N.
        num_samples: N, which is also the most that a decision may take.
    """

    dataset: str
    cases: tuple[tuple[float, float], ...]
    num_images: int
    fixed_images: int
    num_samples: int


PRESETS = {
    "smoke": Preset("digits", ((0.25, 0.125),), num_images=12, fixed_images=3, num_samples=5_000),
    "mnist": Preset(
        "mnist",
        ((0.25, 0.25), (0.25, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)),
        num_images=200,
        fixed_images=5,
        num_samples=100_000,
    ),
}


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run a call; return its result, and seconds by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
    }


def compare(
    classify: Any, images: np.ndarray, sigma: float, radius: float, *, preset: Preset
) -> dict[str, Any]:
    """Decide all images and certify some, both after a call that compiles."""
    settings: dict[str, Any] = {"noise": smoothing.gaussian(sigma), "num_classes": 10}

    def decide(radius: float, max_samples: int) -> smoothing.Decision:
        return smoothing.decide_radius(
            jax.random.key(0), classify, images, radius=radius, max_samples=max_samples, **settings
        )

    def certify_each(places: np.ndarray) -> list[smoothing.Certificate]:
        return [
            smoothing.certify(
                jax.random.key(0), classify, images[[place]], ids=np.array([place]),
                num_samples=preset.num_samples, **settings,
            )
            for place in places
        ]  # fmt: skip

    # Other radii and sample sizes run the same two programs.
    decide(0.1 * sigma, 64)
    decision, decide_seconds = timed(lambda: decide(radius, preset.num_samples))
    places = np.linspace(0, len(images) - 1, preset.fixed_images).astype(int)
    certify_each(places[:1])
    certificates, fixed_seconds = timed(lambda: certify_each(places))
    reached = np.array([certificate.radius[0] >= radius for certificate in certificates])
    decided = decision.verdict[places]
    spent = decision.num_samples + decision.selection_counts.sum(axis=1)
    scale = len(images) / len(places)
    fixed_seconds = {clock: scale * seconds for clock, seconds in fixed_seconds.items()}
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
        "fixed_images": len(places),
        "fixed_seconds_for_all": fixed_seconds,
        "agree": int(np.sum((decided == 0) | (reached == (decided > 0)))),
        "speed_up": {
            clock: fixed_seconds[clock] / decide_seconds[clock] for clock in fixed_seconds
        },
    }


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# Time to decide a radius on {result['dataset']}",
        "",
        f"    {result['command']}",
        "",
    ]
    lines += [
        f"On {result['device']}, alpha = 0.001, beside N = {result['num_samples']:,} an image.",
        f"Fixed N was timed on {result['fixed_images']} images, one a call, and scaled to all;",
        "compilation is in neither time. Agree: verdicts that are those of fixed N on these.",
        "",
        "| sigma | radius | images | certified | refuted | undecided | samples an image "
        "| seconds | seconds fixed | faster (wall) | faster (processor) | agree |",
        f"|{' ---: |' * 12}",
    ]
    for row in result["cases"]:
        verdicts = row["verdicts"]
        lines.append(
            f"| {row['sigma']} | {row['radius']} | {row['images']} | {verdicts['certified']} "
            f"| {verdicts['refuted']} | {verdicts['undecided']} | {row['samples_an_image']:.0f} "
            f"| {row['decide_seconds']['wall']:.1f} | {row['fixed_seconds_for_all']['wall']:.0f} "
            f"| {row['speed_up']['wall']:.0f} | {row['speed_up']['processor']:.0f} "
            f"| {row['agree']} of {row['fixed_images']} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.decide_mnist",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=PRESETS, default="mnist")
    parser.add_argument("--models", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--output", type=Path, help="folder for the table and its numbers")
    parser.add_argument("--publish", action="store_true", help="write the committed results")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    images = data.load(preset.dataset, "test", num_images=preset.num_images).images
    rows = []
    for sigma, radius in preset.cases:
        network = models.restore(options.models / f"{preset.dataset}_{sigma}")
        row = compare(models.from_nnx(network), images, sigma, radius, preset=preset)
        print(json.dumps(row), flush=True)
        rows.append(row)
    words = sys.argv[1:] if arguments is None else arguments
    device = jax.devices()[0]
    result = {
        "command": shlex.join(["python", "-m", "experiments.decide_mnist", *words]),
        "dataset": preset.dataset,
        "device": "a CPU" if device.platform == "cpu" else device.device_kind,
        "num_samples": preset.num_samples,
        "fixed_images": preset.fixed_images,
        "cases": rows,
    }
    folders = [
        folder for folder in (options.output, RESULTS if options.publish else None) if folder
    ]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2) + "\n"
        (folder / "decide_mnist.json").write_text(text, encoding="utf-8")
        (folder / "decide_mnist.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
