"""ANCER beside isotropic data-dependent smoothing: volumes on images, and pictures in the plane.

    JAXCERT_DATA_DIR=... python -m experiments.anisotropic --preset mnist --models runs/mnist/models
        --publish

takes the network that `python -m experiments.cohen --preset mnist` trained at sigma 0.25, chooses
for each image a sigma, then a scale for each pixel, and certifies both at the same failure
probability. Finished images are kept in `--output`, from which the same call goes on.
`--preset plane` draws regions of both kinds in two dimensions, as memories keep them apart;
`--preset smoke` does all that in seconds with the digits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import data, models, smoothing

RESULTS = Path(__file__).resolve().parent / "results"


@dataclasses.dataclass(frozen=True)
class Preset:
    """What to certify.

    Attributes:
        dataset: Name of the data set; the network's folder is named by it and by sigma.
        sigma: Where each search starts, and the sigma of training.
        families: Kinds of noise; uniform noise starts at the half-width of the same variance.
        num_images: Test images, spread over the set.
        batch: Images in one call; the result is stored after each.
        num_steps: Steps of either search.
        num_samples: Estimation samples an image of either certificate.
        plane_points: Points of the picture in two dimensions.
    """

    dataset: str
    sigma: float
    families: tuple[str, ...]
    num_images: int
    batch: int
    num_steps: int
    num_samples: int
    plane_points: int


PRESETS = {
    "smoke": Preset("digits", 0.25, ("gaussian",), 4, 4, 5, 500, 3),
    "mnist": Preset("mnist", 0.25, ("gaussian", "uniform"), 16, 4, 100, 10_000, 0),
    "plane": Preset("", 0.25, (), 0, 1, 100, 10_000, 26),
}


def certify_batch(
    key: jax.Array,
    classify: Any,
    images: np.ndarray,
    places: np.ndarray,
    *,
    family: str,
    preset: Preset,
) -> list[dict[str, Any]]:
    """Both certificates of each image, with the same noise of scale 1 for both."""
    start = preset.sigma * (math.sqrt(3.0) if family == "uniform" else 1.0)
    sigma = smoothing.optimize_sigma(
        key, classify, images, initial_sigma=start, num_steps=preset.num_steps, family=family,
        bounds=(start / 4, 4 * start), ids=places,
    )  # fmt: skip
    noise = smoothing.optimize_anisotropic(
        key, classify, images, isotropic_sigma=sigma, num_steps=preset.num_steps, family=family,
        ids=places,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "num_classes": 10, "num_samples": preset.num_samples, "ids": places,
    }  # fmt: skip
    isotropic_noise = smoothing.Noise(family, sigma)
    ball = smoothing.certify(key, classify, images, noise=isotropic_noise, **settings)
    region = smoothing.certify_anisotropic(key, classify, images, noise=noise, **settings)
    size = math.prod(images.shape[1:])
    unit = smoothing.AnisotropicNoise(family, jnp.ones(images.shape, jnp.float32))
    proxy = noise.proxy_radius(region.radius)
    inner = noise.isotropic_radius(region.radius)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_gain = (noise.log_volume(region.radius) - unit.log_volume(ball.radius)) / math.log(10)
    return [
        {
            "image": int(place),
            "sigma": float(sigma[row]),
            "isotropic_label": int(ball.label[row]),
            "isotropic_radius": float(ball.radius[row]),
            "label": int(region.label[row]),
            "proxy_radius": float(proxy[row]),
            "inner_radius": float(inner[row]),
            "scales": [float(value) for value in np.quantile(noise.scales[row], (0, 0.5, 1))],
            "digits_of_volume_gained": float(log_gain[row]) if ball.radius[row] > 0 else None,
            "dimension": size,
        }
        for row, place in enumerate(places)
    ]


def run_images(preset: Preset, models_folder: Path, output: Path) -> dict[str, list[Any]]:
    """All images of all families, from where a former call stopped."""
    test = data.load(preset.dataset, "test")
    places = np.linspace(0, test.num_images - 1, preset.num_images).astype(int)
    network = models.restore(models_folder / f"{preset.dataset}_{preset.sigma}")
    classify = models.from_nnx(network)
    path = output / "rows.json"
    identity = {"preset": dataclasses.asdict(preset), "model": models.fingerprint(classify)}
    identity = json.loads(json.dumps(identity))
    stored = json.loads(path.read_text()) if path.exists() else {"identity": identity, "rows": {}}
    if stored["identity"] != identity:
        raise ValueError(f"{path} belongs to another preset or network; choose another --output")
    for family in preset.families:
        rows = stored["rows"].setdefault(family, [])
        while len(rows) < preset.num_images:
            some = places[len(rows) : len(rows) + preset.batch]
            images = np.asarray(test.images[some])
            found = certify_batch(
                jax.random.key(0), classify, images, some, family=family, preset=preset
            )
            for row, label in zip(found, test.labels[some], strict=True):
                rows.append(row | {"true_label": int(label)})
            path.write_text(json.dumps(stored))
            print(f"{family}: {len(rows)} of {preset.num_images} images", flush=True)
    return stored["rows"]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Averages over all images; a wrong or abstained image has radius 0."""
    right = [row["isotropic_label"] == row["true_label"] for row in rows]
    right_region = [row["label"] == row["true_label"] for row in rows]
    ball = np.array([row["isotropic_radius"] for row in rows]) * right
    proxy = np.array([row["proxy_radius"] for row in rows]) * right_region
    inner = np.array([row["inner_radius"] for row in rows]) * right_region
    gains = [row["digits_of_volume_gained"] for row in rows]
    known = [gain for gain in gains if gain is not None and math.isfinite(gain)]
    return {
        "images": len(rows),
        "isotropic_accuracy": float(np.mean(right)),
        "accuracy": float(np.mean(right_region)),
        "isotropic_radius": float(ball.mean()),
        "proxy_radius": float(proxy.mean()),
        "inner_radius": float(inner.mean()),
        "proxy_at_least_isotropic": int(np.sum(proxy >= ball)),
        "median_digits_of_volume_gained": float(np.median(known)) if known else None,
        "images_with_both": len(known),
    }


def plane_scores(points: jax.Array) -> jax.Array:
    """Three classes of the plane: a tilted band, and what lies above and below it."""
    height = points[:, 1] - 0.35 * points[:, 0] - 0.35 * jnp.sin(1.5 * points[:, 0])
    width = 0.55 + 0.25 * jnp.cos(points[:, 0])
    return 12 * jnp.stack([width - jnp.abs(height), height, -height], axis=1)


def run_plane(preset: Preset) -> dict[str, Any]:
    """Regions of points of the plane after both memories, in the order of the points."""
    rng = np.random.default_rng(4)
    points = rng.uniform([-3, -1.8], [3, 1.8], (preset.plane_points, 2)).astype(np.float32)
    key = jax.random.key(0)
    found: dict[str, Any] = {"points": points.tolist()}
    for family, norm in (("gaussian", "l2"), ("uniform", "l1")):
        sigma = smoothing.optimize_sigma(
            key, plane_scores, points, initial_sigma=0.25, bounds=(0.05, 1.0), family=family,
            num_steps=preset.num_steps,
        )  # fmt: skip
        noise = smoothing.optimize_anisotropic(
            key, plane_scores, points, isotropic_sigma=sigma, family=family,
            num_steps=2 * preset.num_steps, regularization=0.0,
        )  # fmt: skip
        for name, some_noise in (("ball", smoothing.Noise(family, sigma)), ("region", noise)):
            memory = smoothing.RegionMemory.init(
                (2,), norm=norm, fingerprint="plane", anisotropic=name == "region"
            )
            certificate, memory = smoothing.certify_with_memory(
                key, plane_scores, points, noise=some_noise, memory=memory, num_classes=3,
                num_samples=preset.num_samples, model_fingerprint="plane",
            )  # fmt: skip
            axes = np.ones((len(memory), 2)) if memory.scales is None else memory.scales
            found[f"{family} {name}"] = {
                "centres": memory.inputs.tolist(),
                "labels": memory.labels.tolist(),
                "half_axes": (memory.radii[:, None] * axes).tolist(),
                "overridden": int(certificate.answer.overridden.sum()),
                "shrunk": int(certificate.answer.shrunk.sum()),
            }
    return found


def plot_plane(found: dict[str, Any], path: Path) -> None:
    """Decision regions with balls and ellipses, and with diamonds of both kinds."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Ellipse, Polygon

    figure, panels = plt.subplots(2, 2, figsize=(9, 6.2), sharex=True, sharey=True)
    across, up = np.meshgrid(np.linspace(-3.6, 3.6, 300), np.linspace(-2.4, 2.4, 200))
    grid = np.stack([across.ravel(), up.ravel()], axis=1).astype(np.float32)
    labels = np.asarray(plane_scores(jnp.asarray(grid))).argmax(axis=1).reshape(across.shape)
    colours = ["#4477aa", "#ee6677", "#228833"]
    titles = {
        "gaussian ball": "isotropic, l2", "gaussian region": "a scale for each coordinate, l2",
        "uniform ball": "isotropic, l1", "uniform region": "a scale for each coordinate, l1",
    }  # fmt: skip
    for panel, (name, title) in zip(panels.flat, titles.items(), strict=True):
        panel.contourf(across, up, labels, levels=[-0.5, 0.5, 1.5, 2.5], colors=colours, alpha=0.18)
        entry = found[name]
        for (x, y), label, (a, b) in zip(
            entry["centres"], entry["labels"], entry["half_axes"], strict=True
        ):
            style = {"facecolor": colours[label], "edgecolor": colours[label], "alpha": 0.45}
            if name.startswith("gaussian"):
                panel.add_patch(Ellipse((x, y), 2 * a, 2 * b, **style))
            else:
                corners = [(x - a, y), (x, y - b), (x + a, y), (x, y + b)]
                panel.add_patch(Polygon(corners, **style))
        panel.plot(*np.transpose(found["points"]), ".", color="black", markersize=3)
        panel.set_title(f"{title}: {len(entry['labels'])} regions, {entry['shrunk']} cut")
        panel.set_xlim(-3.6, 3.6)
        panel.set_ylim(-2.4, 2.4)
        panel.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def markdown(result: dict[str, Any]) -> str:
    lines = ["# ANCER beside isotropic smoothing", "", f"    {result['command']}", ""]
    preset = result["preset"]
    lines += [
        f"{preset['dataset']}, the network trained at sigma {preset['sigma']}, "
        f"N = {preset['num_samples']:,}, alpha = 0.001.",
        "The isotropic sigma is optimised for each image; the scales of the pixels never fall",
        "below it. Radii are averages over all images, 0 where wrong or abstained; the inner",
        "radius is that of the largest ball within the region; digits of volume are the median",
        "of log10 of the ratio of the volumes, over images that both certify.",
        "",
        "| noise | images | accuracy | accuracy, isotropic | radius, isotropic | proxy radius "
        "| inner radius | proxy radius at least isotropic | digits of volume gained |",
        f"| :--- |{' ---: |' * 8}",
    ]
    for family, row in result["summaries"].items():
        gain = row["median_digits_of_volume_gained"]
        lines.append(
            f"| {family} | {row['images']} | {row['accuracy']:.3f} "
            f"| {row['isotropic_accuracy']:.3f} | {row['isotropic_radius']:.4f} "
            f"| {row['proxy_radius']:.4f} | {row['inner_radius']:.4f} "
            f"| {row['proxy_at_least_isotropic']} of {row['images']} "
            f"| {'-' if gain is None else format(gain, '.1f')} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.anisotropic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--models", type=Path, help="folder of trained networks")
    parser.add_argument("--output", type=Path, default=Path("runs/anisotropic"))
    parser.add_argument("--publish", action="store_true", help="write to experiments/results too")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "experiments.anisotropic", *words])
    settings = {"command": command, "preset": dataclasses.asdict(preset)}
    folders = (options.output, RESULTS) if options.publish else (options.output,)
    options.output.mkdir(parents=True, exist_ok=True)
    if preset.families:
        if options.models is None:
            parser.error("--models must name the folder of trained networks")
        rows = run_images(preset, options.models, options.output)
        summaries = {family: summarize(found) for family, found in rows.items()}
        result = {**settings, "summaries": summaries, "rows": rows}
        for folder in folders:
            (folder / "anisotropic.json").write_text(json.dumps(result, indent=1) + "\n")
            (folder / "anisotropic.md").write_text(markdown(result))
        print(markdown(result))
    if preset.plane_points:
        plane = run_plane(preset)
        for folder in folders:
            text = json.dumps({**settings, "plane": plane}) + "\n"
            (folder / "anisotropic_plane.json").write_text(text)
            plot_plane(plane, folder / "anisotropic.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
