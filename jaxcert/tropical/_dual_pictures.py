"""Pictures of what is dual to a decision boundary: zonotopes and subdivisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jaxcert.tropical import _canvas, _lines
from jaxcert.tropical._dual_subdivision import dual_subdivision
from jaxcert.tropical._polynomial import TropicalPolynomial
from jaxcert.tropical._vertices import vertices
from jaxcert.tropical._zonotope import Zonotope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_zonotopes(
    zonotopes: Sequence[Zonotope],
    *,
    names: Sequence[str] | None = None,
    hull: bool = True,
    axes: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Draw zonotopes in the plane, and the convex hull of their union.

    Those of a network with two inputs and biases lie in space; they are drawn as seen along the
    last coordinate, the lift, and the axes say so.

    Args:
      zonotopes: one or more, all in R^2 or all in R^3.
      names: one each for the legend; `P_1`, `P_2`, ... by default.
      hull: draw the outline of the convex hull of them all.
      axes: where to draw; a new figure by default.
      title: above the axes.

    Returns:
      The figure.

    Raises:
      ValueError: if there are no zonotopes, one is not in R^2 or R^3, or the names are not as many.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> figure = tropical.plot_zonotopes([tropical.Zonotope(np.zeros(2), np.eye(2))])
      >>> figure.axes[0].get_legend().get_texts()[0].get_text()
      '$P_{1}$'
    """
    if not len(zonotopes):
        raise ValueError("zonotopes must not be empty")
    if names is not None and len(names) != len(zonotopes):
        raise ValueError(f"names must be one a zonotope, got {len(names)} for {len(zonotopes)}")
    dimensions = {np.shape(zonotope.base)[-1] for zonotope in zonotopes}
    if dimensions not in ({2}, {3}):
        raise ValueError(f"zonotopes must all lie in R^2 or all in R^3, got {sorted(dimensions)}")
    figure, axes = _canvas.figure_and_axes(axes)
    outlines = []
    for number, zonotope in enumerate(zonotopes):
        flat = Zonotope(
            np.asarray(zonotope.base, np.float64)[:2],
            _lines.finite_matrix("generators", zonotope.generators)[:, :2],
        )
        outline = _around(vertices(flat).points)
        color = _canvas.COLORS[number % len(_canvas.COLORS)]
        name = names[number] if names is not None else f"$P_{{{number + 1}}}$"
        axes.fill(*outline.T, facecolor=color, edgecolor="none", alpha=0.28, label=name)
        axes.plot(*np.vstack([outline, outline[:1]]).T, color=color, linewidth=1.4)
        axes.plot(*outline.T, "o", color=color, markersize=3.2)
        outlines.append(outline)
    if hull and len(zonotopes) > 1:
        outline = _around(np.concatenate(outlines))
        axes.plot(
            *np.vstack([outline, outline[:1]]).T, color=_canvas.INK, linewidth=1.1,
            linestyle=(0, (4, 2)), label="hull of the union",
        )  # fmt: skip
    lifted = dimensions == {3}
    _canvas.finish(axes, title, "exponents, seen along the lift" if lifted else None)
    return figure


def plot_dual_subdivision(
    polynomial: TropicalPolynomial,
    *,
    owner: ArrayLike | None = None,
    axes: Axes | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the dual subdivision of a tropical polynomial in two variables.

    With the classes that `decision_polynomial` returns, the edges between monomials of two classes
    are drawn heavily: these are dual to the pieces of the decision boundary, all others to bends of
    a single class. A corner that both classes own is ringed: they tie on a whole region.

    Args:
      polynomial: in two variables.
      owner: the class of each monomial, integers `[k]`.
      axes: where to draw; a new figure by default.
      title: above the axes; by default it says what is shown.

    Returns:
      The figure.

    Raises:
      ValueError: if the polynomial has another number of variables, or `owner` does not fit.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> network = np.eye(2), None, np.eye(2), None
      >>> polynomial, owner = tropical.decision_polynomial(*network, classes=(0, 1))
      >>> figure = tropical.plot_dual_subdivision(polynomial, owner=owner)
      >>> figure.axes[0].get_title(loc="left")
      'Dual subdivision of the Newton polytope'
    """
    exponents = _lines.finite_matrix("exponents", polynomial.exponents)
    if exponents.shape[1] != 2:
        raise ValueError(f"polynomial must have two variables, got {exponents.shape[1]}")
    division = dual_subdivision(polynomial)
    points = division.points
    figure, axes = _canvas.figure_and_axes(axes)
    from matplotlib.collections import LineCollection, PolyCollection

    axes.add_collection(
        PolyCollection(
            [points[cell] for cell in division.cells if len(cell) > 2],
            facecolor="#F2F0EA",
            edgecolor="none",
            zorder=0,
        )  # fmt: skip
    )
    owners = _owners(polynomial, owner, division.points, division.coefficients)
    ends = points[division.edges]
    mixed = np.array([_differ(owners[a], owners[b]) for a, b in division.edges], bool)
    axes.add_collection(LineCollection(list(ends[~mixed]), colors="0.62", linewidths=1.0, zorder=1))
    if np.any(mixed):
        axes.add_collection(
            LineCollection(
                list(ends[mixed]),
                colors=_canvas.INK,
                linewidths=2.6,
                zorder=2,
                label="between two classes: dual to the boundary",
            )  # fmt: skip
        )
    classes = sorted(set().union(*owners)) if owner is not None else []
    if not classes:
        axes.plot(*points.T, "o", color=_canvas.COLORS[0], markersize=4.5, label="active monomial")
    for place, label in enumerate(classes):
        mine = np.array([label in names for names in owners])
        axes.plot(
            *points[mine].T, "o", color=_canvas.COLORS[place % len(_canvas.COLORS)],
            markersize=5.2, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
            label=f"monomial of class {label}",
        )  # fmt: skip
    shared = np.array([len(names) > 1 for names in owners], bool)
    if np.any(shared):
        axes.plot(
            *points[shared].T, "o", markersize=11, markerfacecolor="none", markeredgewidth=1.6,
            markeredgecolor=_canvas.TIE, label="of both: a tie on a whole region", zorder=4,
        )  # fmt: skip
    axes.autoscale_view()
    _canvas.finish(axes, title or "Dual subdivision of the Newton polytope", "exponents")
    return figure


def _owners(
    polynomial: TropicalPolynomial,
    owner: ArrayLike | None,
    points: np.ndarray,
    coefficients: np.ndarray,
) -> list[set[int]]:
    """The classes whose monomials each corner of the subdivision is."""
    if owner is None:
        return [set() for _ in points]
    labels = np.asarray(owner)
    exponents = np.asarray(polynomial.exponents, np.float64)
    if labels.shape != exponents.shape[:1]:
        raise ValueError(f"owner must have shape {exponents.shape[:1]}, got {labels.shape}")
    lifted = np.column_stack([exponents, np.asarray(polynomial.coefficients, np.float64)])
    corners = np.column_stack([points, coefficients])
    slack = 1e-9 * max(1.0, float(np.abs(corners).max()))
    near = np.abs(lifted - corners[:, None]).max(axis=2) <= slack
    return [{int(label) for label in labels[row]} for row in near]


def _differ(one: set[int], other: set[int]) -> bool:
    """Whether two corners belong to classes, and to none in common."""
    return bool(one) and bool(other) and one.isdisjoint(other)


def _around(points: np.ndarray) -> np.ndarray:
    """The corners of the convex hull of points in the plane, in order, flat hulls included."""
    order = np.lexsort(points.T[::-1])
    points = points[order]
    chains = []
    for run in (points, points[::-1]):
        chain: list[np.ndarray] = []
        for point in run:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0.0:
                chain.pop()
            chain.append(point)
        chains.append(chain[:-1])
    corners = [*chains[0], *chains[1]]
    return np.array(corners) if corners else points[:1]


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
