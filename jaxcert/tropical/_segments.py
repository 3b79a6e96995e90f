"""The exact decision boundary of a network with two inputs, as segments."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert.tropical import _network, _polygons
from jaxcert.tropical._network import HostLayers, Layers
from jaxcert.tropical._polygons import Pieces

# Score differences below this, relative to the terms they are summed from, count as 0.
_TOLERANCE = 1e-12


class BoundarySegments(NamedTuple):
    """The decision boundary inside a box.

    Attributes:
      start: float64 `[segments, 2]`.
      end: float64 `[segments, 2]`.
      classes: int64 `[segments, 2]`, the two classes with equal, largest scores on the segment. The
        first one wins to the left of the way from `start` to `end`, the second one to the right;
        where the boundary merely touches a class, it wins on one side or none.
      tied_polygons: one `[v, 2]` array for each piece of the plane on which two classes have the
        same largest score everywhere. No part of their outlines is among the segments.
      tied_classes: int64 `[polygons, 2]`.
      tied_area: their area: above 0 says that the boundary is no curve here.
      bias_free: whether no bias matters to these classes, so that the boundary is a cone.
    """

    start: np.ndarray
    end: np.ndarray
    classes: np.ndarray
    tied_polygons: tuple[np.ndarray, ...]
    tied_classes: np.ndarray
    tied_area: float
    bias_free: bool

    @property
    def length(self) -> float:
        """Length of all segments."""
        return float(np.linalg.norm(self.end - self.start, axis=1).sum())


def boundary_segments(
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
    box: ArrayLike,
) -> BoundarySegments:
    r"""The decision boundary of a network with one hidden layer and two inputs, inside a box.

    .. math::
        \bigcup_{i < j} \{ x : f_i(x) = f_j(x) \ge f_l(x) \; \forall l \}, \quad
        f(x) = W_2 \max(W_1 x + b_1, 0) + b_2

    This is the boundary itself, not the tropical hypersurface that contains it. The box is cut
    along the units into polygons on which the scores are affine, leaving out those that one class
    surely rules; in each of the others, the segment is computed. A thousand hidden units take
    seconds at most.

    Where two classes tie on an open set, as happens without biases in the cone where every unit is
    off, there is no curve to draw: these polygons are reported in `tied_polygons`.

    Args:
      w1: W_1, `[h, 2]`.
      b1: b_1, `[h]`, or None.
      w2: W_2, `[classes, h]`.
      b2: b_2, `[classes]`, or None.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      box: `[2, 2]`, the lower and the upper corner.

    Returns:
      `BoundarySegments`, on the host, in float64.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the box is empty.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> w1, w2 = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
      >>> found = tropical.boundary_segments(
      ...     w1, None, w2, None, classes=(0, 1), box=[[-1.5, -1.5], [1.5, 1.5]])
      >>> found.start, found.end, found.tied_area, found.bias_free
      (array([[1.5, 1.5]]), array([[0., 0.]]), 2.25, True)

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
    """
    layers = _network.one_hidden_layer(w1, b1, w2, b2)
    return _segments(layers, classes, box, "w1")


def network_boundary_segments(layers: Layers, *, classes: Any, box: ArrayLike) -> BoundarySegments:
    r"""The decision boundary of a ReLU network of any depth with two inputs, inside a box.

    .. math::
        \bigcup_{i < j} \{ x : f_i(x) = f_j(x) \ge f_l(x) \; \forall l \}

    As `boundary_segments`, whose one hidden layer becomes a list: the polygons of each layer are
    cut by the units of the next one, which are affine there.

    Args:
      layers: pairs of a weight `[out, in]` and a bias `[out]` or None, a ReLU between them.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      box: `[2, 2]`, the lower and the upper corner.

    Returns:
      `BoundarySegments`, on the host, in float64.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the box is empty.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> absolute = np.array([[1.0, 0.0], [-1.0, 0.0]])
      >>> layers = [  # ||x| - 1| against 1/2
      ...     (absolute, None),
      ...     (np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([-1.0, 1.0])),
      ...     (np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([0.0, 0.5])),
      ... ]
      >>> found = tropical.network_boundary_segments(
      ...     layers, classes=None, box=[[-2.0, 0.0], [2.0, 1.0]])
      >>> np.sort(found.start[:, 0])
      array([-1.5, -0.5,  0.5,  1.5])
    """
    return _segments(_network.host_layers("layers", layers), classes, box, "layers[0][0]")


def _segments(layers: HostLayers, classes: Any, box: ArrayLike, first: str) -> BoundarySegments:
    weight = layers[0][0]
    if weight.shape[1] != 2:
        raise ValueError(f"{first} must have two columns, one an input, got shape {weight.shape}")
    chosen = _network.class_indices(classes, layers[-1][0].shape[0])
    corners = _network.host_box(box)
    pieces = _polygons.subdivide(layers, corners, chosen)
    sums = _term_sums(layers, np.abs(pieces.vertices).max(axis=1))
    starts, ends, pairs = [np.zeros((0, 2))], [np.zeros((0, 2))], [np.zeros((0, 2), np.int64)]
    polygons: list[np.ndarray] = []
    tied_pairs, tied_area = [], 0.0
    value = pieces.values()
    for place, i in enumerate(chosen):
        for j in chosen[place + 1 :]:
            others = [c for c in chosen if c not in (i, j)]
            slack = _TOLERANCE * (sums[:, i] + sums[:, j])
            start, end, ties = _pair_segments(pieces, value, i, j, others, slack)
            starts.append(start)
            ends.append(end)
            pairs.append(np.full((start.shape[0], 2), (i, j)))
            # Where more than two classes tie, the first pair of them stands for all.
            earlier = [c for c in chosen[: chosen.index(j)] if c != i]
            together = np.abs(ties.values()[:, :, [i]] - ties.values()[:, :, earlier])
            least = _TOLERANCE * _term_sums(layers, np.abs(ties.vertices).max(axis=1)).max(axis=1)
            shown = np.flatnonzero(~np.any(together.max(axis=1) <= 2.0 * least[:, None], axis=1))
            polygons += [ties.vertices[n, : ties.sizes[n]] for n in shown]
            tied_pairs += [(i, j)] * shown.size
            tied_area += float(ties.areas()[shown].sum())
    no_bias = all(not np.any(bias) for _, bias in layers[:-1])
    last_bias = layers[-1][1][list(chosen)]
    return BoundarySegments(
        start=np.concatenate(starts),
        end=np.concatenate(ends),
        classes=np.concatenate(pairs),
        tied_polygons=tuple(polygons),
        tied_classes=np.array(tied_pairs, np.int64).reshape(-1, 2),
        tied_area=tied_area,
        bias_free=no_bias and bool(np.all(last_bias == last_bias[0])),
    )


def _term_sums(layers: HostLayers, furthest: np.ndarray) -> np.ndarray:
    """At most the sums of the absolute terms of each score `[n, classes]`, within `[n, 2]`."""
    size = furthest
    for weight, bias in layers:
        size = size @ np.abs(weight).T + np.abs(bias)
    return size


def _pair_segments(
    pieces: Pieces, value: np.ndarray, i: int, j: int, others: list[int], slack: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Pieces]:
    """The segments where i and j tie ahead of the others, and the polygons where they do."""
    inside = np.arange(value.shape[1]) < pieces.sizes[:, None]
    lead = value[:, :, i] - value[:, :, j]
    difference = pieces.maps[:, i] - pieces.maps[:, j]
    flat = np.abs(lead).max(axis=1) <= slack
    # A small polygon on the boundary is no tie: there the difference has a slope.
    slope = np.linalg.norm(difference[:, :2], axis=1)
    tied = flat & (slope * np.abs(pieces.vertices).max(axis=(1, 2)) <= slack)
    snapped = np.where((np.abs(lead) <= slack[:, None]) & ~flat[:, None], 0.0, lead)
    rows, first, second, along = _crossing_edges(pieces, snapped, inside, ~tied)
    touching = _zero_edges(pieces, snapped, inside, ~flat)
    rows, first, second = (
        np.concatenate(pair) for pair in zip((rows, first, second), touching, strict=True)
    )
    along = np.concatenate([along, np.ones(touching[0].size, bool)])
    first, second, keep = _ahead_of(pieces, rows, first, second, i, others, slack)
    rows, first, second, along = rows[keep], first[keep], second[keep], along[keep]
    # The side of i is to the left.
    gradient = difference[rows, :2]
    step = second - first
    turn = step[:, 0] * gradient[:, 1] - step[:, 1] * gradient[:, 0] < 0.0
    first, second = np.where(turn[:, None], second, first), np.where(turn[:, None], first, second)
    ties = Pieces(pieces.vertices[tied], pieces.sizes[tied], pieces.maps[tied])
    for other in others:
        lead = ties.values()[:, :, i] - ties.values()[:, :, other]
        vertices, sizes = _polygons.half(ties.vertices, ties.sizes, lead + slack[tied][:, None])
        rest = sizes > 2
        ties = Pieces(vertices[rest], sizes[rest], ties.maps[rest])
        slack, tied = slack[tied][rest], np.ones(int(rest.sum()), bool)
    # What runs along edges is found from both sides, and on the outlines of ties.
    keep = ~along
    edges = np.flatnonzero(along)
    new = _unique(first[edges], second[edges])
    new &= ~_on_outlines(first[edges], second[edges], ties)
    keep[edges[new]] = True
    return first[keep], second[keep], ties


def _crossing_edges(
    pieces: Pieces, lead: np.ndarray, inside: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Polygons where an affine function changes sign, and the ends of its zeros there.

    Lastly, whether both ends are corners: then the zeros may run along an edge.
    """
    # Zero counts as positive: then a convex polygon has no or two changes.
    following = _polygons.following(pieces.sizes, inside.shape[1])
    next_lead = np.take_along_axis(lead, following, axis=1)
    change = inside & ((lead >= 0.0) != (next_lead >= 0.0))
    rows = np.flatnonzero(candidates & (change.sum(axis=1) == 2))
    edges = np.nonzero(change[rows])[1].reshape(-1, 2)
    ends, corners = [], np.ones(rows.size, bool)
    for side in range(2):
        here, there = edges[:, side], following[rows, edges[:, side]]
        a, b = lead[rows, here], lead[rows, there]
        corners &= (a == 0.0) | (b == 0.0)
        corner, next_corner = pieces.vertices[rows, here], pieces.vertices[rows, there]
        ends.append(corner + (a / (a - b))[:, None] * (next_corner - corner))
    moved = np.any(ends[0] != ends[1], axis=1)
    return rows[moved], ends[0][moved], ends[1][moved], corners[moved]


def _zero_edges(
    pieces: Pieces, lead: np.ndarray, inside: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges along which the function is 0 while it is positive in the rest of the polygon."""
    nonnegative = np.where(inside, lead >= 0.0, True).all(axis=1)
    zero = inside & (lead == 0.0)
    rows = np.flatnonzero(candidates & nonnegative & (zero.sum(axis=1) == 2))
    corners = np.nonzero(zero[rows])[1].reshape(-1, 2)
    return rows, pieces.vertices[rows, corners[:, 0]], pieces.vertices[rows, corners[:, 1]]


def _ahead_of(
    pieces: Pieces,
    rows: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    i: int,
    others: list[int],
    slack: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shorten segments to where score i is at least the others'; say which ones remain."""
    low, high = np.zeros(rows.size), np.ones(rows.size)
    for other in others:
        maps = pieces.maps[rows, i] - pieces.maps[rows, other]
        a = _polygons.affine_values(maps, first)
        b = _polygons.affine_values(maps, second)
        change = (a >= 0.0) != (b >= 0.0)
        at = np.where(change, a, 0.0) / np.where(change, a - b, 1.0)
        low = np.where(change & (a < 0.0), np.maximum(low, at), low)
        high = np.where(change & (b < 0.0), np.minimum(high, at), high)
        behind = (np.maximum(a, b) < 0.0) & (np.minimum(a, b) < -slack[rows])
        high = np.where(behind, -1.0, high)
    step = second - first
    return first + low[:, None] * step, first + high[:, None] * step, low < high


def _unique(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether a segment is the first of its kind, up to rounding."""
    ends = np.concatenate([first, second], axis=1)
    grid = np.exp2(np.frexp(np.abs(ends).max(axis=1, keepdims=True))[1] - 36.0)
    step = second - first
    # By the corners of its bounding box and which diagonal it is.
    corners = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
    product = step[:, :1] * step[:, 1:]
    diagonal = np.where(np.abs(step).min(axis=1, keepdims=True) > 4.0 * grid, np.sign(product), 0.0)
    keys = np.concatenate([np.round(corners / grid), diagonal, grid], axis=1)
    keep = np.zeros(first.shape[0], bool)
    if keep.size:
        keep[np.unique(keys, axis=0, return_index=True)[1]] = True
    return keep


def _on_outlines(first: np.ndarray, second: np.ndarray, ties: Pieces) -> np.ndarray:
    """Whether a segment lies on the outline of one of the tied polygons."""
    middle = (first + second) / 2.0
    found = np.zeros(middle.shape[0], bool)
    for n in range(ties.sizes.size):
        corners = ties.vertices[n, : ties.sizes[n]]
        step = np.roll(corners, -1, axis=0) - corners
        length = np.linalg.norm(step, axis=1)
        offset = middle[:, None] - corners
        height = (step[:, 0] * offset[:, :, 1] - step[:, 1] * offset[:, :, 0]) / length
        found |= height.min(axis=1) >= -1e-10 * max(1.0, float(np.abs(corners).max()))
    return found
