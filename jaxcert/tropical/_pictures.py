"""Pictures of decision boundaries in the plane, inside their tropical hypersurface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert.tropical import _canvas, _network
from jaxcert.tropical._decision import decision_zonotopes
from jaxcert.tropical._dual_pictures import plot_zonotopes
from jaxcert.tropical._hypersurface import hypersurface_segments
from jaxcert.tropical._segments import boundary_segments
from jaxcert.tropical._zonotope import Zonotope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Network = tuple[ArrayLike, ArrayLike | None, ArrayLike, ArrayLike | None]

# Points a side of the raster that colours the winning class; the curves drawn over it are exact.
_RASTER = 400


def plot_decision_boundary(
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
    box: ArrayLike,
    hypersurface: bool = True,
    cancel: bool = True,
    inputs: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    axes: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the decision boundary in the plane, and the tropical hypersurface that contains it.

    The boundary is drawn heavily, the rest of the hypersurface, along which one class bends,
    thinly; both are exact. Regions on which two classes tie are hatched: no curve is drawn for
    them. The colours of the classes are a raster.

    Args:
      w1: W_1, `[h, 2]`.
      b1: b_1, `[h]`, or None.
      w2: W_2, `[classes, h]`.
      b2: b_2, `[classes]`, or None.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      box: `[2, 2]`, the lower and the upper corner.
      hypersurface: whether to draw the rest of the hypersurface.
      cancel: see `decision_polynomial`.
      inputs: points to mark, `[n, 2]`.
      labels: their classes, `[n]`.
      axes: where to draw; a new figure by default.
      title: above the axes; by default it says what is shown.

    Returns:
      The figure.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the box is empty.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> figure = tropical.plot_decision_boundary(
      ...     np.eye(2), None, np.eye(2), None, classes=(0, 1), box=[[-1.0, -1.0], [1.0, 1.0]])
      >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
      ['class 0', 'class 1', 'rest of the hypersurface', 'decision boundary', 'tie on a region']
    """
    figure, axes = _canvas.figure_and_axes(axes)
    handles = _draw_decision(
        axes, (w1, b1, w2, b2), classes=classes, box=box, hypersurface=hypersurface, cancel=cancel,
        inputs=inputs, labels=labels,
    )  # fmt: skip
    what = "Decision boundary in the tropical hypersurface" if hypersurface else "Decision boundary"
    _canvas.finish(axes, title or what, None, handles)
    return figure


def plot_pruning(
    before: Sequence[ArrayLike | None],
    after: Sequence[ArrayLike | None],
    *,
    classes: Any,
    box: ArrayLike,
) -> Figure:
    """Draw a network before and after pruning: its boundary above, its zonotopes below.

    The boundary before is repeated, dashed, in the picture after. The zonotopes are the cancelled
    `decision_zonotopes`, seen along the lift where there are biases.

    Args:
      before: w1, b1, w2, b2 with two inputs.
      after: the same of the pruned network.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      box: `[2, 2]`, the lower and the upper corner.

    Returns:
      The figure, of four panels.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the box is empty.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> whole = np.eye(2), None, np.eye(2), None
      >>> part = np.diag([1.0, 0.0]), None, np.eye(2), np.array([0.0, 0.5])
      >>> figure = tropical.plot_pruning(
      ...     whole, part, classes=(0, 1), box=[[-1.0, -1.0], [1.0, 1.0]])
      >>> [axes.get_title(loc="left") for axes in figure.axes][:2]
      ['Before: 2 units', 'After: 1 unit; dashed: the boundary before']
    """
    from matplotlib.collections import LineCollection

    networks = {"Before": tuple(before), "After": tuple(after)}
    for name, network in networks.items():
        if len(network) != 4:
            raise ValueError(f"{name.lower()} must hold w1, b1, w2, b2, got {len(network)} arrays")
    figure = _canvas.new_figure((9.2, 8.6))
    panels = figure.subplots(2, 2)
    old = boundary_segments(*_four(networks["Before"]), classes=classes, box=box)
    for column, (name, network) in enumerate(networks.items()):
        arrays = _four(network)
        (first, _), (second, _) = _network.one_hidden_layer(*arrays)
        count = int(np.sum(np.any(first != 0.0, axis=1) & np.any(second != 0.0, axis=0)))
        title = f"{name}: {count} unit{'' if count == 1 else 's'}"
        top, bottom = panels[:, column]
        handles = _draw_decision(top, arrays, classes=classes, box=box)
        if column:
            title += "; dashed: the boundary before"
            handles.append(
                top.add_collection(
                    LineCollection(
                        list(np.stack([old.start, old.end], axis=1)),
                        colors=_canvas.TIE,
                        linewidths=1.2,
                        linestyles=[(0, (3, 2))],
                        label="boundary before",
                    )  # fmt: skip
                )
            )
        _canvas.finish(top, title, None, handles)
        chosen = _network.class_indices(classes, second.shape[0])
        names = [f"zonotope of class {label}" for label in chosen]
        plot_zonotopes(
            _zonotopes(arrays, chosen), names=names, axes=bottom, title=f"{name}: dual polytopes"
        )
    # On one scale, as shrinking is what pruning does.
    limits = np.array([[axes.get_xlim(), axes.get_ylim()] for axes in panels[1]])
    for axes in panels[1]:
        axes.set_aspect("equal", adjustable="box")
        axes.set_xlim(limits[:, 0, 0].min(), limits[:, 0, 1].max())
        axes.set_ylim(limits[:, 1, 0].min(), limits[:, 1, 1].max())
    return figure


def _draw_decision(
    axes: Any,
    network: Network,
    *,
    classes: Any,
    box: ArrayLike,
    hypersurface: bool = True,
    cancel: bool = True,
    inputs: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> list[Any]:
    """Draw everything but title and legend; return the entries of the legend."""
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    layers = _network.one_hidden_layer(*network)
    chosen = _network.class_indices(classes, layers[1][0].shape[0])
    found = boundary_segments(*network, classes=classes, box=box)
    corners = _network.host_box(box)
    marked = None if inputs is None else _network.host_points("inputs", inputs, 2)
    sides = np.linspace(corners[0], corners[1], _RASTER).T
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    winner = _network.scores(layers, grid)[:, chosen].argmax(axis=1).reshape(_RASTER, _RASTER)
    colors = [_canvas.COLORS[place % len(_canvas.COLORS)] for place in range(len(chosen))]
    axes.imshow(
        winner, origin="lower", extent=tuple(corners.T.ravel()), cmap=ListedColormap(colors),
        vmin=-0.5, vmax=len(chosen) - 0.5, alpha=0.24, interpolation="nearest", aspect="auto",
    )  # fmt: skip
    handles: list[Any] = [
        Patch(facecolor=color, alpha=0.35, label=f"class {label}")
        for color, label in zip(colors, chosen, strict=True)
    ]
    if hypersurface:
        bends = hypersurface_segments(*network, classes=classes, box=box, cancel=cancel)
        rest = ~bends.boundary
        handles.append(
            axes.add_collection(
                LineCollection(
                    list(np.stack([bends.start, bends.end], axis=1)[rest]),
                    colors="0.45",
                    linewidths=0.7,
                    label="rest of the hypersurface",
                )  # fmt: skip
            )
        )
    handles.append(
        axes.add_collection(
            LineCollection(
                list(np.stack([found.start, found.end], axis=1)),
                colors=_canvas.INK,
                linewidths=2.4,
                capstyle="round",
                label="decision boundary",
            )  # fmt: skip
        )
    )
    if found.tied_polygons:
        handles.append(
            axes.add_collection(
                PolyCollection(
                    list(found.tied_polygons),
                    facecolor="white",
                    edgecolor=_canvas.TIE,
                    hatch="////",
                    linewidths=0.0,
                    alpha=0.9,
                    label="tie on a region",
                )  # fmt: skip
            )
        )
    if marked is not None:
        shown = np.zeros(len(marked), int) if labels is None else np.asarray(labels)
        if shown.shape != marked.shape[:1]:
            raise ValueError(f"labels must have shape {marked.shape[:1]}, got {shown.shape}")
        for place, label in enumerate(chosen):
            axes.plot(
                *marked[shown == label].T, "o", color=colors[place], markersize=3.6,
                markeredgecolor="white", markeredgewidth=0.4,
            )  # fmt: skip
    axes.set_xlim(*corners[:, 0])
    axes.set_ylim(*corners[:, 1])
    return handles


def _four(network: tuple[Any, ...]) -> Network:
    w1, b1, w2, b2 = network
    return w1, b1, w2, b2


def _zonotopes(network: Network, chosen: tuple[int, ...]) -> list[Zonotope]:
    """The cancelled decision zonotopes on the host, in float64."""
    (first, shift), (second, last) = _network.one_hidden_layer(*network)
    with jax.enable_x64(True):
        bias_free = network[1] is None and network[3] is None
        lifts = (None, None) if bias_free else (shift, last)
        zonotopes = decision_zonotopes(first, lifts[0], second, lifts[1], classes=chosen)
        return list(jax.tree.map(np.asarray, zonotopes))
