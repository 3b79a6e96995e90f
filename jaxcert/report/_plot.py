"""The certified-accuracy curve."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ._reader import Log
from ._summary import certified_accuracy_curve, summarize

# Okabe and Ito's colours, which stay apart for colour-blind readers and in grey.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def plot_curves(
    logs: Sequence[Log],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Draw certified accuracy over the radius, a step curve for each run.

    The band around a curve is one standard error. A dot on the axis marks the largest radius that
    noise, samples and alpha can reach, where a curve that is still high falls to 0 for lack of
    samples; the legend states it too, as it may lie to the right of all that was certified.

    Args:
        logs: One or more logs with rows.
        path: Picture to write; the ending decides the format (png, pdf, svg).
        names: Names for the legend, by default the logs'.
        title: Title above the axes.

    Raises:
        ValueError: If there are no logs, a log is empty, names are not one a log, or the ending
            of `path` is not a picture's.

    Example:
        >>> import tempfile
        >>> from jaxcert.report import Log, Row, plot_curves
        >>> rows = (Row(0, 7, 7, 0.5, True, 0.1), Row(1, 2, 2, 0.3, True, 0.1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_curves([Log("run", rows)], os.path.join(folder, "curve.png"))
        ...     os.listdir(folder)
        ['curve.png']
    """
    # A figure without pyplot needs no display and leaves the user's backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    if not logs:
        raise ValueError("logs must not be empty")
    if names is not None and len(names) != len(logs):
        raise ValueError(f"names must be one a log: got {len(names)} names, {len(logs)} logs")
    supported = FigureCanvasAgg.get_supported_filetypes()
    ending = os.path.splitext(path)[1].lstrip(".").lower()
    if ending not in supported:
        raise ValueError(f"path must end in one of {', '.join(sorted(supported))}, got {path}")
    figure = Figure(figsize=(7.2, 4.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest, norms, reaches = 0.0, set(), []
    for place, log in enumerate(logs):
        summary = summarize(log, name=names[place] if names else None)
        radii, accuracy = certified_accuracy_curve(log)
        # Accuracy holds up to and including each radius, and is 0 beyond the last.
        x = np.append(radii, radii[-1])
        y = np.append(accuracy, 0.0)
        error = np.sqrt(y * (1 - y) / summary.num_images)
        color = _COLORS[place % len(_COLORS)]
        style = "-" if place < len(_COLORS) else "--"
        label = f"{summary.name}: ACR {summary.average_radius:.3f}, n = {summary.num_images}"
        if summary.reachable_radius is not None:
            label += f", reach {summary.reachable_radius:.2f}"
            reaches.append((summary.reachable_radius, color))
        axes.step(x, y, where="pre", color=color, linestyle=style, linewidth=1.8, label=label)
        axes.fill_between(
            x, y - error, np.minimum(y + error, 1.0), step="pre", color=color, alpha=0.15, lw=0
        )
        largest = max(largest, x[-1])
        norms.add(summary.norm)
    right_end = 1.04 * largest if largest else 1.0
    shown = [(reach, color) for reach, color in reaches if reach <= right_end]
    for reach, color in shown:
        axes.plot(reach, 0, "o", color=color, markersize=6, clip_on=False, zorder=5)
    if shown:
        axes.plot([], [], "o", color="0.4", markersize=6, label="reach: the samples allow no more")
    norm = norms.pop() if len(norms) == 1 else None
    names_of_norms = {"l2": r"$\ell_2$", "l1": r"$\ell_1$", "linf": r"$\ell_\infty$"}
    kind = f"{names_of_norms[norm]} radius" if norm else "certified radius"
    axes.set_xlabel(f"{kind} $r$  (pixels in [0, 1])")
    axes.set_ylabel(r"certified accuracy: right and radius $\geq r$")
    axes.set_xlim(0, right_end)
    axes.set_ylim(0, 1.01)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="best")
    figure.savefig(path)
