"""A claim about Gaussian noise on a grid, by exact sums over the points of the grid."""

import math
from collections.abc import Callable

import numpy as np

from jaxcert import smoothing
from theory.ledger import Claim, Verdict
from theory.smoothed_sets import ORACLE_ERROR, gaussian_cdf

# Takes a deviation, the number of levels and probabilities to radii.
Radius = Callable[[float, int, np.ndarray], np.ndarray]

LEVELS = 255
# Standard deviations in steps of the grid: as coarse as the grid itself, and much wider.
STEPS = (0.6, 1.5, 6.0, 25.0)


def random_sets(rng: np.random.Generator, size: int, width: float, count: int) -> np.ndarray:
    """Draw sets of points of `-size .. size`: half-lines, pairs of intervals, some points flipped.

    Returns:
        bool `[count, 2 * size + 1]`.
    """
    points = np.arange(-size, size + 1)
    ends = rng.integers(0, max(2, round(2.5 * width)), size=(count, 1))
    sets = points <= ends
    holes = np.sort(rng.integers(-size, size, size=(count, 2)), axis=1)
    has_hole = rng.random((count, 1)) < 0.5
    sets &= ~(has_hole & (points > holes[:, :1]) & (points <= holes[:, 1:]))
    is_noisy = rng.random((count, 1)) < 0.3
    return sets ^ (is_noisy & (rng.random(sets.shape) < 0.02))


def check_grid_radius(radius: Radius, seed: int, count: int) -> Verdict:
    """Find the point of the grid within the claimed radius where a set loses most.

    The slack is the share of p - 1/2 that is left there. The tightness compares the claimed
    radius with the distance to the edge of a half-line, half a step before its first point.
    """
    rng = np.random.default_rng(seed)
    worst_slack, tightness, trials, witness = np.inf, np.inf, 0, ""
    for steps in STEPS:
        sigma = float(np.float32(steps / LEVELS))
        width = sigma * LEVELS
        size, farthest = math.ceil(12 * width) + 2, math.ceil(6 * width) + 2
        shifts = np.arange(-farthest, farthest + 1)
        # P(shift + noise = point), by the mass of the real Gaussian that is rounded to each point;
        # the outermost points stand for all beyond them.
        edges = np.concatenate([[-np.inf], np.arange(-size, size) + 0.5, [np.inf]])
        below = gaussian_cdf((edges - shifts[:, None]) / width)
        mass = np.diff(below, axis=1)
        sets = random_sets(rng, size, width, count)
        at_shift = sets @ mass.T
        at_point = np.clip(at_shift[:, farthest] - ORACLE_ERROR, 0.0, 1.0)
        reach = radius(sigma, LEVELS, at_point) * LEVELS
        is_inside = np.abs(shifts) < reach[:, None]
        claimed = at_point >= 0.6
        kept = (np.where(is_inside, at_shift, np.inf).min(axis=1) - 0.5) / (at_point - 0.5)
        kept = np.where(claimed, kept, np.inf)
        trials += int(claimed.sum())
        worst = int(kept.argmin())
        if kept[worst] < worst_slack:
            worst_slack = float(kept[worst])
            witness = (
                f"deviation {steps} steps, p {at_point[worst]:.6f}, "
                f"radius {reach[worst]:.4f} steps, set {worst}"
            )
        ends = np.arange(1, math.ceil(4 * width))
        reach = radius(sigma, LEVELS, gaussian_cdf((ends + 0.5) / width)) * LEVELS
        tightness = min(tightness, float((reach / (ends + 0.5)).min()))
    return Verdict(
        holds=worst_slack >= -20 * ORACLE_ERROR and tightness >= 1.0 - 1e-9,
        worst_slack=worst_slack,
        tightness=tightness,
        trials=trials,
        witness=witness,
        seed=seed,
    )


def _discrete_gaussian(sigma: float, levels: int, p: np.ndarray) -> np.ndarray:
    return smoothing.discrete_gaussian(sigma, levels=levels).radius(p)


CLAIMS = (
    Claim(
        name="grid-gaussian-l2-radius",
        statement=(
            "If a class has probability p > 1/2 under Gaussian noise rounded to the grid, at a "
            "point x of the grid, it keeps more than 1/2 at every point x' of the grid with "
            "|x' - x|_2 < sigma Phi^-1(p)."
        ),
        reference=(
            "Voracek, Hein, Sound Randomized Smoothing in Floating-Point Arithmetics, 2022, "
            "arXiv:2207.07209"
        ),
        hypotheses=(
            f"one dimension, 1 / {LEVELS} a step, deviations of {STEPS} steps",
            "half-lines, pairs of intervals, and both with single points flipped, p >= 0.6",
        ),
        check=check_grid_radius,
        formula=_discrete_gaussian,
        trials=400,
        twins={
            "5 percent too large": lambda s, n, p: 1.05 * _discrete_gaussian(s, n, p),
            "one step too large": lambda s, n, p: _discrete_gaussian(s, n, p) + 1.0 / n,
            "loose by half a step": lambda s, n, p: _discrete_gaussian(s, n, p) - 0.5 / n,
        },
    ),
)
