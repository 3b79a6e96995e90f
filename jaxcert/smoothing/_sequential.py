"""Tests of a binomial probability that may stop early, on the host in float64."""

import enum
import functools
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from scipy import signal, special, stats

from jaxcert import _checks
from jaxcert.smoothing._binomial import _counts

# Looks at the votes come at sample sizes that grow by this ratio, from the first.
_FIRST_LOOK, _LOOK_RATIO = 32, 1.2

# Error budgets, each many times what the tests find: of a log-likelihood ratio, absolute and for
# each sample; of a probability from the recursion over looks, relative; of the tails and the
# rounding that one step of the recursion drops, by plain convolution and through the FFT.
_LOG_MARGIN, _LOG_MARGIN_A_SAMPLE = 1e-6, 1e-14
_PROBABILITY_MARGIN = 1e-6
_DROPPED, _DROPPED_BY_FFT = 1e-15, 1e-12
_LARGEST_PLAIN_CONVOLUTION = 2**26

# A threshold is known to this relative precision: it was computed from a radius.
_THRESHOLD_MARGIN = 1e-13


class Verdict(enum.IntEnum):
    """The outcome of a sequential test.

    Attributes:
      REFUTED: the probability is below the threshold.
      UNDECIDED: the samples ran out, or a decision became too unlikely to wait for.
      CERTIFIED: the probability is above the threshold.
    """

    REFUTED = -1
    UNDECIDED = 0
    CERTIFIED = 1


class SequentialTest(NamedTuple):
    """When to stop sampling: one row a look, in the order of the samples.

    Attributes:
      num_samples: int64 `[looks]`, samples drawn until each look, increasing.
      certify_from: int64 `[looks]`, so many successes or more certify; above `num_samples` if none.
      refute_to: int64 `[looks]`, so many successes or fewer refute; negative if none.
      give_up_from: int64 `[looks]`, with `give_up_to` the range of successes that end the test
        without a decision; empty where `give_up_from > give_up_to`.
      give_up_to: int64 `[looks]`.
    """

    num_samples: np.ndarray
    certify_from: np.ndarray
    refute_to: np.ndarray
    give_up_from: np.ndarray
    give_up_to: np.ndarray


def sequential_test(
    threshold: float,
    *,
    max_samples: int,
    alpha: float,
    rule: str = "spending",
    give_up: float = 0.1,
) -> SequentialTest:
    r"""Plan a test whether a probability p is above or below a threshold P, stopping early.

    Counts A are looked at after :math:`n_1 < n_2 < \dots \le N` samples, a geometric schedule. The
    rules differ in the counts that decide:

    * `"spending"`: the least count whose probability of being reached at a look, and at none
      before, keeps the total at :math:`\alpha n_k / N` when p = P. The distribution over the looks
      is computed exactly, so all of alpha is used. For p < P counts are stochastically smaller and
      a crossing is less likely, so P is the worst case. It certifies almost what one look at N
      samples would, with the fewest samples, and is the default.
    * `"betting"`: the KT mixture :math:`\log Q = \log B(A + \tfrac12, n - A + \tfrac12) -
      \log B(\tfrac12, \tfrac12)` against the likelihood under P reaches :math:`1 / \alpha`, and
      A / n > P. The wealth :math:`Q / (p^A (1 - p)^{n - A})` is a martingale of mean 1 under the
      true p, so exceeds 1 / alpha ever with probability at most alpha (Ville). If p <= P < A / n,
      the wealth against p is at least that against P, for the likelihood increases up to A / n: so
      one threshold serves the whole of p <= P.
    * `"one_sided_betting"`: the same with the mixture restricted to alternatives q > P. For p <= P
      each factor has mean :math:`1 + (p - P)(q - P) / (P (1 - P)) \le 1`, so the wealth is a
      supermartingale under every p <= P, and no bet is lost on the other side.
    * `"union"`: the Clopper-Pearson bound at level :math:`5 \alpha / ((k + 4)(k + 5))` at look k.

    Each is mirrored to refute. The test also gives up, undecided, when the predictive probability
    that the count at N decides (under a Beta(1/2, 1/2) prior) falls below `give_up`; stopping
    without a decision makes no rule less valid.

    Args:
      threshold: P, in (0, 1).
      max_samples: N, when the test ends undecided.
      alpha: failure probability of each decision, in (0, 1).
      rule: `"spending"`, `"betting"`, `"one_sided_betting"` or `"union"`.
      give_up: in [0, 1); 0 never gives up before N.

    Returns:
      A `SequentialTest`.

    Raises:
      TypeError: if an argument is not a number, or `max_samples` not an integer.
      ValueError: if an argument is out of range, or the rule unknown.

    Guarantee:
      Sound: if p <= P the test certifies with probability at most alpha, if p >= P it refutes with
      probability at most alpha, whatever the look at which it ends; rounded against deciding. The
      betting and union rules would hold for any schedule, `"spending"` holds for this one.

    Example:
      >>> from jaxcert import smoothing
      >>> test = smoothing.sequential_test(0.9, max_samples=1000, alpha=0.001)
      >>> [int(row[0]) for row in test[:3]], [int(row[-1]) for row in test[:3]]
      ([32, 33, 19], [1000, 932, 866])

    References:
      Voracek, "Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial
      Robustness", 2024, arXiv:2406.17830. Lan, DeMets, "Discrete Sequential Boundaries for Clinical
      Trials", 1983. Krichevsky, Trofimov, "The Performance of Universal Encoding", 1981.
    """
    threshold = _checks.probability("threshold", threshold)
    max_samples, alpha, give_up = check_settings(max_samples, alpha, rule, give_up)
    return _plan(threshold, max_samples, alpha, rule, give_up)


def check_settings(
    max_samples: int, alpha: float, rule: str, give_up: float
) -> tuple[int, float, float]:
    """Check the settings of a test that do not depend on its threshold."""
    max_samples = _checks.positive_integer("max_samples", max_samples)
    alpha = _checks.probability("alpha", alpha)
    if rule not in _RULES:
        raise ValueError(f"rule must be one of {', '.join(_RULES)}, got {rule!r}")
    if isinstance(give_up, bool) or not isinstance(give_up, numbers.Real):
        raise TypeError(f"give_up must be a real number in [0, 1), got {type(give_up).__name__}")
    if not 0.0 <= give_up < 1.0:
        raise ValueError(f"give_up must lie in [0, 1), got {give_up}")
    return max_samples, alpha, float(give_up)


def verdicts(test: SequentialTest, look: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The verdict on each count at a look, and whether sampling ends there."""
    certified = counts >= test.certify_from[look]
    refuted = counts <= test.refute_to[look]
    given_up = (counts >= test.give_up_from[look]) & (counts <= test.give_up_to[look])
    verdict = np.where(certified, Verdict.CERTIFIED, np.where(refuted, Verdict.REFUTED, 0))
    is_last = look == len(test.num_samples) - 1
    return verdict, certified | refuted | given_up | is_last


def confidence_sequence_lower(
    counts: ArrayLike, num_samples: ArrayLike, *, alpha: float
) -> np.ndarray:
    r"""Lower confidence bound on a binomial probability that may be looked at after every sample.

    .. math::
        \min \{ p : \log B(A + \tfrac12, n - A + \tfrac12) - \log B(\tfrac12, \tfrac12)
        - A \log p - (n - A) \log(1 - p) < \log(1 / \alpha) \}

    Args:
      counts: successes `[...]` so far, integers in [0, num_samples].
      num_samples: draws so far, at least 1; broadcasts against `counts`.
      alpha: failure probability over all sample sizes together, in (0, 1).

    Returns:
      float64 `[...]` in [0, 1).

    Raises:
      TypeError: if counts are not integers.
      ValueError: if counts are outside [0, num_samples], or alpha is outside (0, 1).

    Guarantee:
      Sound: exceeds the true probability at any sample size, ever, with probability at most alpha;
      rounded down. With the upper bound at the same alpha, alpha covers both.

    Example:
      >>> from jaxcert import smoothing
      >>> smoothing.confidence_sequence_lower([0, 90, 100], 100, alpha=0.001).round(4)
      array([0.    , 0.7239, 0.9068])

    References:
      Voracek, "Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial
      Robustness", 2024, arXiv:2406.17830. Ville, "Etude critique de la notion de collectif", 1939.
    """
    alpha = _checks.probability("alpha", alpha)
    successes, draws = _counts(counts, num_samples)
    low, high = np.zeros_like(draws), successes / draws
    for _ in range(60):
        middle = (low + high) / 2.0
        rejected = _log_wealth(successes, draws, middle, one_sided=False) >= _log_bar(draws, alpha)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def confidence_sequence_upper(
    counts: ArrayLike, num_samples: ArrayLike, *, alpha: float
) -> np.ndarray:
    r"""Upper confidence bound on a binomial probability that may be looked at after every sample.

    .. math::
        1 - p_{lower}(n - A, n)

    with the bound of `confidence_sequence_lower`.

    Args:
      counts: successes `[...]` so far, integers in [0, num_samples].
      num_samples: draws so far, at least 1; broadcasts against `counts`.
      alpha: failure probability over all sample sizes together, in (0, 1).

    Returns:
      float64 `[...]` in (0, 1].

    Raises:
      TypeError: if counts are not integers.
      ValueError: if counts are outside [0, num_samples], or alpha is outside (0, 1).

    Guarantee:
      Sound: falls below the true probability at any sample size, ever, with probability at most
      alpha; rounded up. With the lower bound at the same alpha, alpha covers both.

    Example:
      >>> from jaxcert import smoothing
      >>> smoothing.confidence_sequence_upper([0, 90, 100], 100, alpha=0.001).round(4)
      array([0.0932, 0.9823, 1.    ])

    References:
      Voracek, "Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial
      Robustness", 2024, arXiv:2406.17830.
    """
    successes, draws = np.asarray(counts), np.asarray(num_samples)
    lower = confidence_sequence_lower(draws - successes, draws, alpha=alpha)
    return np.minimum(np.nextafter(1.0 - lower, 2.0), 1.0)


@functools.lru_cache(maxsize=1024)
def _plan(
    threshold: float, max_samples: int, alpha: float, rule: str, give_up: float
) -> SequentialTest:
    looks = look_schedule(max_samples)
    certify_from = _RULES[rule](threshold, looks, alpha)
    refute_to = looks - _RULES[rule](1.0 - threshold * (1.0 - _THRESHOLD_MARGIN), looks, alpha)
    give_up_from, give_up_to = _hopeless_counts(looks, certify_from, refute_to, give_up)
    test = SequentialTest(looks, certify_from, refute_to, give_up_from, give_up_to)
    for row in test:
        row.setflags(write=False)  # The next caller gets the same arrays.
    return test


def look_schedule(max_samples: int) -> np.ndarray:
    """Sample sizes of the looks; the last is `max_samples`."""
    looks = []
    look = _FIRST_LOOK
    while look < max_samples:
        looks.append(look)
        look = math.ceil(look * _LOOK_RATIO)
    return np.array([*looks, max_samples], dtype=np.int64)


def _spending_boundary(threshold: float, looks: np.ndarray, alpha: float) -> np.ndarray:
    """Least counts that certify, by the exact distribution of the count over the looks at P."""
    allowed = alpha * (1.0 - _PROBABILITY_MARGIN) * looks / looks[-1]
    boundary = np.empty_like(looks)
    mass, base, spent, drawn = np.ones(1), 0, 0.0, 0
    for index, look in enumerate(looks):
        block, offset = _binomial_mass(int(look) - drawn, threshold)
        mass, dropped = _convolve(mass, block)
        base, drawn = base + offset, int(look)
        spent += dropped
        tails = np.cumsum(mass[::-1])[::-1]
        affordable = np.flatnonzero(spent + tails <= allowed[index])
        first = int(affordable[0]) if affordable.size else len(mass)
        # Beyond what has mass, one count further is a safe boundary too.
        boundary[index] = base + first
        if affordable.size:
            spent += float(tails[first])
        kept = np.flatnonzero(mass[:first] > 1e-24)
        start, stop = (int(kept[0]), int(kept[-1]) + 1) if kept.size else (0, 1)
        spent += float(mass[:start].sum() + mass[stop:first].sum())
        mass, base = mass[start:stop], base + start
    return boundary


def _binomial_mass(draws: int, probability: float) -> tuple[np.ndarray, int]:
    """Probabilities of a binomial around its mean, less than 1e-16 left out, and the first count.

    Bernstein: a deviation w has probability at most `2 exp(-w**2 / (2 variance + 2 w / 3))`.
    """
    deviation = math.sqrt(draws * probability * (1.0 - probability))
    width = 9.0 * deviation + 40.0
    low = max(0, math.floor(draws * probability - width))
    high = min(draws, math.ceil(draws * probability + width))
    return stats.binom.pmf(np.arange(low, high + 1), draws, probability), low


def _convolve(mass: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, float]:
    """Distribution of a sum, and a bound on the probability that it misses."""
    if mass.size * block.size <= _LARGEST_PLAIN_CONVOLUTION:
        return np.convolve(mass, block), _DROPPED
    return np.maximum(signal.fftconvolve(mass, block), 0.0), _DROPPED_BY_FFT


def _betting_boundary(threshold: float, looks: np.ndarray, alpha: float) -> np.ndarray:
    return _least_count(
        threshold,
        looks,
        lambda counts: (
            _log_wealth(counts, looks, threshold, one_sided=False) >= _log_bar(looks, alpha)
        ),
    )


def _one_sided_betting_boundary(threshold: float, looks: np.ndarray, alpha: float) -> np.ndarray:
    return _least_count(
        threshold,
        looks,
        lambda counts: (
            _log_wealth(counts, looks, threshold, one_sided=True) >= _log_bar(looks, alpha)
        ),
    )


def _union_boundary(threshold: float, looks: np.ndarray, alpha: float) -> np.ndarray:
    k = np.arange(1, len(looks) + 1)
    level = 5.0 * alpha / ((k + 4.0) * (k + 5.0)) * (1.0 - _PROBABILITY_MARGIN)
    return _least_count(
        threshold,
        looks,
        lambda counts: special.betainc(counts, looks - counts + 1.0, threshold) <= level,
    )


_RULES = {
    "spending": _spending_boundary,
    "betting": _betting_boundary,
    "one_sided_betting": _one_sided_betting_boundary,
    "union": _union_boundary,
}


def _least_count(
    threshold: float, looks: np.ndarray, decides: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Least count above the mean at each look for which an increasing condition holds."""
    low, high = np.floor(looks * threshold), looks + 1.0
    while np.any(high - low > 1.0):
        middle = np.floor((low + high) / 2.0)
        reached = decides(np.minimum(middle, looks))
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high.astype(np.int64)


def _log_wealth(
    successes: np.ndarray, draws: np.ndarray, threshold: ArrayLike, *, one_sided: bool
) -> np.ndarray:
    """Log of the Beta(1/2, 1/2) mixture over the likelihood under the threshold."""
    failures, threshold = draws - successes, np.asarray(threshold)
    mixture = special.betaln(successes + 0.5, failures + 0.5) - special.betaln(0.5, 0.5)
    likelihood = special.xlogy(successes, threshold) + special.xlog1py(failures, -threshold)
    wealth = mixture - likelihood
    if not one_sided:
        return wealth
    with np.errstate(divide="ignore"):
        above = np.log(special.betaincc(successes + 0.5, failures + 0.5, threshold))
    return wealth + above - np.log(special.betaincc(0.5, 0.5, threshold))


def _log_bar(draws: np.ndarray, alpha: float) -> np.ndarray:
    """Ville's threshold `log(1 / alpha)`, raised by what the log-wealth may be off."""
    return -np.log(alpha) + _LOG_MARGIN + _LOG_MARGIN_A_SAMPLE * draws


def _hopeless_counts(
    looks: np.ndarray, certify_from: np.ndarray, refute_to: np.ndarray, give_up: float
) -> tuple[np.ndarray, np.ndarray]:
    """Range of counts at each look from which a decision at the last look is too unlikely."""
    start, stop = np.ones_like(looks), np.zeros_like(looks)
    last = float(looks[-1])
    for index, look in enumerate(looks[:-1]):
        counts = np.arange(refute_to[index] + 1, certify_from[index])
        a, b, rest = counts + 0.5, look - counts + 0.5, last - look
        # Mean and deviation of the beta-binomial that the successes still to come follow.
        mean = counts + rest * a / (a + b)
        deviation = np.sqrt(rest * a * b * (a + b + rest) / (a + b + 1.0)) / (a + b)
        above = special.ndtr((mean - certify_from[-1] + 0.5) / deviation)
        below = special.ndtr((refute_to[-1] + 0.5 - mean) / deviation)
        hopeless = counts[above + below < give_up]
        if hopeless.size:
            start[index], stop[index] = hopeless[0], hopeless[-1]
    return start, stop
