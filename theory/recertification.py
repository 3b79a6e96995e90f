"""Claims about certifying a changed network, by exact sums over all outcomes."""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from jaxcert import smoothing
from jaxcert.smoothing import _recertify
from theory import search
from theory.ledger import Claim, Verdict

# Takes P(f = c) and P(f = c, f' != c) to a bound on P(f' = c).
Remaining = Callable[[float, float], float]
# Takes earlier successes `[k]` of a number, fresh successes `[k]` of another, whether the network
# alone was sampled, alpha and the share of it for the disagreement to bounds on P(f' = c).
Bound = Callable[[np.ndarray, int, np.ndarray, int, np.ndarray, float, float], np.ndarray]

REFERENCE = (
    "Ugare, Suresh, Banerjee, Singh, Misailovic, Incremental Randomized Smoothing Certification, "
    "2023, arXiv:2305.19521"
)
EARLIER, FRESH = 60, 40
DIRECT_ABOVE = 0.9
SETTINGS = ((0.05, 0.025), (0.05, 0.01), (0.2, 0.15))


def check_remaining(remaining: Remaining, seed: int, count: int) -> Verdict:
    """Try the bound on joint laws of the two networks' answers; slack is a probability."""
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    for number in range(count):
        classes = int(rng.integers(2, 5))
        joint = rng.dirichlet(np.full(classes**2, 0.3)).reshape(classes, classes)
        if number % 3 == 0:
            # Nothing is gained for the class: what is lost is all that changes.
            joint[1:, 0] = 0.0
            joint /= joint.sum()
        before, after = joint[0].sum(), joint[:, 0].sum()
        bound = remaining(float(before), float(joint[0, 1:].sum()))
        worst.see(after - bound, f"{classes} classes, {before:.4f} before and {after:.4f} after")
        worst.pair(bound, after)
        if number % 3 == 0 and after > 1e-3:
            tightness = min(tightness, bound / after)
    return worst.verdict(seed, tolerance=1e-12, tightness=tightness, least_tightness=1 - 1e-9)


def check_coverage(bound: Bound, seed: int, count: int) -> Verdict:
    """Add up the probability that the bound exceeds the truth, over both runs, exactly.

    The earlier count decides whether disagreement or the new network itself is sampled afterwards.
    The slack is (alpha - miss) / alpha.
    """
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    earlier, fresh = np.arange(EARLIER + 1), np.arange(FRESH + 1)
    for alpha, share in SETTINGS:
        threshold = smoothing.clopper_pearson_lower(earlier, EARLIER, alpha=alpha - share)
        is_direct = threshold > DIRECT_ABOVE
        grid_k, grid_j = (g.ravel() for g in np.meshgrid(earlier, fresh, indexing="ij"))
        limits = bound(grid_k, EARLIER, grid_j, FRESH, is_direct[grid_k], alpha, share)
        limits = limits.reshape(EARLIER + 1, FRESH + 1)
        for number in range(count):
            before = float(rng.choice([rng.uniform(0.5, 1), rng.uniform(0.9, 1)]))
            lost = float(before * np.exp(rng.uniform(-5, 0)) * (number % 3 > 0))
            gained = float((1 - before) * rng.uniform() * (number % 2))
            after = before - lost + gained
            first = stats.binom.pmf(earlier, EARLIER, before)
            disagree = stats.binom.pmf(fresh, FRESH, lost)
            alone = stats.binom.pmf(fresh, FRESH, after)
            second = np.where(is_direct[:, None], alone, disagree)
            miss = float((first[:, None] * second * (limits > after)).sum())
            worst.see(
                1 - miss / alpha,
                f"alpha {alpha}, {share} of it for the change, {before:.4f} before, {lost:.4f} "
                f"lost, {gained:.4f} gained: miss {miss:.6g}",
            )
            worst.pair(alpha, miss)
    return worst.verdict(seed, tolerance=1e-10)


def _remaining(before: float, lost: float) -> float:
    return before - lost


def _bound(
    earlier: np.ndarray,
    num_earlier: int,
    fresh: np.ndarray,
    num_fresh: int,
    is_direct: np.ndarray,
    alpha: float,
    share: float,
) -> np.ndarray:
    """What `recertify` makes of the counts."""
    counts = np.stack([earlier, num_earlier - earlier], axis=1)
    selected = np.tile([[1, 0]], (len(earlier), 1))
    noise = smoothing.gaussian(1.0)
    before = smoothing.certificate_from_counts(selected, counts, noise=noise, alpha=alpha - share)
    found = _recertify.recertification_from_counts(
        before, noise=noise, is_direct=is_direct, successes=fresh,
        num_samples=np.full(len(fresh), num_fresh), num_runs=np.full(len(fresh), num_fresh),
        alpha=alpha, disagreement_alpha=share,
    )  # fmt: skip
    return found.p_lower


def _at_full_level(
    earlier: np.ndarray,
    num_earlier: int,
    fresh: np.ndarray,
    num_fresh: int,
    is_direct: np.ndarray,
    alpha: float,
    share: float,
) -> np.ndarray:
    """Both bounds at the whole level, as if one failure could not follow the other."""
    lost = smoothing.clopper_pearson_upper(fresh, num_fresh, alpha=alpha)
    before = smoothing.clopper_pearson_lower(earlier, num_earlier, alpha=alpha)
    alone = smoothing.clopper_pearson_lower(fresh, num_fresh, alpha=alpha)
    return np.where(is_direct, alone, before - lost)


def _estimated(
    earlier: np.ndarray,
    num_earlier: int,
    fresh: np.ndarray,
    num_fresh: int,
    is_direct: np.ndarray,
    alpha: float,
    share: float,
) -> np.ndarray:
    """The observed disagreement for a bound on it."""
    before = smoothing.clopper_pearson_lower(earlier, num_earlier, alpha=alpha - share)
    alone = smoothing.clopper_pearson_lower(fresh, num_fresh, alpha=alpha)
    return np.where(is_direct, alone, before - fresh / num_fresh)


CLAIMS = (
    Claim(
        name="incremental-zeta",
        statement=(
            "P(f' = c) >= P(f = c) - zeta with zeta = P(f = c and f' != c), and equality where "
            "nothing is gained."
        ),
        reference=REFERENCE,
        hypotheses=("joint laws of the answers of both networks under the same noise",),
        check=check_remaining,
        formula=_remaining,
        trials=400,
        axes=("bound", "P(f' = c)"),
        twins={
            "half of zeta": lambda before, lost: before - lost / 2,
            "the product of the two": lambda before, lost: before * (1 - lost),
            "all of zeta twice": lambda before, lost: before - 2 * lost,
        },
    ),
    Claim(
        name="recertification-coverage",
        statement=(
            "The bound on P(f' = c) from an earlier run and fresh samples, disagreement or direct "
            "by what the earlier run found, exceeds the truth with probability at most alpha."
        ),
        reference=REFERENCE,
        hypotheses=(
            f"{EARLIER} earlier and {FRESH} fresh samples, direct above {DIRECT_ABOVE}",
            f"alpha and its share for the disagreement in {SETTINGS}",
        ),
        check=check_coverage,
        formula=_bound,
        trials=60,
        axes=("alpha", "probability to miss"),
        twins={
            "both bounds at level 2.5 alpha": lambda k, n, j, m, d, alpha, share: _at_full_level(
                k, n, j, m, d, min(2.5 * alpha, 0.9), share
            ),
            "the observed disagreement": _estimated,
        },
    ),
)
