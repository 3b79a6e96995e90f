"""Whether points lie in a zonotope, with a proof of either answer."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy import optimize

from . import _lines, _vertices
from ._zonotope import Zonotope

# Rounding of a sum of products, in units of the machine epsilon and for each of its terms.
_ROUNDING = 4.0 * np.finfo(np.float64).eps


class Membership(NamedTuple):
    """The answers for points `[n, d]`, with what proves them.

    Attributes:
      inside: bool `[n]`, whether the zonotope has a point within the tolerance of this one.
      outside: bool `[n]`, whether a hyperplane separates the point from the zonotope, by more than
        rounding. Both false: undecided, so close to the surface that rounding hides the answer.
      coefficients: t, float64 `[n, m]` in [0, 1]: `base + t @ generators` is in the zonotope.
      distance_upper: float64 `[n]`, Euclidean distance of that one from the point, rounded up.
      direction: u, float64 `[n, d]`, a unit vector, or 0 where none separates.
      distance_lower: float64 `[n]`, how far the point is beyond the support function in that
        direction, rounded down; 0 if it is not.
    """

    inside: np.ndarray
    outside: np.ndarray
    coefficients: np.ndarray
    distance_upper: np.ndarray
    direction: np.ndarray
    distance_lower: np.ndarray


def contains(zonotope: Zonotope, points: ArrayLike, *, tolerance: float = 1e-9) -> Membership:
    r"""Whether points lie in a zonotope, each answer with its certificate.

    .. math::
        \min_{t \in [0, 1]^m} \| x - b - \sum_i t_i g_i \|_1
        = \max_{\|u\|_\infty \le 1} \langle u, x \rangle - h(u)

    One linear program a point gives both sides. The answers do not trust it: they follow from t and
    u, evaluated with bounds on the rounding.

    Args:
      zonotope: in R^d; on the host, in float64. It may be flat, or a point.
      points: x, `[n, d]` or `[d]`.
      tolerance: what counts as no distance, relative to the largest coordinate of the zonotope's
        extent and of the point seen from its base.

    Returns:
      `Membership`, with a leading axis of points also for a single one.

    Raises:
      TypeError: if an argument is traced or not real.
      ValueError: if a shape does not fit, or a number is not finite.
      RuntimeError: if a linear program was not solved.

    Guarantee:
      `outside` is sound: such a point is not in the zonotope. `inside` is sound up to the
      tolerance. The distances are bounds on the Euclidean distance of the point to the zonotope.

    Example:
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> answer = tropical.contains(square, [[0.5, 1.0], [0.5, 3.0]])
      >>> answer.inside, answer.outside, answer.distance_lower.round(6)
      (array([ True, False]), array([False,  True]), array([0., 2.]))
    """
    base, generators = _vertices.host_arrays(zonotope)
    if not 0.0 <= tolerance < 0.1:
        raise ValueError(f"tolerance must lie in [0, 0.1), got {tolerance}")
    shape = np.shape(points)
    if len(shape) not in (1, 2) or shape[-1] != base.size:
        raise ValueError(f"points must have shape [n, {base.size}] or [{base.size}], got {shape}")
    array = _lines.finite_matrix("points", np.reshape(points, (-1, base.size)))
    count, dimension = generators.shape[0], base.size
    extent = np.max(np.abs(generators).sum(axis=0), initial=0.0)
    coefficients = np.zeros((array.shape[0], count))
    direction = np.zeros_like(array)
    for row, point in enumerate(array):
        scale = max(extent, float(np.max(np.abs(point - base)))) or 1.0
        solved = optimize.linprog(
            np.concatenate([np.zeros(count), np.ones(2 * dimension)]),
            A_eq=np.hstack([generators.T / scale, np.eye(dimension), -np.eye(dimension)]),
            b_eq=(point - base) / scale,
            bounds=[(0.0, 1.0)] * count + [(0.0, None)] * (2 * dimension),
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if solved.status != 0:
            raise RuntimeError(f"the linear program of point {row} failed: {solved.message}")
        coefficients[row] = np.clip(solved.x[:count], 0.0, 1.0)
        direction[row] = solved.eqlin.marginals
    # What all terms together can be off, since each passes through at most so many roundings.
    terms = np.abs(array).sum(axis=1) + np.abs(base).sum() + np.abs(generators).sum()
    rounding = _ROUNDING * (count + dimension + 4) * terms
    left = array - (base + coefficients @ generators)
    distance_upper = np.linalg.norm(left, axis=1) * (1.0 + 1e-12) + rounding
    # The dual solution separates; where the point that was reached is the nearest, what is left
    # does so by more.
    distance_lower = np.zeros(array.shape[0])
    best = np.zeros_like(array)
    for candidate in (direction, left):
        length = np.linalg.norm(candidate, axis=1, keepdims=True)
        unit = np.divide(candidate, length, out=np.zeros_like(candidate), where=length > 1e-150)
        products = np.maximum(unit @ generators.T, 0.0)
        beyond = np.sum(unit * array, axis=1) - (unit @ base + products.sum(axis=1))
        # A unit vector is one up to rounding, too.
        distance = (beyond - rounding) * (1.0 - 1e-12)
        better = distance > distance_lower
        best[better], distance_lower[better] = unit[better], distance[better]
    scales = np.maximum(extent, np.max(np.abs(array - base), axis=1, initial=0.0))
    outside = distance_lower > 0.0
    near = distance_upper <= np.maximum(tolerance * scales, 2.0 * rounding)
    return Membership(near & ~outside, outside, coefficients, distance_upper, best, distance_lower)
