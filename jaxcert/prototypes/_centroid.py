"""The distance at which the nearest prototype can become one of another class."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.prototypes._half_spaces import distance_to_intersection_lower
from jaxcert.prototypes._host import (
    UNIT,
    host_centres,
    in_parts,
    product_error,
    rounded_quotient,
    separations,
)
from jaxcert.prototypes._prototypes import Prototypes

# Relative slack with which a bisector is told to be the exact distance; no bound depends on it.
_TOLERANCE = 1e-12


class CentroidCertificate(NamedTuple):
    """The answer for each input, and how far it holds.

    Attributes:
      label: int `[n]`, the class of the nearest centre.
      radius: float64 `[n]`, the l2 radius in input space: `feature_radius` over the Lipschitz
        constant of the encoder.
      feature_radius: float64 `[n]`, the l2 radius in feature space.
      rival: int `[n]`, the centre of another class that comes nearest to taking the input over.
    """

    label: np.ndarray
    radius: np.ndarray
    feature_radius: np.ndarray
    rival: np.ndarray


def centroid_certificate(
    features: ArrayLike, prototypes: Prototypes, *, lipschitz: float = 1.0
) -> CentroidCertificate:
    r"""Certify the class of the nearest centre.

    With one centre a class the distance to the rest of the space is that to the nearest bisector,

    .. math::
        r(z) = \min_{j : y_j \ne y_i}
            \frac{\lVert z - \mu_j \rVert^2 - \lVert z - \mu_i \rVert^2}
                 {2 \lVert \mu_i - \mu_j \rVert}, \qquad i = \arg\min_i \lVert z - \mu_i \rVert.

    With several, a rival j takes over in the intersection of the half-spaces that lie beyond its
    bisectors with *all* centres of the class; the distance to that intersection is a small
    quadratic program. Its dual is solved for the rivals that can be nearest: every dual point
    gives a valid radius, the optimal one the exact distance.

    Args:
      features: `[n, d]`, features of the inputs.
      prototypes: centres of at least two classes.
      lipschitz: an upper bound of the encoder's l2 Lipschitz constant, 1 for the identity. An
        estimate makes the radius in input space an estimate too.

    Returns:
      The `CentroidCertificate`, arrays of the host.

    Raises:
      ValueError: if dimensions disagree, there is one class only, centres of two classes coincide,
        or a value is not finite.
      TypeError: if the features are not floating point.

    Guarantee:
      For every z' with l2 distance below `feature_radius` from z the nearest centre has class
      `label`, in exact arithmetic: a lower bound in float64, rounded down by a budget for all
      rounding on the way. An encoder with a Lipschitz constant of at most `lipschitz` extends it to
      inputs within `radius`; the encoder's own rounding is not covered. Tight: a little beyond
      `feature_radius` there is a z' of another class.

    Example:
      >>> import numpy as np
      >>> from jaxcert import prototypes
      >>> corners = prototypes.Prototypes(np.array([[0.0, 0.0], [6.0, 8.0]]), np.array([0, 1]))
      >>> found = prototypes.centroid_certificate(np.zeros((1, 2)), corners, lipschitz=2.0)
      >>> found.label, found.feature_radius.round(3), found.radius.round(3)
      (array([0]), array([5.]), array([2.5]))

    References:
      Alfarra, Perez, Bibi, Thabet, Arbelaez, Ghanem, "Rethinking Clustering for Robustness", 2020,
      arXiv:2006.07682. The case of several centres is derived here.
    """
    lipschitz = _checks.positive_number("lipschitz", lipschitz)
    points, middle, centres, labels = host_centres(features, prototypes)
    search = _RivalSearch(centres, labels)
    own = np.zeros(len(points), int)
    rival = np.zeros(len(points), int)
    radius = np.zeros(len(points))
    doubled, largest = -2 * centres.T, np.sqrt(search.squares.max())
    for rows, part, lengths in in_parts(points, middle):
        # Squared distances less the squared lengths of the features, which cancel.
        heights = part @ doubled
        heights += search.squares
        reach = lengths + largest
        # Rounding of the differences of squared distances: sums of d products on either side, and
        # the move of features and centres to a common origin.
        budget = 2 * (centres.shape[1] + 8) * UNIT * reach**2
        own[rows] = heights.argmin(axis=1)
        rival[rows], values = search.nearest(heights, own[rows], budget)
        radius[rows] = np.maximum(0, values * (1 - 8 * UNIT) - 4 * UNIT * reach)
    return CentroidCertificate(labels[own], rounded_quotient(radius, lipschitz), radius, rival)


class _RivalSearch:
    """Finds the rival whose region is nearest, for rows of heights over the same centres.

    Attributes:
      squares: squared lengths of the centres.
    """

    def __init__(self, centres: np.ndarray, labels: np.ndarray):
        self.products = centres @ centres.T
        self.squares = np.diagonal(self.products).copy()
        self.gram_error = product_error(centres.shape[1], self.squares)
        self.half_inverse_gaps = 0.5 / separations(centres, labels, self.products)
        self.is_same = labels[:, None] == labels[None]
        # The centres of the class of each centre; where classes differ in size, some twice.
        _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        turns = (np.cumsum(counts) - counts)[:, None] + np.arange(counts.max()) % counts[:, None]
        self.members = np.argsort(place, kind="stable")[turns][place]

    def nearest(
        self, heights: np.ndarray, own: np.ndarray, budget: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rival that is nearest and a lower bound on the distance at which it takes over.

        Args:
          heights: `[n, k]`, squared distances up to a constant of each row.
          own: the nearest centre of each row.
          budget: `[n]`, what rounding may have added to a difference of two heights.
        """
        rows = np.arange(len(heights))
        # The bisector with the nearest centre alone is a lower bound for each rival; what is exact
        # is needed only where it could be the least.
        values = heights - (heights[rows, own] + budget)[:, None]
        values *= self.half_inverse_gaps[own]
        values[self.is_same[own]] = np.inf
        if self.members.shape[1] == 1:
            nearest = values.argmin(axis=1)
            return nearest, values[rows, nearest]
        is_exact = np.zeros(values.shape, bool)
        while True:
            nearest = values.argmin(axis=1)
            left = rows[~is_exact[rows, nearest]]
            if not left.size:
                return nearest, values[rows, nearest]
            chosen = nearest[left]
            exact = self._distance_lower(heights[left], own[left], chosen, budget[left])
            values[left, chosen] = np.maximum(values[left, chosen], exact)
            is_exact[left, chosen] = True

    def _distance_lower(
        self, heights: np.ndarray, own: np.ndarray, rivals: np.ndarray, budget: np.ndarray
    ) -> np.ndarray:
        """The distance to where one rival a row is nearer than all centres of the class: `[n]`."""
        rows, members = np.arange(len(heights)), self.members[own]
        offsets = heights[rows, rivals] - budget
        offsets = (offsets[:, None] - np.take_along_axis(heights, members, axis=1)) / 2
        bisectors = 2 * offsets * self.half_inverse_gaps[rivals[:, None], members]
        first = bisectors.argmax(axis=1)
        values = bisectors[rows, first]
        # The foot on the farthest bisector lies beyond all others: then it is the nearest point.
        leading = members[rows, first]
        along = self._inner(rivals[:, None], members, leading[:, None])
        square = along[rows, first]
        steps = offsets[rows, first] / np.where(square > 0, square, 1)
        slack = along * steps[:, None] - offsets
        scale = np.abs(offsets).max(axis=1, keepdims=True)
        left = rows[~np.all(slack >= -_TOLERANCE * scale, axis=1) | (square <= 0)]
        if left.size:
            rival, among = rivals[left, None, None], members[left]
            grams = self._inner(rival, among[:, :, None], among[:, None, :])
            exact = distance_to_intersection_lower(grams, offsets[left], gram_error=self.gram_error)
            values[left] = np.maximum(values[left], exact)
        return values

    def _inner(self, rival: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Inner products of the differences of the rival and two other centres."""
        products = self.products
        across = products[rival, first] + products[rival, second]
        return self.squares[rival] + products[first, second] - across
