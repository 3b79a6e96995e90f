"""The distance of a point to an intersection of half-spaces, from below."""

import numpy as np

_UNIT = np.finfo(np.float64).eps
# Sweeps between two attempts to solve exactly, and the number of attempts.
_SWEEPS = 10
_ROUNDS = 200
_TOLERANCE = 1e-12


def distance_to_intersection_lower(
    grams: np.ndarray, offsets: np.ndarray, *, gram_error: float = 0.0
) -> np.ndarray:
    r"""Bound the distance from the origin to an intersection of half-spaces from below.

    For every :math:`\lambda \ge 0` each x with :math:`\langle a_i, x \rangle \ge g_i` satisfies

    .. math::
        \lVert x \rVert \ge \frac{\langle \lambda, g \rangle}{\lVert \sum_i \lambda_i a_i \rVert},

    with equality for the best multipliers, which coordinate ascent on the dual approaches
    (Hildreth's method) until their support is right and a linear system gives them exactly. The
    value is computed from the multipliers reached, so that it holds however far the ascent got.

    Args:
      grams: inner products of the normals a, `[n, k, k]`.
      offsets: g, `[n, k]`, rounded down.
      gram_error: the largest absolute error of an entry of `grams`.

    Returns:
      `[n]` float64, at least 0.
    """
    # Where a normal is lost in the errors, its multiplier must not run away.
    least = max(gram_error, np.finfo(np.float64).tiny)
    diagonals = np.maximum(np.einsum("nkk->nk", grams), least)
    multipliers = np.zeros(offsets.shape)
    best = np.zeros(len(offsets))
    open_rows = np.arange(len(offsets))
    for _ in range(_ROUNDS):
        gram, diagonal, offset = grams[open_rows], diagonals[open_rows], offsets[open_rows]
        ascended = _sweep(multipliers[open_rows], gram, diagonal, offset)
        multipliers[open_rows] = ascended
        polished, is_stationary = _solve_on_support(ascended, gram, diagonal, offset)
        for candidate in (ascended, polished):
            value = _dual_value(candidate, gram, offset, gram_error)
            best[open_rows] = np.maximum(best[open_rows], value)
        slack = _products(gram, polished) - offset
        scale = np.abs(offset).max(axis=1, keepdims=True)
        is_optimal = is_stationary & np.all(slack >= -_TOLERANCE * scale, axis=1)
        open_rows = open_rows[np.logical_not(is_optimal)]
        if not open_rows.size:
            break
    return best


def _sweep(
    multipliers: np.ndarray, grams: np.ndarray, diagonals: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Some sweeps of coordinate ascent on the dual."""
    multipliers = multipliers.copy()
    for _ in range(_SWEEPS):
        for i in range(offsets.shape[1]):
            slope = offsets[:, i] - (grams[:, i] * multipliers).sum(axis=1)
            multipliers[:, i] = np.maximum(0, multipliers[:, i] + slope / diagonals[:, i])
    return multipliers


def _solve_on_support(
    multipliers: np.ndarray, grams: np.ndarray, diagonals: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The stationary multipliers on the support of the ascent, and where they are positive."""
    used = multipliers > 0
    both = used[:, :, None] & used[:, None, :]
    rows = np.arange(offsets.shape[1])
    systems = np.where(both, grams, 0)
    systems[:, rows, rows] = np.where(used, diagonals * (1 + 4 * _UNIT), 1)
    solved = np.linalg.solve(systems, np.where(used, offsets, 0)[..., None])[..., 0]
    valid = np.all((solved >= 0) & np.isfinite(solved), axis=1)
    return np.where(valid[:, None], solved, multipliers), valid


def _products(grams: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    return (grams @ multipliers[..., None])[..., 0]


def _dual_value(
    multipliers: np.ndarray, grams: np.ndarray, offsets: np.ndarray, gram_error: float
) -> np.ndarray:
    """The bound of these multipliers, its rounding paid for: `[n]`, at least 0."""
    spent = 2 * (offsets.shape[1] + 4) * _UNIT
    squares = (multipliers * _products(grams, multipliers)).sum(axis=1)
    sizes = (multipliers * _products(np.abs(grams), multipliers)).sum(axis=1)
    squares += spent * sizes + (1 + spent) * gram_error * multipliers.sum(axis=1) ** 2
    lengths = np.sqrt(squares) * (1 + 4 * _UNIT)
    gains = (multipliers * offsets).sum(axis=1)
    gains -= spent * (multipliers * np.abs(offsets)).sum(axis=1)
    return np.where(lengths > 0, np.maximum(gains, 0) / np.where(lengths > 0, lengths, 1), 0)
