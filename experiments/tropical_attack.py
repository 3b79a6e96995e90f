"""The tropical attack on MNIST beside DeepFool and PGD: success, distance, and moved generators.

    JAXCERT_DATA_DIR=... python -m experiments.tropical_attack --preset paper \
        --output runs/tropical_attack --publish

attacks networks with one hidden layer at test images that they classify correctly. PGD is given,
for each image, the smallest radius at which it succeeds, by bisection; every success is moved back
towards its image by bisection, for all attacks alike. D2, which the tropical attack penalises by
beta, is the squared change of the zonotopes' generators by a change of the first layer that has the
same effect as the perturbation. The budgets and constants of the published
experiment are not known.

Reference: Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks:
A Tropical Geometry Perspective", 2020, arXiv:2002.08838.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments import _tropical
from experiments._tropical import Recipe
from jaxcert import attacks, data, models, tropical

NAMES = {
    "tropical": "tropical, beta = 1",
    "tropical_heavy": "tropical, beta = 30",
    "tropical_plain": "tropical, beta = 0",
    "deepfool": "DeepFool",
    "pgd": "PGD",
}
BETAS = {"tropical": 1.0, "tropical_heavy": 30.0, "tropical_plain": 0.0}
BUDGETS = (0.5, 1.0, 1.5, 2.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Preset:
    dataset: str
    recipe: Recipe
    num_seeds: int
    num_images: int
    pgd_steps: int
    halvings: int
    rounds: int
    steps: int


PRESETS = {
    "smoke": Preset("digits", Recipe(1000, 10, hidden=(24,), batch_size=64), 1, 20, 10, 3, 3, 20),
    "paper": Preset("mnist", Recipe(20_000, 10, hidden=(128,)), 3, 200, 40, 8, 5, 40),
}


def pixel_network(preset: Preset, seed: int, *, folder: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """Weights that take plain pixels, and the test images that they classify correctly."""
    head = _tropical.trained_head(
        preset.dataset, "mlp", seed, recipe=preset.recipe, folder=folder / "models"
    )
    # The normalisation of the pixels goes into the first layer.
    train = data.load(preset.dataset, f"train[:{preset.recipe.num_images}]")
    (mean,), (std,) = (np.atleast_1d(value) for value in models.pixel_statistics(train.images))
    (w1, b1), (w2, b2) = head.layers
    network = tuple(np.asarray(v) for v in (w1 / std, b1 - w1.sum(axis=1) * mean / std, w2, b2))
    test = data.load(preset.dataset, "test", num_images=preset.num_images)
    images = test.images.reshape(test.num_images, -1)
    right = np.asarray(scores(network, images)).argmax(axis=1) == test.labels
    return network, images[right], test.labels[right]


def scores(network: Any, images: Any) -> jax.Array:
    w1, b1, w2, b2 = network
    return jax.nn.relu(images @ w1.T + b1) @ w2.T + b2


def smallest_pgd(
    classify: Partial, images: np.ndarray, labels: np.ndarray, preset: Preset
) -> jax.Array:
    """What PGD finds with the smallest radius that succeeds, by bisection for each image."""
    low, high = np.zeros(len(images), np.float32), np.full(len(images), 6.0, np.float32)
    best = np.array(images)
    for round_number in range(preset.halvings + 1):
        radius = high if round_number == 0 else (low + high) / 2
        key = jax.random.fold_in(jax.random.key(0), round_number)
        found = attacks.pgd(
            key, classify, images, labels, radius=radius, num_steps=preset.pgd_steps,
            bounds=(0.0, 1.0),
        )  # fmt: skip
        success = np.asarray(found.success)
        best[success] = np.asarray(found.inputs)[success]
        low, high = np.where(success, low, radius), np.where(success, radius, high)
    return jnp.asarray(best)


def generator_change(network: Any, images: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """D2 of the least change of the first layer that does what each perturbation does."""
    w1, _, w2, _ = network
    weights = np.zeros(len(w1))
    for i in range(len(w2)):
        for j in range(len(w2)):
            if i != j:
                weights += (np.maximum(w2[i], 0) + np.maximum(-w2[j], 0)) ** 2
    shifts = (moved - images) @ w1.T
    return (shifts**2 * weights).sum(axis=1) / 2 / (images**2).sum(axis=1)


def attack_all(
    network: Any, images: np.ndarray, labels: np.ndarray, preset: Preset
) -> dict[str, attacks.Attack]:
    """Outcome of every attack."""
    classify = Partial(scores, network)
    w1, b1, w2, b2 = network
    moved = {
        name: tropical.tropical_attack(
            w1, b1, w2, b2, images, labels, generator_penalty=beta, num_rounds=preset.rounds,
            num_steps=preset.steps,
        ).inputs
        for name, beta in BETAS.items()
    }  # fmt: skip
    moved["deepfool"] = attacks.deepfool(classify, images, labels, bounds=(0.0, 1.0)).inputs
    moved["pgd"] = smallest_pgd(classify, images, labels, preset)
    return {
        name: attacks.shrink(classify, images, inputs, labels) for name, inputs in moved.items()
    }


def measure(preset: Preset, *, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for every network and attack, and some images of the first network to show."""
    rows, shown = [], {}
    for seed in range(preset.num_seeds):
        network, images, labels = pixel_network(preset, seed, folder=folder)
        for name, found in attack_all(network, images, labels, preset).items():
            distance = np.asarray(found.distance, np.float64)
            done = np.asarray(found.success)
            moved = np.asarray(found.inputs)
            change = generator_change(network, images, moved)
            rows.append(
                {
                    "seed": seed,
                    "attack": name,
                    "images": len(images),
                    "success": float(done.mean()),
                    "within": {str(b): float(np.mean(distance <= b)) for b in BUDGETS},
                    "mean": float(distance[done].mean()),
                    "median": float(np.median(distance)),
                    "generator_change": float(change[done].mean()),
                    "distances": [round(d, 5) if d < np.inf else None for d in distance.tolist()],
                }
            )
            if seed == 0:
                shown[name] = (moved, np.asarray(scores(network, moved)).argmax(axis=1))
                shown["images"] = (images, labels)
        print(f"seed {seed}: {len(images)} images", flush=True)
    return rows, shown


def markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    rows = result["rows"]
    lines = [f"# The tropical attack on {result['dataset']}", "", f"    {result['command']}", ""]
    lines += [
        f"{result['num_seeds']} networks with one hidden layer, {rows[0]['images']} test images",
        "or so each, all classified correctly; l2 distances in pixels of [0, 1]; means over the",
        "networks.",
        "",
        "| attack | success (%) | mean distance | median | D2 | "
        + " | ".join(f"within {b} (%)" for b in BUDGETS)
        + " |",
        "| :--- | ---: | ---: | ---: | ---: |" + " ---: |" * len(BUDGETS),
    ]
    for attack, name in NAMES.items():
        group = [row for row in rows if row["attack"] == attack]

        def mean(column: str, group: list[dict[str, Any]] = group) -> float:
            return float(np.mean([row[column] for row in group]))

        within = [100 * np.mean([row["within"][str(b)] for row in group]) for b in BUDGETS]
        lines.append(
            f"| {name} | {100 * mean('success'):.1f} | {mean('mean'):.4f} | {mean('median'):.4f} "
            f"| {mean('generator_change'):.4f} | "
            + " | ".join(f"{value:.1f}" for value in within)
            + " |"
        )
    lines += ["", *comparison(rows)]
    return "\n".join(lines) + "\n"


def all_distances(rows: Sequence[dict[str, Any]], attack: str) -> np.ndarray:
    """The distances of all networks; JSON has no infinity, so null stands for it."""
    values = [value for row in rows if row["attack"] == attack for value in row["distances"]]
    return np.array([np.inf if value is None else value for value in values])


def comparison(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Image by image: how often each attack is the nearest of all, to a thousandth."""
    distances = {attack: all_distances(rows, attack) for attack in NAMES}
    nearest = np.min(list(distances.values()), axis=0)
    lines = ["| attack | nearest of all (%) | mean excess over the nearest (%) |"]
    lines += ["| :--- | ---: | ---: |"]
    for attack, name in NAMES.items():
        ratio = distances[attack] / np.maximum(nearest, 1e-9)
        found = np.isfinite(ratio)
        lines.append(
            f"| {name} | {100 * np.mean(ratio <= 1.001):.1f} "
            f"| {100 * (np.mean(ratio[found]) - 1):.2f} |"
        )
    return lines


def plot(rows: Sequence[dict[str, Any]], shown: dict[str, Any], path: Path) -> None:
    """Flipped digits with their perturbations, and success against distance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images, labels = shown["images"]
    side = int(np.sqrt(images.shape[1]))
    picks = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10) if digit in labels][:6]
    attacks_shown = ("tropical", "tropical_heavy", "deepfool", "pgd")
    figure = Figure(figsize=(10.4, 6.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))  # type: ignore[misc]
    panels = left.subplots(1 + len(attacks_shown), len(picks))
    for column, pick in enumerate(picks):
        panels[0, column].imshow(images[pick].reshape(side, side), cmap="gray_r", vmin=0, vmax=1)
        panels[0, column].set_title(f"{labels[pick]}", fontsize=9)
        for line, attack in enumerate(attacks_shown, start=1):
            moved, found = shown[attack]
            change = (moved - images)[pick].reshape(side, side)
            panels[line, column].imshow(change, cmap="RdBu_r", vmin=-0.3, vmax=0.3)
            length = float(np.linalg.norm(change))
            panels[line, column].set_title(f"{found[pick]}, {length:.2f}", fontsize=8)
            if column == 0:
                panels[line, 0].set_ylabel(NAMES[attack].replace(", ", "\n"), fontsize=8)
    for panel in panels.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    left.suptitle("image; perturbation, new answer and l2 length", fontsize=10)
    axes = right.subplots()
    colors = (_tropical.ORANGE, _tropical.PINK, _tropical.YELLOW, _tropical.BLUE, _tropical.GREEN)
    for (attack, name), color in zip(NAMES.items(), colors, strict=True):
        values = np.sort(all_distances(rows, attack))
        share = np.arange(1, len(values) + 1) / len(values)
        style = "--" if attack in ("deepfool", "pgd") else "-"
        axes.plot(values, 100 * share, style, color=color, label=name, linewidth=1.6)
    axes.set_xlim(0, None)
    axes.set_ylim(0, 101)
    axes.set_xlabel(r"$\ell_2$ distance (pixels in [0, 1])")
    axes.set_ylabel("images whose answer was changed (%)")
    axes.grid(color="0.92", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _tropical.save(figure, path)


def plot_toy(path: Path, *, num_steps: int) -> None:
    """A point moved over the boundary, and the boundary and its dual polygon moved instead."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon

    points, labels = _tropical.toy_data("moons", 400, 0)
    key, box = jax.random.key(0), np.array([[-2.2, -1.7], [2.2, 1.7]])
    layers = _tropical.initial_layers(key, (2, 20, 2))
    layers = _tropical.fit(
        jax.random.fold_in(key, 1), layers, points, labels, mask=_tropical.ones_like(layers),
        num_steps=num_steps, batch_size=64, learning_rate=1e-2,
    )  # fmt: skip
    (w1, b1), (w2, b2) = layers
    right = np.asarray(_tropical.scores(layers, jnp.asarray(points))).argmax(axis=1) == labels
    found = tropical.tropical_attack(
        w1, b1, w2, b2, points[right], labels[right], bounds=None, confidence=3.0
    )
    # Of the points that are neither at the boundary nor far off, one.
    order = np.argsort(np.asarray(found.distance))
    pick = int(order[len(order) // 2])
    start, end = points[right][pick], np.asarray(found.inputs)[pick]
    change = tropical.weight_perturbation(w1, start[None], (end - start)[None])[0]
    figure = Figure(figsize=(9.6, 4.1), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, dual = figure.subplots(1, 2)
    for label, color in ((0, _tropical.SKY), (1, _tropical.YELLOW)):
        left.plot(*points[labels == label].T, ".", color=color, markersize=3, mew=0)
    kinds = (
        ("trained", w1, _tropical.BLUE, "-"),
        ("first layer changed", w1 + change, _tropical.ORANGE, "--"),
    )
    for name, first, color, style in kinds:
        boundary = tropical.boundary_segments(first, b1, w2, b2, classes=None, box=box)
        left.add_collection(
            LineCollection(
                list(np.stack([boundary.start, boundary.end], axis=1)),
                colors=color,
                linestyles=style,
                linewidths=1.8,
                label=f"boundary, {name}",
            )  # fmt: skip
        )
        polygon = tropical.dual_polygon(first, b1, w2, b2, classes=(0, 1))
        dual.add_patch(
            Polygon(
                polygon,
                fill=style == "-",
                facecolor="#0072B222",
                edgecolor=color,
                linestyle=style,
                linewidth=1.8,
                label=name,
            )  # fmt: skip
        )
    arrow = {"arrowstyle": "->", "lw": 1.6, "color": "black", "shrinkA": 0, "shrinkB": 0}
    left.annotate("", end, start, arrowprops=arrow)
    left.plot(*start, "o", color="black", markersize=5, label="attacked point")
    left.set_xlim(box[0][0], box[1][0])
    left.set_ylim(box[0][1], box[1][1])
    left.set_title("The point crosses the boundary, or the boundary meets it", fontsize=10)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    dual.autoscale_view()
    dual.set_title("Dual polygon of the boundary", fontsize=10)
    dual.legend(frameon=False, fontsize=8)
    for panel in (left, dual):
        panel.set_aspect("equal")
        panel.set_xticks([])
        panel.set_yticks([])
    _tropical.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tropical_attack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--publish", action="store_true", help="copy to the committed results")
    options = parser.parse_args(arguments)
    preset, output = PRESETS[options.preset], options.output
    output.mkdir(parents=True, exist_ok=True)
    rows, shown = measure(preset, folder=output)
    result = {
        "preset": options.preset,
        "dataset": preset.dataset,
        "num_seeds": preset.num_seeds,
        "command": _tropical.command("tropical_attack", arguments),
        "rows": rows,
    }
    (output / "table.md").write_text(markdown(result), encoding="utf-8")
    (output / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    plot(rows, shown, output / "attack.png")
    plot_toy(output / "toy.png", num_steps=1500 if options.preset == "paper" else 200)
    print(f"table and figure: {output}")
    if options.publish:
        for source, ending in (("table.md", "md"), ("result.json", "json"), ("attack.png", "png")):
            shutil.copy(output / source, _tropical.RESULTS / f"tropical_attack.{ending}")
        shutil.copy(output / "toy.png", _tropical.RESULTS / "tropical_attack_toy.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
