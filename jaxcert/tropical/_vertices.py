"""The vertices of a zonotope, all of them, each with the proof that it is one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _arrangement, _cost, _generic_cells, _lines, _subsets, _zonotope
from ._zonotope import Zonotope

_CHUNK = 1 << 13


class Vertices(NamedTuple):
    r"""The vertices of a zonotope.

    Attributes:
      points: float64 `[v, d]`; in the plane of a flat or two-dimensional zonotope counter-clockwise
        (seen from one side), else vertex `i + v / 2` is opposite to vertex i.
      witness: float64 `[v, d]`, unit vectors: `points[i]` is the only point of the zonotope that is
        farthest in the direction `witness[i]`.
      margin: float64 `[v]`, the least :math:`|\langle w, g \rangle| / \|g\|` of the witness w over
        the generators g that are not zero. It is positive, which proves the vertex, and no change
        of the generators by less than this, relative to their lengths, removes it. Infinite for a
        single point.
    """

    points: np.ndarray
    witness: np.ndarray
    margin: np.ndarray


def vertices(zonotope: Zonotope, *, tolerance: float = 1e-10, max_bytes: int = 2**33) -> Vertices:
    r"""All vertices of a zonotope, exactly, whatever its generators.

    .. math::
        \Big\{ b + \sum_{i : \langle u, g_i \rangle > 0} g_i :
        u \in \mathbb{R}^d, \; \langle u, g_i \rangle \ne 0 \text{ for } g_i \ne 0 \Big\}

    `support_vertex(zonotope, vertices(zonotope).witness)` are the same points as a function of the
    zonotope, under grad, vmap and jit; it stays valid as long as generators change by less than the
    margins.

    In the plane by sorting angles, m log m. Above, generators in general position take one small
    linear system for each vertex and no search: there are 2 sum_{i<r} C(m-1, i) vertices, r being
    the rank, and as many different ones, each with a witness, are all. Zero and parallel generators
    are merged first. For coplanar ones and other special positions, the cells around all rays of
    the arrangement (`sign_cells`) are sorted.

    Args:
      zonotope: in R^d; on the host, in float64.
      tolerance: where generators are in special position, see `sign_cells`.
      max_bytes: memory that the result and the work may take.

    Returns:
      `Vertices`; a single one if all generators are zero.

    Raises:
      TypeError: if the zonotope is traced or not real.
      ValueError: if it is not finite, or if the cost, which the message states, is beyond
        `max_bytes`.

    Example:
      >>> from jaxcert import tropical
      >>> generators = [[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
      >>> dodecahedron = tropical.Zonotope([0.0, 0.0, 0.0], generators)
      >>> tropical.vertices(dodecahedron).points.shape
      (14, 3)

    References:
      Zaslavsky, "Facing up to arrangements: face-count formulas for partitions of space by
      hyperplanes", Memoirs of the AMS 154, 1975.
      Avis, Fukuda, "Reverse search for enumeration", Discrete Applied Mathematics 65, 1996.
    """
    base, generators = host_arrays(zonotope)
    lines = _lines.distinct_lines("generators", generators, tolerance=tolerance)
    if lines.rank == 0:
        return Vertices(base[None], np.zeros((1, lines.dimension)), np.full(1, np.inf))
    if lines.rank == 2:
        return _polygon(base, generators, lines)
    _check_cost(lines, max_bytes)
    found = _generic_cells.generic_half_cells(lines.units)
    if found is None:
        _arrangement.check_cost(lines, max_bytes=max_bytes)
        cells = _arrangement.half_cells(lines.units, tolerance)
        found = cells.witness, cells.margin
    witness, margin = found
    forwards, backwards = _sums_of_lines(generators, lines)
    half, steps = margin.size, forwards - backwards
    lowest, highest = base + backwards.sum(axis=0), base + forwards.sum(axis=0)
    points = np.empty((2 * half, lines.dimension))
    for start in range(0, half, _CHUNK):
        stop = min(start + _CHUNK, half)
        moved = (witness[start:stop] @ lines.units.T > 0.0).astype(np.float64) @ steps
        np.add(lowest, moved, out=points[start:stop])
        np.subtract(highest, moved, out=points[half + start : half + stop])
    witness = witness @ lines.basis
    return Vertices(points, np.concatenate([witness, -witness]), np.tile(margin, 2))


def vertices_2d(zonotope: Zonotope) -> jax.Array:
    r"""The vertices of a zonotope in the plane, counter-clockwise, under jit, vmap and grad.

    .. math::
        v_k = v_0 + \sum_{i \le k} g_{(i)}, \quad
        g_{(1)}, g_{(2)}, \dots \text{ turned upwards and sorted by angle}

    Args:
      zonotope: in R^2, with m generators.

    Returns:
      `[max(2 m, 1), 2]`, from the lowest vertex on. Parallel generators leave a point on an edge,
      and zero ones repeat a point, so that the shape does not depend on the numbers.

    Raises:
      ValueError: if the zonotope is not in the plane.

    Example:
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[0.0, -1.0], [1.0, 0.0]])
      >>> print(tropical.vertices_2d(square))
      [[ 0. -1.]
       [ 1. -1.]
       [ 1.  0.]
       [ 0.  0.]]
    """
    base, generators = _zonotope.arrays(zonotope)
    if base.shape[0] != 2:
        raise ValueError(f"zonotope must lie in the plane, got dimension {base.shape[0]}")
    return _vertices_2d(base, generators)


@jax.jit
def _vertices_2d(base: jax.Array, generators: jax.Array) -> jax.Array:
    if generators.shape[0] == 0:
        return base[None]
    x, y = generators[:, 0], generators[:, 1]
    down = (y < 0) | ((y == 0) & (x < 0))
    upwards = jnp.where(down[:, None], -generators, generators)
    lowest = base + jnp.sum(jnp.where(down[:, None], generators, 0), axis=0)
    # A zero generator has no angle; it may stand anywhere. Gradients do not pass through an order.
    fixed = jax.lax.stop_gradient(upwards)
    order = jnp.argsort(jnp.arctan2(fixed[:, 1], fixed[:, 0]))
    steps = jnp.cumsum(upwards[order], axis=0)
    first = jnp.concatenate([jnp.zeros((1, 2), base.dtype), steps[:-1]])
    return lowest[None] + jnp.concatenate([first, steps[-1][None] - first])


def host_arrays(zonotope: Zonotope) -> tuple[np.ndarray, np.ndarray]:
    """The fields of a zonotope in float64 on the host, finite, or raise."""
    if not isinstance(zonotope, Zonotope):
        raise TypeError(f"zonotope must be a Zonotope, got {type(zonotope).__name__}")
    base = np.shape(zonotope.base)
    _zonotope.check_shapes(base, np.shape(zonotope.generators))
    generators = _lines.finite_matrix("generators", zonotope.generators)
    return _lines.finite_matrix("base", np.reshape(zonotope.base, (1, *base)))[0], generators


def _check_cost(lines: _lines.Lines, max_bytes: int) -> None:
    """Raise, with the numbers, when even the vertices alone would not fit into `max_bytes`."""
    count, rank = lines.units.shape
    number = 2 * _generic_cells.num_half_cells(count, rank)
    needed = number * 8 * (3 * lines.dimension + rank + 4 + 2 * _subsets.num_words(count))
    block = min(_CHUNK, number) * 40 * count + 2**22
    _cost.check(
        "vertices",
        needed + block,
        max_bytes=max_bytes,
        detail=f"{count} distinct directions of rank {rank}, so up to {number:,} vertices",
    )


def _sums_of_lines(generators: np.ndarray, lines: _lines.Lines) -> tuple[np.ndarray, np.ndarray]:
    """For each line the sum of the generators along it, and of those against it: `[k, d]` each."""
    sums = np.zeros((2, lines.units.shape[0], lines.dimension))
    for row, sign in enumerate((1, -1)):
        chosen = lines.orientation == sign
        np.add.at(sums[row], lines.line_of[chosen], generators[chosen])
    return sums[0], sums[1]


def _polygon(base: np.ndarray, generators: np.ndarray, lines: _lines.Lines) -> Vertices:
    """The vertices of a zonotope of rank 2, around it."""
    down = (lines.units[:, 1] < 0.0) | ((lines.units[:, 1] == 0.0) & (lines.units[:, 0] < 0.0))
    upwards = np.where(down[:, None], -lines.units, lines.units)
    forwards, backwards = _sums_of_lines(generators, lines)
    with_line = np.where(down[:, None], backwards, forwards)
    against = np.where(down[:, None], forwards, backwards)
    angle = np.arctan2(upwards[:, 1], upwards[:, 0])
    order = np.argsort(angle)
    angle, steps = angle[order], (with_line - against)[order]
    walked = np.concatenate([np.zeros((1, lines.dimension)), np.cumsum(steps[:-1], axis=0)])
    lowest, highest = base + against.sum(axis=0), base + with_line.sum(axis=0)
    # Between two neighbouring edges the normal that is farthest from both turns the angle by half.
    before = np.concatenate([[angle[-1] - np.pi], angle[:-1]])
    middle = (before + angle) / 2.0 - np.pi / 2.0
    witness = np.stack([np.cos(middle), np.sin(middle)], axis=1) @ lines.basis
    margin = np.sin((angle - before) / 2.0)
    return Vertices(
        np.concatenate([lowest + walked, highest - walked]),
        np.concatenate([witness, -witness]),
        np.tile(margin, 2),
    )
