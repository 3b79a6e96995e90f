"""The pieces of a rectangle on which a ReLU network with two inputs is affine.

Every polygon is cut, round by round, by one of the units that change sign inside it, all polygons
at once. A polygon knows the units that still cross it, so the work is that of the final pieces;
where only the decision boundary is wanted, a polygon that one class rules is dropped as soon as a
bound shows it, and the work is that of the pieces near the boundary.
"""

from typing import NamedTuple

import numpy as np

from jaxcert.tropical._network import HostLayers

# A unit crosses a polygon if it exceeds this on both sides, relative to the sizes of the terms that
# its values are summed from: the thinnest slivers are rounding.
_TOLERANCE = 1e-13
# Values of units at vertices that are held at once.
_MAX_VALUES = 1 << 24


class Pieces(NamedTuple):
    """Convex polygons with an affine map on each.

    Attributes:
      vertices: float64 `[n, v, 2]`, counter-clockwise; the rest of a row repeats its first vertex.
      sizes: int64 `[n]`, how many vertices each polygon has.
      maps: float64 `[n, out, 3]`: output o at x is `maps[:, o, :2] @ x + maps[:, o, 2]`.
    """

    vertices: np.ndarray
    sizes: np.ndarray
    maps: np.ndarray

    def values(self) -> np.ndarray:
        """Outputs at the vertices, `[n, v, out]`."""
        return affine_values(self.maps[:, None], self.vertices[:, :, None])

    def areas(self) -> np.ndarray:
        """Area of each polygon, `[n]`."""
        # From the first vertex, so that a small polygon far out keeps its digits.
        spokes = self.vertices - self.vertices[:, :1]
        cross = spokes[:, :-1, 0] * spokes[:, 1:, 1] - spokes[:, :-1, 1] * spokes[:, 1:, 0]
        return np.abs(cross.sum(axis=1)) / 2.0


def subdivide(layers: HostLayers, box: np.ndarray, classes: tuple[int, ...] | None) -> Pieces:
    """Cut a box into the polygons on which the network is affine.

    Args:
      layers: the layers on the host, with two inputs.
      box: lower and upper corner, `[2, 2]`.
      classes: leave out polygons that one of these classes rules; None to keep all.

    Returns:
      The pieces, with the network's output as their maps.
    """
    (x0, y0), (x1, y1) = box
    corners = np.array([[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]])
    weight, bias = layers[0]
    start = Pieces(corners, np.array([4]), np.concatenate([weight, bias[:, None]], axis=1)[None])
    return _through_layers(start, layers[1:], classes)


def affine_values(maps: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of affine maps `[..., 3]` at points `[..., 2]`."""
    return maps[..., 0] * points[..., 0] + maps[..., 1] * points[..., 1] + maps[..., 2]


def following(sizes: np.ndarray, room: int) -> np.ndarray:
    """The next vertex of each vertex `[n, room]` around polygons with `sizes` vertices each."""
    behind = np.arange(room) + 1
    return np.where(behind < sizes[:, None], behind, 0)


def _through_layers(pieces: Pieces, layers: HostLayers, classes: tuple[int, ...] | None) -> Pieces:
    """Cut by the units whose pre-activations are the maps, then by those of the later layers."""
    if not layers:
        return pieces
    # In blocks that go through all layers one after another, to bound the memory.
    units, room = pieces.maps.shape[1], pieces.vertices.shape[1]
    block = max(1, _MAX_VALUES // (units * room))
    done = []
    for first in range(0, max(pieces.sizes.size, 1), block):
        part = Pieces(*(field[first : first + block] for field in pieces))
        cut = _cut(part, *layers[0], classes if len(layers) == 1 else None)
        done.append(_through_layers(cut, layers[1:], classes))
    return _joined(done)


class _State(NamedTuple):
    """Polygons on the way, and the units that cross each.

    Attributes:
      vertices: `[n, v, 2]`.
      sizes: `[n]`.
      origin: `[n]`, the row of the maps of this layer.
      passing: `[n, units]`, the share of each unit that passes: 0 or 1 where its sign is known.
      cell: `[p]`, the polygon of each pair that is not known yet.
      unit: `[p]`, its unit.
    """

    vertices: np.ndarray
    sizes: np.ndarray
    origin: np.ndarray
    passing: np.ndarray
    cell: np.ndarray
    unit: np.ndarray

    def part(self, kept: np.ndarray) -> "_State":
        """The polygons of a mask, renumbered."""
        number = np.cumsum(kept) - 1
        pairs = kept[self.cell]
        return _State(
            self.vertices[kept],
            self.sizes[kept],
            self.origin[kept],
            self.passing[kept],
            number[self.cell[pairs]],
            self.unit[pairs],
        )


def _cut(
    pieces: Pieces, weight: np.ndarray, bias: np.ndarray, classes: tuple[int, ...] | None
) -> Pieces:
    """Cut polygons by the zeros of their maps; the result has the maps of the next layer."""
    count, units = pieces.maps.shape[:2]
    rows = np.arange(count)
    waiting = [
        _State(
            pieces.vertices,
            pieces.sizes,
            rows,
            np.zeros((count, units)),
            np.repeat(rows, units),
            np.tile(np.arange(units), count),
        )  # fmt: skip
    ]
    furthest = np.append(np.abs(pieces.vertices).max(axis=(0, 1), initial=0.0), 1.0)
    least = _TOLERANCE * (np.abs(pieces.maps) @ furthest)
    done = []
    while waiting:
        state = waiting.pop()
        if state.sizes.size > 1 and state.passing.size > _MAX_VALUES:
            # One half after the other, to bound the memory.
            first = np.arange(state.sizes.size) < state.sizes.size // 2
            waiting += [state.part(~first), state.part(first)]
            continue
        finished, going = _round(state, pieces.maps, least, weight, bias, classes)
        done.append(finished)
        if going.sizes.size:
            waiting.append(going)
    return _joined(done)


def _round(
    state: _State,
    maps: np.ndarray,
    least: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    classes: tuple[int, ...] | None,
) -> tuple[Pieces, _State]:
    """Settle what does not cross, and cut each polygon that something crosses in two."""
    vertices, sizes, origin, passing, cell, unit = state
    value = affine_values(maps[origin[cell], unit][:, None], vertices[cell])
    low, high = value.min(axis=1), value.max(axis=1)
    crossing = np.minimum(high, -low) > least[origin[cell], unit]
    settled = ~crossing
    passing[cell[settled], unit[settled]] = high[settled] > -low[settled]
    cell, unit, low, high = cell[crossing], unit[crossing], low[crossing], high[crossing]
    # relu(z) lies between s z and s z + slack over [low, high], with s = high / (high - low).
    share = high / (high - low)
    slack = -share * low
    passing[cell, unit] = share
    finished = np.bincount(cell, minlength=sizes.size) == 0
    outputs = _next_maps(passing, maps, origin, weight, bias)
    ruled = np.zeros(sizes.size, bool)
    if classes is not None:
        ruled = _ruled(vertices, outputs, weight, cell, unit, slack, classes)
    keep = finished & ~ruled
    done = Pieces(vertices[keep], sizes[keep], outputs[keep])
    going = ~finished & ~ruled
    slack = slack[going[cell]]
    vertices, sizes, origin, passing, cell, unit = _State(
        vertices, sizes, origin, passing, cell, unit
    ).part(going)
    if not sizes.size:
        return done, _State(vertices, sizes, origin, passing, cell, unit)
    # Cut by the unit that blurs the outputs most.
    importance = np.abs(weight).sum(axis=0) + np.finfo(float).tiny
    order = np.lexsort((slack * importance[unit], cell))
    chosen = order[np.append(cell[order][1:] != cell[order][:-1], True)]
    knife = affine_values(maps[origin, unit[chosen]][:, None], vertices)
    halves = _stacked([half(vertices, sizes, side * knife) for side in (1.0, -1.0)])
    below = passing.copy()
    passing[cell[chosen], unit[chosen]] = 1.0
    below[cell[chosen], unit[chosen]] = 0.0
    rest = np.ones(cell.size, bool)
    rest[chosen] = False
    cell, unit = cell[rest], unit[rest]
    return done, _State(
        *halves,
        np.concatenate([origin, origin]),
        np.concatenate([passing, below]),
        np.concatenate([cell, cell + chosen.size]),
        np.concatenate([unit, unit]),
    )


def _next_maps(
    passing: np.ndarray, maps: np.ndarray, origin: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Maps `[n, out, 3]` behind the next layer, when a share of each unit passes."""
    if maps.shape[0] == 1:
        table = weight.T[:, :, None] * maps[0][:, None, :]
        result = (passing @ table.reshape(maps.shape[1], -1)).reshape(-1, *table.shape[1:])
    else:
        result = weight @ (passing[:, :, None] * maps[origin])
    result[:, :, 2] += bias
    return result


def _ruled(
    vertices: np.ndarray,
    outputs: np.ndarray,
    weight: np.ndarray,
    cell: np.ndarray,
    unit: np.ndarray,
    slack: np.ndarray,
    classes: tuple[int, ...],
) -> np.ndarray:
    """Whether one class is surely ahead of all others on the whole polygon, `[n]`."""
    chosen = outputs[:, list(classes)]
    value = affine_values(chosen[:, None], vertices[:, :, None])
    best = np.argmax(value.mean(axis=1), axis=1)
    rows = np.arange(best.size)
    lead = (value[rows, :, best][:, :, None] - value).min(axis=1)
    # A unit that crosses adds between 0 and its slack times the difference of the weights.
    columns = weight[list(classes)].T[unit]
    loss = np.minimum(columns[np.arange(cell.size), best[cell]][:, None] - columns, 0.0)
    loss *= slack[:, None]
    for position in range(len(classes)):
        lead[:, position] += np.bincount(cell, loss[:, position], minlength=best.size)
    # A lead that rounding might make is none.
    scale = np.abs(chosen).sum(axis=(1, 2)) * (1.0 + np.abs(vertices).max(axis=(1, 2)))
    lead[rows, best] = np.inf
    return lead.min(axis=1) > 1e-12 * scale


def half(
    vertices: np.ndarray, sizes: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The part of each polygon where an affine function, given at the vertices, is positive."""
    count, room, _ = vertices.shape
    inside = np.arange(room) < sizes[:, None]
    behind = following(sizes, room)
    next_value = np.take_along_axis(value, behind, axis=1)
    next_vertex = np.take_along_axis(vertices, behind[:, :, None], axis=1)
    positive = value > 0.0
    change = inside & (positive != (next_value > 0.0))
    share = np.where(change, value, 0.0) / np.where(change, value - next_value, 1.0)
    crossing = vertices + share[:, :, None] * (next_vertex - vertices)
    # Each vertex may be kept, and each edge may add its crossing behind it.
    both = np.stack([vertices, crossing], axis=2).reshape(count, 2 * room, 2)
    kept = np.stack([inside & positive, change], axis=2).reshape(count, 2 * room)
    new_sizes = kept.sum(axis=1)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : max(int(new_sizes.max(initial=0)), 1)]
    result = np.take_along_axis(both, order[:, :, None], axis=1)
    padding = np.arange(order.shape[1]) >= new_sizes[:, None]
    return np.where(padding[:, :, None], result[:, :1], result), new_sizes


def _stacked(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Put polygons of different room below each other."""
    room = max(vertices.shape[1] for vertices, _ in parts)
    padded = [
        np.concatenate([v, np.repeat(v[:, :1], room - v.shape[1], axis=1)], axis=1)
        for v, _ in parts
    ]
    return np.concatenate(padded), np.concatenate([sizes for _, sizes in parts])


def _joined(parts: list[Pieces]) -> Pieces:
    vertices, sizes = _stacked([(part.vertices, part.sizes) for part in parts])
    return Pieces(vertices, sizes, np.concatenate([part.maps for part in parts]))
