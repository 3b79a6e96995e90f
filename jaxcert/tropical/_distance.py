"""The exact distance to the decision boundary of a network with one hidden layer."""

import heapq
import itertools
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.tropical import _network
from jaxcert.tropical._half_spaces import EPS, HalfSpaces, Nearest, nearest_point
from jaxcert.tropical._network import HostLayers

# How far beyond a crossing a point is tried, relative to its distance, until rounding cannot hide
# that another class has won there.
_OVERSHOOTS = 2.0 ** np.arange(-52.0, -16.0)
# Rounds in which a cut is replaced by one that fits the point found so far.
_CUTS = 3


class BoundaryDistance(NamedTuple):
    """Distances to the decision boundary, enclosed with all rounding accounted for.

    Attributes:
      lower: float64 `[n]`, no point nearer than this has another class.
      upper: float64 `[n]`, the boundary is met within this; infinite if none was found.
      point: float64 `[n, d]`, where another class has at least the score of `label`, at a distance
        of at most `upper`; NaN if none was found.
      label: int64 `[n]`, the class at each input.
      rival: int64 `[n]`, the other class, -1 if none was found.
      num_nodes: int64 `[n]`, least-distance problems that were solved.
    """

    lower: np.ndarray
    upper: np.ndarray
    point: np.ndarray
    label: np.ndarray
    rival: np.ndarray
    num_nodes: np.ndarray


def boundary_distance(
    points: ArrayLike,
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
    tolerance: float = 1e-9,
    max_distance: float = np.inf,
    max_nodes: int = 100_000,
) -> BoundaryDistance:
    r"""The l2 distance from points to the decision boundary of a one-hidden-layer network.

    .. math::
        \min_{c \ne y} \min \{ \|x - x_0\|_2 : f_c(x) \ge f_y(x) \}, \quad
        f(x) = W_2 \max(W_1 x + b_1, 0) + b_2, \quad y = \arg\max_c f_c(x_0)

    Branch and bound over the signs of the hidden units. Within the best distance known so far most
    units keep their sign; the others are bounded by lines, so that a least-distance problem over a
    polyhedron gives a lower bound, and its solution gives a direction in which the first change of
    class is computed exactly. The unit whose bound is loosest there is branched on. When all signs
    are decided nothing is relaxed, so the result is the distance itself. It takes longer, in the
    worst case exponentially so, the more units switch nearby: meant for few inputs, and useful in
    many dimensions where the boundary is near.

    Args:
      points: x_0, `[n, d]`.
      w1: W_1, `[h, d]`.
      b1: b_1, `[h]`, or None.
      w2: W_2, `[classes, h]`.
      b2: b_2, `[classes]`, or None.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      tolerance: stop when `lower` is within this of `upper`, relative.
      max_distance: look no further than this; `lower` is never above it then.
      max_nodes: least-distance problems for each point, after which the bounds are what they are.

    Returns:
      `BoundaryDistance`, on the host, in float64.

    Raises:
      TypeError: if an array is not real, or is traced, or a setting has the wrong type.
      ValueError: if a shape does not fit, or a number is not finite.

    Guarantee:
      Sound both ways, in real arithmetic on the float64 values of the arguments: `lower` rounds
      down, each half-space that proves it with its own rounding errors, and `upper` rounds up and
      has a witness whose scores differ by more than their rounding. `upper - lower` is at most
      `tolerance * upper`, and what the rounding of the scores costs a witness, unless a limit
      stopped the search or two scores tie within rounding at the input.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> w1, w2 = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
      >>> found = tropical.boundary_distance(  # |x| against 2
      ...     np.array([[0.5, 7.0], [-3.0, 0.0]]), w1, None, w2, np.array([0.0, 2.0]), classes=None)
      >>> found.lower, found.label, found.rival
      (array([1.5, 1. ]), array([1, 0]), array([0, 1]))

    References:
      Jordan, Lewis, Dimakis, "Provable Certificates for Adversarial Examples: Fitting a Ball in the
      Union of Polytopes", 2019, arXiv:1903.08778.
      Lawson, Hanson, "Solving Least Squares Problems", 1974, chapter 23.
    """
    layers = _network.one_hidden_layer(w1, b1, w2, b2)
    inputs = _network.host_points("points", points, layers[0][0].shape[1])
    chosen = _network.class_indices(classes, layers[1][0].shape[0])
    tolerance = _checks.positive_number("tolerance", tolerance)
    if max_distance != np.inf:
        max_distance = _checks.positive_number("max_distance", max_distance)
    max_nodes = _checks.positive_integer("max_nodes", max_nodes)
    count = inputs.shape[0]
    labels = np.array(chosen)[np.argmax(_network.scores(layers, inputs)[:, chosen], axis=1)]
    result = BoundaryDistance(
        lower=np.zeros(count),
        upper=np.full(count, np.inf),
        point=np.full(inputs.shape, np.nan),
        label=labels.astype(np.int64),
        rival=np.full(count, -1),
        num_nodes=np.zeros(count, np.int64),
    )
    for n in range(count):
        rivals = [c for c in chosen if c != labels[n]]
        search = _Search(layers, inputs[n], int(labels[n]), rivals, tolerance, max_distance)
        result.lower[n] = search.run(max_nodes)
        result.upper[n], result.num_nodes[n] = search.upper, search.num_nodes
        if search.rival >= 0:
            result.point[n], result.rival[n] = search.point, search.rival
    return result


class _Lead(NamedTuple):
    """The lead of the label over a rival around an input, `sum_k d_k relu(w_k y + a_k) + c`.

    Attributes:
      rival: the class.
      weight: w, `[k, d]`, of the units that matter.
      length: norms of w, rounded up.
      start: a, the pre-activations at the input.
      start_error: at most by how much each is off.
      factor: d, off by at most EPS relative.
      constant: c, likewise.
    """

    rival: int
    weight: np.ndarray
    length: np.ndarray
    start: np.ndarray
    start_error: np.ndarray
    factor: np.ndarray
    constant: float


class _Node(NamedTuple):
    """Some signs, and the nearest point that its relaxation leaves to the rival."""

    lead: _Lead
    signs: np.ndarray
    nearest: Nearest


class _Search:
    """Branch and bound for one input; `upper` only falls."""

    def __init__(
        self,
        layers: HostLayers,
        center: np.ndarray,
        label: int,
        rivals: list[int],
        tolerance: float,
        max_distance: float,
    ) -> None:
        self.layers, self.center, self.label, self.tolerance = layers, center, label, tolerance
        self.upper, self.max_distance = np.inf, max_distance
        self.point, self.rival, self.num_nodes = center, -1, 0
        self.leads = [self._lead(rival) for rival in rivals]

    @property
    def reach(self) -> float:
        """No point further out matters."""
        return min(self.upper, self.max_distance)

    def run(self, max_nodes: int) -> float:
        """Search; return the lower bound."""
        order = itertools.count()
        heap: list[tuple[float, int, _Node]] = []
        closed = self.max_distance
        for lead in self.leads:
            self._descend(lead)
        if any(self._lead_range(lead.rival, self.center)[0] <= 0.0 for lead in self.leads):
            return 0.0
        for lead in self.leads:
            node = self._solve(lead, np.zeros(lead.start.size, np.int8), 0.0)
            heapq.heappush(heap, (node.nearest.lower, next(order), node))
        while heap and self.num_nodes < max_nodes:
            lower, _, node = heapq.heappop(heap)
            if lower >= min(closed, self.reach * (1.0 - self.tolerance)):
                return min(closed, lower, self.upper)
            unit = self._loosest(node)
            if unit is None:
                closed = min(closed, lower)
                continue
            for sign in (1, -1):
                signs = node.signs.copy()
                signs[unit] = sign
                child = self._solve(node.lead, signs, lower)
                if child.nearest.lower >= self.reach * (1.0 - self.tolerance):
                    closed = min(closed, child.nearest.lower)
                else:
                    heapq.heappush(heap, (child.nearest.lower, next(order), child))
        return min([closed, self.upper, *(lower for lower, _, _ in heap)])

    def _lead(self, rival: int) -> _Lead:
        (w1, b1), (w2, b2) = self.layers
        factor = w2[self.label] - w2[rival]
        matter = factor != 0.0
        weight, bias = w1[matter], b1[matter]
        terms = np.abs(weight) @ np.abs(self.center) + np.abs(bias)
        return _Lead(
            rival=rival,
            weight=weight,
            length=np.linalg.norm(weight, axis=1) * (1.0 + (weight.shape[1] + 4) * EPS),
            start=weight @ self.center + bias,
            start_error=(weight.shape[1] + 4) * EPS * terms,
            factor=factor[matter],
            constant=float(b2[self.label] - b2[rival]),
        )

    def _ranges(self, lead: _Lead) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest pre-activations within reach, rounded outwards."""
        with np.errstate(invalid="ignore"):
            spread = np.where(lead.length > 0.0, lead.length * self.reach, 0.0)
        spread = spread * (1.0 + 4.0 * EPS) + lead.start_error + EPS * np.abs(lead.start)
        return lead.start - spread, lead.start + spread

    def _solve(self, lead: _Lead, signs: np.ndarray, parent: float) -> _Node:
        """The nearest point at which a relaxation of the lead is not positive."""
        self.num_nodes += 1
        low, high = self._ranges(lead)
        fixed = signs != 0
        walls = HalfSpaces(
            normal=signs[fixed, None] * lead.weight[fixed],
            offset=-signs[fixed] * lead.start[fixed],
            normal_error=np.zeros(int(fixed.sum())),
            offset_error=lead.start_error[fixed],
        )
        on = np.where(fixed, signs > 0, low >= 0.0)
        loose = ~fixed & (low < 0.0) & (high > 0.0)
        nearest = Nearest(np.zeros(lead.weight.shape[1]), parent)
        guess, cuts = high > -low, walls
        for _ in range(_CUTS):
            cut = _lead_not_positive(lead, on, loose, guess, low, high)
            if cut is None:
                found = nearest_point(walls)
            else:
                cuts = cuts.joined(cut)
                found = nearest_point(cuts)
            if found is None:
                break
            nearest = Nearest(found.point, max(found.lower, nearest.lower))
            better = lead.weight @ found.point + lead.start > 0.0
            if cut is None or np.array_equal(better[loose], guess[loose]):
                break
            guess = better
        self._look(lead, nearest.point)
        return _Node(lead, signs, nearest)

    def _loosest(self, node: _Node) -> int | None:
        """The undecided unit whose bound is furthest from its value at the node's point."""
        lead = node.lead
        low, high = self._ranges(lead)
        loose = (node.signs == 0) & (low < 0.0) & (high > 0.0)
        if not np.any(loose):
            return None
        value = lead.weight @ node.nearest.point + lead.start
        # Where the value is on a bend the bound is tight, and a tie is broken by what may be lost.
        with np.errstate(invalid="ignore"):
            chord = high * (value - low) / (high - low)
        gap = np.where(lead.factor < 0.0, chord - np.maximum(value, 0.0), 0.0)
        gap = np.where(np.isfinite(gap), np.maximum(gap, 0.0), np.inf)
        doubt = np.minimum(high, -low)
        score = np.abs(lead.factor) * np.where(gap > 0.0, gap, 0.0)
        ranked = np.lexsort((np.abs(lead.factor) * doubt, score, loose))
        return int(ranked[-1])

    def _descend(self, lead: _Lead) -> None:
        """Follow the linearised lead for a few steps, to start with some upper bound."""
        step = np.zeros(self.center.size)
        for _ in range(8):
            value = lead.weight @ step + lead.start
            slope = ((value > 0.0) * lead.factor) @ lead.weight
            size = float(slope @ slope)
            if size == 0.0:
                return
            height = float(lead.factor @ np.maximum(value, 0.0) + lead.constant)
            step = step - 1.02 * height / size * slope
            self._look(lead, step)

    def _look(self, lead: _Lead, direction: np.ndarray) -> None:
        """Take the first change to the rival in a direction as the upper bound, if it is one."""
        size = float(np.linalg.norm(direction))
        if not (np.isfinite(size) and size > 0.0):
            return
        unit = direction / size
        place = _first_zero(lead, lead.weight @ unit)
        if not place * (1.0 - 1e-12) < self.upper:
            return
        for overshoot in _OVERSHOOTS:
            point = self.center + place * (1.0 + overshoot) * unit
            distance = float(np.linalg.norm(point - self.center))
            distance *= 1.0 + (point.size + 8) * EPS
            if distance >= self.upper:
                return
            if self._lead_range(lead.rival, point)[1] <= 0.0:
                self.upper, self.point, self.rival = distance, point, lead.rival
                return

    def _lead_range(self, rival: int, point: np.ndarray) -> tuple[float, float]:
        """The label's score less the rival's, from below and above, whatever the rounding."""
        (w1, b1), (w2, b2) = self.layers
        value = w1 @ point + b1
        error = (point.size + 4) * EPS * (np.abs(w1) @ np.abs(point) + np.abs(b1))
        hidden = np.maximum(value, 0.0)
        factor, constant = w2[self.label] - w2[rival], b2[self.label] - b2[rival]
        lead = factor @ hidden + constant
        slack = (hidden.size + 8) * EPS * (np.abs(factor) @ hidden + abs(constant))
        slack += np.abs(factor) @ error * (1.0 + (hidden.size + 8) * EPS)
        slack *= 1.0 + 8.0 * EPS
        return float(lead - slack), float(lead + slack)


def _first_zero(lead: _Lead, speed: np.ndarray) -> float:
    """The least t > 0 at which the lead is 0 when pre-activations are `start + t * speed`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        switch = np.where(speed != 0.0, -lead.start / speed, np.inf)
    ahead = (switch > 0.0) & np.isfinite(switch)
    order = np.flatnonzero(ahead)[np.argsort(switch[ahead])]
    on = (lead.start > 0.0) | ((lead.start == 0.0) & (speed > 0.0))
    first = float((on * lead.factor) @ speed)
    slopes = first + np.concatenate([[0.0], np.cumsum(lead.factor[order] * np.abs(speed[order]))])
    times = np.concatenate([[0.0], switch[order]])
    height = float(lead.factor @ np.maximum(lead.start, 0.0) + lead.constant)
    heights = height + np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(times))])
    below = np.flatnonzero(heights[1:] <= 0.0)
    piece = int(below[0]) if below.size else times.size - 1
    if slopes[piece] >= 0.0:
        return float(times[piece]) if heights[piece] <= 0.0 else np.inf
    return float(times[piece] - heights[piece] / slopes[piece])


def _lead_not_positive(
    lead: _Lead,
    on: np.ndarray,
    loose: np.ndarray,
    guess: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> HalfSpaces | None:
    """A half-space that holds every point within reach at which the lead is at most 0, if any.

    Each loose unit is replaced by a line: one with a positive factor by 0 or by its pre-activation,
    whichever `guess` says, as it is at least both; one with a negative factor by the chord.
    """
    negative = loose & (lead.factor < 0.0)
    if not np.all(np.isfinite(low[negative]) & np.isfinite(high[negative])):
        return None
    share = np.where(on | (loose & guess), 1.0, 0.0)
    share[negative] = high[negative] / (high[negative] - low[negative]) * (1.0 + 16.0 * EPS)
    coefficient = share * lead.factor
    constant = lead.constant - float(coefficient[negative] @ low[negative])
    # coefficient @ (weight @ y + start) + constant <= 0, as normal @ y >= offset.
    many = (coefficient.size + 16) * EPS
    size = np.abs(coefficient) @ np.abs(lead.weight)
    terms = np.abs(coefficient) @ np.abs(lead.start) + abs(lead.constant)
    terms += np.abs(coefficient[negative]) @ np.abs(low[negative])
    return HalfSpaces(
        normal=-(coefficient @ lead.weight)[None],
        offset=np.array([coefficient @ lead.start + constant]),
        normal_error=np.array([many * np.linalg.norm(size)]),
        offset_error=np.array([many * terms + 1.01 * np.abs(coefficient) @ lead.start_error]),
    )
