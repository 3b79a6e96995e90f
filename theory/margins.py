"""Claims about radii from margins and Lipschitz constants, on maps whose boundary is known."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import lipschitz
from theory import search
from theory.ledger import Claim, Verdict

# Takes scores `[n, classes]` and the constant of the map to radii `[n]`.
Radius = Callable[[np.ndarray, Any], np.ndarray]

CLASSES, DIMENSION = 4, 5
# The radius is rounded down by a few units in the last place.
TIGHTNESS = 1 - 1e-12


def distances(weight: np.ndarray, bias: np.ndarray, points: np.ndarray) -> np.ndarray:
    """From points to the nearest change of the largest entry of `W x + b`, in l2, exactly."""
    scores = points @ weight.T + bias
    label = scores.argmax(axis=1)
    gaps = scores.max(axis=1, keepdims=True) - scores
    apart = np.linalg.norm(weight[label][:, None] - weight[None], axis=2)
    others = np.arange(len(weight)) != label[:, None]
    return np.where(others, gaps / np.where(others, apart, 1.0), np.inf).min(axis=1)


def constant(weight: np.ndarray, output_norm: float) -> float:
    """Lipschitz constant of `W x` from l2 into a norm, by LAPACK or by enumeration."""
    if output_norm == 2:
        return float(np.linalg.svd(weight, compute_uv=False)[0])
    if output_norm == math.inf:
        return float(np.linalg.norm(weight, axis=1).max())
    signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * len(weight))).reshape(len(weight), -1)
    return float(np.linalg.norm(weight.T @ signs, axis=0).max())


def _closeness(point: Any, output_norm: jax.Array) -> jax.Array:
    """The margin over constant and distance of a linear map, at the two leading classes.

    What the factor of the theorem bounds; the constant is a smooth upper bound of the true one.
    """
    weight = point
    if weight.ndim != 2:
        raise ValueError("one matrix at a time")
    apart = jnp.linalg.norm(weight[0] - weight[1])
    spectral = jnp.sum(jnp.linalg.norm(weight @ weight.T, axis=1) ** 8) ** (1 / 16)
    rows = jnp.sum(jnp.sum(weight**2, axis=1) ** 16) ** (1 / 32)
    return jnp.log(apart) - jnp.log(jnp.where(output_norm == 2, spectral, rows))


def extremal(output_norm: float) -> np.ndarray:
    """A matrix whose first two rows are as far apart as the constant 1 allows."""
    weight = np.zeros((CLASSES, DIMENSION))
    weight[0, 0] = 1.0
    if output_norm == math.inf:
        weight[1, 0] = -1.0
    elif output_norm == 2:
        weight[1, 1] = 1.0
    return weight


def check_margin(radius: Radius, seed: int, count: int, *, output_norm: float) -> Verdict:
    """Compare with the distance to the boundary, exact for linear maps; slack is relative.

    Matrices are random, and where gradient ascent on the distance of two rows leads.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    matrices = rng.normal(size=(count, CLASSES, DIMENSION))
    climbed = search.ascend(_closeness, np.float64(min(output_norm, 3.0)), matrices, steps=80)
    for weight in (*matrices, *climbed):
        bias = rng.normal(size=CLASSES)
        points = rng.normal(size=(40, DIMENSION))
        exact = distances(weight, bias, points)
        found = radius(points @ weight.T + bias, constant(weight, output_norm))
        worst.see((exact / found).min() - 1.0, f"matrix of {CLASSES} rows", count=len(points))
        at = int((found / exact).argmax())
        worst.pair(found[at], exact[at])
    weight = extremal(output_norm)
    points = np.concatenate([rng.uniform(0.1, 2.0, size=(40, 1)), np.zeros((40, 4))], axis=1)
    exact = distances(weight[:2], np.zeros(2), points)
    found = radius(points @ weight[:2].T, constant(weight, output_norm))
    worst.see((exact / found).min() - 1.0, "the extremal matrix", count=len(points))
    tightness = float((found / exact).min())
    return worst.verdict(seed, tolerance=0.0, tightness=tightness, least_tightness=TIGHTNESS)


def check_pairs(radius: Radius, seed: int, count: int) -> Verdict:
    """With the constant of every difference of two scores: linear maps have no slack at all."""
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    for _ in range(count):
        weight, bias = rng.normal(size=(CLASSES, DIMENSION)), rng.normal(size=CLASSES)
        points = rng.normal(size=(40, DIMENSION))
        exact = distances(weight, bias, points)
        pairs = np.linalg.norm(weight[:, None] - weight[None], axis=2)
        found = radius(points @ weight.T + bias, pairs)
        worst.see((exact / found).min() - 1.0, f"matrix of {CLASSES} rows", count=len(points))
        tightness = min(tightness, float((found / exact).min()))
        worst.pair(found[0], exact[0])
    # An error of the oracle of a few units in the last place.
    return worst.verdict(seed, tolerance=1e-13, tightness=tightness, least_tightness=TIGHTNESS)


def _radius(scores: np.ndarray, constants: Any, *, output_norm: Any = 2) -> np.ndarray:
    return np.asarray(lipschitz.margin_radius(scores, constants, output_norm=output_norm))


def _scaled(factor: float, output_norm: Any) -> Radius:
    return lambda scores, constants: factor * _radius(scores, constants, output_norm=output_norm)


def _second_best(scores: np.ndarray, pairs: Any) -> np.ndarray:
    """The constant of the two leading classes alone, as if no other pair could be nearer."""
    order = np.argsort(scores, axis=1)
    first, second = order[:, -1], order[:, -2]
    rows = np.arange(len(scores))
    return (scores[rows, first] - scores[rows, second]) / pairs[first, second]


REFERENCE = "Tsuzuku, Sato, Sugiyama, Lipschitz-Margin Training, 2018, arXiv:1802.04034"
LEINO = "Leino, Wang, Fredrikson, Globally-Robust Neural Networks, 2021, arXiv:2102.08452"

CLAIMS = (
    Claim(
        name="margin-radius-l2",
        statement=(
            "If all scores together are L-Lipschitz in l2, the class stays the same within "
            "(f_y - max f_j) / (sqrt(2) L); no larger radius holds."
        ),
        reference=REFERENCE,
        hypotheses=(f"linear maps of {DIMENSION} inputs and {CLASSES} classes",),
        check=functools.partial(check_margin, output_norm=2),
        formula=_radius,
        trials=64,
        axes=("radius", "distance"),
        twins={
            "without the root of 2": _scaled(math.sqrt(2.0), 2),
            "2 for the root of 2": _scaled(1 / math.sqrt(2.0), 2),
            "1e-6 too large": _scaled(1 + 1e-6, 2),
        },
    ),
    Claim(
        name="margin-radius-linf",
        statement=(
            "If each score by itself is L-Lipschitz, the class stays the same within "
            "(f_y - max f_j) / (2 L); no larger radius holds."
        ),
        reference=REFERENCE,
        hypotheses=(f"linear maps of {DIMENSION} inputs and {CLASSES} classes",),
        check=functools.partial(check_margin, output_norm=math.inf),
        formula=functools.partial(_radius, output_norm=math.inf),
        trials=64,
        axes=("radius", "distance"),
        twins={
            "the root of 2, as for joint scores": _scaled(math.sqrt(2.0), math.inf),
            "loose by 1e-6": _scaled(1 - 1e-6, math.inf),
        },
    ),
    Claim(
        name="margin-radius-pairs",
        statement=(
            "If f_y - f_j is L_yj-Lipschitz for each j, the class stays the same within "
            "min_j (f_y - f_j) / L_yj, and for linear maps not beyond."
        ),
        reference=LEINO,
        hypotheses=(f"linear maps of {DIMENSION} inputs and {CLASSES} classes",),
        check=check_pairs,
        formula=_radius,
        trials=32,
        axes=("radius", "distance"),
        twins={
            "the two leading classes alone": _second_best,
            "the largest constant of all pairs": lambda scores, pairs: _radius(
                scores, np.where(pairs > 0, pairs.max(), 0.0)
            ),
        },
    ),
)
