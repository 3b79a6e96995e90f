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
    smaller, is_bound = _smaller_of_bound_and_gap(*_counts(counts, num_samples), alpha)
    from_gap = np.nextafter(1.0 - round_up(smaller, PROBABILITY_MARGIN), 0.0)
    return np.where(is_bound, round_down(smaller, PROBABILITY_MARGIN), from_gap)


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
    # One minus the lower bound on the probability of a failure.
    smaller, is_bound = _smaller_of_bound_and_gap(draws - successes, draws, alpha)
    from_bound = np.nextafter(1.0 - round_down(smaller, PROBABILITY_MARGIN), 2.0)
    upper = np.where(is_bound, from_bound, round_up(smaller, PROBABILITY_MARGIN))
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


def _smaller_of_bound_and_gap(
    successes: np.ndarray, draws: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """The lower bound p where it is below 1/2, else 1 - p; and whether it is p.

    The inverse of the incomplete beta function fails at some parameters, among them 1000, by far
    more than any rounding. So it only proposes; the function itself decides, and where it does not
    confirm a proposal to a relative 1e-9 the bound is found by bisection.
    """
    inner = np.clip(successes, 1.0, np.maximum(draws - 1.0, 1.0))
    is_below_half = special.betainc(inner, draws - inner + 1.0, 0.5) > alpha

    def tail(
        smaller: np.ndarray, inner: np.ndarray, rest: np.ndarray, is_p: np.ndarray
    ) -> np.ndarray:
        """P(X >= successes), from the smaller of p and 1 - p."""
        below = special.betainc(inner, rest, np.where(is_p, smaller, 0.5))
        above = special.betaincc(rest, inner, np.where(is_p, 0.5, smaller))
        return np.where(is_p, below, above)

    rest = draws - inner + 1.0
    proposed = np.where(
        is_below_half,
        special.betaincinv(inner, rest, alpha),
        special.betainccinv(rest, inner, alpha),
    )
    # Outwards is down for p and up for 1 - p.
    outwards = np.where(is_below_half, -1.0, 1.0)
    outer = proposed * (1.0 + outwards * PROBABILITY_MARGIN)
    nearer = proposed * (1.0 - outwards * 10.0 * PROBABILITY_MARGIN)
    is_confirmed = (tail(outer, inner, rest, is_below_half) <= alpha) & (
        tail(nearer, inner, rest, is_below_half) > alpha
    )
    wrong = ~is_confirmed
    if np.any(wrong):
        chosen = (inner[wrong], rest[wrong], is_below_half[wrong])
        share = inner[wrong] / draws[wrong]
        # In logarithms: both p and 1 - p may be tiny.
        low = np.where(chosen[2], np.log(np.finfo(np.float64).tiny), np.log1p(-share))
        high = np.where(chosen[2], np.log(share), 0.0)
        for _ in range(80):
            middle = (low + high) / 2.0
            is_sound = tail(np.exp(middle), *chosen) <= alpha
            # Sound values are small p, or large 1 - p.
            low = np.where(is_sound == chosen[2], middle, low)
            high = np.where(is_sound == chosen[2], high, middle)
        proposed[wrong] = np.exp(np.where(chosen[2], low, high))
    every = np.log(alpha) / draws
    all_below_half = every < np.log(0.5)
    cases = [successes == 0.0, successes == draws]
    all_succeeded = np.where(all_below_half, np.exp(every), -np.expm1(every))
    return (
        np.select(cases, [0.0, all_succeeded], proposed),
        np.select(cases, [True, all_below_half], is_below_half),
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
