"""The cells of lines in general position, each once and without a search, or that this failed.

One cell of an opposite pair lies where the first line is positive: there the arrangement is an
affine one in R^(r - 1). Each of its cells that is bounded below in a first generic direction has
one lowest vertex, the meeting point of r - 1 of the other lines, and each such point is the lowest
one of one cell. The cells that are not bounded below are those of the arrangement on a hyperplane
far below, one dimension less, and so on: one cell for each set of at most r - 1 other lines.
"""

import math

import numpy as np

from . import _subsets

_CHUNK_NUMBERS = 1 << 17
# A product of unit vectors in float64 is off by less than this, far beyond the largest rank.
ROUNDING = 1e-13
_SMALL_PIVOT = 1e-3


def num_half_cells(count: int, rank: int) -> int:
    """Half the cells of `count` lines in general position: as many as lines can have."""
    return sum(math.comb(count - 1, size) for size in range(rank))


def generic_half_cells(units: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Witnesses `[h, r]` and margins `[h]` of all cells up to sign, or None.

    Each witness proves its cell. As many different cells as general position allows are all that
    there are, so the list is complete whatever rounding did on the way. For lines in special
    position there are fewer, and the answer is None.

    Args:
      units: `[k, r]`, distinct unit vectors that span R^r.
    """
    for seed in range(2):
        # Two attempts: an unlucky direction spoils the first one with negligible probability.
        found = _attempt(units, np.random.default_rng(seed))
        if found is not None:
            return found
    return None


def _attempt(
    units: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    count, rank = units.shape
    downwards = generator.normal(size=(rank - 1, rank))
    total = num_half_cells(count, rank)
    # One cell a column: sums and extremes over the lines then run along contiguous rows.
    witness, margin = np.empty((rank, total)), np.empty(total)
    keys = np.empty((total, _subsets.num_words(count)), np.uint64)
    done, chunk = 0, max(64, _CHUNK_NUMBERS // count)
    # The largest sets first: lines in special position show there, before much work is done.
    for size in range(min(rank, count) - 1, -1, -1):
        subsets = math.comb(count - 1, size)
        for start in range(0, subsets, chunk):
            stop = min(start + chunk, subsets)
            chosen = _subsets.combinations(count - 1, size, start, stop).T + 1
            inside = _inside(units, chosen, downwards)
            here = slice(done, done + inside.shape[1])
            products = units @ inside
            positive = products > 0.0
            np.min(np.abs(products, out=products), axis=0, out=margin[here])
            if not np.min(margin[here]) > ROUNDING:
                return None
            witness[:, here] = inside
            keys[here] = _subsets.pack_columns(positive == positive[0])
            done += inside.shape[1]
    if _subsets.has_repeated(keys):
        return None
    return witness.T, margin


def _inside(units: np.ndarray, chosen: np.ndarray, downwards: np.ndarray) -> np.ndarray:
    """A unit vector inside the cell of each set: `[r, n]` for sets `[size, n]`.

    A ray q touches the cell, where the lines of the set vanish and, far below, the first line too;
    v leads inside from it, equally fast for all lines that vanish; q + t v is as deep as it gets.
    """
    size, number = chosen.shape
    rank = units.shape[1]
    far = rank - 1 - size
    rows = np.empty((rank, rank, number))
    rows[0] = units[0, :, None]
    rows[1 : 1 + size] = units.T[:, chosen].swapaxes(0, 1)
    rows[1 + size :] = downwards[:far, :, None]
    dual = _inverse(rows)
    edges = dual[:, 1 : 1 + size]
    ray, inward = (-dual[:, -1], dual[:, 0]) if far else (dual[:, 0], np.zeros((rank, number)))
    if size:
        # The cell whose lowest point this is: from there all its edges go up.
        up = np.sign(np.einsum("c,cen->en", downwards[far], edges))
        inward = inward + np.sum(edges * up, axis=1)
    at_ray, change = units @ ray, units @ inward
    columns = np.arange(number)
    at_ray[chosen, columns], change[chosen, columns] = 1.0, 1.0
    if far:
        at_ray[0], change[0] = 1.0, 1.0
    # At q + t v a line that vanishes is at t, another one at |a + t b|, a and b its values at q and
    # v: as deep as t while (sign(a) - b) / a < 1 / t.
    with np.errstate(divide="ignore", invalid="ignore"):
        slower = np.max((np.copysign(1.0, at_ray) - change) / at_ray, axis=0)
        lengths = np.linalg.norm(ray, axis=0), np.linalg.norm(inward, axis=0)
        # Where no line comes nearer, go further than the ray is long.
        inside = ray + inward / np.maximum(slower, 0.125 * lengths[1] / lengths[0])
        return inside / np.linalg.norm(inside, axis=0)


def _inverse(matrices: np.ndarray) -> np.ndarray:
    """Inverses of matrices `[r, r, n]`, not finite where they are singular.

    Gauss-Jordan in place over the whole batch; where it met a small pivot, LAPACK once more.
    """
    work, rank = matrices.copy(), matrices.shape[0]
    smallest = np.full(matrices.shape[2], np.inf)
    with np.errstate(all="ignore"):
        for column in range(rank):
            pivot = work[column, column].copy()
            np.minimum(smallest, np.abs(pivot), out=smallest)
            work[column, column] = 1.0
            work[column] /= pivot
            factor = work[:, column].copy()
            factor[column] = 0.0
            work[:, column] = 0.0
            work[column, column] = 1.0 / pivot
            work -= factor[:, None] * work[column]
    poor = np.flatnonzero(~(smallest > _SMALL_PIVOT))
    if poor.size:
        try:
            work[:, :, poor] = np.linalg.inv(matrices[:, :, poor].transpose(2, 0, 1)).transpose(
                1, 2, 0
            )
        except np.linalg.LinAlgError:
            work[:, :, poor] = np.nan
    return work
