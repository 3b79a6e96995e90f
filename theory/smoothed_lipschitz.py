"""Claims about how fast a function smoothed by Gaussian noise can change, by exact integrals.

A step function on the line has a smoothed version in closed form; functions of one coordinate are
enough, for the bounds speak about a direction at a time and are attained by half-spaces.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxcert import smoothing
from theory import search
from theory.ledger import Claim, Verdict

# Takes sigma to a Lipschitz constant.
Constant = Callable[[float], float]
# Takes sigma and two probabilities, the first the larger, to a distance that they must be apart.
Apart = Callable[[float, np.ndarray, np.ndarray], np.ndarray]

NUM_EDGES = 5
SALMAN = (
    "Salman, Li, Razenshteyn, Zhang, Zhang, Bubeck, Yang, Provably Robust Deep Learning via "
    "Adversarially Trained Smoothed Classifiers, 2019, arXiv:1906.04584; Levine, Singla, Feizi, "
    "Certifiably Robust Interpretation in Deep Learning, 2019, arXiv:1905.12105"
)


def smoothed(levels: np.ndarray, edges: np.ndarray, points: np.ndarray) -> np.ndarray:
    """E f(x + noise), noise standard normal, for step functions `[n]` with sorted edges, at `[n]`.

    Tails are summed from the far side, so that differences near 0 and 1 are exact to a few bits.
    """
    jumps = np.diff(levels, axis=1)
    return levels[:, 0] + (jumps * special.ndtr(points[:, None] - edges)).sum(axis=1)


def _unpacked(point: Any) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Levels in [0, 1], sorted edges, a place and a positive distance from free numbers."""
    free, gaps, place, shift = point
    levels = 0.5 + 0.5 * jnp.sin(free)
    edges = jnp.cumsum(jnp.concatenate([gaps[:1], jnp.abs(gaps[1:])]))
    return levels, edges, place, jnp.exp(shift)


def _values(point: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    levels, edges, place, shift = _unpacked(point)
    jumps = jnp.diff(levels)

    def at(x: jax.Array) -> jax.Array:
        return levels[0] + jnp.sum(jumps * jax.scipy.special.ndtr(x - edges))

    return at(place + shift), at(place), shift


def _steepness(point: Any, _: Any) -> jax.Array:
    high, low, shift = _values(point)
    return (high - low) / shift


def _quantile_steepness(point: Any, _: Any) -> jax.Array:
    high, low, shift = _values(point)
    clip = 1e-12
    high, low = (jnp.clip(value, clip, 1 - clip) for value in (high, low))
    ndtri = jax.scipy.special.ndtri
    return (ndtri(high) - ndtri(low)) / shift


def starts(rng: np.random.Generator, count: int) -> Any:
    return (
        rng.normal(size=(count, NUM_EDGES + 1)) * 2,
        rng.normal(size=(count, NUM_EDGES)),
        rng.normal(size=count),
        rng.normal(size=count) - 0.5,
    )


def reached(points: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values at the two ends and the distance, computed again by SciPy in float64."""
    free, gaps, place, shift = points
    levels = 0.5 + 0.5 * np.sin(free)
    edges = np.cumsum(np.concatenate([gaps[:, :1], np.abs(gaps[:, 1:])], axis=1), axis=1)
    distance = np.exp(shift)
    high = smoothed(levels, edges, place + distance)
    return high, smoothed(levels, edges, place), distance


def check_constant(constant: Constant, seed: int, count: int, *, steps: int = 200) -> Verdict:
    """Climb the slope of smoothed functions with values in [-1, 1]; slack is relative.

    Over the smallest distances a half-space at its boundary reaches the bound.
    """
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    points = search.ascend(_steepness, (), starts(rng, count), steps=steps)
    high, low, distance = reached(points)
    # From [0, 1] to [-1, 1].
    slopes = 2 * np.abs(high - low) / distance
    tightness = math.inf
    for sigma in (0.1, 0.5, 2.0):
        bound = constant(sigma)
        worst.see((bound * sigma / slopes).min() - 1, f"sigma {sigma}, step functions", count=count)
        worst.pair(bound * sigma, slopes.max())
        for short in (1e-4, 0.1, 1.0):
            # The half-space, halfway through which the two points lie.
            change = 2 * (special.ndtr(short / 2) - special.ndtr(-short / 2))
            worst.see(bound * sigma * short / change - 1, f"sigma {sigma}, half-space, {short}")
            worst.pair(bound * sigma, change / short)
            if short == 1e-4:
                tightness = min(tightness, change / short / (bound * sigma))
    return worst.verdict(seed, tolerance=1e-9, tightness=tightness, least_tightness=1 - 1e-8)


def check_quantile(apart: Apart, seed: int, count: int, *, steps: int = 200) -> Verdict:
    """Climb the slope of the quantile; slack is what is left of the distance, relative.

    Half-spaces reach the bound at every distance, not only at small ones.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    points = search.ascend(_quantile_steepness, (), starts(rng, count), steps=steps)
    high, low, distance = reached(points)
    # Rounding of the values is no counterexample, and the quantile is steep near 0 and 1.
    error = 1e-13
    kept = (high > low) & (high < 1 - 1e-6) & (low > 1e-6)
    high, low, distance = high[kept] - error, low[kept] + error, distance[kept]
    for sigma in (0.125, 0.5, 2.0):
        found = apart(sigma, high, low) / sigma
        slack = 1 - found / distance
        worst.see(slack.min(), f"sigma {sigma}, step functions", count=len(found))
        for at in np.argsort(slack)[:6]:
            worst.pair(distance[at], found[at])
        middle, between = np.meshgrid(np.linspace(-2, 2, 9), np.geomspace(0.01, 3, 8))
        upper, lower = special.ndtr(middle + between / 2), special.ndtr(middle - between / 2)
        found = apart(sigma, upper.ravel() - error, lower.ravel() + error) / sigma
        share = found / between.ravel()
        worst.see(1 - share.max(), f"sigma {sigma}, half-spaces", count=share.size)
        tightness = min(tightness, float(share.min()))
    return worst.verdict(seed, tolerance=1e-9, tightness=tightness, least_tightness=1 - 1e-6)


def _quantile(sigma: float, p: np.ndarray) -> np.ndarray:
    """Sigma times the normal quantile, from jaxcert's radius: below 1/2 by symmetry."""
    noise = smoothing.gaussian(sigma)
    above = noise.radius(np.maximum(p, 0.5))
    below = noise.radius(np.maximum(1 - p, 0.5))
    return np.where(p > 0.5, above, -below)


def _apart(sigma: float, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return _quantile(sigma, high) - _quantile(sigma, low)


def _constant(sigma: float) -> float:
    return math.sqrt(2 / math.pi) / sigma


CLAIMS = (
    Claim(
        name="smoothed-lipschitz",
        statement=(
            "For f with values in [-1, 1], E f(x + N(0, sigma^2 I)) is sqrt(2 / pi) / sigma "
            "Lipschitz in l2, and no smaller constant will do."
        ),
        reference=SALMAN,
        hypotheses=(
            f"step functions of {NUM_EDGES} edges, climbed by gradient ascent, and half-spaces",
            "for values in [0, 1] the constant is half of it",
        ),
        check=check_constant,
        formula=_constant,
        trials=128,
        axes=("constant, sigma = 1", "slope"),
        twins={
            "half of it, as for values in [0, 1]": lambda sigma: 0.5 * _constant(sigma),
            "1 percent too small": lambda sigma: 0.99 * _constant(sigma),
            "loose by 1e-4": lambda sigma: 1.0001 * _constant(sigma),
            "1 / sigma": lambda sigma: 1 / sigma,
        },
    ),
    Claim(
        name="smoothed-quantile",
        statement=(
            "For f with values in [0, 1], sigma Phi^-1(E f(x + N(0, sigma^2 I))) is 1-Lipschitz in "
            "l2, with equality for half-spaces at every distance."
        ),
        reference=SALMAN,
        hypotheses=(
            f"step functions of {NUM_EDGES} edges, climbed by gradient ascent, and half-spaces",
            "values between 1e-6 and 1 - 1e-6",
        ),
        check=check_quantile,
        formula=_apart,
        trials=128,
        axes=("distance", "change of the quantile"),
        twins={
            "1e-5 too steep": lambda s, p, q: (1 + 1e-5) * _apart(s, p, q),
            "the constant of the values, linear": lambda s, p, q: (
                s * math.sqrt(math.pi / 2) * 2 * (p - q)
            ),
            "quantile of the logistic": lambda s, p, q: (
                s * (special.logit(p) - special.logit(q)) / 1.6
            ),
        },
    ),
)
