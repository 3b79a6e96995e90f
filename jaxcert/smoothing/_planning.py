"""How many samples an input deserves, from estimates: none of this feeds a certificate.

What is estimated here only chooses sample sizes. The certificate is computed from later samples,
independent of those behind the choice, so an error of these estimates costs samples or radius and
never validity.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxcert.smoothing._binomial import clopper_pearson_lower
from jaxcert.smoothing._noise import Noise

# Candidates: probabilities by their normal quantile, sample sizes in a geometric sequence.
_NUM_PROBABILITIES, _NUM_SIZES, _FEWEST_SAMPLES = 120, 60, 50
_BELOW_HALF = (0.02, 0.1, 0.2, 0.3, 0.35, 0.4, 0.43, 0.46, 0.48, 0.5)

# Expected failures below which the number of failures is summed over, and how far.
_FEW_FAILURES, _MOST_FAILURES = 25.0, 80
_NUM_NODES, _NUM_CURVE = 9, 150

_PRIOR_STEPS, _MULTIPLIER_STEPS = 100, 60


class Forecast(NamedTuple):
    """What a number of samples is expected to certify at unit scale, by the true probability.

    Attributes:
      success: float64 `[p]`, candidate probabilities of the selected class.
      failure: float64 `[p]`, 1 less these.
      num_samples: int64 `[n]`, candidate sample sizes, 0 first and the most allowed last.
      radius: float64 `[p, n]`, expected radius of the Clopper-Pearson bound.
      limit: float64 `[p]`, the radius of the probability itself, that of infinitely many samples.
    """

    success: np.ndarray
    failure: np.ndarray
    num_samples: np.ndarray
    radius: np.ndarray
    limit: np.ndarray


@functools.lru_cache(maxsize=32)
def forecast(family: str, max_samples: int, alpha: float) -> Forecast:
    """Tabulate the expected radius of noise of unit scale."""
    unit = Noise(family, jnp.ones((), jnp.float32))
    # The last candidate fails once in ten runs of max_samples.
    last = -special.ndtri(min(0.1 / max_samples, 0.1))
    quantiles = np.linspace(0.0, last, _NUM_PROBABILITIES + 1)[1:]
    below = np.array(_BELOW_HALF)
    success = np.concatenate([below, special.ndtr(quantiles)])
    failure = np.concatenate([1.0 - below, special.ndtr(-quantiles)])
    fewest = min(_FEWEST_SAMPLES, max_samples)
    sizes = np.unique(np.geomspace(fewest, max_samples, _NUM_SIZES).round().astype(np.int64))
    radius = np.zeros((success.size, sizes.size + 1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    for column, size in enumerate(sizes, start=1):
        mean = size * failure
        few = mean < _FEW_FAILURES
        failures = np.arange(min(_MOST_FAILURES, size) + 1)
        exact = _radius(unit, failures, size, alpha)
        log_mass = (
            special.gammaln(size + 1)
            - special.gammaln(failures + 1)
            - special.gammaln(size - failures + 1)
            + failures * np.log(failure[few, None])
            + (size - failures) * np.log(success[few, None])
        )
        radius[few, column] = np.exp(log_mass) @ exact
        # Beyond, the number of failures is nearly normal and the radius smooth in its root.
        curve = np.unique(np.linspace(0.0, np.sqrt(0.6 * size), _NUM_CURVE) ** 2 // 1)
        roots = np.sqrt(curve)
        values = _radius(unit, curve.astype(np.int64), size, alpha)
        deviation = np.sqrt(mean * success)
        drawn = np.maximum(mean[~few, None] + deviation[~few, None] * nodes, 0.0)
        spread = np.interp(np.sqrt(drawn), roots, values, right=0.0)
        radius[~few, column] = spread @ (weights / weights.sum())
    limit = np.where(success > 0.5, unit.radius(success), 0.0)
    return Forecast(success, failure, np.concatenate([[0], sizes]), radius, limit)


def _radius(unit: Noise, failures: np.ndarray, size: int, alpha: float) -> np.ndarray:
    return unit.radius(clopper_pearson_lower(size - failures, size, alpha=alpha))


def posterior(
    table: Forecast, successes: np.ndarray, draws: np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Weights `[b, p]` of the candidates as the probability of the class that leads in a pilot.

    They sum to less than 1: with what is missing another class leads, and nothing is certified.
    """
    leading, trailing = _likelihood(table, successes, draws)
    return leading * prior / ((leading + trailing) @ prior)[:, None]


def flat_prior(table: Forecast) -> np.ndarray:
    """Equal weights."""
    return np.full(table.success.size, 1.0 / table.success.size)


def fitted_prior(
    table: Forecast, successes: np.ndarray, draws: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The distribution over the candidates that explains the pilot votes of a batch best.

    Expectation maximisation, with one more input that is spread evenly over the candidates.
    """
    rows, repeats = np.unique(np.stack([successes, draws], axis=1), axis=0, return_counts=True)
    likelihood = np.add(*_likelihood(table, rows[:, 0], rows[:, 1]))
    prior = start
    for _ in range(_PRIOR_STEPS):
        share = prior * ((repeats / (likelihood @ prior)) @ likelihood)
        prior = (share + 1.0 / prior.size) / (successes.size + 1)
    return prior


def _likelihood(
    table: Forecast, successes: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Likelihoods that a class of each probability leads, and that it trails by as much.

    The leader of a pilot is no fixed class: when two are nearly as likely, the one that is ahead by
    chance leads. Taking its votes for those of a fixed class would overrate hopeless inputs.
    """
    failures = draws - successes
    log_success, log_failure = np.log(table.success), np.log(table.failure)
    leading = np.outer(successes, log_success) + np.outer(failures, log_failure)
    trailing = np.outer(failures, log_success) + np.outer(successes, log_failure)
    trailing = np.where(table.success >= 0.5, trailing, -np.inf)
    highest = leading.max(axis=1, keepdims=True)
    return np.exp(leading - highest), np.exp(trailing - highest)


def samples_for_each(
    radius: np.ndarray, reference: np.ndarray, *, tolerance: float, forgiven: np.ndarray
) -> np.ndarray:
    """Least column of `radius [b, n]` within tolerance of each reference, else the last."""
    enough = radius >= reference[:, None] * (1.0 - tolerance) - tolerance * forgiven[:, None]
    return np.where(enough.any(axis=1), enough.argmax(axis=1), radius.shape[1] - 1)


def samples_for_average(
    radius: np.ndarray, reference: np.ndarray, num_samples: np.ndarray, *, tolerance: float
) -> tuple[np.ndarray, float]:
    """Columns of `radius [b, n]` that cost least for a sum within tolerance of the references'.

    The columns maximise radius less a price times samples; the highest price that still reaches the
    sum is found by bisection, and returned too.
    """
    target = (1.0 - tolerance) * reference.sum()
    rows = np.arange(radius.shape[0])
    low, high = 0.0, radius.max() + 1.0
    for _ in range(_MULTIPLIER_STEPS):
        # The geometric mean, once both ends are positive.
        price = np.sqrt(low * high) if low > 0.0 else high / 1e3
        if radius[rows, (radius - price * num_samples).argmax(axis=1)].sum() >= target:
            low = price
        else:
            high = price
    return (radius - low * num_samples).argmax(axis=1), float(low)
