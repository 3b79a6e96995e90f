"""Tables and figure of the batch-size rules on MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LEVELS = (0.93, 0.95, 0.96, 0.97)


def label(run: Mapping[str, Any]) -> str:
    return f"fixed {run['size']}" if run["size"] else str(run["name"])


def reached(run: Mapping[str, Any], level: float, column: str) -> float | None:
    """The evaluations or seconds at which a run first shows an accuracy."""
    for point in run["curve"]:
        if point["accuracy"] >= level:
            return float(point[column])
    return None


def seeds(result: Mapping[str, Any], name: str, rate: float) -> str:
    """How many runs a mean is of."""
    count = sum(label(run) == name and run["rate"] == rate for run in result["runs"])
    return f"{count} seed{'s' if count > 1 else ''}"


def means(result: Mapping[str, Any], level: float, column: str) -> dict[tuple[str, float], float]:
    """Mean evaluations or seconds to an accuracy by rule and step, where all seeds arrived."""
    found: dict[tuple[str, float], list[float | None]] = {}
    for run in result["runs"]:
        found.setdefault((label(run), run["rate"]), []).append(reached(run, level, column))
    return {
        key: float(np.mean([value for value in values if value is not None]))
        for key, values in found.items()
        if None not in values
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The best fixed batch beside the best rule, and all of them, at each accuracy."""
    lines = ["# Batch-size rules on MNIST", "", f"    {result['command']}", ""]
    lines += [
        f"A convolutional network, {result['examples']} training images, "
        f"steps {', '.join(map(str, result['rates']))}.",
        "Evaluations of gradients, or seconds of one core spent in training, until the accuracy on",
        f"the whole test set, looked at every {result['every']} evaluations, is at a level: means",
        "over seeds, each rule and fixed batch with the step that is best for it at that level and",
        f"in that unit; `-` if at no step all seeds arrived within {result['budget']} evaluations.",
        f"The rule with the cost of a step takes that to be {result['step_overhead']:g} "
        f"evaluations; it scales its step by the batch, from {result['larger']:g} times those.",
        f"Not run: {', '.join(result['not_run']) or 'none'}. Where numbers of seeds differ, the",
        "second was run for the leaders of the first alone, fixed and not; so few seeds rank them",
        "roughly.",
        "",
        "| accuracy | best fixed, evaluations | best rule | ratio "
        "| best fixed, seconds | best rule | ratio |",
        "| ---: | :--- | :--- | ---: | :--- | :--- | ---: |",
    ]
    for level in LEVELS:
        cells = []
        for column in ("evaluations", "seconds"):
            found = means(result, level, column)
            shortest = []
            for fixed in (True, False):
                chosen = [key for key in found if key[0].startswith("fixed") == fixed]
                key = min(chosen, key=found.__getitem__, default=None)
                shortest.append(np.inf if key is None else found[key])
                cells.append(
                    "-"
                    if key is None
                    else f"{key[0]}, step {key[1]:g}: {amount(found[key], column)}"
                )
            ratio = shortest[1] / shortest[0] if np.all(np.isfinite(shortest)) else np.inf
            cells.append(f"{ratio:.2f}" if np.isfinite(ratio) else "-")
        lines.append(f"| {level:.0%} | {' | '.join(cells)} |")
    for column in ("evaluations", "seconds"):
        lines += [
            "",
            f"Each at its best step, {column}:",
            "",
            "| rule | " + " | ".join(f"{level:.0%}" for level in LEVELS) + " |",
            "| :--- |" + " ---: |" * len(LEVELS),
        ]
        for name in dict.fromkeys(label(run) for run in result["runs"]):
            cells = []
            for level in LEVELS:
                values = means(result, level, column)
                own = {rate: value for (other, rate), value in values.items() if other == name}
                best = min(own, key=own.__getitem__, default=None)
                cells.append(
                    "-"
                    if best is None
                    else f"{amount(own[best], column)} ({best:g}, {seeds(result, name, best)})"
                )
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def amount(value: float, column: str) -> str:
    return f"{value:.0f}" if column == "evaluations" else f"{value:.2f} s"


def figure(result: Mapping[str, Any], path: Path) -> None:
    """Test error over evaluations and over seconds, and batch sizes, at each one's best step."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11.0, 3.8), layout="constrained")
    panels = drawing.subplots(1, 3)
    titles = ("test error", "test error", "batch size")
    columns = ("evaluations", "seconds", "evaluations")
    for name in dict.fromkeys(label(run) for run in result["runs"]):
        rates = {}
        for level in LEVELS:
            for (other, rate), value in means(result, level, "evaluations").items():
                if other == name:
                    rates[(-level, value)] = rate
        if not rates:
            continue
        best = rates[min(rates)]
        (run, *_) = [r for r in result["runs"] if label(r) == name and r["rate"] == best]
        style: dict[str, Any] = {"label": f"{name}, step {best:g}", "linewidth": 1.3}
        if name.startswith("fixed"):
            style |= {"color": str(0.8 - 0.09 * np.log2(run["size"])), "linewidth": 1.0}
        for panel, title, column in zip(panels, titles, columns, strict=True):
            key = "batch_size" if title == "batch size" else "accuracy"
            values = [point[key] for point in run["curve"]]
            if key == "accuracy":
                values = [1 - value for value in values]
            panel.plot([point[column] for point in run["curve"]], values, **style)
            panel.set_yscale("log")
            panel.set_xlabel("gradient evaluations" if column == "evaluations" else column)
            panel.set_ylabel(title)
    drawing.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7
    )
    drawing.savefig(path, dpi=90)
