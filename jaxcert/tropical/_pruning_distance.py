"""How far pruning can have moved the zonotopes of a decision boundary."""

import numpy as np
from jax.typing import ArrayLike

from ._layers import host_rows


def pruning_distance_upper(
    w1: ArrayLike,
    b1: ArrayLike,
    w2: ArrayLike,
    pruned_w1: ArrayLike,
    pruned_b1: ArrayLike,
    pruned_w2: ArrayLike,
) -> np.ndarray:
    r"""Bound the Hausdorff distance between each zonotope of a boundary and its pruned one.

    .. math::
        d_H(Z_{ij}, \tilde Z_{ij})
        \le \min\Bigl( \sum_r |\Delta_r|,\; \sqrt{p}\, \|\Delta\|_2 \Bigr)
        \le \sqrt{p}\, \|\Delta\|_F, \qquad \Delta = \tilde G_{ij} - G_{ij}

    with the generators `G_ij` of `prune` and p the number of rows that changed. The zonotopes are
    those without the base that both zonotopes of a pair share: it moves the whole picture and no
    boundary. The distance between the hulls of a pair's two zonotopes, which are dual to the
    boundary between classes i and j, is at most the larger of the entries `[i, j]` and `[j, i]`.

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.
      pruned_w1: `[h, d]` of the pruned network, neurons in the same places.
      pruned_b1: its `[h]`.
      pruned_w2: its `[classes, h]`.

    Returns:
      float64 `[classes, classes]` on the host, 0 on the diagonal.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit or a number is not finite.

    Guarantee:
      Sound: an upper bound for the numbers given, rounded upwards.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> w1, b1, w2 = np.array([[3.0, 4.0]]), np.zeros(1), np.array([[1.0], [-1.0]])
      >>> tropical.pruning_distance_upper(w1, b1, w2, w1, b1, w2 / 2)
      array([[0., 5.],
             [0., 0.]])

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838, whose pruning objective is the
      Frobenius norm here.
    """
    rows, weights = host_rows(w1, b1, w2)
    new_rows, new_weights = host_rows(pruned_w1, pruned_b1, pruned_w2, prefix="pruned_")
    if rows.shape != new_rows.shape or weights.shape != new_weights.shape:
        raise ValueError(
            f"pruned_w1 and pruned_w2 must have shapes {np.shape(w1)} and {np.shape(w2)}, "
            f"got {np.shape(pruned_w1)} and {np.shape(pruned_w2)}"
        )
    classes, hidden = weights.shape
    result = np.zeros((classes, classes))
    for first in range(classes):
        for second in range(classes):
            if first != second:
                old = _generators(rows, weights, first, second)
                new = _generators(new_rows, new_weights, first, second)
                # What sums and products of these lengths can lose, several times over.
                size = np.abs(old).sum() + np.abs(new).sum()
                slack = 8 * (hidden + rows.shape[1] + 8) * np.finfo(np.float64).eps * size
                bound = _matched_bound(new - old)
                result[first, second] = np.nextafter(bound + slack, np.inf) if size else 0.0
    return result


def _generators(rows: np.ndarray, weights: np.ndarray, first: int, second: int) -> np.ndarray:
    scale = np.maximum(weights[first], 0) + np.maximum(-weights[second], 0)
    return scale[:, None] * rows


def _matched_bound(change: np.ndarray) -> float:
    """Largest of `sum_r |<u, change_r>|` over unit u, from above."""
    lengths = np.sqrt(np.sum(change**2, axis=1))
    moved = change[lengths > 0]
    if not len(moved):
        return 0.0
    gram = moved @ moved.T if len(moved) < moved.shape[1] else moved.T @ moved
    # The eigenvalues of a symmetric matrix of size n are found to about n eps of the largest.
    largest = np.linalg.eigvalsh(gram)[-1] * (1 + 1e-12 * len(gram))
    return float(min(lengths.sum(), np.sqrt(len(moved) * largest)))
