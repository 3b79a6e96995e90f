"""Lottery tickets seen by the polygons that are dual to their decision boundaries.

    python -m experiments.tropical_lottery --preset paper --output runs/tropical_lottery --publish

trains networks of one hidden layer on two classes in the plane, prunes the smallest weights of each
matrix by 30% a round, and trains again what is left: from the weights of the very start (the
ticket), or from fresh ones of a named initialiser. Each result is compared with the network that
was never pruned: the Hausdorff distance of their dual polygons in units of the polygon's span, the
ratio of the areas and their overlap, the relative distance of the generators, and the angle between
the normals of the boundaries (`tropical.compare_boundaries`). The paper shows pictures; width,
rates and data of its study are not known, so the numbers here are ours alone.

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

from experiments import _tropical
from experiments._tropical import Layers
from jaxcert import tropical

INITIALS = {
    "ticket": "ticket: rewound",
    "kaiming": "Kaiming, redrawn",
    "xavier": "Xavier, redrawn",
    "normal": "normal, redrawn",
}
NUMBERS = {
    "accuracy": "accuracy",
    "relative_distance": "Hausdorff distance / span",
    "area_ratio": "area ratio",
    "overlap": "overlap of the polygons",
    "generator_distance": "distance of generators",
    "normal_angle": "angle of normals (degrees)",
}
BOX = np.array([[-2.2, -2.2], [2.2, 2.2]])


@dataclasses.dataclass(frozen=True)
class Preset:
    toys: tuple[str, ...]
    hidden: int
    num_rounds: int
    num_seeds: int
    num_steps: int


PRESETS = {
    "smoke": Preset(("moons",), 12, 2, 2, 150),
    "paper": Preset(("moons", "circles"), 40, 8, 5, 1500),
}


def flat(layers: Layers) -> tuple[jax.Array, ...]:
    return tuple(array for layer in layers for array in layer)


def masked(layers: Layers, mask: Layers) -> Layers:
    return jax.tree.map(jnp.multiply, layers, mask)


def smallest_removed(layers: Layers, share: float) -> Layers:
    """A mask of the largest weights, this share of each matrix; biases stay."""
    total = sum(weight.size for weight, _ in layers)
    kept = tropical.magnitude_prune(
        [weight for weight, _ in layers], num_weights=round(share * total), scheme="class_uniform"
    )
    return [
        ((weight != 0).astype(weight.dtype), jnp.ones_like(bias))
        for weight, (_, bias) in zip(kept, layers, strict=True)
    ]


def measure(preset: Preset) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for every toy, seed, round and initialiser; and the first seed's networks."""
    rows: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    for toy in preset.toys:
        for seed in range(preset.num_seeds):
            key = jax.random.key(seed)
            points, labels = _tropical.toy_data(toy, 400, seed)
            test = _tropical.toy_data(toy, 2000, seed + 1000)
            sizes = (2, preset.hidden, 2)
            start = _tropical.initial_layers(key, sizes)

            def train(
                layers: Layers, mask: Layers, data: Any = (points, labels), key: Any = key
            ) -> Layers:
                return _tropical.fit(
                    jax.random.fold_in(key, 1), masked(layers, mask), *data, mask=mask,
                    num_steps=preset.num_steps, batch_size=64, learning_rate=1e-2,
                )  # fmt: skip

            full = train(start, _tropical.ones_like(start))
            ticket, share = full, 1.0
            for number in range(preset.num_rounds + 1):
                if number:
                    share *= 0.7
                    mask = smallest_removed(ticket, share)
                    networks = {
                        name: train(
                            start if name == "ticket"
                            else _tropical.initial_layers(
                                jax.random.fold_in(key, 100 + number), sizes, scheme=name
                            ),
                            mask,
                        )
                        for name in INITIALS
                    }  # fmt: skip
                    ticket = networks["ticket"]
                else:
                    networks = {"ticket": full}
                for name, network in networks.items():
                    found = tropical.compare_boundaries(
                        flat(full), flat(network), classes=(0, 1), box=BOX
                    )
                    row = {"toy": toy, "seed": seed, "round": number, "initial": name}
                    row["kept"] = share
                    row["accuracy"] = float(_tropical.accuracy(network, *test))
                    row |= {k: v for k, v in found._asdict().items() if k != "normal_angle"}
                    row["normal_angle"] = float(np.degrees(found.normal_angle))
                    rows.append(row)
                if seed == 0:
                    shown.setdefault(toy, []).append((share, networks, points, labels))
        print(f"{toy}: done", flush=True)
    return rows, shown


def group(rows: Sequence[dict[str, Any]], column: str, **chosen: Any) -> np.ndarray:
    """The values of a column in the rows with the chosen values."""
    return np.array(
        [row[column] for row in rows if all(row[key] == value for key, value in chosen.items())]
    )


def markdown(result: dict[str, Any]) -> str:
    rows = result["rows"]
    seeds = len({row["seed"] for row in rows})
    lines = ["# Lottery tickets and their dual polygons", "", f"    {result['command']}", ""]
    lines += [
        f"Means over {seeds} seeds; every network is compared with the trained one that was never",
        "pruned. Distances are relative to the span of its polygon, or to the norm of its",
        "generators; where a boundary left the picture, its angle is left out. The tickets were",
        "drawn by Kaiming's initialiser too; weights drawn by Xavier's are smaller from the start,",
        "and so are their polygons.",
        "",
    ]
    for toy in dict.fromkeys(row["toy"] for row in rows):
        lines += [f"## {toy}", ""]
        lines += [f"| pruned (%) | weights from | {' | '.join(NUMBERS.values())} |"]
        lines += [f"| ---: | :--- |{' ---: |' * len(NUMBERS)}"]
        for number in sorted({row["round"] for row in rows} - {0}):
            for name, title in INITIALS.items():
                chosen = {"toy": toy, "round": number, "initial": name}
                kept = group(rows, "kept", **chosen)[0]
                cells = []
                for column in NUMBERS:
                    values = group(rows, column, **chosen)
                    known = values[np.isfinite(values)]
                    scale = 100 if column == "accuracy" else 1
                    digits = 1 if column in ("accuracy", "normal_angle") else 3
                    cells.append(f"{scale * known.mean():.{digits}f}" if known.size else "none")
                lines.append(f"| {100 * (1 - kept):.0f} | {title} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *verdict(rows)]) + "\n"


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Whether the ticket keeps the polygon better than fresh weights do, counted by seeds."""
    lines = [
        "## Does the ticket keep the polygon?",
        "",
        "Cases (toy, round and seed) in which the ticket's number is better than that of the same",
        "weights redrawn: smaller for distances and angles, nearer to 1 for areas, larger for the",
        "overlap and the accuracy.",
        "",
        f"| against | {' | '.join(NUMBERS.values())} |",
        f"| :--- |{' ---: |' * len(NUMBERS)}",
    ]
    for name in [name for name in INITIALS if name != "ticket"]:
        cells = []
        for column in NUMBERS:
            own, other = (cost(column, group(rows_of(rows), column, initial=who))
                          for who in ("ticket", name))  # fmt: skip
            known = np.isfinite(own) & np.isfinite(other)
            better = np.sum(own[known] < other[known])
            cells.append(f"{better} of {np.sum(known)}")
        lines.append(f"| {INITIALS[name]} | {' | '.join(cells)} |")
    return lines


def rows_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["round"] > 0]


def cost(column: str, values: np.ndarray) -> np.ndarray:
    """What is smaller the better."""
    if column in ("accuracy", "overlap"):
        return -values
    return np.abs(np.log(np.maximum(values, 1e-12))) if column == "area_ratio" else values


def plot_numbers(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Each number against the share of weights pruned, a row a toy."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    toys = list(dict.fromkeys(row["toy"] for row in rows))
    columns = [column for column in NUMBERS if column != "generator_distance"]
    figure = Figure(figsize=(2.7 * len(columns), 2.6 * len(toys) + 0.5), dpi=105,
                    layout="constrained")  # fmt: skip
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(toys), len(columns), squeeze=False, sharex=True)
    colors = (_tropical.ORANGE, _tropical.BLUE, _tropical.GREEN, _tropical.PINK)
    for line, toy in enumerate(toys):
        for place, column in enumerate(columns):
            panel = panels[line, place]
            for (name, title), color in zip(INITIALS.items(), colors, strict=True):
                numbers = sorted({row["round"] for row in rows if row["initial"] == name})
                x, mean, spread = [], [], []
                for number in numbers:
                    chosen = {"toy": toy, "round": number, "initial": name}
                    values = group(rows, column, **chosen)
                    known = values[np.isfinite(values)]
                    if known.size:
                        x.append(100 * (1 - group(rows, "kept", **chosen)[0]))
                        mean.append(known.mean())
                        spread.append(known.std(ddof=1) if known.size > 1 else 0.0)
                low, high = np.subtract(mean, spread), np.add(mean, spread)
                panel.plot(x, mean, "-o", color=color, markersize=3, linewidth=1.6, label=title)
                panel.fill_between(x, low, high, color=color, alpha=0.13, lw=0)
            panel.grid(color="0.92", linewidth=0.8)
            panel.spines[["top", "right"]].set_visible(False)
            if line == 0:
                panel.set_title(NUMBERS[column], fontsize=9)
            if line == len(toys) - 1:
                panel.set_xlabel("weights pruned (%)", fontsize=9)
        panels[line, 0].set_ylabel(toy)
    handles, titles = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    _tropical.save(figure, path)


def plot_polygons(networks: Sequence[Any], toy: str, path: Path) -> None:
    """The dual polygon after each round over the first one, a row an initialiser."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon

    full = networks[0][1]["ticket"]
    rounds = [entry for number, entry in enumerate(networks) if number % 2 == 1]
    figure = Figure(figsize=(2.0 * (len(rounds) + 1), 2.1 * len(INITIALS)), dpi=105,
                    layout="constrained")  # fmt: skip
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(INITIALS), len(rounds) + 1, squeeze=False)
    outline = tropical.dual_polygon(*flat(full), classes=(0, 1))
    colors = (_tropical.ORANGE, _tropical.BLUE, _tropical.GREEN, _tropical.PINK)
    center, reach = outline.mean(axis=0), 0.75 * np.ptp(outline, axis=0).max()
    for line, ((name, title), color) in enumerate(zip(INITIALS.items(), colors, strict=True)):
        for column, entry in enumerate([networks[0], *rounds]):
            panel = panels[line, column]
            network = entry[1].get(name, full)
            polygon = tropical.dual_polygon(*flat(network), classes=(0, 1))
            panel.add_patch(Polygon(outline, fill=False, edgecolor="0.5", linewidth=1))
            if column and len(polygon) > 2:
                panel.add_patch(
                    Polygon(polygon, facecolor=color, edgecolor=color, alpha=0.45, linewidth=1.2)
                )
            panel.set_xlim(center[0] - reach, center[0] + reach)
            panel.set_ylim(center[1] - reach, center[1] + reach)
            panel.set_aspect("equal")
            panel.set_xticks([])
            panel.set_yticks([])
            if line == 0:
                pruned = f"{100 * (1 - entry[0]):.0f}% pruned"
                panel.set_title(pruned if column else "not pruned", fontsize=9)
        panels[line, 0].set_ylabel(title, fontsize=9)
    figure.suptitle(f"{toy}: dual polygon of the decision boundary (grey: not pruned)", fontsize=10)
    _tropical.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tropical_lottery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("--publish", action="store_true", help="copy to the committed results")
    options = parser.parse_args(arguments)
    preset, output = PRESETS[options.preset], options.output
    output.mkdir(parents=True, exist_ok=True)
    rows, shown = measure(preset)
    command = _tropical.command("tropical_lottery", arguments)
    result = {"preset": options.preset, "command": command, "rows": rows}
    (output / "table.md").write_text(markdown(result), encoding="utf-8")
    (output / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot_numbers(rows, output / "numbers.png")
    for toy, networks in shown.items():
        plot_polygons(networks, toy, output / f"{toy}.png")
    print(f"table and figures: {output}")
    if options.publish:
        for source in ("table.md", "result.json", "numbers.png"):
            target = f"tropical_lottery{Path(source).suffix}"
            shutil.copy(output / source, _tropical.RESULTS / target)
        for toy in shown:
            shutil.copy(output / f"{toy}.png", _tropical.RESULTS / f"tropical_lottery_{toy}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
