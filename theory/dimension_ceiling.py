"""Claims about what smoothing can certify in many dimensions, against half-spaces.

Under Gaussian noise a half-space is the worst set of its probability (Neyman and Pearson), so an
attack on half-spaces shows both that a radius is too large and how large it could have been.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from jaxcert import smoothing
from theory import search
from theory.ledger import Claim, Verdict

# Takes sigma, the dimension and a probability to a radius.
Ceiling = Callable[[float, int, float], float]
# Takes sigma and two probabilities to a radius in l2.
Dual = Callable[[float, float, float], float]
# Takes sigma, the two dimensions and two probabilities to a radius in linf.
DualCeiling = Callable[[float, int, int, float, float], float]

DIMENSIONS = (1, 2, 7, 50, 784)
# Rounded down by a few units in the last place.
TIGHTNESS = 1 - 1e-9
KUMAR = (
    "Kumar, Levine, Goldstein, Feizi, Curse of Dimensionality on Randomized Smoothing for "
    "Certifiable Robustness, 2020, arXiv:2002.03239; Yang et al., 2020, arXiv:2002.08118"
)
XIA = (
    "Xia, Yu, Jiang, Cui, Mitigating the Curse of Dimensionality for Certified Robustness via Dual "
    "Randomized Smoothing, 2024, arXiv:2404.09586"
)


def check_ceiling(ceiling: Ceiling, seed: int, count: int) -> Verdict:
    """Attack half-spaces of many normals in linf; the diagonal one is flipped at the ceiling.

    The slack is the share of p - 1/2 that the class keeps; the tightness is the claimed radius
    over the one at which the diagonal half-space is flipped.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    for dimension in DIMENSIONS:
        normals = rng.normal(size=(count, dimension)) ** 3
        # Half-way from any normal to the diagonal, and the diagonal.
        mixed = normals / np.abs(normals).max(axis=1, keepdims=True) + rng.uniform(0, 4)
        for sigma in (0.125, 0.5):
            for p in (0.6, 0.9, 0.999):
                edge = sigma * float(special.ndtri(p))
                radius = ceiling(sigma, dimension, p)
                for rows in (normals, mixed, np.ones((1, dimension))):
                    # The worst attack moves every coordinate against the normal.
                    moved = radius * np.abs(rows).sum(axis=1) / np.linalg.norm(rows, axis=1)
                    kept = (special.ndtr((edge - moved) / sigma) - 0.5) / (p - 0.5)
                    worst.see(kept.min(), f"{dimension}-d, sigma {sigma}, p {p}", count=len(kept))
                exact = edge / math.sqrt(dimension)
                tightness = min(tightness, radius / exact)
            worst.pair(radius, exact)
    return worst.verdict(seed, tolerance=1e-12, tightness=tightness, least_tightness=TIGHTNESS)


def _exact(sigma: float) -> float:
    """A deviation that float32, in which jaxcert keeps it, holds exactly."""
    return float(np.float32(sigma))


def kept(z_left: float, z_right: float, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean probability of two half-spaces less 1/2, moved by so many deviations each.

    Written with the tails on either side, so that it does not cancel near 0.
    """
    return 0.5 * (special.ndtr(z_left - left) - special.ndtr(right - z_right))


def check_dual(dual: Dual, seed: int, count: int) -> Verdict:
    """Attack pairs of half-spaces, one in each part of the input, at every split of the budget.

    The slack is the share of the margin that is left.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    angles = np.linspace(0, np.pi / 2, 181)
    for _ in range(count):
        sigma = _exact(np.exp(rng.uniform(-2, 1)))
        z_left, z_right = rng.uniform(-1.5, 3.5, size=2)
        if z_left + z_right < 0.05:
            continue
        radius = dual(sigma, float(special.ndtr(z_left)), float(special.ndtr(z_right)))
        after = kept(
            z_left, z_right, radius / sigma * np.cos(angles), radius / sigma * np.sin(angles)
        )
        before = float(kept(z_left, z_right, np.zeros(1), np.zeros(1))[0])
        worst.see(
            after.min() / before,
            f"quantiles {z_left:.3f} and {z_right:.3f}, angle {angles[after.argmin()]:.3f}",
            count=len(angles),
        )
        exact = sigma * (z_left + z_right) / math.sqrt(2)
        tightness = min(tightness, radius / exact)
        worst.pair(radius, exact)
    return worst.verdict(seed, tolerance=1e-9, tightness=tightness, least_tightness=TIGHTNESS)


def check_dual_ceiling(ceiling: DualCeiling, seed: int, count: int) -> Verdict:
    """The same in linf with diagonal half-spaces; the slack is the share of the margin."""
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    for _ in range(count):
        m, n = (int(k) for k in rng.integers(1, 500, size=2))
        sigma, z = _exact(np.exp(rng.uniform(-2, 1))), rng.uniform(0.1, 3.5, size=2)
        p, q = (float(value) for value in special.ndtr(z))
        radius = ceiling(sigma, m, n, p, q)
        moved = radius / sigma * np.sqrt([m, n])
        after = float(kept(z[0], z[1], moved[:1], moved[1:])[0])
        before = float(kept(z[0], z[1], np.zeros(1), np.zeros(1))[0])
        worst.see(after / before, f"{m} and {n} coordinates, quantiles {z.round(3).tolist()}")
        exact = sigma * z.sum() / (math.sqrt(m) + math.sqrt(n))
        tightness = min(tightness, radius / exact)
        worst.pair(radius, exact)
    return worst.verdict(seed, tolerance=1e-9, tightness=tightness, least_tightness=TIGHTNESS)


def _radius(sigma: float, p: float) -> float:
    """The radius of jaxcert, also below 1/2, where it is negative."""
    noise = smoothing.gaussian(sigma)
    return float(noise.radius(p)) if p > 0.5 else -float(noise.radius(1 - p))


def _ceiling(sigma: float, dimension: int, p: float) -> float:
    return _radius(sigma, p) / math.sqrt(dimension)


def _dual(sigma: float, p: float, q: float) -> float:
    return (_radius(sigma, p) + _radius(sigma, q)) / math.sqrt(2)


def _dual_ceiling(sigma: float, m: int, n: int, p: float, q: float) -> float:
    return (_radius(sigma, p) + _radius(sigma, q)) / (math.sqrt(m) + math.sqrt(n))


CLAIMS = (
    Claim(
        name="dimension-ceiling",
        statement=(
            "In R^d a class of probability p under N(0, sigma^2 I) is safe in linf within "
            "sigma Phi^-1(p) / sqrt(d), and Gaussian smoothing can certify no more."
        ),
        reference=KUMAR,
        hypotheses=(f"half-spaces, which are the worst sets; dimensions {DIMENSIONS}",),
        check=check_ceiling,
        formula=_ceiling,
        trials=50,
        axes=("radius", "distance of the diagonal half-space"),
        twins={
            "without the root of d": lambda s, d, p: _radius(s, p),
            "the fourth root of d": lambda s, d, p: _radius(s, p) / d**0.25,
            "divided by d": lambda s, d, p: _radius(s, p) / d,
            "1e-6 too large": lambda s, d, p: (1 + 1e-6) * _ceiling(s, d, p),
        },
    ),
    Claim(
        name="dual-smoothing-radius",
        statement=(
            "When two parts of an input are smoothed by themselves and their scores averaged, the "
            "class is safe in l2 within sigma (Phi^-1(p) + Phi^-1(q)) / sqrt(2), signs included; "
            "no larger radius holds."
        ),
        reference=XIA + "; the radius of an average is derived here",
        hypotheses=("two classes; half-spaces in both parts, every split of the attack",),
        check=check_dual,
        formula=_dual,
        trials=200,
        axes=("radius", "exact distance"),
        twins={
            "root of the sum of squares": lambda s, p, q: math.hypot(_radius(s, p), _radius(s, q)),
            "a negative part counted as 0": lambda s, p, q: (
                (max(_radius(s, p), 0.0) + max(_radius(s, q), 0.0)) / math.sqrt(2)
            ),
            "the weaker part alone": lambda s, p, q: min(_radius(s, p), _radius(s, q)),
        },
    ),
    Claim(
        name="dual-dimension-ceiling",
        statement=(
            "With parts of m and n coordinates the same is safe in linf within "
            "sigma (Phi^-1(p) + Phi^-1(q)) / (sqrt(m) + sqrt(n)), and no more: for m = n = d / 2 "
            "and equal p that is sqrt(2) times the ceiling of one part of d."
        ),
        reference=XIA + "; with its 1 / sqrt(m) + 1 / sqrt(n) this agrees where m = n",
        hypotheses=("two classes; diagonal half-spaces in both parts, up to 500 coordinates each",),
        check=check_dual_ceiling,
        formula=_dual_ceiling,
        trials=200,
        axes=("radius", "exact distance"),
        twins={
            "sum of both ceilings": lambda s, m, n, p, q: (
                _radius(s, p) / math.sqrt(m) + _radius(s, q) / math.sqrt(n)
            ),
            "mean of both ceilings": lambda s, m, n, p, q: (
                0.5 * (_radius(s, p) / math.sqrt(m) + _radius(s, q) / math.sqrt(n))
            ),
            "the ceiling of all coordinates": lambda s, m, n, p, q: (
                0.5 * (_radius(s, p) + _radius(s, q)) / math.sqrt(m + n)
            ),
        },
    ),
)
