"""A claim about how smooth a network that fits its data can be, on two-layer networks."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import spatial

from theory import search
from theory.ledger import Claim, Verdict

# Takes the number of points and the dimension to a bound on the Lipschitz constant, from below.
Law = Callable[[int, int], float]

SHAPES = ((1, 6), (1, 25), (2, 9), (2, 40), (3, 20), (5, 40))
MOST_POINTS, MOST_AXES = 40, 5


def in_ball(points: Any, axes: Any, xp: Any = np) -> Any:
    """Points of the unit ball of the first axes, those outside drawn to its surface."""
    points = points * axes
    lengths = xp.sqrt(xp.sum(points**2, axis=-1, keepdims=True) + 1e-300)
    return points / xp.maximum(lengths, 1.0)


def spread(point: Any, constants: Any) -> jax.Array:
    """A smooth lower bound on the smallest distance of the points that count."""
    counts, axes = constants
    inside = in_ball(point, axes, jnp)
    squares = jnp.sum((inside[:, None] - inside[None]) ** 2, axis=2)
    # A point is not compared with itself, nor a pair twice.
    above = jnp.triu(counts[:, None] & counts[None], 1)
    far = jnp.where(above, jnp.sqrt(jnp.where(above, squares, 1.0) + 1e-12), jnp.inf)
    return -jax.nn.logsumexp(-40.0 * far, where=above) / 40.0


def labels_of(points: np.ndarray) -> np.ndarray:
    """Signs, of which the closest pair has both: what an adversary of smoothness would choose."""
    gaps = spatial.distance.squareform(spatial.distance.pdist(points))
    np.fill_diagonal(gaps, np.inf)
    first, second = np.unravel_index(gaps.argmin(), gaps.shape)
    labels = np.where(np.arange(len(points)) % 2 == 0, 1.0, -1.0)
    labels[first], labels[second] = 1.0, -1.0
    return labels


def fitted(
    rng: np.random.Generator, points: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, biases and output weights of a two-layer ReLU network through all points.

    The first layer is random, or on a line the kinks of the interpolating polygon; the last is the
    shortest that fits.
    """
    number, dimension = points.shape
    if dimension == 1:
        order = np.argsort(points[:, 0])
        kinks = points[order, 0]
        slopes = np.diff(labels[order]) / np.diff(kinks)
        weights = np.ones((number, 1))
        biases = -kinks
        # A unit that is on everywhere brings the first label.
        outer = np.concatenate([slopes[:1], np.diff(slopes), -slopes[-1:]])
        constant = labels[order][0]
        weights = np.concatenate([weights, np.zeros((1, 1))])
        return weights, np.append(biases, 1.0), np.append(outer, constant)
    units = 4 * number
    weights = rng.normal(size=(units, dimension))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    biases = rng.uniform(-1, 1, size=units)
    features = np.maximum(points @ weights.T + biases, 0)
    return weights, biases, np.linalg.lstsq(features, labels, rcond=None)[0]


def steepest(
    network: tuple[np.ndarray, np.ndarray, np.ndarray], points: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """A lower bound on the Lipschitz constant from slopes that are met, and the largest misfit."""
    weights, biases, outer = network
    values = np.maximum(points @ weights.T + biases, 0) @ outer
    gaps = spatial.distance.pdist(points)
    rises = np.abs(values[:, None] - values[None])[np.triu_indices(len(points), 1)]
    pairs = points[:, None] - points[None]
    middles = (points[None] + pairs / 2).reshape(-1, points.shape[1])
    active = middles @ weights.T + biases > 0
    gradients = np.linalg.norm((active * outer) @ weights, axis=1)
    return max((rises / gaps).max(), gradients.max()), float(np.abs(values - labels).max())


def check_law(law: Law, seed: int, count: int) -> Verdict:
    """Fit networks to points that are as far apart as gradient ascent can bring them.

    The slack is relative. On a line, evenly spread points and the polygon through them reach it.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), math.inf
    for dimension, number in SHAPES:
        # All shapes in arrays of one, so that the search is compiled once.
        counts, axes = np.arange(MOST_POINTS) < number, np.arange(MOST_AXES) < dimension
        start = in_ball(rng.uniform(-1, 1, size=(count, MOST_POINTS, MOST_AXES)), axes)
        apart = search.ascend(spread, (counts, axes), start, steps=150, rate=0.02)
        sets = list(np.concatenate([start, in_ball(apart, axes)])[:, :number, :dimension])
        if dimension == 1:
            sets.append(np.linspace(-1, 1, number)[:, None])
        bound = law(number, dimension)
        for points in sets:
            if spatial.distance.pdist(points).min() < 1e-4:
                continue
            labels = labels_of(points)
            slope, misfit = steepest(fitted(rng, points, labels), points, labels)
            if misfit > 1e-6:
                continue
            worst.see(slope / bound - 1, f"{number} points in {dimension}-d, slope {slope:.4g}")
            worst.pair(bound, slope)
        if dimension == 1:
            tightness = min(tightness, bound / slope)
    return worst.verdict(seed, tolerance=1e-7, tightness=tightness, least_tightness=1 - 1e-6)


def packing(number: int, dimension: int) -> float:
    """Balls of half the smallest distance are disjoint and lie in a ball a little larger."""
    return number ** (1 / dimension) - 1


CLAIMS = (
    Claim(
        name="law-of-robustness",
        statement=(
            "Among n points of the unit ball of R^d two are within 2 / (n^(1/d) - 1); if "
            "their labels are 1 and -1, every network that fits them has a Lipschitz constant of "
            "at least n^(1/d) - 1, however many parameters it has and wherever the points lie."
        ),
        reference=(
            "Wu, Huang, Zhang, A Law of Robustness Beyond Isoperimetry, 2022, arXiv:2202.11592; "
            "the constant by packing is derived here"
        ),
        hypotheses=(
            "two-layer ReLU networks with 4 units a point and the shortest last layer; on a line "
            "the interpolating polygon",
            "points at random, and spread by gradient ascent; shapes (d, n) " + str(SHAPES),
            "the part with sqrt(n / p) for fewer parameters than points is not checked",
        ),
        check=check_law,
        formula=packing,
        trials=6,
        axes=("bound", "slope met"),
        twins={
            "twice the bound": lambda n, d: 2 * packing(n, d),
            "the root of n in every dimension": lambda n, d: math.sqrt(n),
            "points counted once too often": lambda n, d: packing(n + 1, d),
            "the dimension forgotten": lambda n, d: packing(n, 1),
        },
    ),
)
