"""The facets of a zonotope: a zonotope as the solutions of linear inequalities."""

import math
from typing import NamedTuple

import numpy as np

from . import _arrangement, _cost, _lines, _subsets, _vertices
from ._zonotope import Zonotope


class Facets(NamedTuple):
    r"""A zonotope as :math:`\{ x : N x \le h, \; E x = e \}`.

    Attributes:
      normals: N, float64 `[f, d]`, unit vectors in the span of the generators; facet `i + f / 2` is
        opposite to facet i.
      offsets: h, float64 `[f]`, the support function there.
      areas: float64 `[f]`, the (r - 1)-dimensional volume of each facet, r being the dimension of
        the zonotope: for r = 2 the length of an edge, for r = 1 the number 1.
      equality_normals: E, float64 `[d - r, d]`, orthonormal: the directions in which it is flat.
      equality_offsets: e, float64 `[d - r]`.
    """

    normals: np.ndarray
    offsets: np.ndarray
    areas: np.ndarray
    equality_normals: np.ndarray
    equality_offsets: np.ndarray


def facets(zonotope: Zonotope, *, tolerance: float = 1e-10, max_bytes: int = 2**33) -> Facets:
    r"""All facets of a zonotope, each once, also where several generators lie in one.

    .. math::
        \{ u : \|u\| = 1, \; \dim \mathrm{span} \{ g_i : \langle u, g_i \rangle = 0 \} = r - 1 \}

    These are the rays of the arrangement of the generators: 2 C(m, r - 1) of them in general
    position, fewer else.

    Args:
      zonotope: in R^d; on the host, in float64. It may be flat, or a point.
      tolerance: a generator lies in a facet when the sine of their angle is at most this.
      max_bytes: memory that the result and the work may take.

    Returns:
      `Facets`.

    Raises:
      TypeError: if the zonotope is traced or not real.
      ValueError: if it is not finite, or if the cost, which the message states, is beyond
        `max_bytes`.

    Example:
      >>> from jaxcert import tropical
      >>> prism = tropical.Zonotope([0.0] * 3, [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
      >>> found = tropical.facets(prism)
      >>> found.normals.shape, found.areas.sum().round(3)
      ((8, 3), np.float64(12.828))

    References:
      Gover, Krikorian, "Determinants and the volumes of parallelotopes and zonotopes", Linear
      Algebra and its Applications 433, 2010.
    """
    base, generators = _vertices.host_arrays(zonotope)
    lines = _lines.distinct_lines("generators", generators, tolerance=tolerance)
    flat = _orthogonal_complement(lines.basis)
    if lines.rank == 0:
        nothing = np.zeros(0)
        return Facets(np.zeros((0, lines.dimension)), nothing, nothing, flat, flat @ base)
    count, rank = lines.units.shape
    subsets = math.comb(count, rank - 1)
    _cost.check(
        "facets",
        subsets * 8 * (6 * lines.dimension + 5 * rank + 5 * _subsets.num_words(count) + 8)
        + min(subsets, 1 << 13) * 40 * (count + generators.shape[0]),
        max_bytes=max_bytes,
        detail=f"{count} distinct directions of rank {rank}, so up to {2 * subsets:,} facets",
    )
    lengths = np.zeros(count)
    used = lines.line_of >= 0
    np.add.at(lengths, lines.line_of[used], np.linalg.norm(generators[used], axis=1))
    rays = _arrangement.all_rays(lines.units, tolerance, lengths=lengths)
    normals = rays.units @ lines.basis + 0.0
    # In blocks, so that no array of all products is held at once.
    reach = np.concatenate(
        [
            np.stack([np.maximum(p, 0.0).sum(axis=0), np.maximum(-p, 0.0).sum(axis=0)], axis=1)
            for part in np.array_split(normals, -(-normals.shape[0] // 4096))
            for p in [generators @ part.T]
        ]
    )
    shift = normals @ base
    return Facets(
        np.concatenate([normals, 0.0 - normals]),
        np.concatenate([reach[:, 0] + shift, reach[:, 1] - shift]),
        np.tile(rays.area, 2),
        flat,
        flat @ base,
    )


def _orthogonal_complement(basis: np.ndarray) -> np.ndarray:
    """Orthonormal rows `[d - r, d]` orthogonal to orthonormal rows `[r, d]`."""
    rank, dimension = basis.shape
    if rank == dimension:
        return np.zeros((0, dimension))
    complete, _ = np.linalg.qr(np.concatenate([basis, np.eye(dimension)]).T)
    return complete[:, rank:].T
