"""Upper bounds on eigenvalues that a completed Cholesky factorisation proves, in float64.

Any method may propose a value; only the factorisation decides. If the Cholesky factorisation of a
Hermitian matrix A of size k runs to completion in floating point, then A + E is positive
semidefinite for some E with norm at most gamma(k + 1) / (1 - gamma(k + 1)) trace(A), whatever the
order of the sums (Rump, "Verification of Positive Definiteness", 2006). So no constant of an
eigenvalue or singular value routine has to be trusted.
"""

import math

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from jaxcert.lipschitz._rounding import gamma, up

# Up to this size all eigenvalues cost less than an iteration for one.
_DENSE_SIZE = 96
# How far above the proposal the bound is tried, in turn.
_SLACKS = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)


def scaled(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """A matrix with largest entry in [1, 2), and the power of two that was divided out."""
    largest = float(np.max(np.abs(matrix), initial=0.0))
    if largest == 0.0:
        return matrix, 0.0
    exponent = math.frexp(largest)[1] - 1
    return np.ldexp(matrix, -exponent), math.ldexp(1.0, exponent)


def singular_value_upper(matrix: np.ndarray) -> float:
    """A proved upper bound on the largest singular value of a real float64 `[m, n]`."""
    tall = np.ascontiguousarray(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    tall, scale = scaled(tall)
    if scale == 0.0:
        return 0.0
    gram = tall.T @ tall
    # | fl(A' A) - A' A | <= gamma |A|' |A|, whose norm is at most the squared Frobenius norm.
    # Entries that underflow in the products are below 1e-290 of the largest.
    error = gamma(tall.shape[0]) * float(np.trace(gram)) * 1.01 + 1e-290
    bound = eigenvalue_upper(gram) + error
    return up(math.sqrt(bound) * scale, terms=4)


def eigenvalue_upper(gram: np.ndarray) -> float:
    """A proved upper bound on the largest eigenvalue of a positive semidefinite `[k, k]`."""
    size = gram.shape[0]
    trace = float(np.trace(gram).real)
    if size == 1 or trace == 0.0:
        return up(trace, terms=size)
    proposal = largest_eigenvalue_estimate(gram)
    for slack in _SLACKS:
        shift = proposal * (1.0 + slack)
        if shift >= trace:
            break
        if _is_below(gram, shift):
            return shift + factorisation_error(size, shift, gram.dtype)
    return up(trace, terms=size)


def factorisation_error(size: int, shift: float, dtype: np.dtype) -> float:
    """How far an eigenvalue may lie above a shift at which the factorisation completed."""
    # The trace of shift I - A is at most size * shift; forming it rounds by u * shift an entry.
    return 2.1 * gamma(size, dtype) * size * shift


def _is_below(gram: np.ndarray, shift: float) -> bool:
    """Whether the factorisation of `shift I - gram` runs to completion."""
    difference = -gram
    diagonal = np.arange(gram.shape[-1])
    difference[..., diagonal, diagonal] += shift
    try:
        factor = np.linalg.cholesky(difference)
    except np.linalg.LinAlgError:
        return False
    return bool(np.all(np.isfinite(factor)))


def largest_eigenvalue_estimate(gram: np.ndarray) -> float:
    """An estimate of the largest eigenvalue; nothing depends on how good it is but the slack."""
    size = gram.shape[0]
    if size > _DENSE_SIZE:
        start = np.random.default_rng(size).standard_normal(size)
        try:
            values = scipy.sparse.linalg.eigsh(
                gram, k=1, which="LA", v0=start, tol=1e-7, ncv=40, maxiter=40,
                return_eigenvectors=False,
            )  # fmt: skip
            return float(values[0])
        except scipy.sparse.linalg.ArpackNoConvergence:
            pass
        last = size - 1
        return float(scipy.linalg.eigvalsh(gram, subset_by_index=[last, last])[0])
    return float(np.linalg.eigvalsh(gram)[-1])
