"""Balls and axis-aligned ellipsoids: what lies inside, and how large a disjoint one may be.

All in float64. A computed norm of d coordinates is wrong by at most d + 3 units in the last place
and the margins here are above twice that: a point counts as inside a region if it may be inside,
and regions are kept further apart than that could bridge.
"""

import numpy as np

NORMS = ("l2", "l1")
# Directions tried between two ellipsoids, as ratios of their weights, and the refinements.
_RATIOS = np.logspace(-6, 6, 61)
_REFINEMENTS = 3


def margin(size: int) -> float:
    """Relative margin that covers the rounding of a norm of `size` coordinates."""
    return (2 * size + 16) * float(np.finfo(np.float64).eps)


def norms(vectors: np.ndarray, norm: str) -> np.ndarray:
    """Norm of each row of float64 `[n, d]`; squares neither overflow nor vanish."""
    if norm == "l1":
        return np.sum(np.abs(vectors), axis=-1)
    largest = np.max(np.abs(vectors), axis=-1, keepdims=True)
    unit = vectors / np.where(largest > 0, largest, 1)
    return largest[..., 0] * np.sqrt(np.sum(unit * unit, axis=-1))


def remaining(
    offsets: np.ndarray,
    radii: np.ndarray,
    scales: np.ndarray | None,
    own_scales: np.ndarray | None,
    norm: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether a point lies in regions, and how much room it has inside them.

    Args:
      offsets: float64 `[n, d]`, the point less each centre.
      radii: float64 `[n]`.
      scales: float64 `[n, d]`, the half-axes of each region at radius 1; None for balls.
      own_scales: float64 `[d]`, those of the region around the point; None for balls.
      norm: `"l2"` or `"l1"`.

    Returns:
      Whether the point may be inside, `[n]`, and the largest radius of a region around the point
      that lies inside, `[n]`, rounded down, 0 outside.
    """
    slack = margin(offsets.shape[-1])
    if scales is None:
        distances = norms(offsets, norm)
        inside = distances * (1 - slack) <= radii
        room = (radii - distances * (1 + slack)) * (1 - slack)
        return inside, np.where(inside, np.maximum(room, 0.0), 0.0)
    assert own_scales is not None
    distances = norms(offsets / scales, norm)
    inside = distances * (1 - slack) <= radii
    widest = np.max(own_scales / scales, axis=-1)
    room = (radii - distances * (1 + slack)) / widest * (1 - slack)
    return inside, np.where(inside, np.maximum(room, 0.0), 0.0)


def disjoint_radii(
    offsets: np.ndarray,
    radii: np.ndarray,
    scales: np.ndarray | None,
    own_scales: np.ndarray | None,
    norm: str,
) -> np.ndarray:
    r"""The largest radius around a point, found here, that keeps clear of each region: `[n]`.

    For balls it is :math:`d_i - R_i`. For ellipsoids any direction u separates: the region around
    the point reaches :math:`r \|\theta u\|_*` towards the other, whose support function is
    :math:`R_i \|\theta_i u\|_*`, so :math:`r = (u \cdot d - R_i \|\theta_i u\|_*) / \|\theta u\|_*`
    is sound for every u and the best u is searched. Rounded down; 0 where they meet.
    """
    slack = margin(offsets.shape[-1])
    if scales is None:
        gaps = norms(offsets, norm) * (1 - 4 * slack) - radii
    else:
        assert own_scales is not None
        separate = _separate_l1 if norm == "l1" else _separate_l2
        gaps = np.array(
            [
                separate(np.abs(offset), radius, theirs, own_scales, slack)
                for offset, radius, theirs in zip(offsets, radii, scales, strict=True)
            ]
        )
    return np.maximum(gaps * (1 - slack), 0.0)


def _separate_l2(
    offset: np.ndarray, radius: float, theirs: np.ndarray, own: np.ndarray, slack: float
) -> float:
    """For ellipsoids the best direction is `offset / (theirs**2 + t own**2)` for some t > 0."""
    # Divided by its geometric mean, so that the ratios around 1 are the ones of interest.
    balance = np.exp(2 * np.mean(np.log(theirs) - np.log(own)))

    def gaps(ratios: np.ndarray) -> np.ndarray:
        weights = theirs**2 + (balance * ratios)[:, None] * own**2
        directions = offset / weights
        reach = np.sum(directions * offset, axis=1) * (1 - 4 * slack)
        supports = radius * norms(theirs * directions, "l2") * (1 + slack)
        own_supports = norms(own * directions, "l2")
        clear = (reach > supports) & (own_supports > 0)
        bounds = (reach - supports) / np.where(own_supports > 0, own_supports, 1)
        return np.where(clear, bounds, 0.0)

    ratios = _RATIOS
    for _ in range(_REFINEMENTS):
        found = gaps(ratios)
        best = int(np.argmax(found))
        around = ratios[max(best - 1, 0)], ratios[min(best + 1, len(ratios) - 1)]
        ratios = np.append(np.geomspace(*around, 31), ratios[best])
    return float(gaps(ratios).max())


def _separate_l1(
    offset: np.ndarray, radius: float, theirs: np.ndarray, own: np.ndarray, slack: float
) -> float:
    """For cross-polytopes the best direction is exact: a maximum over breakpoints of a line.

    With `max own * u = 1` and `max theirs * u = a` the best u is `min(a / theirs, 1 / own)`, and
    what is then maximised over a is concave and linear between the ratios `theirs / own`.
    """
    ratios = theirs / own
    order = np.argsort(ratios)
    slopes = np.cumsum((offset / theirs)[order][::-1])[::-1] - radius
    # The last breakpoint before which the slope was positive.
    rising = np.flatnonzero(slopes > 0)
    if not rising.size:
        return 0.0
    height = ratios[order][rising[-1]]
    direction = np.minimum(height / theirs, 1 / own)
    reach = np.sum(direction * offset) * (1 - 4 * slack)
    support = radius * np.max(theirs * direction) * (1 + slack)
    return max(0.0, float((reach - support) / np.max(own * direction)))
