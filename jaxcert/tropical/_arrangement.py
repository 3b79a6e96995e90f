"""The cells of a central hyperplane arrangement, with the rays that span them.

Every cell of full dimension touches a ray that is orthogonal to a flat of generators, and the cells
around such a ray are the cells of that flat's own arrangement. So the rays of all subsets, and the
same question one dimension below, give every cell: no linear program, no perturbation.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from . import _cost, _generic_cells, _lines, _subsets

# Subsets that are handled at once, so that a handful of arrays of this length stay in a cache.
_CHUNK = 1 << 13


class SignCells(NamedTuple):
    r"""The full-dimensional cells :math:`\{u : s_j \langle u, g_j \rangle > 0\}` of an arrangement.

    Cells come in opposite pairs: cell `i + cells / 2` is the negative of cell `i`, and so are the
    rays. Cell `i` has the rays `rays[indices[indptr[i] : indptr[i + 1]]]`; its closure is their
    non-negative hull plus the space orthogonal to all generators. A function that is linear on the
    cell and constant along that space is therefore extremal, relative to the length of u, at them::

        values = function(cells.rays)[cells.indices]
        smallest = np.minimum.reduceat(values, cells.indptr[:-1])

    and it changes its sign inside the cell exactly if its smallest value is below 0 and its largest
    above. The last generator's sign picks, say, the half of the cells where u_d > 0.

    Attributes:
      signs: int8 `[cells, m]`, 1 or -1, and 0 exactly for generators that are zero.
      witness: float64 `[cells, d]`, a unit vector inside the cell, in the span of the generators.
      margin: float64 `[cells]`, the least :math:`s_j \langle w, g_j \rangle / \|g_j\|` over the
        generators that are not zero, merged ones counting as the one they are merged with:
        positive, so each cell is proved to be there. No change of the generators by less than
        this, relative to their lengths, removes the cell.
      rays: float64 `[rays, d]`, unit vectors in the span of the generators, each once.
      indices: int64 `[incidences]`, rows of `rays`, cell by cell.
      indptr: int64 `[cells + 1]`, where each cell's rays start.
      rank: dimension of the span of the generators.
    """

    signs: np.ndarray
    witness: np.ndarray
    margin: np.ndarray
    rays: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    rank: int


def sign_cells(
    generators: ArrayLike, *, tolerance: float = 1e-10, max_bytes: int = 2**33
) -> SignCells:
    r"""All cells of the arrangement of hyperplanes orthogonal to some generators, and their rays.

    .. math::
        \{ s \in \{-1, 1\}^m : \exists u \; \forall j \; s_j \langle u, g_j \rangle > 0 \}

    They are the vertices of the zonotope of the generators (`vertices` needs less memory), and with
    the lifted weights of a layer and the last unit vector as generators, those with `u_d > 0` are
    the activation regions of that layer.

    Args:
      generators: `[m, d]`, finite; zero, parallel and dependent ones are welcome, any number of
        them.
      tolerance: a generator counts as parallel to another one, or as orthogonal to a ray, when it
        is within this sine of being so, and all of them as flat when they are within this of it.
        Cells narrower than that may be missing.
      max_bytes: memory that the result and the work may take.

    Returns:
      `SignCells`, on the host, in float64. One cell without rays, margin infinite and witness 0, if
      all generators are zero.

    Raises:
      TypeError: if `generators` is not a real array, or is traced.
      ValueError: if `generators` is not a finite matrix, or if the cost, which the message states,
        is beyond `max_bytes`; nothing has been computed then.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> cells = tropical.sign_cells([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
      >>> cells.signs[: len(cells.signs) // 2]
      array([[ 1, -1, -1, -1,  0],
             [ 1, -1,  1,  1,  0],
             [ 1,  1,  1,  1,  0]], dtype=int8)
      >>> sorted(cells.rays[cells.indices[cells.indptr[2] : cells.indptr[3]]].tolist())
      [[0.0, 1.0], [1.0, 0.0]]

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
      Zaslavsky, "Facing up to arrangements: face-count formulas for partitions of space by
      hyperplanes", Memoirs of the AMS 154, 1975.
    """
    lines = _lines.distinct_lines("generators", generators, tolerance=tolerance)
    if lines.rank == 0:
        return SignCells(
            signs=np.zeros((1, lines.num_generators), np.int8),
            witness=np.zeros((1, lines.dimension)),
            margin=np.full(1, np.inf),
            rays=np.zeros((0, lines.dimension)),
            indices=np.zeros(0, np.int64),
            indptr=np.zeros(2, np.int64),
            rank=0,
        )
    check_cost(lines, max_bytes=max_bytes)
    half = half_cells(lines.units, tolerance)
    # The opposite half: cell i + h has the opposite rays, ray i + r is the opposite of ray i.
    num_rays = half.rays.shape[0]
    opposite = np.where(half.indices < num_rays, half.indices + num_rays, half.indices - num_rays)
    signs = lines.signs_of_generators(half.signs)
    witness = half.witness @ lines.basis
    rays = half.rays @ lines.basis + 0.0
    return SignCells(
        signs=np.concatenate([signs, -signs]),
        witness=np.concatenate([witness, -witness]),
        margin=np.concatenate([half.margin, half.margin]),
        rays=np.concatenate([rays, 0.0 - rays]),
        indices=np.concatenate([half.indices, opposite]),
        indptr=np.concatenate([half.indptr, half.indptr[-1] + half.indptr[1:]]),
        rank=lines.rank,
    )


def check_cost(lines: _lines.Lines, *, max_bytes: int) -> None:
    """Raise, with the numbers, when the cells and their rays would not fit into `max_bytes`."""
    count, rank = lines.units.shape
    subsets = math.comb(count, rank - 1)
    incidences = subsets * 2**rank
    cells = 2 * _generic_cells.num_half_cells(count, rank)
    words = _subsets.num_words(count)
    # The keys and their order while half of the incidences are sorted, the result, and a block.
    work = incidences // 2 * 8 * (2 * words + 3) + subsets * 16 * (rank + 2 * words)
    result = incidences * 8 + cells * (8 * (lines.dimension + rank + 2) + 2 * lines.num_generators)
    block = min(_CHUNK, subsets) * (40 * count + 16 * rank**2 + 2 ** (rank + 2) * words)
    _cost.check(
        "cells and rays",
        1.2 * (work + result) + block,
        max_bytes=max_bytes,
        detail=f"{count} distinct directions of rank {rank}, so up to {cells:,} cells and "
        f"{incidences:,} incidences of rays",
    )


class HalfCells(NamedTuple):
    """The cells on the positive side of the first line; `indices` beyond `rays` are opposites."""

    signs: np.ndarray
    witness: np.ndarray
    margin: np.ndarray
    rays: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray


class Rays(NamedTuple):
    """Rays up to sign.

    Attributes:
      units: float64 `[n, r]`, unit vectors.
      positive: packed bits `[n, w]`, the lines that are positive there.
      zero: packed bits `[n, w]`, the lines that vanish there.
      area: float64 `[n]`, the volume of the zonotope of the segments that vanish.
    """

    units: np.ndarray
    positive: np.ndarray
    zero: np.ndarray
    area: np.ndarray


def half_cells(
    units: np.ndarray,
    tolerance: float,
    *,
    members: np.ndarray | None = None,
    known: dict[bytes, np.ndarray] | None = None,
) -> HalfCells:
    """Cells of distinct lines `[m, r]` that span R^r, up to sign.

    Within a larger arrangement `members [m]` are the numbers of the lines there, by which `known`
    keeps the cells of flats: the same flat is met on the way down from many rays.
    """
    count, rank = units.shape
    members = np.arange(count) if members is None else members
    known = {} if known is None else known
    rays = all_rays(units, tolerance)
    num_rays = rays.units.shape[0]
    keys, which = [], []
    for chunk, patterns in _patterns_around(rays, units, tolerance, members, known):
        keys.append((rays.positive[chunk][:, None, :] | patterns).reshape(-1, patterns.shape[2]))
        which.append(np.repeat(chunk, patterns.shape[1]))
    words, ray_of = np.concatenate(keys), np.concatenate(which)
    # Of each opposite pair keep the cell where the first line is positive.
    negative = (words[:, 0] & np.uint64(1)) == 0
    full = _subsets.pack(np.ones((1, count), bool))
    words = np.where(negative[:, None], words ^ full, words)
    ray_of = np.where(negative, ray_of + num_rays, ray_of)
    order, starts = _subsets.group(words)
    ray_of = ray_of[order]
    signs = np.where(_subsets.unpack(words[order[starts]], count), 1, -1).astype(np.int8)
    indptr = np.append(starts, order.size)
    both = np.concatenate([rays.units, -rays.units])
    witness = np.stack(
        [np.add.reduceat(both[ray_of, axis], starts) for axis in range(rank)], axis=1
    )
    witness /= np.linalg.norm(witness, axis=1, keepdims=True)
    margin = np.min(signs * (witness @ units.T), axis=1)
    # A cell that its witness does not prove comes from signs that rounding made inconsistent.
    kept = margin > _generic_cells.ROUNDING
    if not np.all(kept):
        inside = np.repeat(kept, np.diff(indptr))
        indptr = np.concatenate([[0], np.cumsum(np.diff(indptr)[kept])])
        ray_of, signs, witness, margin = ray_of[inside], signs[kept], witness[kept], margin[kept]
    return HalfCells(signs, witness, margin, rays.units, ray_of, indptr)


def all_rays(units: np.ndarray, tolerance: float, *, lengths: np.ndarray | None = None) -> Rays:
    """The rays of the arrangement of lines `[k, r]`, one of each opposite pair, each once.

    `lengths [k]`, 1 by default, are those of the segments along the lines.
    """
    count, rank = units.shape
    lengths = np.ones(count) if lengths is None else lengths
    total = math.comb(count, rank - 1)
    found, sizes, generic = [], [], True
    for start in range(0, total, _CHUNK):
        subsets = _subsets.combinations(count, rank - 1, start, min(start + _CHUNK, total))
        normal = _subsets.normals(units[subsets])
        length = np.linalg.norm(normal, axis=1)
        # A dependent subset spans no flat of its own; another subset spans the one it lies in.
        spanning = length > tolerance
        generic = generic and bool(np.all(spanning))
        subsets, length = subsets[spanning], length[spanning]
        normal = normal[spanning] / length[:, None]
        products = normal @ units.T
        zero = np.abs(products) <= tolerance
        np.put_along_axis(zero, subsets, True, axis=1)
        generic = generic and bool(np.all(zero.sum(axis=1) == rank - 1))
        positive = (products > 0.0) & ~zero
        area = length * np.prod(lengths[subsets], axis=1)
        found.append(Rays(normal, _subsets.pack(positive), _subsets.pack(zero), area))
        sizes.append(length)
    rays = Rays(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    if generic:
        return rays
    # The same flat from several subsets: the one that is best conditioned speaks for it.
    order, starts = _subsets.group(rays.zero)
    length = np.concatenate(sizes)[order]
    member = np.repeat(np.arange(starts.size), np.diff(np.append(starts, order.size)))
    best = order[np.lexsort((-length, member))[starts]]
    area = np.add.reduceat(rays.area[order], starts)
    return Rays(rays.units[best], rays.positive[best], rays.zero[best], area)


def _patterns_around(
    rays: Rays,
    units: np.ndarray,
    tolerance: float,
    members: np.ndarray,
    known: dict[bytes, np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rays `[n]`, and the packed signs `[n, p, w]` of their zeros in the p cells around."""
    count, rank = units.shape
    num_zeros = np.bitwise_count(rays.zero).sum(axis=1)
    simple = np.flatnonzero(num_zeros == rank - 1)
    choices = (np.arange(2 ** (rank - 1))[:, None] >> np.arange(rank - 1)) & 1
    for start in range(0, simple.size, _CHUNK):
        chunk = simple[start : start + _CHUNK]
        zeros = _subsets.unpack(rays.zero[chunk], count)
        items = np.nonzero(zeros)[1].reshape(chunk.size, rank - 1)
        patterns = np.zeros((chunk.size, choices.shape[0], rays.zero.shape[1]), np.uint64)
        for position in range(rank - 1):
            word, bit = np.divmod(items[:, position], _subsets.WORD_BITS)
            value = np.uint64(1) << bit.astype(np.uint64)
            for w in range(patterns.shape[2]):
                mask = np.where(word == w, value, np.uint64(0))
                patterns[:, :, w] |= mask[:, None] * choices[:, position].astype(np.uint64)
        yield chunk, patterns
    for ray in np.flatnonzero(num_zeros > rank - 1):
        zeros = _subsets.unpack(rays.zero[ray : ray + 1], count)[0]
        inside = members[zeros]
        if inside.tobytes() not in known:
            flat = _lines.coordinates(units[zeros], rank - 1)
            if rank == 3:
                known[inside.tobytes()] = _planar_signs(flat)
            else:
                cells = half_cells(flat, tolerance, members=inside, known=known)
                known[inside.tobytes()] = cells.signs > 0
        half = known[inside.tobytes()]
        bits = np.zeros((2 * half.shape[0], count), bool)
        bits[:, zeros] = np.concatenate([half, ~half])
        yield np.array([ray]), _subsets.pack(bits)[None]


def _planar_signs(units: np.ndarray) -> np.ndarray:
    """Which of the lines `[k, 2]` in the plane are positive in each of their cells, up to sign."""
    angles = np.sort(np.arctan2(units[:, 1], units[:, 0]) % np.pi)
    middle = (angles + np.append(angles[1:], angles[0] + np.pi)) / 2.0 + np.pi / 2.0
    return np.stack([np.cos(middle), np.sin(middle)], axis=1) @ units.T > 0.0
