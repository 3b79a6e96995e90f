"""The picture of a ladder."""

import os
from typing import Any

import numpy as np

from jaxcert.ladder._records import Ladder

# Okabe and Ito's colours, which stay apart for colour-blind readers and in grey.
_COLORS = (
    "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#F0E442", "#999999", "#000000",
)  # fmt: skip
_MARKS = ("o", "s", "^", "v", "D", "P", "X", "<")


def plot_ladder(ladder: Ladder, path: str | os.PathLike[str], *, title: str | None = None) -> None:
    """Draw the distances of a ladder, inputs from the nearest to the farthest attack.

    Filled marks are proofs, hollow ones upper bounds; crosses belong to the smoothed classifier,
    which is another one. No filled mark may be above a hollow one of the same input.

    Args:
      ladder: from `certification_ladder`.
      path: picture to write; the ending decides the format.
      title: above the axes.

    Example:
      >>> import os, tempfile
      >>> import numpy as np
      >>> from jaxcert.ladder import Ladder, Rung, plot_ladder
      >>> rungs = (Rung("proof", "distance", "lower", np.array([0.5])),
      ...          Rung("attack", "distance", "upper", np.array([0.6])))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_ladder(Ladder(np.zeros(1, int), np.ones(1), np.zeros(1, int), rungs),
      ...                 os.path.join(folder, "ladder.png"))
      ...     os.listdir(folder)
      ['ladder.png']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    distances = [rung for rung in ladder.rungs if rung.quantity == "distance"]
    uppers = [rung.values for rung in distances if rung.side == "upper"]
    nearest = np.min(uppers, axis=0) if uppers else ladder.margin
    order = np.argsort(nearest, kind="stable")
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    place = np.arange(order.size)
    for number, rung in enumerate(distances):
        values = rung.values[order]
        shown = np.isfinite(values) & (values > 0)
        color = _COLORS[number % len(_COLORS)]
        style: dict[str, Any] = {
            "lower": {"marker": _MARKS[number % len(_MARKS)], "color": color},
            "upper": {
                "marker": _MARKS[number % len(_MARKS)], "markerfacecolor": "none", "color": "black",
            },
            "other": {"marker": "x", "color": "#D55E00"},
        }[rung.side]  # fmt: skip
        words = {"lower": "proved", "upper": "above", "other": "another classifier"}[rung.side]
        axes.plot(
            place[shown], values[shown], linestyle="none", markersize=4.5,
            label=f"{rung.name} ({words})", **style,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("input, by the distance of the attack")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("l2 distance")
    axes.set_title(title or "Distance to another class")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
