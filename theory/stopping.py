"""Claims about tests and bounds that look at the votes while they come in, by exact recursion.

The number of successes is a random walk; its exact distribution is carried forward sample by
sample, and the mass that crosses a boundary leaves it. Nothing is simulated.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from jaxcert import smoothing
from theory.ledger import Claim, Verdict

Plan = Callable[[float, int, float], smoothing.SequentialTest]
Bound = Callable[[np.ndarray, np.ndarray, float], np.ndarray]

THRESHOLDS = (0.5, 0.8, 0.97)
FAILURE_PROBABILITIES = (0.001, 0.05)
LONGEST = 500
# The errors of sums of some hundred thousand positive terms in float64.
TOLERANCE = 1e-11


def step(mass: np.ndarray, p: float) -> np.ndarray:
    """Draw one more sample: from the distribution of the count to that of the next."""
    following = np.zeros(mass.size + 1)
    following[:-1] = (1.0 - p) * mass
    following[1:] += p * mass
    return following


def wrong_decisions(test: smoothing.SequentialTest, p: float) -> tuple[float, float]:
    """Probabilities that a test certifies and that it refutes, when each draw succeeds with p."""
    looks = {int(n): look for look, n in enumerate(test.num_samples)}
    mass, certified, refuted = np.ones(1), 0.0, 0.0
    for n in range(1, int(test.num_samples[-1]) + 1):
        mass = step(mass, p)
        if n in looks:
            look, counts = looks[n], np.arange(n + 1)
            up = counts >= test.certify_from[look]
            down = counts <= test.refute_to[look]
            idle = (counts >= test.give_up_from[look]) & (counts <= test.give_up_to[look])
            certified += float(mass[up].sum())
            refuted += float(mass[down & ~up].sum())
            mass = np.where(up | down | idle, 0.0, mass)
    return certified, refuted


def check_test(plan: Plan, seed: int, count: int, *, longest: int = LONGEST) -> Verdict:
    """Find the largest probability of a wrong decision.

    With p at most the threshold, certifying is wrong; with p at least the threshold, refuting is.
    The slack is (alpha - error) / alpha; the trials are pairs of a test and a p.
    """
    rng = np.random.default_rng(seed)
    worst_slack, trials, witness = np.inf, 0, ""
    for threshold in THRESHOLDS:
        for alpha in FAILURE_PROBABILITIES:
            test = plan(threshold, longest, alpha)
            below = [threshold, *rng.uniform(0.8 * threshold, threshold, size=count)]
            above = [threshold, *rng.uniform(threshold, 0.8 * threshold + 0.2, size=count)]
            cases = [(p, wrong_decisions(test, p)[0], "certified") for p in below]
            cases += [(p, wrong_decisions(test, p)[1], "refuted") for p in above]
            for p, error, what in cases:
                trials += 1
                if 1.0 - error / alpha < worst_slack:
                    worst_slack = 1.0 - error / alpha
                    witness = f"threshold {threshold}, alpha {alpha}, p {p:.6g}, {what} {error:.6g}"
    return _verdict(worst_slack, trials, witness, seed)


def check_confidence_sequence(
    bound: Bound, seed: int, count: int, *, longest: int = LONGEST
) -> Verdict:
    """Find the largest probability that a lower bound ever exceeds the truth.

    The slack is (alpha - miss) / alpha; the trials are pairs of an alpha and a p.
    """
    rng = np.random.default_rng(seed)
    draws = np.arange(1, longest + 1)
    counts = np.arange(longest + 1)
    # The bound for every count (row) and number of draws (column); only counts <= draws occur.
    reached = np.minimum(counts[:, None], draws)
    worst_slack, trials, witness = np.inf, 0, ""
    for alpha in FAILURE_PROBABILITIES:
        limits = bound(reached, np.broadcast_to(draws, reached.shape), alpha)
        for p in (0.05, 0.5, 0.9, 0.99, *rng.uniform(size=count)):
            mass, missed = np.ones(1), 0.0
            for n in draws:
                mass = step(mass, p)
                misses = limits[: n + 1, n - 1] > p
                missed += float(mass[misses].sum())
                mass = np.where(misses, 0.0, mass)
            trials += 1
            if 1.0 - missed / alpha < worst_slack:
                worst_slack = 1.0 - missed / alpha
                witness = f"alpha {alpha}, p {p:.6g}, ever missed within {longest}: {missed:.6g}"
    return _verdict(worst_slack, trials, witness, seed)


def _verdict(worst_slack: float, trials: int, witness: str, seed: int) -> Verdict:
    return Verdict(
        holds=worst_slack >= -TOLERANCE,
        worst_slack=worst_slack,
        tightness=math.nan,
        trials=trials,
        witness=witness,
        seed=seed,
    )


def _rule(rule: str, *, factor: float = 1.0) -> Plan:
    """A rule of jaxcert that never gives up, so that every error is counted."""
    return lambda threshold, longest, alpha: smoothing.sequential_test(
        threshold, max_samples=longest, alpha=factor * alpha, rule=rule, give_up=0.0
    )


def _peeking(threshold: float, longest: int, alpha: float) -> smoothing.SequentialTest:
    """The test for one look, at every look."""
    plan = _rule("spending")(threshold, longest, alpha)
    n = plan.num_samples
    return plan._replace(
        certify_from=(stats.binom.isf(alpha, n, threshold) + 1).astype(np.int64),
        refute_to=(stats.binom.ppf(alpha, n, threshold) - 1).astype(np.int64),
    )


def _sequence(counts: np.ndarray, num_samples: np.ndarray, alpha: float) -> np.ndarray:
    return smoothing.confidence_sequence_lower(counts, num_samples, alpha=alpha)


def _clopper_pearson(counts: np.ndarray, num_samples: np.ndarray, alpha: float) -> np.ndarray:
    return smoothing.clopper_pearson_lower(counts, num_samples, alpha=alpha)


VORACEK = (
    "Voracek, Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial "
    "Robustness, 2024, arXiv:2406.17830"
)
REFERENCES = {
    "spending": "Lan, DeMets, Discrete Sequential Boundaries for Clinical Trials, 1983",
    "betting": VORACEK,
    "one_sided_betting": VORACEK,
    "union": VORACEK,
}
HYPOTHESES = (
    f"at most {LONGEST} samples, alpha in {FAILURE_PROBABILITIES}",
    "the samples are independent and the classifier is one fixed function",
)

CLAIMS = (
    *(
        Claim(
            name=f"sequential-{rule.replace('_', '-')}",
            statement=(
                "A test that may stop at every look certifies a probability that is not above the "
                "threshold, or refutes one that is not below it, with probability at most alpha."
            ),
            reference=reference,
            hypotheses=(f"thresholds {THRESHOLDS}, the rule {rule}", *HYPOTHESES),
            check=check_test,
            formula=_rule(rule),
            trials=2,
            twins={"the test for one look, at every look": _peeking}
            | ({"level doubled": _rule(rule, factor=2.0)} if rule == "spending" else {}),
        )
        for rule, reference in REFERENCES.items()
    ),
    Claim(
        name="confidence-sequence-lower",
        statement=(
            "The probability that the bound exceeds the true probability at any number of samples, "
            "ever, is at most alpha."
        ),
        reference=VORACEK + "; Ville, Etude critique de la notion de collectif, 1939",
        hypotheses=HYPOTHESES,
        check=check_confidence_sequence,
        formula=_sequence,
        trials=4,
        twins={
            "Clopper-Pearson at every sample": _clopper_pearson,
            "half way to Clopper-Pearson": lambda k, n, a: (
                0.5 * _sequence(k, n, a) + 0.5 * _clopper_pearson(k, n, a)
            ),
        },
    ),
)
