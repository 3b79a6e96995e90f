"""The tropical hypersurface around a decision boundary, in the plane."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert.tropical import _network
from jaxcert.tropical._network import HostLayers
from jaxcert.tropical._segments import boundary_segments


class HypersurfaceSegments(NamedTuple):
    """A tropical hypersurface inside a box, and which part of it is the decision boundary.

    Attributes:
      start: float64 `[segments, 2]`.
      end: float64 `[segments, 2]`.
      boundary: bool `[segments]`: two classes tie here, ahead of the others. Elsewhere a single
        class wins on both sides, and two monomials of its own tie.
      unit: int64 `[segments]`, the hidden unit along which that class bends, -1 on the boundary.
    """

    start: np.ndarray
    end: np.ndarray
    boundary: np.ndarray
    unit: np.ndarray


def hypersurface_segments(
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
    box: ArrayLike,
    cancel: bool = True,
) -> HypersurfaceSegments:
    r"""The hypersurface of the `decision_polynomial` of a network with two inputs, inside a box.

    .. math::
        T(R) = \{ x : \text{two monomials attain } R(x) = \max_i h_{P_i}(x, 1) \}

    A superset of the decision boundary: where class i wins, it also follows every hidden unit that
    is a generator of the zonotope P_i. No monomials are listed for it, so many units will do.

    Args:
      w1: W_1, `[h, 2]`.
      b1: b_1, `[h]`, or None.
      w2: W_2, `[classes, h]`.
      b2: b_2, `[classes]`, or None.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      box: `[2, 2]`, the lower and the upper corner.
      cancel: leave out what all classes share; False gives the hypersurface of the paper, in which
        every hidden unit shows wherever its weights are not 0.

    Returns:
      `HypersurfaceSegments`, on the host, in float64.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the box is empty.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> found = tropical.hypersurface_segments(
      ...     np.eye(2), None, np.eye(2), None, classes=(0, 1), box=[[-1.5, -1.5], [1.5, 1.5]])
      >>> found.start[found.boundary], found.end[found.boundary], found.unit
      (array([[1.5, 1.5]]), array([[0., 0.]]), array([-1,  0,  1]))
    """
    layers = _network.one_hidden_layer(w1, b1, w2, b2)
    found = boundary_segments(w1, b1, w2, b2, classes=classes, box=box)
    chosen = list(_network.class_indices(classes, layers[1][0].shape[0]))
    corners = _network.host_box(box)
    (first, shift), (second, last) = layers
    rows = second[chosen]
    if cancel:
        weights = rows - rows.min(axis=0)
    else:
        negative = np.maximum(-rows, 0.0)
        weights = np.maximum(rows, 0.0) + negative.sum(axis=0) - negative
    competing = [(first, shift), (rows, last[chosen])]
    starts, ends, units = [found.start], [found.end], [np.full(found.start.shape[0], -1)]
    for unit in np.flatnonzero(np.any(weights > 0.0, axis=0)):
        ends_of_line = _line_in_box(first[unit], shift[unit], corners)
        if ends_of_line is None:
            continue
        start, end = ends_of_line
        place, ahead = _ahead_along(competing, start, end)
        bends = np.concatenate([[False], ahead @ (weights[:, unit] > 0.0), [False]])
        change = np.flatnonzero(bends[1:] != bends[:-1]).reshape(-1, 2)
        starts.append(start + place[change[:, 0], None] * (end - start))
        ends.append(start + place[change[:, 1], None] * (end - start))
        units.append(np.full(change.shape[0], unit))
    unit_of = np.concatenate(units)
    return HypersurfaceSegments(
        start=np.concatenate(starts), end=np.concatenate(ends), boundary=unit_of < 0, unit=unit_of
    )


def _line_in_box(
    normal: np.ndarray, offset: float, corners: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The ends of the part of a line `normal @ x + offset = 0` inside a box, if there is one."""
    size = float(normal @ normal)
    if size == 0.0:
        return None
    centre = corners.mean(axis=0)
    nearest = centre - (normal @ centre + offset) / size * normal
    along = np.array([-normal[1], normal[0]]) / np.sqrt(size)
    low, high = -np.inf, np.inf
    for axis in range(2):
        if along[axis] == 0.0:
            if not corners[0, axis] < nearest[axis] < corners[1, axis]:
                return None
            continue
        reach = (corners[:, axis] - nearest[axis]) / along[axis]
        low, high = max(low, reach.min()), min(high, reach.max())
    return (nearest + low * along, nearest + high * along) if low < high else None


def _ahead_along(
    layers: HostLayers, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places `[p + 1]` in [0, 1] between which no class changes, and who is ahead, `[p, classes]`.

    Several classes are ahead where they tie all along.
    """
    (first, shift), _ = layers
    left, right = first @ start + shift, first @ end + shift
    # The line's own unit is 0 all along, up to rounding.
    size = np.abs(first) @ (np.abs(start) + np.abs(end)) + np.abs(shift)
    switches = (np.minimum(left, right) < -1e-12 * size) & (np.maximum(left, right) > 1e-12 * size)
    place = np.unique(
        np.concatenate([[0.0, 1.0], left[switches] / (left - right)[switches]]).clip(0.0, 1.0)
    )
    score = _network.scores(layers, start + place[:, None] * (end - start))
    # Between these places scores are lines: add all places where two of them meet.
    lead = score[:, :, None] - score[:, None, :]
    here, there = lead[:-1], lead[1:]
    meet = (here > 0.0) & (there < 0.0)
    share = np.where(meet, here, 0.0) / np.where(meet, here - there, 1.0)
    added = place[:-1, None, None] + share * (place[1:] - place[:-1])[:, None, None]
    place = np.unique(np.concatenate([place, added[meet]]))
    middle = (place[1:] + place[:-1]) / 2.0
    score = _network.scores(layers, start + middle[:, None] * (end - start))
    slack = 1e-12 * (1.0 + np.abs(score).max())
    return place, score >= score.max(axis=1, keepdims=True) - slack
