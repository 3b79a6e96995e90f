"""The bound of Combettes and Pesquet: averages over all ways to leave activations out."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._verified import singular_value_upper

# Norms `[k]`, at least the exact ones, of the matrices that end a network.
LastNorms = Callable[[np.ndarray], np.ndarray]


def matrix_norm(matrix: np.ndarray) -> np.ndarray:
    """The spectral norm of a matrix, as an array of one bound."""
    return np.asarray([singular_value_upper(matrix)])


def averaged_upper(
    weights: Sequence[np.ndarray], slopes: SlopeRange, last_norms: LastNorms
) -> np.ndarray:
    r"""Sum over all cuts of products of norms of uncut pieces, `[k]` for k ends.

    A slope in [alpha, beta] is m + r t with t in [-1, 1], so each activation is a mean of being
    linear with slope m and of being cut with weight r:

    .. math::
        L = \sum_{S \subseteq \{1, \dots, N-1\}} r^{|S|} |m|^{N-1-|S|}
        \prod_{\text{pieces}} \|W_j \cdots W_{i+1}\|

    which the recursion L_j = sum_i r L_i |m|^(j-i-1) ||W_j ... W_{i+1}|| sums in N^2 / 2 norms.
    """
    middle, half = abs(slopes.middle), slopes.half_width
    depth = len(weights)
    totals = [1.0]  # L_0, and r L_i after each hidden layer i.
    sizes = [singular_value_upper(weight) for weight in weights[:-1]]
    budget = 1.0 + gamma(2 * depth + 8)
    for end in range(1, depth + 1):
        is_last = end == depth
        total: np.ndarray = np.zeros(1)
        product = weights[end - 1]
        # The product of matrices is off by at most `error` in norm; see the update below.
        error = 0.0
        for start in range(end - 1, -1, -1):
            norms = last_norms(product) if is_last else matrix_norm(product)
            total = total + totals[start] * middle ** (end - 1 - start) * (norms + 2.0 * error)
            if start:
                below = weights[start - 1]
                rounding = gamma(product.shape[1]) * float(np.linalg.norm(product))
                error = 1.01 * (error * sizes[start - 1] + rounding * float(np.linalg.norm(below)))
                product = product @ below
        if is_last:
            return total * budget
        totals.append(float(total[0]) * half * budget)
    raise AssertionError("a network has at least one matrix")
