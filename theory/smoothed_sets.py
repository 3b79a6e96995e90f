"""Sets whose probability under shifted unit noise is known exactly, and a search over them.

A classifier with two classes is a set: the points where it answers the first class. Noise of unit
scale is enough, for scaling the space scales every radius alike.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import special

Cdf = Callable[[np.ndarray], np.ndarray]

# The probabilities below carry rounding errors of less than this. A theorem speaks about a lower
# bound on the probability, so that is what its formula is given: near 1 the radius is so steep that
# the error of one rounding would look like a counterexample.
ORACLE_ERROR = 1e-13
FARTHEST = 1e6


def gaussian_cdf(x: np.ndarray) -> np.ndarray:
    """Distribution function of the standard normal, by the complementary error function."""
    return 0.5 * special.erfc(-x / np.sqrt(2.0))


def laplace_cdf(x: np.ndarray) -> np.ndarray:
    """Distribution function of the density exp(-abs(x)) / 2."""
    tail = 0.5 * np.exp(-np.abs(x))
    return np.where(x < 0.0, tail, 1.0 - tail)


def uniform_cdf(x: np.ndarray) -> np.ndarray:
    """Distribution function of the uniform distribution on [-1, 1]."""
    return np.clip(0.5 * (x + 1.0), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class SetFamily:
    """A family of sets with exact probabilities.

    Attributes:
        name: the family in words.
        dimension: of the space.
        draw: takes a generator and n to random parameters `[n, k]`.
        probability: takes parameters `[n, k]` and shifts `[n, dimension]` to the probabilities
            P(shift + noise in set) `[n]`.
    """

    name: str
    dimension: int
    draw: Callable[[np.random.Generator, int], np.ndarray]
    probability: Callable[[np.ndarray, np.ndarray], np.ndarray]


def half_lines(cdf: Cdf) -> SetFamily:
    """The sets {x < t} on the line, the extremal ones of all three noises."""
    return SetFamily(
        name="half-line",
        dimension=1,
        draw=lambda rng, n: rng.uniform(0.0, 2.0, size=(n, 1)),
        probability=lambda parameters, shifts: cdf(parameters[:, 0] - shifts[:, 0]),
    )


def interval_pairs(cdf: Cdf) -> SetFamily:
    """Unions of two intervals, and (every other one) their complements."""

    def probability(parameters: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        start, first, gap, second = parameters.T
        edges = start + np.cumsum([np.zeros_like(start), *np.abs([first, gap, second])], axis=0)
        at_edges = cdf(edges - shifts[:, 0])
        inside = at_edges[1] - at_edges[0] + at_edges[3] - at_edges[2]
        return _every_other_complement(inside)

    return SetFamily("two intervals", 1, lambda rng, n: rng.normal(size=(n, 4)), probability)


def boxes(cdf: Cdf, dimension: int) -> SetFamily:
    """Boxes with sides along the axes, and (every other one) their complements."""

    def probability(parameters: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        centre, half = parameters[:, :dimension], np.abs(parameters[:, dimension:])
        sides = cdf(centre + half - shifts) - cdf(centre - half - shifts)
        return _every_other_complement(np.prod(sides, axis=1))

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        centre, half = rng.normal(size=(2, n, dimension))
        return np.concatenate([centre, 3.0 * half], axis=1)

    return SetFamily(f"box in {dimension}-d", dimension, draw, probability)


def gaussian_half_spaces(dimension: int) -> SetFamily:
    """Half-spaces in any direction, under Gaussian noise."""

    def probability(parameters: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        normal, offset = parameters[:, :dimension], parameters[:, dimension]
        normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        return gaussian_cdf(offset - np.sum(normal * shifts, axis=1))

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.concatenate(
            [rng.normal(size=(n, dimension)), rng.uniform(0.3, 2.0, size=(n, 1))], axis=1
        )

    return SetFamily(f"half-space in {dimension}-d", dimension, draw, probability)


def gaussian_balls(dimension: int) -> SetFamily:
    """Balls around any centre and (every other one) their complements, under Gaussian noise."""

    def probability(parameters: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        away = np.sum((parameters[:, :dimension] - shifts) ** 2, axis=1)
        inside = special.chndtr(parameters[:, dimension] ** 2, dimension, away)
        return _every_other_complement(inside)

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.concatenate(
            [rng.normal(size=(n, dimension)), rng.uniform(0.5, 4.0, size=(n, 1))], axis=1
        )

    return SetFamily(f"ball in {dimension}-d", dimension, draw, probability)


def _every_other_complement(probability: np.ndarray) -> np.ndarray:
    odd = np.arange(probability.shape[0]) % 2 == 1
    return np.where(odd, 1.0 - probability, probability)


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """The strongest attack that a search found.

    Attributes:
        margin: the share of P(answer) - 1/2 that is left after the attack; negative is a
            counterexample.
        probability: P(answer) at the point itself, as the formula was told.
        scale: of the noise.
        parameters: of the set.
        direction: of the attack, of norm 1.
        evaluations: how many sets and shifts were looked at.
    """

    margin: float
    probability: float
    scale: float
    parameters: np.ndarray
    direction: np.ndarray
    evaluations: int


def search(
    rng: np.random.Generator,
    family: SetFamily,
    radius: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    order: int,
    starts: int,
    steps: int,
    least_probability: float = 0.6,
) -> WorstCase:
    """Look for a set and a shift within the claimed radius that change the smoothed answer.

    Random ascent with a step of its own for every start, over the set's parameters and the
    direction of the shift together. The margin is relative, or every search would end where the
    probability is next to 1/2, the radius tiny and every margin with it; sets with a probability
    below `least_probability` are left out, for their relative margins are rounding errors.

    Args:
        rng: the source of randomness.
        family: the sets.
        radius: takes scales and probabilities to claimed radii, elementwise.
        order: of the norm, 1 or 2.
        starts: how many searches run side by side.
        steps: how often each may move.
        least_probability: see above.

    Returns:
        The worst case found.
    """
    scale = rng.uniform(0.05, 3.0, size=starts).astype(np.float32).astype(np.float64)

    def normalise(directions: np.ndarray) -> np.ndarray:
        return directions / np.linalg.norm(directions, ord=order, axis=1, keepdims=True)

    def evaluate(parameters: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at_point = family.probability(parameters, np.zeros_like(directions))
        at_point = np.clip(at_point - ORACLE_ERROR, 0.0, 1.0)
        # An infinite claim is tested far out, where no bounded set is left.
        unit_radius = np.minimum(radius(scale, at_point) / scale, FARTHEST)
        attacked = family.probability(parameters, unit_radius[:, None] * directions)
        kept = (attacked - 0.5) / np.maximum(at_point - 0.5, least_probability - 0.5)
        return np.where(at_point >= least_probability, kept, np.inf), at_point

    parameters = family.draw(rng, starts)
    directions = normalise(rng.normal(size=(starts, family.dimension)))
    margin, at_point = evaluate(parameters, directions)
    step = np.full(starts, 0.5)
    for _ in range(steps):
        tried_parameters = parameters + step[:, None] * rng.normal(size=parameters.shape)
        tried_directions = normalise(directions + step[:, None] * rng.normal(size=directions.shape))
        tried_margin, tried_at_point = evaluate(tried_parameters, tried_directions)
        better = tried_margin < margin
        parameters = np.where(better[:, None], tried_parameters, parameters)
        directions = np.where(better[:, None], tried_directions, directions)
        margin = np.where(better, tried_margin, margin)
        at_point = np.where(better, tried_at_point, at_point)
        step = np.clip(np.where(better, 1.5 * step, 0.9 * step), 1e-6, 2.0)
    worst = int(np.argmin(margin))
    return WorstCase(
        margin=float(margin[worst]),
        probability=float(at_point[worst]),
        scale=float(scale[worst]),
        parameters=parameters[worst],
        direction=directions[worst],
        evaluations=starts * (steps + 1),
    )
