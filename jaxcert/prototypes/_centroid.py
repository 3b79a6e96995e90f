"""The distance at which the nearest prototype can become one of another class."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.prototypes._half_spaces import distance_to_intersection_lower
from jaxcert.prototypes._prototypes import Prototypes, check_shapes

_UNIT = np.finfo(np.float64).eps
# Rows that are worked on at once; bounds memory by about rows x centres x centres numbers.
_ROWS = 2048


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
    points, centres, labels = host_arrays(features, prototypes)
    products = centres @ centres.T
    squares = np.diagonal(products)
    gaps = separations(centres, labels)
    lengths = np.linalg.norm(points, axis=1)
    # Rounding of the differences of squared distances: sums of d products on either side, and
    # the move of features and centres to a common origin.
    dimension = centres.shape[1]
    reach = lengths + np.sqrt(squares.max())
    budget = 2 * (dimension + 8) * _UNIT * reach**2
    product_error = (dimension + 8) * _UNIT * squares.max()
    radius = np.zeros(len(points))
    rival = np.zeros(len(points), int)
    label = np.zeros(len(points), labels.dtype)
    for start in range(0, len(points), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(points)))
        heights = squares - 2 * points[rows] @ centres.T
        label[rows] = labels[heights.argmin(axis=1)]
        for one in np.unique(label[rows]):
            own, others = np.flatnonzero(labels == one), np.flatnonzero(labels != one)
            chosen = rows[label[rows] == one]
            low = heights[label[rows] == one]
            differences = low[:, others, None] - low[:, None, own] - budget[chosen, None, None]
            nearest, value = _nearest_rival(
                differences / 2, products, product_error, gaps, own, others
            )
            rival[chosen], radius[chosen] = others[nearest], value
    radius = np.maximum(0, radius * (1 - 8 * _UNIT) - 4 * _UNIT * reach)
    return CentroidCertificate(label, rounded_quotient(radius, lipschitz), radius, rival)


def _nearest_rival(
    differences: np.ndarray,
    products: np.ndarray,
    product_error: float,
    gaps: np.ndarray,
    own: np.ndarray,
    others: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The rival that is nearest, and the distance at which it takes over.

    Args:
      differences: `[rows, rivals, own]`, half the differences of squared distances, rounded down.
      products: `[k, k]`, inner products of the centres.
      product_error: the largest absolute error of one of them.
      gaps: `[k, k]`, distances of centres rounded up.
      own: indices of the centres of the class.
      others: indices of all other centres.
    """
    # One rounding of the quotient; that of the differences is in them already.
    bisectors = differences / gaps[np.ix_(others, own)]
    values = bisectors.max(axis=2)
    rows = np.arange(len(values))
    if len(own) == 1:
        nearest = values.argmin(axis=1)
        return nearest, values[rows, nearest]
    # A bisector alone is a lower bound; the exact distance is needed where it could be the least.
    is_exact = np.zeros(values.shape, bool)
    while True:
        nearest = values.argmin(axis=1)
        open_rows = rows[~is_exact[rows, nearest]]
        if not open_rows.size:
            return nearest, values[rows, nearest]
        candidates = nearest[open_rows]
        exact = distance_to_intersection_lower(
            _grams_of_normals(products, others[candidates], own),
            differences[open_rows, candidates],
            gram_error=4 * product_error,
        )
        values[open_rows, candidates] = np.maximum(values[open_rows, candidates], exact)
        is_exact[open_rows, candidates] = True


def _grams_of_normals(products: np.ndarray, rivals: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Inner products of the differences from each rival to the own centres: `[n, own, own]`."""
    across = products[rivals][:, own]
    within = products[np.ix_(own, own)] + products[rivals, rivals][:, None, None]
    return within - across[:, :, None] - across[:, None, :]


def host_arrays(
    features: ArrayLike, prototypes: Prototypes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float64 features and centres about a common origin, and labels, or raise."""
    check_shapes(features, prototypes)
    centres = np.asarray(prototypes.centres, np.float64)
    labels = np.asarray(prototypes.labels)
    if not np.isfinite(centres).all():
        raise ValueError("prototypes.centres must be finite, got NaN or infinity")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"prototypes.labels must be integers, got {labels.dtype}")
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"prototypes must have centres of at least two classes, got class {labels[0]} only"
        )
    middle = centres.mean(axis=0)
    return np.asarray(features, np.float64) - middle, centres - middle, labels


def separations(centres: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distances between centres rounded up, `[k, k]`, or raise where two classes share a centre."""
    gaps = np.stack([np.linalg.norm(centres - one, axis=1) for one in centres])
    clashes = np.argwhere((gaps == 0) & (labels[:, None] != labels[None]))
    if clashes.size:
        first, second = clashes[0]
        raise ValueError(
            f"prototypes.centres of different classes must differ, got equal centres {first} and "
            f"{second} of classes {labels[first]} and {labels[second]}"
        )
    up = gaps * (1 + (centres.shape[1] + 4) * _UNIT) + 4 * _UNIT * np.abs(centres).max()
    return np.where(gaps > 0, up, 1.0)


def rounded_quotient(radius: np.ndarray, lipschitz: float) -> np.ndarray:
    """`radius / lipschitz`, rounded down and at least 0."""
    return np.maximum(0, np.nextafter(radius / lipschitz, 0))
