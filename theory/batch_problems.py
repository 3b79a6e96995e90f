"""Small least-squares problems and every batch that a sampling can draw of them, in NumPy."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxcert import batching

NUM_EXAMPLES = 5
DIMENSION = 3
# Two parts, so that batches of up to two examples come from one of them.
PARTS = np.array([0, 0, 0, 1, 1])
FAMILIES = (
    "nice", "independent", "independent-importance", "with-replacement", "partition-nice",
    "partition-independent",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """The mean of (a_i x - b_i)^2 / 2 + penalty / 2 |x|^2, and its optimum.

    Attributes:
        rows: a, `[n, d]`.
        targets: b, `[n]`.
        penalty: of the squared length.
        hessians: `[n, d, d]`, of the examples.
        hessian: `[d, d]`, of the mean.
        optimum: `[d]`.
    """

    rows: np.ndarray
    targets: np.ndarray
    penalty: float
    hessians: np.ndarray
    hessian: np.ndarray
    optimum: np.ndarray

    @property
    def strong_convexity(self) -> float:
        return float(np.linalg.eigvalsh(self.hessian)[0])

    def gradients(self, point: np.ndarray) -> np.ndarray:
        """Of every example, `[n, d]`."""
        residuals = self.rows @ point - self.targets
        return residuals[:, None] * self.rows + self.penalty * point

    def smoothness(self, members: np.ndarray) -> float:
        """Of the mean over some examples."""
        return float(np.linalg.eigvalsh(self.hessians[members].mean(axis=0))[-1])


def least_squares(rows: np.ndarray, targets: np.ndarray, penalty: float) -> LeastSquares:
    hessians = rows[:, :, None] * rows[:, None, :] + penalty * np.eye(rows.shape[1])
    hessian = hessians.mean(axis=0)
    optimum = np.linalg.solve(hessian, (targets[:, None] * rows).mean(axis=0))
    return LeastSquares(rows, targets, penalty, hessians, hessian, optimum)


def random_problem(rng: np.random.Generator, *, interpolates: bool = False) -> LeastSquares:
    """Rows of uneven lengths; exactly solvable targets without a penalty where asked."""
    rows = rng.normal(size=(NUM_EXAMPLES, DIMENSION)) * np.exp(rng.normal(size=(NUM_EXAMPLES, 1)))
    if interpolates:
        return least_squares(rows, rows @ rng.normal(size=DIMENSION), 0.0)
    return least_squares(rows, rng.normal(size=NUM_EXAMPLES), float(np.exp(rng.uniform(-4, 0))))


def separate_problem(rng: np.random.Generator) -> LeastSquares:
    """Examples of one coordinate each, without a penalty: what the closed forms are tight for."""
    lengths = np.exp(0.5 * rng.normal(size=NUM_EXAMPLES))
    # Equal lengths within each part, and over all: the largest term is then the one attained.
    lengths[:] = lengths.max()
    return least_squares(np.diag(lengths), rng.normal(size=NUM_EXAMPLES), 0.0)


@dataclasses.dataclass(frozen=True)
class Law:
    """All batches of a sampling: `probability` `[b]` and the weights v of the examples `[b, n]`."""

    probability: np.ndarray
    weights: np.ndarray


def smoothness_probabilities(smoothness: np.ndarray, size: float) -> np.ndarray:
    """L_i / (L_i + delta), adding up to the size: delta by bisection."""
    low, high = 0.0, smoothness.sum() / size
    for _ in range(200):
        middle = (low + high) / 2
        if (smoothness / (smoothness + middle)).sum() > size:
            low = middle
        else:
            high = middle
    return smoothness / (smoothness + high)


def law(problem: LeastSquares, family: str, size: int, draw: np.ndarray) -> Law:
    """Enumerate the batches; `draw` are the probabilities of single draws with replacement."""
    count = NUM_EXAMPLES
    if family == "nice":
        return _subsets(np.arange(count), size, 1.0)
    if family == "with-replacement":
        sequences = np.array(list(itertools.product(range(count), repeat=size)))
        chosen = (sequences[:, :, None] == np.arange(count)).sum(axis=1)
        return Law(draw[sequences].prod(axis=1), chosen / (size * draw))
    if family == "independent":
        return _coins(np.arange(count), np.full(count, size / count), 1.0)
    if family == "independent-importance":
        lengths = np.linalg.norm(problem.hessians, 2, axis=(1, 2))
        return _coins(np.arange(count), smoothness_probabilities(lengths, size), 1.0)
    laws = []
    for part in np.unique(PARTS):
        members = np.flatnonzero(part == PARTS)
        share = members.size / count
        if family == "partition-nice":
            laws.append(_subsets(members, size, share))
        else:
            laws.append(_coins(members, np.full(members.size, size / members.size), share))
    return Law(
        np.concatenate([one.probability for one in laws]),
        np.concatenate([one.weights for one in laws]),
    )


def _subsets(members: np.ndarray, size: int, share: float) -> Law:
    """All subsets of one part of one size; the part is met with probability `share`."""
    sets = np.array(list(itertools.combinations(members, size)))
    weights = (sets[:, :, None] == np.arange(NUM_EXAMPLES)).any(axis=1)
    return Law(np.full(len(sets), share / len(sets)), weights * (members.size / (share * size)))


def _coins(members: np.ndarray, chances: np.ndarray, share: float) -> Law:
    heads = np.array(list(itertools.product((0, 1), repeat=members.size)))
    probability = np.where(heads == 1, chances, 1 - chances).prod(axis=1) * share
    weights = np.zeros((len(heads), NUM_EXAMPLES))
    weights[:, members] = heads / (share * chances)
    return Law(probability, weights)


def sampling(problem: LeastSquares, family: str, draw: np.ndarray) -> batching.Sampling:
    """The sampling of jaxcert for the problem, in float64."""
    everyone = np.arange(NUM_EXAMPLES)
    examples = np.array([problem.smoothness(np.array([i])) for i in everyone])
    whole = problem.smoothness(everyone)
    parts = np.array([problem.smoothness(np.flatnonzero(j == PARTS)) for j in np.unique(PARTS)])
    with jax.enable_x64(True):
        if family == "nice":
            return batching.nice(examples, smoothness=whole)
        if family == "with-replacement":
            return batching.with_replacement(examples, smoothness=whole, probabilities=draw)
        if family == "independent":
            return batching.independent(examples, smoothness=whole)
        if family == "independent-importance":
            return batching.independent(examples, smoothness=whole, importance="smoothness")
        make: Any = (
            batching.partition_nice
            if family == "partition-nice"
            else batching.partition_independent
        )
        return make(examples, part_smoothness=parts, part_of_example=PARTS)


def norms_at(problem: LeastSquares, point: np.ndarray, family: str) -> batching.SquaredNorms:
    """Squared gradient norms, by NumPy, in the form that jaxcert takes."""
    gradients = problem.gradients(point)
    groups = PARTS if family.startswith("partition") else np.zeros(NUM_EXAMPLES, int)
    means = np.array([gradients[groups == j].mean(axis=0) for j in np.unique(groups)])
    with jax.enable_x64(True):
        return batching.SquaredNorms(
            jax.numpy.asarray((gradients**2).sum(axis=1)),
            jax.numpy.asarray((means**2).sum(axis=1)),
            jax.numpy.asarray((gradients.mean(axis=0) ** 2).sum()),
        )


def sizes(family: str) -> range:
    """Batch sizes that every part can give."""
    return range(1, 1 + (2 if family.startswith("partition") else 3))


def cases(
    rng: np.random.Generator, family: str, count: int
) -> Iterator[tuple[LeastSquares, int, np.ndarray]]:
    """Random problems, with all batch sizes, and probabilities of single draws."""
    for _ in range(count):
        problem = random_problem(rng)
        draw = rng.dirichlet(np.full(NUM_EXAMPLES, 4.0))
        for size in sizes(family):
            yield problem, size, draw
