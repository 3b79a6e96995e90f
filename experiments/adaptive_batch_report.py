"""Tables and figures of the runs with adaptive batch sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LEVELS = (1e-2, 1e-3, 1e-4)
COLOURS = {"fixed": "0.65", "adaptive": "tab:orange", "distance": "tab:blue"}
DRAWN = {
    "adaptive, table": "tab:orange",
    "adaptive, exact variance": "tab:red",
    "distance, known": "tab:blue",
    "distance, measured": "tab:cyan",
    "distance, measured, overhead 16": "tab:green",
}


def at_target(row: Mapping[str, Any], start: Mapping[str, Any], column: str = "passes") -> float:
    """Mean passes of one row to the level that its start is compared at."""
    value = row[column][LEVELS.index(start["target"])]
    return math.inf if value is None else float(value)


def best(start: Mapping[str, Any], group: str, column: str = "passes") -> tuple[float, str]:
    """The fewest passes of a group, and whose they are."""
    rows = [row for row in start["rows"] if row["group"] == group]
    return min((at_target(row, start, column), str(row["name"])) for row in rows)


def ratios(start: Mapping[str, Any]) -> dict[str, float]:
    """Passes of the rules, all evaluations counted, over those of the best fixed batch."""
    reference = best(start, "fixed")[0]
    return {
        row["name"]: at_target(row, start, "all_passes") / reference
        for row in start["rows"]
        if row["group"] in ("adaptive", "distance")
    }


def number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"


def share(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def samplings_table(samplings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The size of least work of every sampling."""
    lines = ["", "## Samplings side by side", ""]
    lines += [
        "The size of least work by the closed forms; in brackets without the gradients of the",
        "parts at the optimum, which the published sizes leave out; and the passes of the theorem.",
        "Parts are contiguous in the file.",
        "",
        "| data | sampling | optimal batch size | largest | passes |",
        "| :--- | :--- | ---: | ---: | ---: |",
    ]
    for found in samplings:
        for name, row in found["samplings"].items():
            size = f"{row['optimal_batch_size']:.1f}"
            if "parts" in name:
                size += f" ({row['without_parts']:.1f})"
            lines.append(
                f"| {found['name']} | {name} | {size} | {row['largest']} "
                f"| {row['least_passes']:.0f} |"
            )
    return lines


def seconds_table(
    results: Sequence[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Wall times of the fixed batches and the rules, with the passes of the same runs."""
    names = [name for name in timed[0]["starts"]["far"] if not name.startswith("fixed")]
    lines = ["", "## Seconds beside passes", ""]
    lines += [
        f"Median seconds of processor time over {timed[0]['keys']} keys to the level of each",
        "start, each run a compiled program of its own in float64, compilation left out; mean",
        "passes of the same runs in brackets, first full passes included. The fixed batch is the",
        "fastest of those that arrived, and beside it that of fewest passes. The overhead is what",
        "a rule takes a step to cost beside its gradients.",
        "",
        f"| data | start | fastest fixed | fixed of fewest passes | {' | '.join(names)} |",
        f"| :--- | :--- | ---: | ---: |{' ---: |' * len(names)}",
    ]
    by_name = {found["name"]: found for found in timed}
    for result in [result for result in results if result["name"] in by_name]:
        for start in result["starts"]:
            rows = by_name[result["name"]]["starts"][start["start"]]
            fixed = {name: row for name, row in rows.items() if name.startswith("fixed") and row}
            cells = []
            for column in ("seconds", "passes"):
                _, name = min((row[column], name) for name, row in fixed.items())
                cells.append(f"{name.split()[-1]}: {clock(fixed[name])}")
            cells += [clock(rows[name]) for name in names]
            lines.append(f"| {result['name']} | {start['start']} | {' | '.join(cells)} |")
    return lines


def clock(row: Mapping[str, Any] | None) -> str:
    """Seconds, and passes in brackets."""
    return "-" if row is None else f"{row['seconds']:.3g} s ({row['passes']:.1f})"


def markdown(
    results: Sequence[Mapping[str, Any]],
    timed: Sequence[Mapping[str, Any]],
    samplings: Sequence[Mapping[str, Any]],
    command: str,
) -> str:
    """All tables."""
    lines = ["# Adaptive batch sizes against fixed ones", "", f"    {command}", ""]
    lines += [
        "Passes over the data (gradients of single examples over n) until the squared distance to",
        "the optimum is first a given share of that at the start: means over seeds, `-` where a",
        "seed did not arrive within 1.1 times the passes of full gradients, or 2 times where the",
        "exact variants are run too. Full gradients need one seed.",
        "Fixed batches take the constant step of the theorem for the accuracy epsilon.",
        "",
        "## In short",
        "",
        "At the level of each start: all evaluations of each rule, full passes for statistics",
        "included, over the passes of the best fixed batch. Below 1 the rule wins. `tuned` is the",
        "same for fixed batches whose steps were tuned by looking at the result.",
        "",
    ]
    names = ["adaptive, table", "adaptive, batch"]
    names += [name for name in DRAWN if name.startswith("distance")]
    lines.append(f"| data | start | level | best fixed | passes | {' | '.join(names)} | tuned |")
    lines.append(f"| :--- | :--- | ---: | :--- | ---: |{' ---: |' * (len(names) + 1)}")
    for result in results:
        for start in result["starts"]:
            fixed, name = best(start, "fixed")
            found = ratios(start)
            cells = [share(found.get(name, math.inf)) for name in names]
            tuned = best(start, "tuned")[0] / fixed
            lines.append(
                f"| {result['name']} | {start['start']} | {start['target']:g} | {name} "
                f"| {number(fixed)} | {' | '.join(cells)} | {share(tuned)} |"
            )
    if timed:
        lines += seconds_table(results, timed)
    if samplings:
        lines += samplings_table(samplings)
    for result in results:
        lines += ["", f"## {result['name']}", ""]
        lines.append(
            f"{result['kind']}, n = {result['n']}, d = {result['d']}, lambda = "
            f"{result['penalty_times_n']:g}/n, L = {result['smoothness']:.6g}, Lmax = "
            f"{result['largest_smoothness']:.6g}, mu = {result['strong_convexity']:.6g}, mean "
            f"squared norm at the optimum {result['mean_square']:.6g}."
        )
        for start in result["starts"]:
            lines += [
                "",
                f"Start {start['start']}: squared distance {start['distance_sq']:.6g}, epsilon "
                f"{start['accuracy']:.4g}, optimal batch size {start['optimal_batch_size']:.1f}.",
                "",
                "| rule | seeds | 1e-2 | 1e-3 | 1e-4 (deviation) | all evaluations, same levels "
                "| steps |",
                "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
            ]
            for row in start["rows"]:
                passes = [number(value) for value in row["passes"]]
                if row["deviation"][2] is not None:
                    passes[2] += f" ({row['deviation'][2]:.1f})"
                everything = ", ".join(number(value) for value in row["all_passes"])
                lines.append(
                    f"| {row['name']} | {row['seeds']} | {' | '.join(passes)} | {everything} "
                    f"| {row['steps']:.0f} |"
                )
    return "\n".join(lines) + "\n"


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in paths]


def write(
    output: Path,
    paths: Iterable[Path],
    timed_paths: Iterable[Path],
    samplings_paths: Iterable[Path],
    *,
    command: str,
) -> None:
    """Write the numbers, the tables and the figures."""
    results, timed, samplings = read(paths), read(timed_paths), read(samplings_paths)
    output.mkdir(parents=True, exist_ok=True)
    for result in results:
        for start in result["starts"]:
            for row in start["rows"]:
                # The figures hold the curves; the table needs none.
                row["curve"] = row["curve"] if row["group"] != "tuned" else {}
    figure(results, "distance", "relative squared distance", output / "adaptive_batch.png")
    figure(results, "batch_size", "batch size", output / "adaptive_batch_sizes.png")
    for result in results:
        for start in result["starts"]:
            for row in start["rows"]:
                row.pop("curve")
    if samplings:
        samplings_figure(samplings, output / "adaptive_batch_samplings.png")
    content = {"command": command, "results": results, "seconds": timed, "samplings": samplings}
    text = json.dumps(content, indent=1)
    (output / "adaptive_batch.json").write_text(text + "\n")
    (output / "adaptive_batch.md").write_text(markdown(results, timed, samplings, command))


def figure(results: Sequence[Mapping[str, Any]], quantity: str, label: str, path: Path) -> None:
    """One panel a data set and start: a quantity over passes, fixed batches in grey."""
    from matplotlib.figure import Figure

    columns = len(results)
    drawing = Figure(figsize=(2.6 * columns + 0.6, 5.2), layout="constrained")
    axes = drawing.subplots(2, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for column, result in enumerate(results):
        for line, start in enumerate(result["starts"]):
            panel = axes[line][column]
            panel.set_title(f"{result['name']}, {start['start']}", fontsize=9)
            panel.set_yscale("log")
            panel.set_xscale("log")
            for row in start["rows"]:
                fixed = row["group"] == "fixed"
                if not (fixed or row["name"] in DRAWN):
                    continue
                curve = row["curve"]
                colour = COLOURS["fixed"] if fixed else DRAWN[row["name"]]
                passes = [max(value, 0.01) for value in curve["passes"]]
                (drawn,) = panel.plot(
                    passes, curve[quantity], color=colour, linewidth=0.9 if fixed else 1.4,
                    zorder=1 if fixed else 2,
                )  # fmt: skip
                handles.setdefault("fixed batches" if fixed else row["name"], drawn)
            if quantity == "distance":
                panel.axhline(start["target"], color="black", linewidth=0.5, linestyle=":")
                panel.set_ylim(1e-5, 3)
            panel.tick_params(labelsize=7)
            if column == 0:
                panel.set_ylabel(label, fontsize=8)
            if line == 1:
                panel.set_xlabel("passes over the data", fontsize=8)
    drawing.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8
    )
    drawing.savefig(path, dpi=90)


def samplings_figure(samplings: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Work of the theorem over the batch size, a line for each sampling."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5.0 * len(samplings), 3.8), layout="constrained")
    axes = drawing.subplots(1, len(samplings), squeeze=False)[0]
    for panel, found in zip(axes, samplings, strict=True):
        for name, row in found["samplings"].items():
            panel.loglog(row["batch_sizes"], row["passes"], label=name, linewidth=1.2)
        panel.set_title(f"{found['name']}, epsilon {found['accuracy']:.3g}", fontsize=10)
        panel.set_xlabel("batch size")
        panel.set_ylabel("passes by the theorem")
    axes[0].legend(fontsize=7)
    drawing.savefig(path, dpi=90)
