"""A claim about PREDICT, by exact enumeration of the votes."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy import special

from jaxcert.smoothing import _binomial
from theory.ledger import Claim, Verdict

PValue = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Number of classes, to numbers of samples: all ways to vote are a few thousand at most.
SETTINGS = {2: (5, 24, 60), 3: (5, 12, 24), 4: (4, 8, 14)}
FAILURE_PROBABILITIES = (0.01, 0.05, 0.3)
# The errors of sums of some thousand positive terms in float64.
TOLERANCE = 1e-12


def all_votes(num_classes: int, num_samples: int) -> np.ndarray:
    """List every way to split the samples among the classes, `[ways, classes]`."""
    bars = itertools.combinations(range(num_samples + num_classes - 1), num_classes - 1)
    edges = np.array([(-1, *bar, num_samples + num_classes - 1) for bar in bars])
    return np.diff(edges, axis=1) - 1


def log_probabilities(votes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Logarithm of the multinomial probability of each row of votes."""
    coefficient = math.lgamma(votes[0].sum() + 1) - special.gammaln(votes + 1).sum(axis=1)
    return coefficient + special.xlogy(votes, probabilities).sum(axis=1)


def close_races(
    rng: np.random.Generator, num_classes: int, count: int = 20
) -> Iterator[np.ndarray]:
    """Yield class probabilities with the true class first: near-ties among some, then any."""
    for tied in range(2, num_classes + 1):
        for lead in (1e-12, 1e-3, 0.02):
            for rest in (0.0, 0.3 * (num_classes > tied)):
                race = np.full(tied, (1.0 - rest) / tied)
                race[0] += lead
                others = np.full(num_classes - tied, rest / max(num_classes - tied, 1))
                race = np.concatenate([race, others])
                if race.argmax() == 0:
                    yield race / race.sum()
    for race in rng.dirichlet(np.ones(num_classes), size=count):
        yield np.sort(race)[::-1]


def check_prediction(p_value: PValue, seed: int, count: int) -> Verdict:
    """Find the largest probability that a class is returned that is not the most likely one.

    The slack is (alpha - error) / alpha.
    """
    rng = np.random.default_rng(seed)
    worst_slack, trials, witness = np.inf, 0, ""
    for num_classes, sizes in SETTINGS.items():
        races = list(close_races(rng, num_classes, count))
        for num_samples in sizes:
            votes = all_votes(num_classes, num_samples)
            second, first = np.sort(votes, axis=1)[:, -2:].T
            value = p_value(first, first + second)
            is_wrong = votes.argmax(axis=1) != 0
            for race in races:
                probability = np.exp(log_probabilities(votes, race))
                for alpha in FAILURE_PROBABILITIES:
                    error = float(probability[is_wrong & (value <= alpha)].sum())
                    trials += 1
                    slack = 1.0 - error / alpha
                    if slack < worst_slack:
                        worst_slack = slack
                        witness = (
                            f"N {num_samples}, alpha {alpha}, "
                            f"p {np.round(race, 4).tolist()}, error {error:.6g}"
                        )
    return Verdict(
        holds=worst_slack >= -TOLERANCE,
        worst_slack=worst_slack,
        tightness=math.nan,
        trials=trials,
        witness=witness,
        seed=seed,
    )


def _normal_test(first: np.ndarray, draws: np.ndarray) -> np.ndarray:
    z = (2.0 * first - draws) / np.sqrt(np.maximum(draws, 1))
    return special.erfc(z / np.sqrt(2.0))


CLAIMS = (
    Claim(
        name="prediction-error",
        statement=(
            "When the class with the most votes is returned only if the two-sided binomial test "
            "of the two leading classes has a p-value of at most alpha, the class returned is not "
            "the most likely one with probability at most alpha, for any number of classes."
        ),
        reference=(
            "Hung, Fithian, Rank Verification for Exponential Families, 2019, "
            "doi:10.1214/17-AOS1634; Cohen, Rosenfeld, Kolter, 2019, arXiv:1902.02918"
        ),
        hypotheses=(
            f"classes and samples {SETTINGS}, alpha in {FAILURE_PROBABILITIES}",
            "near-ties among all or some of the classes, and random probabilities",
        ),
        check=check_prediction,
        formula=_binomial.two_sided_binomial_p_value,
        trials=20,
        twins={
            "tail without the count itself": lambda first, draws: np.minimum(
                _binomial.two_sided_binomial_p_value(np.minimum(first + 1, draws), draws), 1.0
            ),
            "p-value four times too small": lambda first, draws: (
                0.25 * _binomial.two_sided_binomial_p_value(first, draws)
            ),
            "normal approximation": _normal_test,
        },
    ),
)
