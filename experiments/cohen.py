"""Certified robustness by randomized smoothing: train under noise, certify, draw the curve.

    python -m experiments.cohen --preset smoke --output runs/smoke

`smoke` uses the bundled 8 x 8 digits and takes under a minute on two cores. `mnist` trains a LeNet
for each noise level and certifies every 50th test image with N = 100,000 and alpha = 0.001; it
reads MNIST through TensorFlow Datasets or from JAXCERT_DATA_DIR, and can be stopped at any time:
the same command continues it.

Reference: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
2019, arXiv:1902.02918. The published average certified radii on MNIST are those of the LeNet
trained by plain Gaussian augmentation in Jeong, Shin, "Consistency Regularization for Certified
Robustness of Smoothed Classifiers", 2020, arXiv:2006.04062, over all 10,000 test images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from jaxcert import data, models, report, smoothing, training

Network = models.MLP | models.LeNet | models.ResNet

RESULTS = Path(__file__).resolve().parent / "results"


@dataclasses.dataclass(frozen=True)
class Preset:
    """What to train and certify.

    Attributes:
        dataset: Name of the data set.
        create: Makes the network, from the shape of an image, the number of classes and the mean
            and standard deviation of the pixels.
        recipe: Settings of `training.train`.
        num_images: Test images to certify, spread over the set; None for all.
        num_samples: Estimation samples for each.
        sigmas: Noise levels, each with a network of its own.
        published: Average certified radius to compare with, by noise level.
        tolerance: How far below the published radius is still near, on top of two standard errors.
    """

    dataset: str
    create: Callable[..., Network]
    recipe: Mapping[str, Any]
    num_images: int | None
    num_samples: int
    sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)
    published: Mapping[float, float] = dataclasses.field(default_factory=dict)
    tolerance: float = 0.03


def small_mlp(**settings: Any) -> Network:
    return models.MLP(hidden=(128, 128), rngs=nnx.Rngs(0), **settings)


def lenet(**settings: Any) -> Network:
    return models.LeNet(rngs=nnx.Rngs(0), **settings)


PRESETS = {
    "smoke": Preset(
        dataset="digits",
        create=small_mlp,
        recipe={"num_epochs": 40, "batch_size": 64, "learning_rate": 3e-3},
        num_images=None,
        num_samples=10_000,
        sigmas=(0.125, 0.25, 0.5),
    ),
    "mnist": Preset(
        dataset="mnist",
        create=lenet,
        recipe={"num_epochs": 15, "batch_size": 256, "learning_rate": 2e-3},
        num_images=200,
        num_samples=100_000,
        published={0.25: 0.911, 0.5: 1.558, 1.0: 1.618},
    ),
}


def trained(preset: Preset, sigma: float, *, folder: Path) -> tuple[Network, dict[str, Any]]:
    """Train the network of one noise level, or restore it; with what is known of its training.

    Raises:
        ValueError: if there is a network that was trained by another recipe.
    """
    path = folder / f"{preset.dataset}_{sigma}"
    about = folder / f"{preset.dataset}_{sigma}.json"
    if path.exists():
        known = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
        recipe = json.loads(json.dumps(dict(preset.recipe)))
        if about.exists() and known.get("recipe") != recipe:
            raise ValueError(
                f"{path} was trained with {known.get('recipe')} and the preset says {recipe}; "
                "delete that folder to train again, or name another one with --models"
            )
        return models.restore(path), known
    dataset = data.load(preset.dataset, "train")
    mean, std = models.pixel_statistics(dataset.images)
    module = preset.create(
        input_shape=dataset.images.shape[1:], num_classes=dataset.num_classes, mean=mean, std=std
    )
    checkpoints = folder / f"{preset.dataset}_{sigma}.checkpoints"
    print(f"training on {dataset.num_images} images with noise gaussian({sigma})", flush=True)
    result = training.train(
        # Far from the keys of the initial weights.
        jax.random.fold_in(jax.random.key(0), 0x7472_6169),
        module,
        dataset,
        noise=smoothing.gaussian(sigma),
        checkpoint_dir=checkpoints,
        **preset.recipe,
    )
    known = {
        "recipe": dict(preset.recipe),
        "seconds": sum(epoch["seconds"] for epoch in result.history),
        "last_epoch": result.history[-1],
    }
    about.parent.mkdir(parents=True, exist_ok=True)
    about.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    models.save(path, module)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return module, known


def certified(preset: Preset, sigma: float, module: Network, *, folder: Path) -> report.Log:
    """Certify the test images under one noise level, or continue to."""
    dataset = data.load(preset.dataset, "test", num_images=preset.num_images)
    print(
        f"certifying {dataset.num_images} images with {preset.num_samples:,} samples each "
        f"of gaussian({sigma})",
        flush=True,
    )
    return report.certify_run(
        jax.random.key(0),
        models.from_nnx(module),
        dataset,
        folder=folder / f"sigma_{sigma}",
        noise=smoothing.gaussian(sigma),
        num_samples=preset.num_samples,
    )


def compare(preset: Preset, sigma: float, summary: report.Summary) -> dict[str, Any]:
    """Hold an average certified radius against the published one."""
    published = preset.published[sigma]
    allowed = preset.tolerance + 2 * summary.average_radius_error
    difference = summary.average_radius - published
    return {
        "published": published,
        "difference": difference,
        "allowed_below": allowed,
        "is_near": difference >= -allowed,
    }


def format_comparison(rows: Sequence[Mapping[str, Any]], tolerance: float) -> str:
    lines = [
        "| sigma | ACR | standard error | published | difference | allowed below | near |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | :--- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['sigma']} | {row['average_radius']:.4f} | {row['average_radius_error']:.4f} "
            f"| {row['published']:.3f} | {row['difference']:+.4f} | {row['allowed_below']:.4f} "
            f"| {'yes' if row['is_near'] else 'NO'} |"
        )
    lines += ["", f"Allowed below: {tolerance} plus two standard errors."]
    return "\n".join(lines)


def run(
    name: str,
    preset: Preset,
    *,
    output: Path,
    models_folder: Path,
    command: str,
    note: str | None = None,
) -> dict[str, Any]:
    """Run a preset, write `table.md`, `result.json` and `curve.png` to `output`."""
    logs, summaries, rows = [], [], []
    for sigma in preset.sigmas:
        module, known = trained(preset, sigma, folder=models_folder)
        log = certified(preset, sigma, module, folder=output)
        logs.append(log)
        summary = report.summarize(log, name=f"sigma {sigma}", radii=[0.0])
        row = {
            "sigma": sigma,
            "average_radius": summary.average_radius,
            "average_radius_error": summary.average_radius_error,
            "certify_seconds": summary.seconds,
            "train": known,
            "model_fingerprint": models.fingerprint(models.from_nnx(module)),
        }
        rows.append(row | (compare(preset, sigma, summary) if preset.published else {}))
    radii = report.default_radii(logs)
    summaries = [
        report.summarize(log, radii=radii, name=row_name)
        for log, row_name in zip(logs, (f"sigma {sigma}" for sigma in preset.sigmas), strict=True)
    ]
    result = {
        "preset": name,
        "command": command,
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "note": note,
        "runs": [
            row | {"summary": report.summary_to_dict(summary)}
            for row, summary in zip(rows, summaries, strict=True)
        ],
    }
    table = report.format_table(summaries, markdown=True)
    parts = [f"# Randomized smoothing on {preset.dataset}", f"    {command}", table]
    if preset.published:
        parts.append(format_comparison(rows, preset.tolerance))
    parts.append(times(rows, note=note))
    (output / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    report.plot_curves(
        logs,
        output / "curve.png",
        names=[rf"$\sigma$ = {sigma}" for sigma in preset.sigmas],
        title=f"{preset.dataset}: {len(logs[0].rows)} test images, "
        f"{preset.num_samples:,} samples each, alpha = 0.001",
    )
    print(f"\n{report.format_table(summaries)}\n")
    if preset.published:
        print(format_comparison(rows, preset.tolerance), "\n")
    return result


def times(rows: Sequence[Mapping[str, Any]], *, note: str | None = None) -> str:
    """Say how long training and certifying took, and where; `note` is what to know about that."""
    device = jax.devices()[0]
    where = f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else device.device_kind
    lines = [f"Times on {where}, {note}:" if note else f"Times on {where}:", ""]
    for row in rows:
        seconds = row["train"].get("seconds")
        train = "trained earlier" if seconds is None else f"trained in {seconds:.0f} s"
        lines.append(
            f"- sigma {row['sigma']}: {train}, certified in {row['certify_seconds']:.0f} s"
        )
    return "\n".join(lines)


def publish(name: str, *, output: Path, results: Path, sigmas: Sequence[float]) -> None:
    """Copy the outcome, logs included, to where a checkout keeps results."""
    results.mkdir(exist_ok=True)
    for source, ending in (("table.md", "md"), ("result.json", "json"), ("curve.png", "png")):
        shutil.copy(output / source, results / f"cohen_{name}.{ending}")
    for sigma in sigmas:
        log = output / f"sigma_{sigma}" / report.LOG_NAME
        shutil.copy(log, results / f"cohen_{name}_sigma_{sigma}.tsv")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.cohen",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--models", type=Path, help="folder of trained networks to use or fill")
    parser.add_argument(
        "--sigma", type=float, nargs="+", help="only these noise levels, to share the work"
    )
    parser.add_argument("--note", help='about the times, such as "which ran other work beside it"')
    parser.add_argument("--publish", action="store_true", help="copy to the committed results")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    if options.sigma is not None:
        unknown = sorted(set(options.sigma) - set(preset.sigmas))
        if unknown:
            parser.error(f"--sigma must be of {preset.sigmas}, got {unknown}")
        if options.publish:
            parser.error("--publish takes all noise levels of a preset; leave out --sigma")
        preset = dataclasses.replace(preset, sigmas=tuple(options.sigma))
    words = sys.argv[1:] if arguments is None else arguments
    command = f"python -m experiments.cohen {shlex.join(words)}"
    options.output.mkdir(parents=True, exist_ok=True)
    result = run(
        options.preset,
        preset,
        output=options.output,
        models_folder=options.models or options.output / "models",
        command=command,
        note=options.note,
    )
    print(f"table and curve: {options.output / 'table.md'}, {options.output / 'curve.png'}")
    if options.publish:
        publish(options.preset, output=options.output, results=RESULTS, sigmas=preset.sigmas)
    return 0 if all(run.get("is_near", True) for run in result["runs"]) else 1


if __name__ == "__main__":
    sys.exit(main())
