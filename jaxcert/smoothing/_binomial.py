"""Exact one-sided bounds and tests for binomial counts, in float64 on the host."""

import numpy as np
from jax.typing import ArrayLike
from scipy import special

from jaxcert import _checks
from jaxcert.smoothing._rounding import PROBABILITY_MARGIN, round_down, round_up


def clopper_pearson_lower(counts: ArrayLike, num_samples: ArrayLike, *, alpha: float) -> np.ndarray:
    r"""Lower confidence bound on a binomial probability.

    .. math::
        p = \mathrm{BetaInv}(\alpha; k, N - k + 1), \quad p = 0 \text{ at } k = 0, \quad
        p = \alpha^{1/N} \text{ at } k = N

    the largest p for which N draws give k successes or more with probability at most alpha.

    Args:
      counts: successes `[...]`, integers in [0, num_samples].
      num_samples: number of draws, at least 1; broadcasts against `counts`.
      alpha: one-sided failure probability, in (0, 1).

    Returns:
      float64 `[...]` in [0, 1).

    Raises:
      TypeError: if counts are not integers.
      ValueError: if counts are outside [0, num_samples], or alpha is outside (0, 1).

    Guarantee:
      Sound: exceeds the true probability with probability at most alpha; rounded down.

    Example:
      >>> from jaxcert import smoothing
      >>> smoothing.clopper_pearson_lower([0, 90, 100], 100, alpha=0.001).round(6)
      array([0.      , 0.77533 , 0.933254])

    References:
      Clopper, Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the
      Binomial", 1934.
    """
    alpha = _checks.probability("alpha", alpha)
    bound, gap = _lower_bound_and_gap(*_counts(counts, num_samples), alpha)
    from_above = np.nextafter(1.0 - round_up(gap, PROBABILITY_MARGIN), 0.0)
    return np.where(bound < 0.5, round_down(bound, PROBABILITY_MARGIN), from_above)


def clopper_pearson_upper(counts: ArrayLike, num_samples: ArrayLike, *, alpha: float) -> np.ndarray:
    r"""Upper confidence bound on a binomial probability.

    .. math::
        p = 1 - \mathrm{BetaInv}(\alpha; N - k, k + 1)

    Args:
      counts: successes `[...]`, integers in [0, num_samples].
      num_samples: number of draws, at least 1; broadcasts against `counts`.
      alpha: one-sided failure probability, in (0, 1).

    Returns:
      float64 `[...]` in (0, 1].

    Raises:
      TypeError: if counts are not integers.
      ValueError: if counts are outside [0, num_samples], or alpha is outside (0, 1).

    Guarantee:
      Sound: falls below the true probability with probability at most alpha; rounded up.

    Example:
      >>> from jaxcert import smoothing
      >>> smoothing.clopper_pearson_upper([0, 90, 100], 100, alpha=0.001).round(6)
      array([0.066746, 0.969458, 1.      ])

    References:
      Clopper, Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the
      Binomial", 1934.
    """
    alpha = _checks.probability("alpha", alpha)
    successes, draws = _counts(counts, num_samples)
    # 1 - p bounds the probability of a failure from below.
    gap, bound = _lower_bound_and_gap(draws - successes, draws, alpha)
    from_below = np.nextafter(1.0 - round_down(gap, PROBABILITY_MARGIN), 2.0)
    upper = np.where(bound < 0.5, round_up(bound, PROBABILITY_MARGIN), from_below)
    return np.minimum(upper, 1.0)


def two_sided_binomial_p_value(counts: ArrayLike, num_samples: ArrayLike) -> np.ndarray:
    """P-value of the two-sided exact test that a binomial probability is 1/2, rounded up.

    Twice the probability of the larger tail, which is the exact test because the distribution is
    symmetric; 1 where there are no draws.
    """
    successes, draws = _counts(counts, num_samples, minimum_samples=0)
    larger = np.maximum(successes, draws - successes)
    tail = special.betainc(np.maximum(larger, 1.0), draws - larger + 1.0, 0.5)
    return np.where(
        2.0 * larger == draws, 1.0, np.minimum(round_up(2.0 * tail, PROBABILITY_MARGIN), 1.0)
    )


def _lower_bound_and_gap(
    successes: np.ndarray, draws: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """The lower bound p and 1 - p, each solved for itself: whichever is small is as exact."""
    inner = np.clip(successes, 1.0, None)
    bound = special.betaincinv(inner, draws - inner + 1.0, alpha)
    gap = special.betainccinv(draws - inner + 1.0, inner, alpha)
    every = np.log(alpha) / draws
    cases = [successes == 0.0, successes == draws]
    return (
        np.select(cases, [0.0, np.exp(every)], bound),
        np.select(cases, [1.0, -np.expm1(every)], gap),
    )


def _counts(
    counts: ArrayLike, num_samples: ArrayLike, *, minimum_samples: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Check counts and sample sizes; return both as float64 of one shape."""
    successes, draws = np.broadcast_arrays(np.asarray(counts), np.asarray(num_samples))
    for name, value in (("counts", successes), ("num_samples", draws)):
        if not np.issubdtype(value.dtype, np.integer):
            raise TypeError(f"{name} must be integers, got {value.dtype}")
    if np.any(draws < minimum_samples):
        raise ValueError(f"num_samples must be at least {minimum_samples}, got {draws.min()}")
    outside = (successes < 0) | (successes > draws)
    if np.any(outside):
        raise ValueError(
            f"counts must lie in [0, num_samples], got {successes[outside][0]} "
            f"of {draws[outside][0]}"
        )
    return successes.astype(np.float64), draws.astype(np.float64)
