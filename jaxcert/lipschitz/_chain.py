"""The chain of matrices behind every semidefinite bound on a network, checked by factorisation.

For f(x) = W_N phi(... phi(W_1 x + b_1) ...) + b_N with slopes in [alpha, beta], put
m = (alpha + beta) / 2. Any positive multipliers Lambda_1, ..., Lambda_{N-1} for which

    [ I + ab W_1' L_1 W_1   -m W_1' L_1                                       ]
    [ -m L_1 W_1            L_1 + ab W_2' L_2 W_2    -m W_2' L_2              ]
    [                       ...                      L_{N-1}            W_N'  ]
    [                                                W_N                rho I ]

is positive semidefinite prove that f is sqrt(rho)-Lipschitz (ab = alpha beta, L = diag Lambda).
Whatever proposed the multipliers, this module decides, by a block Cholesky factorisation in
float64. Its rounding is covered by shrinking the diagonal beforehand: if the factorisation of A
runs to completion, then | A - R'R | <= gamma / (1 - gamma) sqrt(a_ii a_jj) entry by entry (Higham,
2002, theorem 10.3; Demmel's scaling), so after scaling by the diagonal the error has a norm of at
most gamma times the rows that a block can meet.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg

from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._rounding import gamma, up
from jaxcert.lipschitz._verified import singular_value_upper


def widths_of(weights: Sequence[Any]) -> list[int]:
    """Numbers of inputs, of each hidden layer and of outputs."""
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]


def diagonal_shift(widths: Sequence[int], dtype: Any = np.float64) -> float:
    """Relative shrinking of the diagonal that covers all rounding of the factorisation."""
    longest = max(a + b for a, b in itertools.pairwise(widths))
    met = max(sum(widths[max(0, i - 1) : i + 2]) for i in range(len(widths)))
    # Twice: once for the factorisation, once for forming the entries, each a product or two.
    return 2.2 * gamma(longest, dtype) * met


def completion(size: int, width: int, shift: float, dtype: Any = np.float64) -> float:
    """Factor of the root of rho that lets the last block, of this size, factorise for certain.

    The block is rho (1 - shift) I - Y Y'; its own factorisation completes if its least eigenvalue
    exceeds the error of forming and of factorising it.
    """
    own = 4.0 * gamma(size + width, dtype) * size
    return math.sqrt((1.0 + own) / (1.0 - shift))


class Chain:
    """The factorised blocks of all layers but the last."""

    def __init__(self, factor: np.ndarray, shift: float):
        self._factor = factor
        self._shift = shift

    def matrix_upper(self, last: np.ndarray) -> float:
        """A bound on the network whose last weights are `[outputs, width]`."""
        slack = completion(last.shape[0], last.shape[1], self._shift)
        return up(singular_value_upper(self._solve(last)) * slack, terms=8)

    def rows_upper(self, rows: np.ndarray) -> np.ndarray:
        """Bounds `[k]` on the scalar networks whose last weights are the rows `[k, width]`."""
        norms = np.sqrt(np.sum(np.square(self._solve(rows)), axis=1))
        return norms * (completion(1, rows.shape[1], self._shift) * (1.0 + gamma(rows.shape[1])))

    def _solve(self, rows: np.ndarray) -> np.ndarray:
        return scipy.linalg.solve_triangular(self._factor, rows.T, lower=True).T


def factorise(
    weights: Sequence[np.ndarray], multipliers: Sequence[np.ndarray], slopes: SlopeRange
) -> Chain | None:
    """Factorise the chain of a network; None where the multipliers prove nothing.

    Args:
      weights: float64 `W_1, ..., W_N`; the last counts with its shape alone.
      multipliers: float64 `[d_i]` for each hidden layer.
      slopes: of the activation.
    """
    product = slopes.low * slopes.high
    shift = diagonal_shift(widths_of(weights))
    diagonal = np.ones(weights[0].shape[1])
    complement = np.diag(diagonal)
    for weight, multiplier in zip(weights, multipliers, strict=False):
        if not (np.all(np.isfinite(multiplier)) and np.all(multiplier > 0.0)):
            return None
        if product != 0.0:
            term = product * (weight.T @ (multiplier[:, None] * weight))
            size = float(np.abs(np.trace(term)))
            # The norm of what rounding may change in the term is below gamma times its trace.
            complement = complement + term - np.eye(len(term)) * (gamma(len(weight)) * size)
            # Of both parts, which may cancel: each was rounded by itself.
            diagonal = diagonal + np.abs(np.diag(term))
        factor = _cholesky(complement, shift * diagonal)
        if factor is None:
            return None
        scaled = (slopes.middle * multiplier)[:, None] * weight
        solved = scipy.linalg.solve_triangular(factor, scaled.T, lower=True)
        complement = np.diag(multiplier) - solved.T @ solved
        diagonal = multiplier
    factor = _cholesky(complement, shift * diagonal)
    return None if factor is None else Chain(factor, shift)


def _cholesky(block: np.ndarray, shift: np.ndarray) -> np.ndarray | None:
    shifted = block - np.diag(shift)
    try:
        factor = np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return None
    return factor if np.all(np.isfinite(factor)) else None
