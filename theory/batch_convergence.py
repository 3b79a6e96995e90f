"""Claims about SGD with a fixed step: on least squares all second moments can be computed."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcert import batching
from theory import batch_problems, search
from theory.batch_moments import REFERENCE
from theory.batch_problems import FAMILIES, Law, LeastSquares
from theory.ledger import Claim, Verdict

# Takes the squared distance, the step, mu, calL and the noise at the optimum to a bound.
OneStep = Callable[[float, float, float, float, float], float]
# The same and the number of steps.
Trajectory = Callable[[float, float, float, float, float, int], float]
# Takes a sampling, squared norms at the optimum, mu and the accuracy to a batch size.
BatchSize = Callable[[batching.Sampling, batching.SquaredNorms, float, float], Any]

TOLERANCE = 1e-9
NUM_STEPS = 300


def settings(
    rng: np.random.Generator, count: int
) -> Iterator[tuple[LeastSquares, str, int, Law, float, float]]:
    """Problems, samplings, batch sizes, laws, expected smoothness and noise at the optimum.

    Both constants come from the enumeration of all batches, not from jaxcert.
    """
    even = np.full(batch_problems.NUM_EXAMPLES, 1 / batch_problems.NUM_EXAMPLES)
    for number in range(count):
        problem = batch_problems.random_problem(rng, interpolates=number % 4 == 3)
        for family in FAMILIES:
            for size in (1, batch_problems.sizes(family)[-1]):
                law = batch_problems.law(problem, family, size, even)
                estimates = law.weights @ problem.gradients(problem.optimum)
                estimates = estimates / batch_problems.NUM_EXAMPLES
                noise = float(law.probability @ (estimates**2).sum(axis=1))
                yield problem, family, size, law, _smoothness(problem, law), noise


def _smoothness(problem: LeastSquares, law: Law) -> float:
    """The least constant of expected smoothness."""
    estimates = _hessians(problem, law)
    second = np.einsum("b,bji,bjk->ik", law.probability, estimates, estimates)
    root = np.linalg.inv(np.linalg.cholesky(problem.hessian))
    return float(np.linalg.eigvalsh(root @ second @ root.T)[-1])


def _hessians(problem: LeastSquares, law: Law) -> np.ndarray:
    return np.einsum("bn,nij->bij", law.weights / batch_problems.NUM_EXAMPLES, problem.hessians)


def check_one_step(one_step: OneStep, seed: int, count: int) -> Verdict:
    """Maximise the expected squared distance after a step less its bound, over all points.

    Both are quadratic in x - x*, so the largest excess is a closed form, infinite where the
    difference is not concave. The slack is relative to the noise term, or to 1 without noise.
    """
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for problem, family, size, law, smoothness, noise in settings(rng, count):
        hessians = _hessians(problem, law)
        at_optimum = law.weights @ problem.gradients(problem.optimum) / batch_problems.NUM_EXAMPLES
        second = np.einsum("b,bji,bjk->ik", law.probability, hessians, hessians)
        cross = np.einsum("b,bji,bj->i", law.probability, hessians, at_optimum)
        for share in (0.2, 1.0):
            step = share / (2 * smoothness)
            values = (step, problem.strong_convexity, smoothness, noise)
            constant = one_step(0.0, *values)
            factor = one_step(1.0, *values) - constant
            form = (1 - factor) * np.eye(len(cross)) - 2 * step * problem.hessian + step**2 * second
            curvature, axes = np.linalg.eigh(form)
            height = step**2 * noise - constant
            pull = axes.T @ (2 * step**2 * cross)
            is_noisy = noise > 1e-20
            scale = max(constant, step**2 * noise) if is_noisy else 1.0
            # Rounding may lift an exact zero; a pull along it would run to infinity.
            lifts = curvature > 1e-11
            free = (np.abs(curvature) <= 1e-11) & (np.abs(pull) > 1e-9 * np.sqrt(scale))
            if lifts.any() or free.any():
                excess = np.inf
            else:
                steep = curvature < -1e-11
                excess = height - (pull[steep] ** 2 / (4 * curvature[steep])).sum()
            # Without noise nothing is left at the optimum itself: only an excess counts.
            worst.see(
                -excess / scale if is_noisy or excess > 1e-12 else 1.0,
                f"{family}, batch size {size}, step {share:g} / (2 L), noise {noise:.3g}",
            )
            if is_noisy and np.isfinite(excess):
                worst.pair(constant / step**2, (excess + constant) / step**2)
    return worst.verdict(seed, tolerance=1e-7)


def moments(
    problem: LeastSquares, law: Law, step: float, start: np.ndarray, length: int
) -> np.ndarray:
    """E |x_k - x*|^2 for k up to `length`, exactly: the recursion of mean and second moment."""
    at_optimum = law.weights @ problem.gradients(problem.optimum) / batch_problems.NUM_EXAMPLES
    contractions = np.eye(len(start)) - step * _hessians(problem, law)
    average = np.einsum("b,bij->ij", law.probability, contractions)
    squared = np.einsum("b,bij,blk->iljk", law.probability, contractions, contractions)
    mixed = np.einsum("b,bij,bk->ikj", law.probability, contractions, at_optimum)
    noise = np.einsum("b,bi,bj->ij", law.probability, at_optimum, at_optimum)
    drift = law.probability @ at_optimum
    mean, second = start, np.outer(start, start)
    found = [float(start @ start)]
    for _ in range(length):
        cross = mixed @ mean
        second = np.tensordot(squared, second, 2) - step * (cross + cross.T) + step**2 * noise
        mean = average @ mean - step * drift
        found.append(float(np.trace(second)))
    return np.array(found)


def check_convergence(trajectory: Trajectory, seed: int, count: int) -> Verdict:
    """Compare the bound with the exact expectation along the way; slack is relative to it."""
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for problem, family, size, law, smoothness, noise in settings(rng, count):
        step = 0.5 / smoothness
        axes = np.linalg.eigh(problem.hessian)[1]
        # Along the flattest direction, where progress is slowest, and anywhere.
        for start in (axes[:, 0], rng.normal(size=len(axes))):
            exact = moments(problem, law, step, start, NUM_STEPS)
            values = (step, problem.strong_convexity, smoothness, noise)
            places = np.unique(np.geomspace(1, NUM_STEPS, 12).astype(int))
            bounds = np.array([trajectory(exact[0], *values, int(k)) for k in places])
            slacks = bounds / exact[places] - 1.0
            at = int(slacks.argmin())
            worst.see(
                slacks[at], f"{family}, batch size {size}, step {places[at]}", count=len(places)
            )
            worst.pair(bounds[-1], exact[places[-1]])
    return worst.verdict(seed, tolerance=TOLERANCE)


def check_batch_size(batch_size: BatchSize, seed: int, count: int) -> Verdict:
    """Look for a batch size with less total work than the closed form's; slack is relative.

    The work is the larger of the two terms of the theorem, from formulas written down again here.
    """
    rng = np.random.default_rng(seed)
    worst, interior = search.Worst(), 0
    n = batch_problems.NUM_EXAMPLES
    even = np.full(n, 1 / n)
    for number in range(count):
        problem = batch_problems.random_problem(rng)
        mu, largest = problem.strong_convexity, (problem.rows**2).sum(axis=1).max()
        largest += problem.penalty
        whole = problem.smoothness(np.arange(n))
        squares = float((problem.gradients(problem.optimum) ** 2).sum(axis=1).mean())
        # Noise and smoothness of one size, so that the answer is seldom at an end.
        accuracy = 2 * squares / mu / (largest * np.exp(rng.uniform(0.0, 2.5)))
        for family in ("nice", "independent", "with-replacement"):
            sampling = batch_problems.sampling(problem, family, even)
            norms = batch_problems.norms_at(problem, problem.optimum, family)
            with jax.enable_x64(True):
                found = float(batch_size(sampling, norms, mu, accuracy))

            grid = np.linspace(1, n, 4001)
            values = (whole, largest, 2 / (accuracy * mu) * squares)
            works = _work(family, grid, *values)
            least, spent = works.min(), float(_work(family, np.array([found]), *values)[0])
            is_inside = 1 <= found <= n
            best = grid[int(works.argmin())]
            interior += 1 < best < n
            worst.see(
                least / spent - 1.0 if is_inside else -np.inf,
                f"{family}, found {found:.4f}, problem {number}",
            )
            worst.pair(found, best)
    # Where the best size is always at an end, nothing has been tried.
    verdict = worst.verdict(seed, tolerance=1e-9)
    return verdict if interior else dataclasses.replace(verdict, holds=False)


def _work(family: str, tau: np.ndarray, whole: float, largest: float, noise: float) -> np.ndarray:
    """What the theorem bounds the total work by, up to a factor that no size changes.

    Args:
        family: of three samplings.
        tau: batch sizes.
        whole: smoothness of the mean.
        largest: largest smoothness of an example.
        noise: 2 / (eps mu) times the mean squared gradient at the optimum.
    """
    n = batch_problems.NUM_EXAMPLES
    if family == "nice":
        smooth = (n * (tau - 1) * whole + (n - tau) * largest) / (n - 1)
        return np.maximum(smooth, noise * (n - tau) / (n - 1))
    if family == "independent":
        return np.maximum(tau * whole + (n - tau) * largest / n, noise * (n - tau) / n)
    return np.maximum((tau - 1) * whole + largest, noise)


def _one_step(r: float, step: float, mu: float, smoothness: float, noise: float) -> float:
    with jax.enable_x64(True):
        return float(
            batching.one_step_at_optimum_upper(
                r, step_size=step, strong_convexity=mu, expected_smoothness=smoothness, noise=noise
            )
        )


def _trajectory(r: float, step: float, mu: float, smooth: float, noise: float, k: int) -> float:
    """What jaxcert's step makes of the distance in k steps: it is affine in the distance."""
    constant = _one_step(0.0, step, mu, smooth, noise)
    factor = _one_step(1.0, step, mu, smooth, noise) - constant
    powers = factor ** np.arange(k)
    return float(factor**k * r + constant * powers.sum())


def _best_size(
    sampling: batching.Sampling, norms: batching.SquaredNorms, mu: float, accuracy: float
) -> Any:
    return sampling.optimal_batch_size(norms, strong_convexity=mu, accuracy=accuracy)


CLAIMS = (
    Claim(
        name="sgd-one-step",
        statement=(
            "E |x+ - x*|^2 <= (1 - gamma mu) |x - x*|^2 + 2 gamma^2 sigma(x*) for every point and "
            "every step gamma <= 1 / (2 calL) that is fixed before the batch is drawn."
        ),
        reference=REFERENCE,
        hypotheses=("least squares, all six samplings, so that the worst point is a closed form",),
        check=check_one_step,
        formula=_one_step,
        trials=12,
        axes=("noise term of the bound", "largest excess over the contraction"),
        twins={
            "noise counted once": lambda r, g, mu, c, s: (1 - g * mu) * r + g**2 * s,
            "twice the contraction": lambda r, g, mu, c, s: (1 - 2.2 * g * mu) * r + 2 * g**2 * s,
            "the smoothness for mu": lambda r, g, mu, c, s: (1 - g * c) * r + 2 * g**2 * s,
        },
    ),
    Claim(
        name="sgd-convergence",
        statement=(
            "With a constant step gamma <= 1 / (2 calL), E |x_k - x*|^2 <= (1 - gamma mu)^k "
            "|x_0 - x*|^2 + 2 gamma sigma(x*) / mu."
        ),
        reference=REFERENCE,
        hypotheses=(
            "least squares, all six samplings, gamma = 1 / (2 calL), where the expectation obeys a "
            f"linear recursion; up to {NUM_STEPS} steps",
        ),
        check=check_convergence,
        formula=_trajectory,
        trials=8,
        twins={
            "twice as fast": lambda r, g, mu, c, s, k: (
                (1 - g * mu) ** (2.2 * k) * r + 2 * g * s / mu
            ),
            "without the noise": lambda r, g, mu, c, s, k: (1 - g * mu) ** k * r,
            "the smoothness for mu": lambda r, g, mu, c, s, k: (
                (1 - g * c) ** k * r + 2 * g * s / mu
            ),
        },
    ),
    Claim(
        name="optimal-batch-size",
        statement=(
            "The closed form minimises max {tau calL(tau), 2 tau sigma(x*, tau) / (eps mu)} over "
            "all batch sizes in [1, n]."
        ),
        reference=REFERENCE,
        hypotheses=("samplings nice, independent and with replacement; 5 examples, 4001 sizes",),
        check=check_batch_size,
        formula=_best_size,
        trials=24,
        axes=("closed form", "best of 4001 sizes"),
        twins={
            "the accuracy halved": lambda sampling, norms, mu, accuracy: _best_size(
                sampling, norms, mu, accuracy / 2
            ),
            "a tenth of an example more": lambda sampling, norms, mu, accuracy: (
                _best_size(sampling, norms, mu, accuracy) + 0.1
            ),
            "one example at a time": lambda sampling, norms, mu, accuracy: 1.0,
        },
    ),
)
