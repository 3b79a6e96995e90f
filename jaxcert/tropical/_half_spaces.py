"""The point of a polyhedron that is nearest to the origin, with a proof that survives rounding."""

from typing import NamedTuple

import numpy as np
from scipy import optimize

EPS = float(np.finfo(np.float64).eps)


class HalfSpaces(NamedTuple):
    """The polyhedron `{y : normal @ y >= offset}`, known up to errors.

    Attributes:
      normal: `[m, d]`.
      offset: `[m]`.
      normal_error: `[m]`, at most how far each normal is off, as a vector.
      offset_error: `[m]`, at most how far each offset is off.
    """

    normal: np.ndarray
    offset: np.ndarray
    normal_error: np.ndarray
    offset_error: np.ndarray

    def joined(self, other: "HalfSpaces") -> "HalfSpaces":
        """The intersection."""
        return HalfSpaces(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Nearest(NamedTuple):
    """A point, and a distance below which the polyhedron has none."""

    point: np.ndarray
    lower: float


def nearest_point(spaces: HalfSpaces) -> Nearest | None:
    r"""The point of least norm in an intersection of half-spaces.

    Its dual is a non-negative least-squares problem, solved by an active set. Any multipliers
    :math:`\lambda \ge 0` add up to one half-space that contains the polyhedron, so

    .. math::
        \|y\|_2 \ge \langle \lambda, h \rangle / \|G^\top \lambda\|_2

    holds for whatever multipliers the solver returns; the bound is computed from them with all
    rounding errors against it.

    Args:
      spaces: the half-spaces.

    Returns:
      The point, of norm 0 if nothing is known, and the bound, large if the polyhedron is empty;
      None if the solver gives up.
    """
    dimension = spaces.normal.shape[1]
    length = np.linalg.norm(spaces.normal, axis=1)
    usable = length > 0.0
    empty = ~usable & (spaces.offset > 0.0)
    if np.any(empty):
        return Nearest(np.zeros(dimension), distance_lower(spaces, empty.astype(np.float64)))
    scale = float(np.max(np.abs(spaces.offset[usable]) / length[usable], initial=0.0))
    if scale == 0.0 or not np.any(spaces.offset > 0.0):
        return Nearest(np.zeros(dimension), 0.0)
    rows = spaces.normal[usable] / length[usable, None]
    sides = spaces.offset[usable] / length[usable] / scale
    target = np.zeros(dimension + 1)
    target[-1] = 1.0
    try:
        raw, _ = optimize.nnls(np.concatenate([rows.T, sides[None]]), target)
    except RuntimeError:
        return None
    multipliers = np.zeros(length.size)
    multipliers[usable] = raw / length[usable]
    residual = float(1.0 - sides @ raw)
    point = np.zeros(dimension)
    if residual > 1e-14:
        point = scale * (rows.T @ raw) / residual
    return Nearest(point, distance_lower(spaces, multipliers))


def distance_lower(spaces: HalfSpaces, multipliers: np.ndarray) -> float:
    """A lower bound on the norm of every point of a polyhedron, from non-negative multipliers."""
    count, dimension = spaces.normal.shape
    many = (count + 8) * EPS
    total = multipliers @ spaces.normal
    offset = float(multipliers @ spaces.offset)
    size = multipliers @ np.abs(spaces.normal)
    total_error = many * np.linalg.norm(size) + (1.0 + many) * (multipliers @ spaces.normal_error)
    offset_error = many * (multipliers @ np.abs(spaces.offset))
    offset_error += (1.0 + many) * (multipliers @ spaces.offset_error)
    above = offset - offset_error * (1.0 + many)
    if not above > 0.0:
        return 0.0
    below = (np.linalg.norm(total) + total_error) * (1.0 + (dimension + 8) * EPS)
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.float64(above) / below * (1.0 - 8.0 * EPS))
