"""Tropical pruning in the plane: boundaries and their zonotopes before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _tropical
from jaxcert import tropical

TOYS = ("moons", "circles", "blobs")
BOX = np.array([[-2.2, -2.2], [2.2, 2.2]])
HIDDEN = 40


def measure(
    toys: Sequence[str], shares: Sequence[float], *, num_seeds: int, num_steps: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows for every toy, seed and share of the neurons; and the networks of the first seed."""
    rows: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    for name in toys:
        for seed in range(num_seeds):
            points, labels = _tropical.toy_data(name, 400, seed)
            test_points, test_labels = _tropical.toy_data(name, 2000, seed + 1000)
            key = jax.random.key(seed)
            layers = _tropical.initial_layers(key, (2, HIDDEN, 2))
            layers = _tropical.fit(
                jax.random.fold_in(key, 1), layers, points, labels,
                mask=_tropical.ones_like(layers), num_steps=num_steps, batch_size=64,
                learning_rate=1e-2,
            )  # fmt: skip
            (weights, biases), (output, _) = layers
            scores = jnp.sort(tropical.pruning_scores(weights, biases, output))
            for share in shares:
                gone = HIDDEN - round(share * HIDDEN)
                penalty = float(scores[gone - 1]) * (1 + 1e-5) if gone else 0.0
                with jax.enable_x64(True):
                    exact = [np.asarray(array, np.float64) for layer in layers for array in layer]
                    network, *others = (
                        jax.tree.map(
                            np.asarray, tropical.prune(*exact, penalty=penalty, method=method)
                        )
                        for method in ("closed_form", "alternating")
                    )
                w1, b1, w2, b2 = map(jnp.asarray, network[:4])
                kept = [(w1, b1), (w2, b2)]
                stays = jnp.any(network.w1 != 0, axis=1)
                chosen = [
                    (layers[0][0] * stays[:, None], layers[0][1] * stays),
                    (layers[1][0] * stays[None], layers[1][1]),
                ]
                bounds = tropical.pruning_distance_upper(
                    weights, biases, output, network.w1, network.b1, network.w2
                )
                rows.append(
                    {
                        "toy": name,
                        "seed": seed,
                        "share": share,
                        "neurons": int(jnp.sum(stays)),
                        "penalty": penalty,
                        "accuracy": float(_tropical.accuracy(kept, test_points, test_labels)),
                        "accuracy_neurons": float(
                            _tropical.accuracy(chosen, test_points, test_labels)
                        ),
                        "objective": float(network.objective),
                        "objective_alternating": float(others[0].objective),
                        "distance_upper": float(bounds.max()),
                    }
                )
                if seed == 0:
                    shown.setdefault(name, []).append((kept, chosen, points, labels))
    return rows, shown


def markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Toys in the plane",
        "",
        f"{HIDDEN} hidden neurons, no fine-tuning; means over the seeds. The bound is on the",
        "Hausdorff distance between the zonotopes before and after (`pruning_distance_upper`).",
        "The excess is that of the alternating method's objective over the closed form's; accuracy",
        "is that of the minimiser, and of the same neurons with their weights as trained.",
        "",
        "| toy | neurons | accuracy (%) | as trained | distance at most | objective | excess |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(row["toy"] for row in rows):
        shares = sorted({row["share"] for row in rows}, reverse=True)
        for share in shares:
            group = [row for row in rows if row["toy"] == name and row["share"] == share]

            def mean(column: str, group: list[dict[str, Any]] = group) -> float:
                return float(np.mean([row[column] for row in group]))

            excess = mean("objective_alternating") - mean("objective")
            excess /= mean("objective") or 1.0
            lines.append(
                f"| {name} | {mean('neurons'):.0f} | {100 * mean('accuracy'):.1f} "
                f"| {100 * mean('accuracy_neurons'):.1f} "
                f"| {mean('distance_upper'):.2f} | {mean('objective'):.4f} "
                f"| {excess:.1e} |"
            )
    return [*lines, ""]


def plot(shown: dict[str, Any], path: Path) -> None:
    """The true boundary of the pruned network over that of the full one, a row a toy."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    columns = len(next(iter(shown.values())))
    figure = Figure(figsize=(2.5 * columns, 2.6 * len(shown)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), columns, squeeze=False)
    for line, (name, networks) in enumerate(shown.items()):
        full = None
        for column, (layers, chosen, points, labels) in enumerate(networks):
            panel = panels[line, column]
            for label, color in ((0, _tropical.SKY), (1, _tropical.YELLOW)):
                x, y = points[labels == label].T
                panel.plot(x, y, ".", color=color, markersize=2.5, alpha=0.6, mew=0)
            segments = boundary(layers)
            if full is None:
                full = segments
            else:
                panel.add_collection(LineCollection(full, colors="0.55", linewidths=1.2))
                panel.add_collection(
                    LineCollection(boundary(chosen), colors=_tropical.BLUE, linewidths=1.6)
                )
            panel.add_collection(LineCollection(segments, colors=_tropical.ORANGE, linewidths=2.0))
            alive = int(jnp.sum(jnp.any(layers[0][0] != 0, axis=1)))
            panel.set_title(f"{name}, {alive} neurons" if column else f"{name}, all {alive}",
                            fontsize=9)  # fmt: skip
            panel.set_xlim(BOX[:, 0])
            panel.set_ylim(BOX[:, 1])
            panel.set_aspect("equal")
            panel.set_xticks([])
            panel.set_yticks([])
    figure.suptitle(
        "Decision boundary after tropical pruning, without fine-tuning: the minimiser (orange), "
        "its neurons as trained (blue), before (grey)",
        fontsize=10,
    )
    _tropical.save(figure, path)


def boundary(layers: _tropical.Layers) -> list[np.ndarray]:
    """The true boundary in the box, as segments `[2, 2]`."""
    found = tropical.boundary_segments(*layers[0], *layers[1], classes=None, box=BOX)
    return list(np.stack([found.start, found.end], axis=1))
