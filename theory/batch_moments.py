"""Claims about the moments of gradient estimates: every batch is enumerated, nothing is sampled."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxcert import batching
from theory import batch_problems, search
from theory.batch_problems import FAMILIES
from theory.ledger import Claim, Verdict

# Takes a sampling, a batch size and the squared norms of gradients to a second moment.
Noise = Callable[[batching.Sampling, int, batching.SquaredNorms], Any]
# Takes a sampling and a batch size to a constant.
Smoothness = Callable[[batching.Sampling, int], Any]

TOLERANCE = 1e-9
# Batches that a law has at most here, for arrays of one shape.
MOST_BATCHES = 128

REFERENCE = (
    "Gower, Loizou, Qian, Sailanbayev, Shulgin, Richtarik, SGD: General Analysis and Improved "
    "Rates, 2019, arXiv:1901.09401; Alfarra, Hanzely, Albasyoni, Ghanem, Richtarik, Adaptive "
    "Learning of the Optimal Batch Size of SGD, 2020, arXiv:2005.01097"
)


def check_noise(noise: Noise, seed: int, count: int, *, family: str) -> Verdict:
    """Hold the closed form against the sum over all batches; slack is the relative difference."""
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for problem, size, draw in batch_problems.cases(rng, family, count):
        law = batch_problems.law(problem, family, size, draw)
        # Near the optimum, and far away, where the gradient of the mean is large.
        point = problem.optimum + np.exp(rng.uniform(-4, 2)) * rng.normal(size=len(problem.optimum))
        estimates = law.weights @ problem.gradients(point) / batch_problems.NUM_EXAMPLES
        exact = float(law.probability @ (estimates**2).sum(axis=1))
        sampling = batch_problems.sampling(problem, family, draw)
        with jax.enable_x64(True):
            found = float(noise(sampling, size, batch_problems.norms_at(problem, point, family)))
        worst.see(-abs(found / exact - 1.0), f"batch size {size}, exact {exact:.6g}")
        worst.pair(found, exact)
    return worst.verdict(seed, tolerance=TOLERANCE)


def exact_smoothness(problem: batch_problems.LeastSquares, law: batch_problems.Law) -> float:
    """The least constant of expected smoothness of a least-squares problem: an eigenvalue.

    With quadratics both sides are quadratic forms in x - x*, so that the supremum of their ratio is
    a generalised eigenvalue, by LAPACK.
    """
    count = batch_problems.NUM_EXAMPLES
    estimates = np.einsum("bn,nij->bij", law.weights / count, problem.hessians)
    second = np.einsum("b,bji,bjk->ik", law.probability, estimates, estimates)
    return float(scipy.linalg.eigh(second, problem.hessian, eigvals_only=True)[-1])


def _logistic_ratio(offset: Any, constants: Any) -> jax.Array:
    """Log of the two sides' ratio, for logistic losses at `optimum + offset`."""
    rows, labels, penalty, probability, weights, optimum = constants

    def gradients(point: jax.Array) -> jax.Array:
        slope = -labels * jax.nn.sigmoid(-labels * (rows @ point))
        return slope[:, None] * rows + penalty * point

    point = optimum + offset
    change = weights @ (gradients(point) - gradients(optimum)) / rows.shape[0]
    left = probability @ jnp.sum(change**2, axis=1)
    # The integral form of f(x) - f*, without cancellation near the optimum.
    nodes, shares = np.polynomial.legendre.leggauss(8)
    steps = (nodes + 1) / 2
    slopes = jnp.stack([gradients(optimum + t * offset).mean(axis=0) @ offset for t in steps])
    return jnp.log(left) - jnp.log(2 * jnp.asarray(shares / 2) @ slopes)


def _logistic_optimum(rows: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    point = np.zeros(rows.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(labels * (rows @ point)))
        gradient = -(labels * chance) @ rows / len(rows) + penalty * point
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows / len(rows)
        point = point - np.linalg.solve(curvature + penalty * np.eye(len(point)), gradient)
    return point


def check_smoothness(
    smoothness: Smoothness, seed: int, count: int, *, family: str, steps: int = 60
) -> Verdict:
    """Compare with the exact constant of least squares, and climb its violation on logistic losses.

    The slack is relative. The bound is tight on examples of one coordinate each.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), np.inf

    def claimed(problem: batch_problems.LeastSquares, size: int, draw: np.ndarray) -> float:
        sampling = batch_problems.sampling(problem, family, draw)
        with jax.enable_x64(True):
            return float(smoothness(sampling, size))

    for problem, size, draw in batch_problems.cases(rng, family, count):
        law = batch_problems.law(problem, family, size, draw)
        exact, bound = exact_smoothness(problem, law), claimed(problem, size, draw)
        worst.see(bound / exact - 1.0, f"least squares, batch size {size}, exact {exact:.6g}")
        worst.pair(bound, exact)
    even = np.full(batch_problems.NUM_EXAMPLES, 1 / batch_problems.NUM_EXAMPLES)
    for size in batch_problems.sizes(family):
        problem = batch_problems.separate_problem(rng)
        law = batch_problems.law(problem, family, size, even)
        exact, bound = exact_smoothness(problem, law), claimed(problem, size, even)
        worst.see(bound / exact - 1.0, f"separate examples, batch size {size}")
        tightness = min(tightness, exact / bound)

    # Logistic losses with the curvature bounds of least squares with rows half as long.
    for _ in range(max(1, count // 8)):
        rows = 3 * rng.normal(size=(batch_problems.NUM_EXAMPLES, batch_problems.DIMENSION))
        labels, penalty = np.sign(rng.normal(size=batch_problems.NUM_EXAMPLES)), 0.05
        problem = batch_problems.least_squares(rows / 2, labels, penalty)
        size = batch_problems.sizes(family)[-1]
        law = batch_problems.law(problem, family, size, even)
        missing = MOST_BATCHES - law.probability.size
        constants = (
            rows, labels, np.float64(penalty), np.pad(law.probability, (0, missing)),
            np.pad(law.weights, ((0, missing), (0, 0))), _logistic_optimum(rows, labels, penalty),
        )  # fmt: skip
        starts = np.exp(rng.uniform(-6, 1, size=(32, 1))) * rng.normal(size=(32, 3))
        reached = search.ascend(_logistic_ratio, constants, starts, steps=steps, rate=0.02)
        with search.wide():
            ratios = np.exp(np.asarray(_ratios(jnp.asarray(reached), constants)))
        bound = claimed(problem, size, even)
        slack = bound / ratios.max() - 1.0
        worst.see(slack, f"logistic, batch size {size}", count=ratios.size)
    return worst.verdict(seed, tolerance=TOLERANCE, tightness=tightness, least_tightness=1 - 1e-9)


@jax.jit
def _ratios(offsets: jax.Array, constants: Any) -> jax.Array:
    return jax.vmap(_logistic_ratio, in_axes=(0, None))(offsets, constants)


def _noise(sampling: batching.Sampling, size: int, norms: batching.SquaredNorms) -> Any:
    return sampling.gradient_noise(size, norms)


def _variance(sampling: batching.Sampling, size: int, norms: batching.SquaredNorms) -> Any:
    return sampling.gradient_variance(size, norms)


def _divided(sampling: batching.Sampling, size: int, norms: batching.SquaredNorms) -> Any:
    """The noise of one example, divided by the batch size."""
    return sampling.gradient_noise(1, norms) / (size + 0.01)


def _without_parts(sampling: batching.Sampling, size: int, norms: batching.SquaredNorms) -> Any:
    return sampling.gradient_noise(
        size, norms._replace(parts=0 * norms.parts, total=0 * norms.total)
    )


def _smoothness(sampling: batching.Sampling, size: int) -> Any:
    return sampling.expected_smoothness(size)


CLAIMS = (
    *(
        Claim(
            name=f"gradient-noise-{family}",
            statement=(
                "The closed form of E |grad f_v(x)|^2 is the second moment of the gradient "
                "estimate at every point, for every batch size."
            ),
            reference=REFERENCE,
            hypotheses=(
                f"sampling: {family}; {batch_problems.NUM_EXAMPLES} examples of least squares in "
                f"{batch_problems.DIMENSION} dimensions; partitions have two parts",
            ),
            check=functools.partial(check_noise, family=family),
            formula=_noise,
            trials=12,
            axes=("closed form", "sum over all batches"),
            twins={
                "the variance in its place": _variance,
                "that of one example over the batch size": _divided,
                "without the gradients of the parts": _without_parts,
            },
        )
        for family in FAMILIES
    ),
    *(
        Claim(
            name=f"expected-smoothness-{family}",
            statement=(
                "E |grad f_v(x) - grad f_v(x*)|^2 <= 2 L (f(x) - f*) for all x, with the closed "
                "form of L; no smaller constant would do for all problems."
            ),
            reference=REFERENCE,
            hypotheses=(
                f"sampling: {family}; {batch_problems.NUM_EXAMPLES} examples in "
                f"{batch_problems.DIMENSION} dimensions",
                "least squares, where the least constant is an eigenvalue, and logistic losses, "
                "where gradient ascent looks for a violation",
                "tight where every example has a coordinate of its own",
            ),
            check=functools.partial(check_smoothness, family=family),
            formula=_smoothness,
            trials=16,
            axes=("closed form", "least constant"),
            twins={
                "1 percent too small": lambda sampling, size: 0.99 * _smoothness(sampling, size),
                "loose by 1e-6": lambda sampling, size: 1.000001 * _smoothness(sampling, size),
                "the smoothness of the mean": lambda sampling, size: sampling.part_smoothness.max(),
                "that of one example over the batch size": lambda sampling, size: (
                    sampling.expected_smoothness(1) / (size + 0.01)
                ),
            },
        )
        for family in FAMILIES
    ),
)
