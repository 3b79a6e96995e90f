"""The certificate of the soft rule, in which every centre takes part."""

import numpy as np
from jax.typing import ArrayLike
from scipy.special import logsumexp

from jaxcert import _checks
from jaxcert.prototypes._centroid import CentroidCertificate
from jaxcert.prototypes._host import UNIT, host_centres, in_parts, rounded_quotient, separations
from jaxcert.prototypes._prototypes import Prototypes


def soft_certificate(
    features: ArrayLike, prototypes: Prototypes, *, variance: float, lipschitz: float = 1.0
) -> CentroidCertificate:
    r"""Certify the class of the highest `soft_scores`.

    The difference of two scores has a gradient that is a difference of averages of centres over v,
    so that it is Lipschitz and

    .. math::
        r(z) = \min_{c \ne y} \frac{v \, (s_y(z) - s_c(z))}
            {\max_{i : y_i = y, \; j : y_j = c} \lVert \mu_i - \mu_j \rVert}.

    Args:
      features: `[n, d]`, features of the inputs.
      prototypes: centres of at least two classes.
      variance: v of `soft_scores`.
      lipschitz: an upper bound of the encoder's l2 Lipschitz constant.

    Returns:
      The `CentroidCertificate`, arrays of the host; `rival` is the nearest centre of the class that
      limits the radius.

    Raises:
      ValueError: if dimensions disagree, there is one class only, centres of two classes coincide,
        or a value does not fit.
      TypeError: if the features are not floating point.

    Guarantee:
      For every z' with l2 distance below `feature_radius` from z the highest soft score is that of
      `label`, in exact arithmetic: a lower bound in float64, rounded down. It is exact for one
      centre a class, and conservative for several.

    Example:
      >>> import numpy as np
      >>> from jaxcert import prototypes
      >>> corners = prototypes.Prototypes(np.array([[0.0, 0.0], [6.0, 8.0]]), np.array([0, 1]))
      >>> prototypes.soft_certificate(np.zeros((1, 2)), corners, variance=1.0).radius.round(3)
      array([5.])

    References:
      Alfarra, Perez, Bibi, Thabet, Arbelaez, Ghanem, "Rethinking Clustering for Robustness", 2020,
      arXiv:2006.07682, for the rule; its certificate is derived here.
    """
    variance = _checks.positive_number("variance", variance)
    lipschitz = _checks.positive_number("lipschitz", lipschitz)
    points, middle, centres, labels = host_centres(features, prototypes)
    products = centres @ centres.T
    gaps = separations(centres, labels, products)
    squares = np.diagonal(products)
    # The squared norm of the feature is in all exponents alike, and cancels.
    parts = [
        (part @ (centres.T / variance) - squares / (2 * variance), lengths)
        for _, part, lengths in in_parts(points, middle)
    ]
    exponents, lengths = (np.concatenate(values) for values in zip(*parts, strict=True))
    classes = np.unique(labels)
    members = [np.flatnonzero(labels == one) for one in classes]
    scores = np.stack([logsumexp(exponents[:, own], axis=1) for own in members], axis=1)
    best = scores.argmax(axis=1)
    reach = lengths + np.sqrt(squares.max())
    relative = 2 * (centres.shape[1] + len(labels) + 8) * UNIT
    budget = relative * (1 + reach**2 / variance)
    spread = np.array([[gaps[np.ix_(a, b)].max() for b in members] for a in members])
    margins = scores[np.arange(len(points)), best][:, None] - scores - budget[:, None]
    radii = variance * margins / spread[best]
    radii[np.arange(len(points)), best] = np.inf
    limiting = radii.argmin(axis=1)
    radius = radii[np.arange(len(points)), limiting]
    radius = np.maximum(0, radius * (1 - 8 * UNIT) - 4 * UNIT * reach)
    is_rival = labels[None] == classes[limiting][:, None]
    rival = np.where(is_rival, exponents, -np.inf).argmax(axis=1)
    return CentroidCertificate(classes[best], rounded_quotient(radius, lipschitz), radius, rival)
