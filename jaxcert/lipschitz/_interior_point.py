"""The best multipliers of LipSDP by Newton's method, for networks of up to a few thousand neurons.

With T = rho Lambda, the inequality of `_chain` is linear in the unknowns y = (rho, T):

    S(y) = rho E_0 E_0' + sum_k t_k (p_k q_k' + q_k p_k') / 2 - E_h W_N' W_N E_h'

is to be positive semidefinite and rho as small as can be, where p_k = e_k - alpha v_k and
q_k = e_k - beta v_k for the unit vector e_k of neuron k and its row of weights v_k, which stands in
the columns of the layer before. The central path is the minimiser of

    rho / mu - log det S(y)

over y. On it rho is above its least value by mu times the size of S. The derivatives of the second
term are explicit: with G = S^-1 and the vectors as the rows of P and Q,

    gradient   - diag(P G Q')            Hessian   (P G P' * Q G Q' + P G Q' * Q G P') / 2

where * multiplies entry by entry. So a step of Newton's method costs a few factorisations of
matrices with as many rows as the network has neurons.

References: Nesterov, Nemirovskii, "Interior-Point Polynomial Algorithms in Convex Programming",
1994. Benson, Ye, Zhang, "Solving Large-Scale Sparse Semidefinite Programs for Combinatorial
Optimization", 2000.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._multipliers import next_factor, solve_right
from jaxcert.lipschitz._threads import one_blas_thread

# The path ends where rho is this close to its least value, as a part of itself.
TOLERANCE = 1e-8
# Where rounding ends the path before, it is of use if it came this close.
_ENOUGH = 1e-3
_MOST_STEPS = 200
# A step of Newton's method is whole if its norm, in the metric of the barrier, is below 1.
_NEAR = 0.95
# Parts of mu that a step along the path tries to take away, and the part of it that is taken: the
# boundary must stay away.
_SHORTENINGS = (0.999, 0.99, 0.97, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0)
_PART = 0.9
# How many of them more than last time are tried.
_BOLDER = 2
# A damped step must lower the barrier by this part of what its derivative promises.
_DECREASE = 0.1
_ROUNDING = 1e-9
_SHORTEST = 1e-6
# The path is entered where it is at most this far from its end, in terms of 1 / mu.
_FIRST = 3.0
# The square of the bound is started with so much room.
_ROOM = 1.2


class Derivatives(NamedTuple):
    """Gradient `[n + 1]` and Hessian `[n + 1, n + 1]` of a barrier."""

    gradient: np.ndarray
    hessian: np.ndarray


class Iterate(NamedTuple):
    """y `[n + 1]` and the block Cholesky factorisation of S(y).

    Attributes:
      point: y.
      factors: lower triangles C_i (with anything above) of the blocks X_i that are left when those
        before are eliminated.
      couplings: C_i^-1 B' for the block B of S(y) below the diagonal.
    """

    point: np.ndarray
    factors: list[np.ndarray]
    couplings: list[np.ndarray]


class Inequality:
    """S(y) for y = (rho, T), and the derivatives of its barrier.

    Args:
      weights: `W_1, ..., W_N`, two or more.
      slopes: of the activation.
      by_layer: whether all neurons of a layer have the same unknown.
    """

    def __init__(self, weights: Sequence[np.ndarray], slopes: SlopeRange, *, by_layer: bool):
        first = weights[0]
        if first.shape[1] > first.shape[0]:
            # The rest of the inputs has no part in any difference.
            first = np.linalg.qr(first.T)[1].T
        self._hidden = [first, *weights[1:-1]]
        self._last = weights[-1].T @ weights[-1]
        self._slopes = slopes
        self._inputs = first.shape[1]
        widths = [len(weight) for weight in self._hidden]
        self.starts = np.cumsum([0, self._inputs, *widths])
        self.size = int(self.starts[-1])
        blocks = [slice(int(a), int(b)) for a, b in itertools.pairwise(self.starts)]
        # Columns of the layer before, and of the layer.
        self._pairs = list(itertools.pairwise(blocks))
        # Neurons that share each unknown.
        self._shared = np.asarray(widths if by_layer else [1] * sum(widths))
        # Where both slopes have one sign, S does not keep the multipliers from being negative.
        self._keeps_signs = slopes.low * slopes.high <= 0.0
        self.parameter = self.size + (0 if self._keeps_signs else len(self._shared))

    def multipliers(self, point: np.ndarray) -> list[np.ndarray]:
        """Lambda = T / rho of each hidden layer."""
        neurons = np.repeat(point[1:] / point[0], self._shared)
        return np.split(neurons, self.starts[2:-1] - self._inputs)

    def point(self, square: float, multipliers: Sequence[np.ndarray]) -> np.ndarray:
        """(rho, T) for rho and Lambda."""
        neurons = np.concatenate(multipliers)
        firsts = np.cumsum([0, *self._shared[:-1]])
        return np.concatenate([[square], square * neurons[firsts]])

    def iterate(self, point: np.ndarray) -> Iterate | None:
        """Eliminate block by block; None where S(y) or what must be positive is not."""
        if not np.all(point > 0.0):
            return None
        neurons = np.repeat(point[1:], self._shared)
        product = self._slopes.low * self._slopes.high
        block = np.diag(np.full(self._inputs, point[0]))
        factors, couplings = [], []
        for (_, here), weight in zip(self._pairs, self._hidden, strict=True):
            multiplier = neurons[here.start - self._inputs : here.stop - self._inputs]
            scaled = multiplier[:, None] * weight
            if product != 0.0:
                block += product * (weight.T @ scaled)
            factor = _cholesky(block)
            if factor is None:
                return None
            coupling = _solve(factor, -self._slopes.middle * scaled.T)
            block = np.diag(multiplier) - coupling.T @ coupling
            factors.append(factor)
            couplings.append(coupling)
        factor = _cholesky(block - self._last)
        return None if factor is None else Iterate(point, [*factors, factor], couplings)

    def barrier(self, iterate: Iterate) -> float:
        """- log det S(y), and minus the logarithms of multipliers that it does not keep above 0."""
        diagonals = np.concatenate([np.diag(factor) for factor in iterate.factors])
        value = -2.0 * float(np.sum(np.log(diagonals)))
        return value if self._keeps_signs else value - float(np.sum(np.log(iterate.point[1:])))

    def inverse(self, iterate: Iterate) -> np.ndarray:
        """G = S(y)^-1 `[size, size]`, from the last block to the first."""
        result = np.empty((self.size, self.size))
        here = slice(self.starts[-2], self.size)
        result[here, here] = _inverse(iterate.factors[-1])
        pairs = zip(self._pairs, iterate.factors, iterate.couplings, strict=False)
        for (before, here), factor, coupling in reversed(list(pairs)):
            solved = _solve(factor, coupling, transposed=True)
            rows = solved @ result[here, here.start :]
            result[before, here.start :] = -rows
            result[here.start :, before] = -rows.T
            result[before, before] = _inverse(factor) + rows[:, : solved.shape[1]] @ solved.T
        return result

    def derivatives(self, iterate: Iterate) -> Derivatives:
        """Those of `barrier`."""
        low, high = self._slopes.low, self._slopes.high
        inverse = self.inverse(iterate)
        first = slice(0, self._inputs)
        p_rows, q_rows = self._difference(low, inverse), self._difference(high, inverse)
        pp = self._difference(low, p_rows.T)
        pq = self._difference(low, q_rows.T)
        qq = self._difference(high, q_rows.T)
        neurons = pp * qq
        neurons += pq * pq.T
        neurons *= 0.5
        mixed = np.sum(p_rows[:, first] * q_rows[:, first], axis=1)
        gradient = -np.diag(pq)
        if len(self._shared) < len(neurons):
            firsts = np.cumsum([0, *self._shared[:-1]])
            neurons = np.add.reduceat(np.add.reduceat(neurons, firsts, axis=0), firsts, axis=1)
            mixed, gradient = np.add.reduceat(mixed, firsts), np.add.reduceat(gradient, firsts)
        if not self._keeps_signs:
            gradient = gradient - 1.0 / iterate.point[1:]
            neurons.flat[:: len(neurons) + 1] += 1.0 / np.square(iterate.point[1:])
        hessian = np.empty((len(neurons) + 1, len(neurons) + 1))
        hessian[1:, 1:] = neurons
        hessian[0, 1:] = hessian[1:, 0] = mixed
        hessian[0, 0] = np.sum(np.square(inverse[first, first]))
        return Derivatives(np.concatenate([[-np.trace(inverse[first, first])], gradient]), hessian)

    def _difference(self, slope: float, columns: np.ndarray) -> np.ndarray:
        """Rows e_k - slope v_k times columns `[size, m]`."""
        if slope == 0.0:
            return columns[self._inputs :]
        result = np.array(columns[self._inputs :], order="C")
        for (before, here), weight in zip(self._pairs, self._hidden, strict=True):
            rows = slice(here.start - self._inputs, here.stop - self._inputs)
            result[rows] -= (slope * weight) @ columns[before]
        return result


def best_multipliers(
    weights: Sequence[np.ndarray],
    slopes: SlopeRange,
    *,
    by_layer: bool,
    tolerance: float = TOLERANCE,
) -> list[np.ndarray] | None:
    """Multipliers `[d_i]` of each hidden layer at the optimum; None where rounding hides the path.

    Nothing is proved of them: what they bound is for a factorisation to say.

    Args:
      weights: float64 `W_1, ..., W_N`, two or more, of norms near 1 and without idle neurons.
      slopes: of the activation, with more than one slope.
      by_layer: whether all neurons of a layer have the same multiplier.
      tolerance: how close rho comes to its least value, as a part of itself.
    """
    found = solve(weights, slopes, by_layer=by_layer, tolerance=tolerance)
    return None if found is None else found[1]


def solve(
    weights: Sequence[np.ndarray], slopes: SlopeRange, *, by_layer: bool, tolerance: float
) -> tuple[float, list[np.ndarray]] | None:
    """The rho and the multipliers of `best_multipliers`, which satisfy the inequality strictly."""
    inequality = Inequality(weights, slopes, by_layer=by_layer)
    # Most factorisations are of single layers, on which threads cost more than they gain. What
    # overflows is not positive definite.
    with one_blas_thread(), np.errstate(all="ignore"):
        try:
            multipliers, bound = start(weights, slopes, by_layer)
        except np.linalg.LinAlgError:
            return None
        iterate = inequality.iterate(inequality.point(_ROOM * bound * bound, multipliers))
        point = None if iterate is None else _follow_path(inequality, iterate, tolerance)
    return None if point is None else (float(point[0]), inequality.multipliers(point))


def start(
    weights: Sequence[np.ndarray], slopes: SlopeRange, by_layer: bool
) -> tuple[list[np.ndarray], float]:
    """Multipliers well inside the inequality, and what they bound.

    Halfway to the largest allowed, as in ECLipsE-Fast, but those of neurons in inverse proportion
    to the squares of their rows, so that no two are on different scales.
    """
    factor, found = weights[0], []
    for weight in weights[1:]:
        squares = np.maximum(np.sum(np.square(factor), axis=1), np.finfo(np.float64).tiny)
        scale = np.zeros(len(squares)) if by_layer else -np.log(squares)
        multiplier, triangle = next_factor(factor, scale, 0.5, slopes, _square_of_norm)
        factor = solve_right(weight, triangle)
        found.append(multiplier)
    return found, float(np.linalg.norm(factor, 2))


def _square_of_norm(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix, 2)) ** 2


def _follow_path(inequality: Inequality, iterate: Iterate, tolerance: float) -> np.ndarray | None:
    """The point y at the end of the central path, from any iterate."""
    mu, shortening, length = 0.0, 0, 1.0
    found: Iterate | None
    for _ in range(_MOST_STEPS):
        derivatives = inequality.derivatives(iterate)
        directions = _directions(derivatives)
        if directions is None:
            break
        along, towards = directions
        if mu == 0.0:
            # The point of the path that is nearest, but not where y only grows in proportion.
            inverse = max(-towards[0] / along[0], _FIRST * inequality.parameter / iterate.point[0])
            mu = 1.0 / inverse
        centring = towards + along / mu
        slope = centring[0] / mu + float(derivatives.gradient @ centring)
        if slope <= -(_NEAR**2):
            found, length = _damped(inequality, iterate, centring, slope, mu, length)
        elif mu * inequality.parameter < tolerance * iterate.point[0]:
            break
        else:
            found, shortening = _along_path(
                inequality, iterate, centring, along / mu, max(shortening - _BOLDER, 0)
            )
            mu *= 1.0 - _PART * _SHORTENINGS[shortening]
        if found is None:
            break
        iterate = found
    is_near = 0.0 < mu * inequality.parameter < max(tolerance, _ENOUGH) * iterate.point[0]
    return iterate.point if is_near else None


def _directions(derivatives: Derivatives) -> tuple[np.ndarray, np.ndarray] | None:
    """Minus the inverse Hessian times the gradient of rho, and times that of the barrier."""
    gradient, hessian = derivatives
    scale = 1.0 / np.sqrt(np.diag(hessian))
    hessian *= scale[:, None]
    hessian *= scale
    factor = _cholesky(hessian)
    if factor is None:
        return None
    right = np.zeros((len(gradient), 2), order="F")
    right[0, 0] = -scale[0]
    right[:, 1] = -scale * gradient
    solved = scipy.linalg.lapack.dpotrs(factor, right, lower=1)[0]
    return scale * solved[:, 0], scale * solved[:, 1]


def _along_path(
    inequality: Inequality,
    iterate: Iterate,
    centring: np.ndarray,
    tangent: np.ndarray,
    first: int,
) -> tuple[Iterate | None, int]:
    """A step back to the path and along it, and the number of its shortening.

    The path is nearly straight as a function of mu, so the tangent times a part of mu is the step
    for that part.
    """
    for number in range(first, len(_SHORTENINGS)):
        part = _SHORTENINGS[number]
        if inequality.iterate(iterate.point + centring + part * tangent) is not None:
            inside = iterate.point + centring + _PART * part * tangent
            return inequality.iterate(inside), number
    return None, len(_SHORTENINGS) - 1


def _damped(
    inequality: Inequality,
    iterate: Iterate,
    direction: np.ndarray,
    slope: float,
    mu: float,
    length: float,
) -> tuple[Iterate | None, float]:
    """A step towards the path that lowers rho / mu plus the barrier, and its length."""
    value = iterate.point[0] / mu + inequality.barrier(iterate)
    length = min(1.0, 2.0 * length)
    while length > _SHORTEST:
        found = inequality.iterate(iterate.point + length * direction)
        if found is not None:
            change = found.point[0] / mu + inequality.barrier(found) - value
            if change <= _DECREASE * length * slope + _ROUNDING * abs(value):
                return found, length
        length *= 0.5
    return None, length


def _cholesky(matrix: np.ndarray) -> np.ndarray | None:
    """The lower factor of a symmetric matrix; None where it is not positive definite."""
    factor, failed = scipy.linalg.lapack.dpotrf(matrix.T, lower=1, clean=0)
    return None if failed else factor


def _solve(factor: np.ndarray, right: np.ndarray, *, transposed: bool = False) -> np.ndarray:
    """C^-1 B, or C^-T B."""
    return scipy.linalg.lapack.dtrtrs(factor, right, lower=1, trans=int(transposed))[0]


def _inverse(factor: np.ndarray) -> np.ndarray:
    """The inverse of C C'."""
    identity = np.eye(len(factor), order="F")
    return scipy.linalg.lapack.dpotrs(factor, identity, lower=1, overwrite_b=1)[0]
