"""Figures, colours and legends that the pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind readers and in grey.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK = "#1A1A1A"
TIE = "#D55E00"


def new_figure(size: tuple[float, float]) -> Figure:
    # A figure without pyplot needs no display and leaves the user's backend alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_and_axes(axes: Axes | None) -> tuple[Any, Any]:
    if axes is not None:
        return axes.figure, axes
    figure = new_figure((5.4, 5.2))
    return figure, figure.add_subplot()


def finish(
    axes: Any, title: str | None, label: str | None, handles: list[Any] | None = None
) -> None:
    axes.set_aspect("equal", adjustable="datalim" if handles is None else "box")
    axes.tick_params(labelsize=8, color="0.6")
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    if label:
        axes.set_xlabel(label, fontsize=8.5)
    legend(axes, handles)


def legend(axes: Any, handles: list[Any] | None) -> None:
    settings = {
        "frameon": False, "fontsize": 8, "loc": "upper center", "bbox_to_anchor": (0.5, -0.13),
        "ncols": 2,
    }  # fmt: skip
    if handles is None:
        axes.legend(**settings)
    else:
        axes.legend(handles=handles, **settings)
