"""The exact decision boundary of a network with one hidden layer and a few inputs, cell by cell."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy import optimize

from jaxcert.tropical import _network
from jaxcert.tropical._arrangement import SignCells, sign_cells

# Score differences at a unit ray below this, relative to the terms they are summed from, are 0.
_TOLERANCE = 1e-11
# Cells, pieces and rays grow with the number of inputs in the exponent.
_MAX_INPUTS = 5


class BoundaryCells(NamedTuple):
    """The flat pieces of a decision boundary, one for each cell and pair of classes that meet.

    Attributes:
      active: bool `[pieces, h]`, the hidden units that are on in the cell.
      classes: int64 `[pieces, 2]`, the two classes with equal, largest scores on the piece.
      slope: float64 `[pieces, d]`, gradient of the difference of their scores in the cell.
      offset: float64 `[pieces]`: the piece lies in `{x : slope @ x + offset = 0}`.
      point: float64 `[pieces, d]`, a point inside the piece.
      walls: bool `[pieces]`, whether the piece lies in a wall of its cell, along a hidden unit,
        instead of crossing the cell; it is listed for one of the two cells.
      tied_active: bool `[ties, h]`, the cells on which two classes have the same largest score: the
        boundary is no hypersurface there. No piece along the walls of these cells is listed.
      tied_classes: int64 `[ties, 2]`, the two classes.
      tied_point: float64 `[ties, d]`, a point inside each of these cells.
      num_regions: number of activation regions, all over R^d.
      bias_free: whether no bias matters to these classes, so that the boundary is a cone.
    """

    active: np.ndarray
    classes: np.ndarray
    slope: np.ndarray
    offset: np.ndarray
    point: np.ndarray
    walls: np.ndarray
    tied_active: np.ndarray
    tied_classes: np.ndarray
    tied_point: np.ndarray
    num_regions: int
    bias_free: bool


def boundary_cells(
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
    max_bytes: int = 2**33,
) -> BoundaryCells:
    r"""All pieces of the decision boundary of a one-hidden-layer network, over the whole of R^d.

    .. math::
        \{ x : f_i(x) = f_j(x) \ge f_l(x) \; \forall l \}, \quad
        f(x) = W_2 \max(W_1 x + b_1, 0) + b_2

    The lifted units :math:`(W_{1,j}, b_{1,j})` and the last unit vector generate an arrangement in
    R^(d+1). On each cell with :math:`u_{d+1} > 0`, an activation region, the scores are linear in
    u, so their signs at the rays of the cell decide whether the boundary crosses it: for two
    classes without any linear program, for more with one for each candidate. These are the cells
    that are dual to the edges of the hull of the `decision_zonotopes` which join two of them
    (bichromatic edges): the boundary itself, not the hypersurface that contains it.

    Args:
      w1: W_1, `[h, d]`, d at most 5.
      b1: b_1, `[h]`, or None.
      w2: W_2, `[classes, h]`.
      b2: b_2, `[classes]`, or None.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      max_bytes: memory that the arrangement may take.

    Returns:
      `BoundaryCells`, on the host, in float64.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, there are more than five inputs,
        or the arrangement does not fit into `max_bytes`.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> w1, w2 = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
      >>> found = tropical.boundary_cells(w1, None, w2, None, classes=(0, 1))
      >>> found.active, found.slope, found.tied_active, found.num_regions
      (array([[ True,  True]]), array([[ 1., -1.]]), array([[False, False]]), 4)

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
      Brandenburg, Loho, Montufar, "The Real Tropical Geometry of Neural Networks", 2024,
      arXiv:2403.11871.
    """
    (first, shift), (second, last) = _network.one_hidden_layer(w1, b1, w2, b2)
    units, dimension = first.shape
    if dimension > _MAX_INPUTS:
        raise ValueError(
            f"w1 must have at most {_MAX_INPUTS} columns, one an input, got shape {first.shape}; "
            "segment_crossings and boundary_distance work in any dimension"
        )
    chosen = _network.class_indices(classes, second.shape[0])
    lifted = np.concatenate([first, shift[:, None]], axis=1)
    up = np.zeros((1, dimension + 1))
    up[0, -1] = 1.0
    cells = _upper_cells(sign_cells(np.concatenate([lifted, up]), max_bytes=max_bytes))
    reach = np.maximum(cells.rays @ lifted.T, 0.0)
    value = reach @ second.T + np.outer(cells.rays[:, -1], last)
    # Of what the scores are summed from: a unit that is 0 at a ray is so up to rounding.
    size = np.abs(cells.rays) @ np.abs(lifted).T @ np.abs(second).T
    size += np.outer(np.abs(cells.rays[:, -1]), np.abs(last))
    pieces, ties = [], []
    for place, i in enumerate(chosen):
        for j in chosen[place + 1 :]:
            lead = value[:, i] - value[:, j]
            lead = np.where(np.abs(lead) <= _TOLERANCE * (size[:, i] + size[:, j]), 0.0, lead)
            others = [c for c in chosen if c not in (i, j)]
            gaps = []
            for c in (i, j):
                gap, scale = value[:, [c]] - value[:, others], size[:, [c]] + size[:, others]
                gaps.append(np.where(np.abs(gap) <= _TOLERANCE * scale, 0.0, gap))
            possible = _not_behind(cells, gaps)
            for cell, u, wall in _pieces(cells, lead, gaps[0], possible):
                pieces.append((cell, i, j, u, wall))
            for cell, u in _ties(cells, lead, gaps[0], possible):
                ties.append((cell, i, j, u))
    tied_pairs = {(cell, i, j) for cell, i, j, _ in ties}
    pieces = _without_shared_walls(cells, lifted, pieces, tied_pairs)
    active = cells.signs[:, :-1] > 0
    number = np.array([piece[0] for piece in pieces], np.int64)
    pairs = np.array([piece[1:3] for piece in pieces], np.int64).reshape(-1, 2)
    difference = second[pairs[:, 0]] - second[pairs[:, 1]]
    on = active[number] * difference
    tie_number = np.array([tie[0] for tie in ties], np.int64)
    return BoundaryCells(
        active=active[number],
        classes=pairs,
        slope=on @ first,
        offset=on @ shift + last[pairs[:, 0]] - last[pairs[:, 1]],
        point=_dehomogenised([piece[3] for piece in pieces], dimension),
        walls=np.array([piece[4] for piece in pieces], bool),
        tied_active=active[tie_number],
        tied_classes=np.array([tie[1:3] for tie in ties], np.int64).reshape(-1, 2),
        tied_point=_dehomogenised([tie[3] for tie in ties], dimension),
        num_regions=cells.signs.shape[0],
        bias_free=not np.any(shift) and bool(np.all(last[list(chosen)] == last[chosen[0]])),
    )


def _upper_cells(cells: SignCells) -> SignCells:
    """The cells where the last generator is positive, with the rays that they use."""
    kept = cells.signs[:, -1] > 0
    sizes = np.diff(cells.indptr)
    used = cells.indices[np.repeat(kept, sizes)]
    rays, indices = np.unique(used, return_inverse=True)
    return cells._replace(
        signs=cells.signs[kept],
        witness=cells.witness[kept],
        margin=cells.margin[kept],
        rays=cells.rays[rays],
        indices=indices,
        indptr=np.concatenate([[0], np.cumsum(sizes[kept])]),
    )


def _not_behind(cells: SignCells, gaps: list[np.ndarray]) -> np.ndarray:
    """Cells on which no other class is ahead of i or of j everywhere; one may tie with them."""
    starts = cells.indptr[:-1]
    possible = np.ones(starts.size, bool)
    for column in np.concatenate(gaps, axis=1).T:
        at = column[cells.indices]
        level = np.minimum.reduceat(at, starts) == 0.0
        possible &= level | (np.maximum.reduceat(at, starts) > 0.0)
    return possible


def _pieces(
    cells: SignCells, lead: np.ndarray, gaps: np.ndarray, possible: np.ndarray
) -> list[tuple[int, np.ndarray, bool]]:
    """Cells with a piece of the boundary, a point inside the piece, and whether it is a wall."""
    starts = cells.indptr[:-1]
    at = lead[cells.indices]
    low, high = np.minimum.reduceat(at, starts), np.maximum.reduceat(at, starts)
    found = []
    for cell in np.flatnonzero(possible & (low < 0.0) & (high > 0.0)):
        rays = cells.indices[cells.indptr[cell] : cells.indptr[cell + 1]]
        shares = _balanced(lead[rays], gaps[rays])
        if shares is not None:
            found.append((int(cell), shares @ cells.rays[rays], False))
    # A wall: i is ahead or level at all rays, and level at so many that they span a wall.
    zeros = np.add.reduceat(at == 0.0, starts)
    for cell in np.flatnonzero((zeros >= cells.rank - 1) & ((low == 0.0) != (high == 0.0))):
        rays = cells.indices[cells.indptr[cell] : cells.indptr[cell + 1]]
        level = rays[lead[rays] == 0.0]
        if np.linalg.matrix_rank(cells.rays[level]) < cells.rank - 1:
            continue
        shares = _balanced(lead[level], gaps[level])
        if shares is not None:
            u = shares @ cells.rays[level]
            if u[-1] > _TOLERANCE * np.linalg.norm(u):
                found.append((int(cell), u, True))
    return found


def _ties(
    cells: SignCells, lead: np.ndarray, gaps: np.ndarray, possible: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Cells on which two classes are level and ahead somewhere, with a point where they are."""
    starts = cells.indptr[:-1]
    size = np.maximum.reduceat(np.abs(lead)[cells.indices], starts)
    found = []
    for cell in np.flatnonzero(possible & (size == 0.0)):
        rays = cells.indices[cells.indptr[cell] : cells.indptr[cell + 1]]
        shares = _balanced(lead[rays], gaps[rays])
        if shares is not None:
            found.append((int(cell), shares @ cells.rays[rays]))
    return found


def _balanced(lead: np.ndarray, gaps: np.ndarray) -> np.ndarray | None:
    """Positive shares of some rays at which the lead is 0 and all gaps are positive, if any.

    Args:
      lead: values `[r]` of the score of i less that of j.
      gaps: values `[r, others]` of the score of i less those of the others.

    Returns:
      `[r]`, all above 0, or None.
    """
    # A class that ties with i at all of them is no hindrance.
    gaps = gaps[:, np.any(gaps != 0.0, axis=0)]
    if gaps.shape[1] == 0:
        plus, minus = np.maximum(lead, 0.0).sum(), np.maximum(-lead, 0.0).sum()
        if plus == 0.0 and minus == 0.0:
            return np.ones(lead.size)
        return np.where(lead > 0.0, minus, np.where(lead < 0.0, plus, (plus + minus) / 2.0))
    # Maximise t so that all shares, which sum to 1, and all gaps, in units of their size, reach t.
    scale = np.abs(gaps).max(axis=0)
    count = lead.size
    above = np.concatenate([-np.eye(count), -(gaps / scale).T])
    unit = max(float(np.abs(lead).max()), np.finfo(float).tiny)
    done = optimize.linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.concatenate([above, np.ones((above.shape[0], 1))], axis=1),
        b_ub=np.zeros(above.shape[0]),
        A_eq=np.stack([np.append(lead / unit, 0.0), np.append(np.ones(count), 0.0)]),
        b_eq=[0.0, 1.0],
        bounds=[(0.0, None)] * count + [(None, None)],
        method="highs",
    )
    if done.status != 0 or -done.fun <= 1e-9:
        return None
    return done.x[:-1]


def _without_shared_walls(
    cells: SignCells,
    lifted: np.ndarray,
    pieces: list[tuple[int, int, int, np.ndarray, bool]],
    ties: set[tuple[int, int, int]],
) -> list[tuple[int, int, int, np.ndarray, bool]]:
    """List each wall once, and none of a cell where the two classes tie."""
    if not any(piece[4] for piece in pieces):
        return pieces
    names = {signs.tobytes(): number for number, signs in enumerate(cells.signs)}
    kept: list[tuple[int, int, int, np.ndarray, bool]] = []
    seen: set[tuple[int, int, int, int]] = set()
    lengths = np.linalg.norm(lifted, axis=1)
    for piece in pieces:
        cell, i, j, u, wall = piece
        if wall:
            # The cell behind it has the opposite signs of the units that are 0 on the wall.
            level = np.abs(lifted @ u) <= 1e-9 * lengths * np.linalg.norm(u)
            signs = cells.signs[cell].copy()
            signs[:-1][level] *= -1
            neighbour = names.get(signs.tobytes(), cell)
            pair = (min(cell, neighbour), max(cell, neighbour), i, j)
            if (neighbour, i, j) in ties or pair in seen:
                continue
            seen.add(pair)
        kept.append(piece)
    return kept


def _dehomogenised(directions: list[np.ndarray], dimension: int) -> np.ndarray:
    """Points `[n, d]` of directions `[d + 1]` that point upwards."""
    stacked = np.array(directions).reshape(-1, dimension + 1)
    return stacked[:, :-1] / stacked[:, -1:]
