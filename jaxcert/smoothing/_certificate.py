"""From integer counts to certificates, on the host."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.smoothing._binomial import clopper_pearson_lower
from jaxcert.smoothing._noise import Noise

ABSTAIN = -1
"""The label of an input for which nothing is claimed. Never a class, never an index."""


class Certificate(NamedTuple):
    """What randomized smoothing certifies about a batch of inputs.

    Attributes:
      label: int64 `[b]`, the class of the smoothed classifier, or `ABSTAIN`.
      radius: float64 `[b]`, in the norm and units of the noise; 0 where abstained.
      p_lower: float64 `[b]`, lower bound on the probability of the selected class.
      counts: int64 `[b, classes]`, votes of the estimation samples.
      selection_counts: int64 `[b, classes]`, votes of the selection samples.
    """

    label: np.ndarray
    radius: np.ndarray
    p_lower: np.ndarray
    counts: np.ndarray
    selection_counts: np.ndarray


def certificate_from_counts(
    selection_counts: ArrayLike, counts: ArrayLike, *, noise: Noise, alpha: float
) -> Certificate:
    """Turn counts into a certificate; another `alpha` or a recheck needs no new samples.

    The class with the most selection votes (the lowest index on a tie) is certified at the radius
    of the Clopper-Pearson lower bound on its share of the estimation votes, when that exceeds 1/2.
    A row without estimation votes abstains.

    Args:
      selection_counts: integers `[b, classes]`.
      counts: integers `[b, classes]` from samples that are independent of the selection's.
      noise: the noise that was sampled; its scale is a scalar or `[b]`.
      alpha: failure probability for each input, in (0, 1).

    Returns:
      A `Certificate`.

    Raises:
      TypeError: if counts are not integers.
      ValueError: if shapes disagree, a count is negative, or a row has no selection votes.

    Guarantee:
      Sound: for each input, with probability at least `1 - alpha` over the estimation samples, the
      smoothed classifier is constant and equal to `label` within `radius`, or the label is
      `ABSTAIN`; rounded down. The counts must be those of one fixed classifier, and their number
      must not depend on them: where sampling stopped because of its votes, as in `decide_radius`,
      nothing is certified.

    Example:
      >>> from jaxcert import smoothing
      >>> certificate = smoothing.certificate_from_counts(
      ...     [[3, 97]], [[1_000, 99_000]], noise=smoothing.gaussian(0.5), alpha=0.001
      ... )
      >>> certificate.label, certificate.radius.round(4)
      (array([1]), array([1.145]))

    References:
      Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
      arXiv:1902.02918.
    """
    selection = _count_matrix("selection_counts", selection_counts)
    estimation = _count_matrix("counts", counts)
    empty = np.flatnonzero(selection.sum(axis=1) == 0)
    if empty.size:
        raise ValueError(
            f"selection_counts must have votes in every row, got none in row {empty[0]}"
        )
    if selection.shape != estimation.shape:
        raise ValueError(
            "selection_counts and counts must have one shape [b, classes], "
            f"got {selection.shape} and {estimation.shape}"
        )
    _checks.one_value_per_input("noise.scale", noise.scale, estimation.shape[0])
    selected = selection.argmax(axis=1)
    top = np.take_along_axis(estimation, selected[:, None], axis=1)[:, 0]
    num_samples = np.maximum(estimation.sum(axis=1), 1)
    p_lower = clopper_pearson_lower(top, num_samples, alpha=alpha)
    certified = p_lower > 0.5
    return Certificate(
        label=np.where(certified, selected, ABSTAIN),
        radius=np.where(certified, noise.radius(p_lower), 0.0),
        p_lower=p_lower,
        counts=estimation,
        selection_counts=selection,
    )


def max_radius(noise: Noise, *, num_samples: int, alpha: float) -> np.ndarray:
    r"""The largest radius that these settings can certify: every sample votes for one class.

    .. math::
        R_{max} = R(\alpha^{1/N})

    Args:
      noise: the noise; its scale is a scalar or `[b]`.
      num_samples: number of estimation samples N.
      alpha: failure probability for each input, in (0, 1).

    Returns:
      float64, of the shape of `noise.scale`; 0 where every input must abstain, that is, where
      `num_samples <= log(alpha) / log(1/2)`.

    Raises:
      TypeError: if `num_samples` is not an integer.
      ValueError: if `num_samples` is below 1, or alpha is outside (0, 1).

    Guarantee:
      No certificate with these settings has a larger radius; the same rounding as theirs.

    Example:
      >>> from jaxcert import smoothing
      >>> noise = smoothing.gaussian(0.5)
      >>> smoothing.max_radius(noise, num_samples=100_000, alpha=0.001).round(9)
      np.float64(1.905728282)
    """
    num_samples = _checks.positive_integer("num_samples", num_samples)
    return noise.radius(clopper_pearson_lower(num_samples, num_samples, alpha=alpha))


def _count_matrix(name: str, counts: ArrayLike) -> np.ndarray:
    matrix = np.asarray(counts)
    if not np.issubdtype(matrix.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {matrix.dtype}")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must have shape [b, classes], got {matrix.shape}")
    matrix = matrix.astype(np.int64)
    if matrix.min() < 0:
        raise ValueError(f"{name} must not be negative, got {matrix.min()}")
    return matrix
