"""How far apart two decision boundaries in the plane and their dual polygons are."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert.tropical import _network
from jaxcert.tropical._segments import boundary_segments
from jaxcert.tropical._vertices import vertices
from jaxcert.tropical._zonotope import Zonotope


class BoundaryComparison(NamedTuple):
    """What two networks with two inputs have in common between two classes.

    Attributes:
      generator_distance: Frobenius norm of the difference of all generators, divided by that of the
        first network's.
      hausdorff_distance: between the two dual polygons.
      relative_distance: the same, divided by the largest distance between two points of the first
        polygon.
      area_ratio: area of the second polygon over that of the first.
      overlap: area that both polygons cover over the area that either covers.
      normal_angle: mean angle between the boundaries' normals in radians, NaN where a boundary does
        not meet the box.
    """

    generator_distance: float
    hausdorff_distance: float
    relative_distance: float
    area_ratio: float
    overlap: float
    normal_angle: float


def compare_boundaries(
    network: tuple[ArrayLike, ...],
    other: tuple[ArrayLike, ...],
    *,
    classes: Any,
    box: ArrayLike,
) -> BoundaryComparison:
    r"""Compare the boundaries between two classes of two networks by their dual polygons.

    .. math::
        d_H(P, P'), \quad \frac{|P'|}{|P|}, \quad \frac{|P \cap P'|}{|P \cup P'|}, \quad
        \frac{\|G' - G\|_F}{\|G\|_F}

    with P the `dual_polygon` of each network and G the generators of its two zonotopes, all exact
    up to rounding in float64. A normal of a boundary points from the second class to the first. The
    angle of normals is the mean, along one boundary inside the box, of the angle to the normal of
    the other boundary at its nearest segment, from the middle of each piece; the mean of both
    directions.

    Args:
      network: w1 `[h, 2]`, b1 `[h]`, w2 `[classes, h]`, b2 `[classes]`.
      other: the same of another network of as many hidden units, in the same places.
      classes: two class numbers.
      box: `[2, 2]`, the lower and the upper corner of where the boundaries are compared.

    Returns:
      A `BoundaryComparison`, on the host.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape or a class does not fit, a number is not finite, or there are not
        exactly two classes and two inputs.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> network = np.eye(2), np.zeros(2), np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2)
      >>> turned = np.array([[0.0, 1.0], [-1.0, 0.0]]), *network[1:]
      >>> found = tropical.compare_boundaries(
      ...     network, turned, classes=(0, 1), box=[[-1.0, -1.0], [1.0, 1.0]])
      >>> round(found.area_ratio, 3), round(found.overlap, 3), round(found.normal_angle / np.pi, 3)
      (1.0, 0.0, 0.5)

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
    """
    polygon, generators = _dual(*network, classes=classes)
    other_polygon, other_generators = _dual(*other, classes=classes)
    if generators.shape != other_generators.shape:
        raise ValueError(
            f"other must have {generators.shape[1]} hidden units, got {other_generators.shape[1]}"
        )
    distance = max(_farthest(polygon, other_polygon), _farthest(other_polygon, polygon))
    spans = np.linalg.norm(polygon[:, None] - polygon[None], axis=2)
    area, other_area = _area(polygon), _area(other_polygon)
    common = _area(_intersection(polygon, other_polygon))
    segments, other_segments = (_oriented(arrays, classes, box) for arrays in (network, other))
    change = float(np.linalg.norm(other_generators - generators))
    return BoundaryComparison(
        generator_distance=_quotient(change, float(np.linalg.norm(generators))),
        hausdorff_distance=distance,
        relative_distance=_quotient(distance, float(spans.max())),
        area_ratio=_quotient(other_area, area),
        overlap=_quotient(common, area + other_area - common),
        normal_angle=(_angle(segments, other_segments) + _angle(other_segments, segments)) / 2,
    )


def dual_polygon(
    w1: ArrayLike, b1: ArrayLike | None, w2: ArrayLike, b2: ArrayLike | None, *, classes: Any
) -> np.ndarray:
    r"""Compute the polygon that the dual subdivision of a decision boundary in the plane fills.

    .. math::
        \mathrm{conv}\Bigl( \sum_j [0, B^+_{1j} + B^-_{2j}]\, A_j \;\cup\;
        \sum_j [0, B^+_{2j} + B^-_{1j}]\, A_j \Bigr)

    A and B being `w1` and `w2`. Biases only lift it and choose its subdivision. It is the paper's
    polygon moved by the base that its two zonotopes share, which says nothing about the boundary.

    Args:
      w1: A, `[h, 2]`.
      b1: `[h]` or None.
      w2: B, `[classes, h]`.
      b2: `[classes]` or None.
      classes: two class numbers.

    Returns:
      float64 `[v, 2]`, its vertices counter-clockwise; one or two if it has no area.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape or a class does not fit, a number is not finite, or there are not
        exactly two classes and two inputs.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> tropical.dual_polygon(
      ...     np.eye(2), None, np.array([[1.0, 0.0], [0.0, 2.0]]), None, classes=(0, 1))
      array([[0., 0.],
             [1., 0.],
             [0., 2.]])
    """
    return _dual(w1, b1, w2, b2, classes=classes)[0]


def _dual(
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """The dual polygon, and the generators of the two zonotopes with their biases `[2, h, 3]`."""
    (rows, lift), (weights, _) = _network.one_hidden_layer(w1, b1, w2, b2)
    if rows.shape[1] != 2:
        raise ValueError(f"w1 must have shape [h, 2], got {rows.shape}")
    chosen = _network.class_indices(classes, weights.shape[0])
    if len(chosen) != 2:
        raise ValueError(f"classes must be two, got {chosen}")
    first, second = weights[chosen[0]], weights[chosen[1]]
    scales = np.stack(
        [
            np.maximum(first, 0) + np.maximum(-second, 0),
            np.maximum(second, 0) + np.maximum(-first, 0),
        ]
    )
    generators = scales[:, :, None] * np.concatenate([rows, lift[:, None]], axis=1)
    points = [vertices(Zonotope(np.zeros(2), each[:, :2])).points for each in generators]
    return _hull(np.concatenate(points)), generators


def _quotient(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else float("nan")


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Twice the area of a triangle, positive counter-clockwise."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _hull(points: np.ndarray) -> np.ndarray:
    """The convex hull counter-clockwise, without points on its edges (Andrew's chains)."""
    points = np.unique(points, axis=0)
    if len(points) < 3:
        return points
    # What rounding leaves of the area of three points on a line.
    flat = 1e-12 * np.ptp(points, axis=0).max() ** 2
    chains = []
    for order in (points, points[::-1]):
        chain: list[np.ndarray] = []
        for point in order:
            while len(chain) > 1 and _cross(chain[-2], chain[-1], point) <= flat:
                chain.pop()
            chain.append(point)
        chains.append(chain[:-1])
    return np.array(chains[0] + chains[1])


def _area(polygon: np.ndarray) -> float:
    if len(polygon) < 3:
        return 0.0
    spokes = polygon - polygon[0]
    return float(np.sum(spokes[:-1, 0] * spokes[1:, 1] - spokes[:-1, 1] * spokes[1:, 0]) / 2)


def _farthest(polygon: np.ndarray, other: np.ndarray) -> float:
    """Largest distance of a point of the polygon to the other: that of a vertex, by convexity."""
    outside = np.ones(len(polygon), bool)
    if len(other) > 2:
        edges = np.roll(other, -1, axis=0) - other
        spokes = polygon[:, None] - other[None]
        turns = edges[:, 0] * spokes[..., 1] - edges[:, 1] * spokes[..., 0]
        outside = np.any(turns < 0, axis=1)
    distances = _to_segments(polygon, other, np.roll(other, -1, axis=0)).min(axis=1)
    return float(np.where(outside, distances, 0.0).max())


def _to_segments(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of each point `[n, 2]` to each segment `[m, 2]`: `[n, m]`."""
    along = end - start
    square = np.sum(along**2, axis=1)
    spokes = points[:, None] - start[None]
    share = np.sum(spokes * along, axis=2) / np.where(square > 0, square, 1)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=2)


def _intersection(polygon: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What two convex polygons share: one is cut by each edge of the other."""
    if min(len(polygon), len(other)) < 3:
        return np.zeros((0, 2))
    for start, end in zip(other, np.roll(other, -1, axis=0), strict=True):
        kept: list[np.ndarray] = []
        heights = [_cross(start, end, point) for point in polygon]
        for place, height in enumerate(heights):
            before = heights[place - 1]
            if (height > 0) != (before > 0):
                share = before / (before - height)
                kept.append(polygon[place - 1] + share * (polygon[place] - polygon[place - 1]))
            if height > 0:
                kept.append(polygon[place])
        if len(kept) < 3:
            return np.zeros((0, 2))
        polygon = np.array(kept)
    return polygon


def _oriented(
    network: tuple[ArrayLike, ...], classes: Any, box: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Segments of the boundary with the first class to the left: starts and ends."""
    w1, b1, w2, b2 = network
    found = boundary_segments(w1, b1, w2, b2, classes=classes, box=box)
    turned = (found.classes[:, 0] != tuple(classes)[0])[:, None]
    return np.where(turned, found.end, found.start), np.where(turned, found.start, found.end)


def _angle(segments: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean along the first boundary of the angle to the nearest segment of the other."""
    if not len(segments[0]) or not len(others[0]):
        return float("nan")
    along, other_along = segments[1] - segments[0], others[1] - others[0]
    lengths = np.linalg.norm(along, axis=1)
    nearest = _to_segments((segments[0] + segments[1]) / 2, *others).argmin(axis=1)
    facing = other_along[nearest]
    cross = along[:, 0] * facing[:, 1] - along[:, 1] * facing[:, 0]
    angles = np.abs(np.arctan2(cross, np.sum(along * facing, axis=1)))
    return float(np.sum(angles * lengths) / lengths.sum())
