"""Tables and pictures of the ClusTR experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert import prototypes

Row = Mapping[str, Any]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = "| :--- |" + " ---: |" * (len(head) - 1)
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(x) + " |" for x in lines)]


def _budget_name(budget: Row) -> str:
    return f"{'l∞' if budget['norm'] == 'linf' else 'l2'} {budget['radius']:g}"


def format_accuracies(rows: Sequence[Row], norm: str) -> list[str]:
    """Accuracy without attack, under the strongest of all attacks, and certified."""
    chosen = [[b for b in row["budgets"] if b["norm"] == norm] for row in rows]
    head = ["network", "training, CPU s", "clean"]
    for budget in chosen[0]:
        head += [f"attacked {_budget_name(budget)}", "certified"]
    lines = []
    for row, budgets in zip(rows, chosen, strict=True):
        seconds = f"{row['cpu_seconds']:.0f}"
        if row["cpu_seconds_before"]:
            seconds += f" + {row['cpu_seconds_before']:.0f}"
        cells = [row["network"], seconds, percent(row["accuracy"])]
        for budget in budgets:
            cells += [percent(budget["under_attack"]), percent(budget["certified"])]
        lines.append(cells)
    return _markdown(head, lines)


def format_attacks(rows: Sequence[Row]) -> list[str]:
    """What each attack alone leaves, at the largest budgets, and the signs of masked gradients."""
    names = list(rows[-1]["budgets"][0]["by_attack"])
    head = ["network", "budget", *names, "only by transfer", "no budget"]
    lines = []
    for row in rows:
        for norm in ("linf", "l2"):
            budget = [b for b in row["budgets"] if b["norm"] == norm][-1]
            left = budget["by_attack"]
            lines.append([
                row["network"], _budget_name(budget),
                *(percent(left[name]) if name in left else "" for name in names),
                str(budget["only_by_transfer"]), percent(row["under_attack_without_budget"]),
            ])  # fmt: skip
    return _markdown(head, lines)


def format_constants(rows: Sequence[Row]) -> list[str]:
    """The Lipschitz constants, the radii they give, and what attacks find within."""
    head = [
        "network", "Lipschitz constant at most", "median radius", "changed within the radius",
        "with the constant halved",
    ]  # fmt: skip
    return _markdown(head, [
        [
            row["network"], f"{row['lipschitz_upper']:.4g}", f"{row['median_radius']:.3g}",
            str(row["changed_within_radius"]), str(row["changed_with_halved_constant"]),
        ]
        for row in rows
    ])  # fmt: skip


def format_smoothed(rows: Sequence[Row], radii: Sequence[float]) -> list[str]:
    """Both certificates of the same classifiers on the same images."""
    head = [
        "network", "certificate", "sigma", "correct", "average radius",
        *(f"certified l2 {radius:g}" for radius in radii),
    ]  # fmt: skip
    lines = []
    for row in rows:
        for kind in ("deterministic", "smoothed"):
            found = row[kind]
            lines.append([
                row["network"], kind, f"{row['sigma']:g}" if kind == "smoothed" else "",
                percent(found["accuracy"]), f"{found['average_radius']:.3f}",
                *map(percent, found["certified"]),
            ])  # fmt: skip
    return _markdown(head, lines)


# Where the paper reports a gain of the first network over the second.
DIRECTIONS = (
    ("clustering over cross-entropy", "clustr", "nominal"),
    ("the same with noise in training", "clustr_noise", "nominal"),
    ("the same with a 1-Lipschitz encoder", "lipschitz_clustr", "nominal"),
    ("a quick attack over clustering alone", "clustr_trades", "clustr"),
    ("a quick attack over adversarial training", "clustr_trades", "adversarial"),
)


def format_directions(result: Mapping[str, Any]) -> list[str]:
    """The comparisons of the paper at each budget."""
    by_name = {row["network"]: row for row in result["rows"]}
    error = 100 * math.sqrt(0.5 / result["preset"]["num_test"])
    head = ["gain of", "networks", "training, CPU s"]
    head += [_budget_name(budget) for budget in result["rows"][0]["budgets"]] + ["shows"]
    lines = []
    for words, first, second in DIRECTIONS:
        if not {first, second} <= set(by_name):
            continue
        one, other = by_name[first], by_name[second]
        cells = [words, f"{first} - {second}", f"{_seconds(one):.0f} against {_seconds(other):.0f}"]
        gains = [
            100 * (ours["under_attack"] - theirs["under_attack"])
            for ours, theirs in zip(one["budgets"], other["budgets"], strict=True)
        ]
        count = sum(gain > 2 * error for gain in gains)
        cells += [f"{gain:+.1f}" for gain in gains]
        lines.append([*cells, f"at {count} of {len(gains)}" if count else "no"])
    return _markdown(head, lines)


def _seconds(row: Row) -> float:
    """The time of the processor for a network, that of the one it begins with included."""
    return row["cpu_seconds"] + row["cpu_seconds_before"]


def format_result(result: Mapping[str, Any]) -> str:
    """The whole page."""
    preset, rows = result["preset"], result["rows"]
    error = 50 / math.sqrt(preset["num_test"])
    return "\n".join([
        f"# Training by clustering on {preset['dataset']}",
        "",
        f"    {result['command']}",
        "",
        f"{preset['num_train']:,} training images, one seed; {preset['num_test']} test images, "
        f"accuracies in percent with a standard error of at most {error:.1f}. An image is "
        "withstood if no attack succeeds; times are of the processor, compilation included, for "
        "networks that begin with the weights of the nominal one plus its own. Certified: the "
        "radius of each image exceeds the budget, for l∞ that of the ball around the cube."
        + (f" {result['note']}" if result["note"] else ""),
        "",
        *format_accuracies(rows, "linf"),
        "",
        *format_accuracies(rows, "l2"),
        "",
        "## Directions of the paper",
        "",
        "Differences of the accuracy under attack, in points; the standard error of a difference "
        f"is at most {error * math.sqrt(2):.1f}, and a gain shows where it exceeds two of them.",
        "",
        *format_directions(result),
        "",
        "## Certificates",
        "",
        f"Of {preset['num_test']} answers, those that l2 attacks change within the radius of each "
        "image, and within the radius that half of the constant would give:",
        "",
        *format_constants(rows),
        "",
        "## Deterministic and smoothed",
        "",
        f"The same classifiers on {preset['num_smoothed']} images; {preset['num_samples']:,} "
        "samples each, alpha 0.001.",
        "",
        *format_smoothed(result["smoothed"], preset["l2"]),
        "",
        "## Attacks",
        "",
        "Accuracy that each attack leaves at the largest budgets; images that only points made "
        "for the nominal network fool; accuracy where any image is allowed.",
        "",
        *format_attacks(rows),
        "",
    ])  # fmt: skip


def is_sound(result: Mapping[str, Any]) -> bool:
    """Whether no attack, at any budget on any network, beats a certificate."""
    rows = result["rows"]
    held = all(
        budget["certified"] <= min(budget["under_attack"], *budget["by_attack"].values())
        and budget["certified_and_moved"] == 0
        for row in rows
        for budget in row["budgets"]
    )
    return held and all(row["changed_within_radius"] == 0 for row in rows)


def plot_features(
    pictures: Mapping[str, tuple[np.ndarray, prototypes.Prototypes | None]],
    labels: np.ndarray,
    path: Path,
) -> None:
    """The two directions in which what each network gives varies most between classes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(pictures), figsize=(3.2 * len(pictures), 3.3))
    for axis, (name, (features, table)) in zip(axes, pictures.items(), strict=True):
        means = np.stack([features[labels == one].mean(axis=0) for one in np.unique(labels)])
        middle = means.mean(axis=0)
        plane = np.linalg.svd(means - middle)[2][:2].T
        points = (features - middle) @ plane
        axis.scatter(*points.T, c=labels, cmap="tab10", s=5, linewidths=0)
        if table is not None:
            centres = (np.asarray(table.centres) - middle) @ plane
            axis.scatter(
                *centres.T, c=np.asarray(table.labels), cmap="tab10", s=40, marker="X",
                edgecolors="black", linewidths=0.6,
            )  # fmt: skip
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.set_aspect("equal", adjustable="datalim")
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
