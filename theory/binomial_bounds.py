"""Claims about confidence bounds on a probability, by exact enumeration in rational arithmetic."""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist

import numpy as np

from jaxcert import smoothing
from theory.ledger import Claim, Verdict

Bound = Callable[[np.ndarray, int, float], np.ndarray]

SAMPLE_SIZES = (1, 2, 3, 7, 20, 60, 120)
FAILURE_PROBABILITIES = (0.001, 0.01, 0.05, 0.3)
# The bounds are moved outwards by 1e-10 of their value, which costs a little coverage.
TIGHTNESS_TOLERANCE = 1e-8


def exact_probability(members: np.ndarray, num_samples: int, p: float) -> Fraction:
    """P(K in members) for K ~ Binomial(num_samples, p), without any rounding."""
    success, denominator = p.as_integer_ratio()
    failure = denominator - success
    total, successes, failures = 0, [1], [1]
    for _ in range(num_samples):
        successes.append(successes[-1] * success)
        failures.append(failures[-1] * failure)
    for k in members.tolist():
        total += math.comb(num_samples, k) * successes[k] * failures[num_samples - k]
    return Fraction(total, denominator**num_samples)


def check_coverage(bound: Bound, seed: int, trials_each: int, *, upper: bool) -> Verdict:
    """Find the largest probability that a one-sided bound misses the truth.

    For a fixed set of missing counts the probability is a polynomial in p. The set changes only at
    the values of the bound, and for a monotone bound the probability grows towards each of them, so
    the worst p are the floats next to them; a random grid stands beside in case it is not monotone.
    The slack is (alpha - miss) / alpha; the tightness compares the worst miss with alpha.
    """
    rng = np.random.default_rng(seed)
    worst_slack, worst_tightness, trials, witness = np.inf, np.inf, 0, ""
    for num_samples in SAMPLE_SIZES:
        for alpha in FAILURE_PROBABILITIES:
            limits = bound(np.arange(num_samples + 1), num_samples, alpha)
            candidates = np.concatenate(
                [np.nextafter(limits, 1.0 if upper else 0.0), rng.uniform(size=trials_each)]
            )
            largest = -1.0
            for p in candidates[(candidates > 0.0) & (candidates < 1.0)]:
                missing = np.flatnonzero(limits < p if upper else limits > p)
                # Rational until the comparison: alpha too is the exact value of its float.
                ratio = exact_probability(missing, num_samples, float(p)) / Fraction(alpha)
                trials += 1
                largest = max(largest, float(ratio))
                slack = float(1 - ratio)
                if slack < worst_slack:
                    worst_slack = slack
                    witness = (
                        f"N {num_samples}, alpha {alpha}, p {p:.6g}, "
                        f"miss {float(ratio) * alpha:.6g}"
                    )
            worst_tightness = min(worst_tightness, largest)
    return Verdict(
        holds=worst_slack >= 0.0 and worst_tightness >= 1.0 - TIGHTNESS_TOLERANCE,
        worst_slack=worst_slack,
        tightness=worst_tightness,
        trials=trials,
        witness=witness,
        seed=seed,
    )


def _lower(counts: np.ndarray, num_samples: int, alpha: float) -> np.ndarray:
    return smoothing.clopper_pearson_lower(counts, num_samples, alpha=alpha)


def _upper(counts: np.ndarray, num_samples: int, alpha: float) -> np.ndarray:
    return smoothing.clopper_pearson_upper(counts, num_samples, alpha=alpha)


def _normal_quantile(alpha: float) -> float:
    return NormalDist().inv_cdf(1.0 - alpha)


def _wald(counts: np.ndarray, num_samples: int, alpha: float) -> np.ndarray:
    """The textbook interval from the normal approximation."""
    p = counts / num_samples
    return np.clip(p - _normal_quantile(alpha) * np.sqrt(p * (1 - p) / num_samples), 0.0, 1.0)


def _wilson(counts: np.ndarray, num_samples: int, alpha: float) -> np.ndarray:
    """The score interval, which inverts the normal test."""
    z, p = _normal_quantile(alpha), counts / num_samples
    centre = p + z**2 / (2 * num_samples)
    spread = z * np.sqrt(p * (1 - p) / num_samples + z**2 / (4 * num_samples**2))
    return np.clip((centre - spread) / (1 + z**2 / num_samples), 0.0, 1.0)


def _at_alpha(bound: Bound, factor: float) -> Bound:
    return lambda counts, num_samples, alpha: bound(counts, num_samples, factor * alpha)


REFERENCE = (
    "Clopper, Pearson, The Use of Confidence or Fiducial Limits Illustrated in the Case of the "
    "Binomial, 1934, doi:10.1093/biomet/26.4.404"
)
HYPOTHESES = (
    f"N in {SAMPLE_SIZES}, alpha in {FAILURE_PROBABILITIES}",
    "the samples are independent and the classifier is one fixed function",
)

CLAIMS = (
    Claim(
        name="clopper-pearson-lower",
        statement="The lower bound exceeds the true probability with probability at most alpha.",
        reference=REFERENCE,
        hypotheses=HYPOTHESES,
        check=functools.partial(check_coverage, upper=False),
        formula=_lower,
        trials=8,
        twins={
            "two-sided level given as one-sided": _at_alpha(_lower, 2.0),
            "one-sided level halved, loose": _at_alpha(_lower, 0.5),
            "normal approximation": _wald,
            "Wilson score": _wilson,
            "rounded to float32": lambda k, n, a: _lower(k, n, a).astype(np.float32).astype(float),
        },
    ),
    Claim(
        name="clopper-pearson-upper",
        statement="The upper bound is below the true probability with probability at most alpha.",
        reference=REFERENCE,
        hypotheses=HYPOTHESES,
        check=functools.partial(check_coverage, upper=True),
        formula=_upper,
        trials=8,
        twins={
            "two-sided level given as one-sided": _at_alpha(_upper, 2.0),
            "one-sided level halved, loose": _at_alpha(_upper, 0.5),
            "Wilson score": lambda k, n, a: 1.0 - _wilson(n - k, n, a),
        },
    ),
)
