"""What the certificates share: checked arrays of the host about a common origin, in float64."""

from collections.abc import Iterator

import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.prototypes._prototypes import Prototypes, check_features

UNIT = np.finfo(np.float64).eps
# Rows that are worked on at once: few enough that their features stay in a cache.
_ROWS = 1024


def host_centres(
    features: ArrayLike, prototypes: Prototypes
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the features as they are, the middle of the centres, centres about it, and labels.

    Raises:
      ValueError: unless shapes agree, centres are finite and of at least two classes.
      TypeError: unless features are floating point and labels integers.
    """
    points = np.asarray(check_features(features, prototypes))
    centres = np.asarray(prototypes.centres, np.float64)
    labels = np.asarray(prototypes.labels)
    if not np.isfinite(centres).all():
        raise ValueError("prototypes.centres must be finite, got NaN or infinity")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"prototypes.labels must be integers, got {labels.dtype}")
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"prototypes must have centres of at least two classes, got class {labels[0]} only"
        )
    middle = centres.mean(axis=0)
    return points, middle, centres - middle, labels


def in_parts(
    points: np.ndarray, middle: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some rows after the other: their place, the features about `middle`, and their lengths."""
    buffer = np.empty((min(_ROWS, len(points)), points.shape[1]))
    for start in range(0, len(points), _ROWS):
        rows = slice(start, min(start + _ROWS, len(points)))
        part = buffer[: rows.stop - rows.start]
        np.subtract(points[rows], middle, out=part)
        lengths = np.sqrt(np.einsum("nd,nd->n", part, part))
        if not np.isfinite(lengths).all():
            _checks.finite_rows("features", points)
        yield rows, part, lengths


def separations(centres: np.ndarray, labels: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Distances between centres of different classes rounded up, `[k, k]`, else 1.

    Args:
      centres: `[k, d]`.
      labels: int `[k]`.
      products: `[k, k]`, inner products of the centres.

    Raises:
      ValueError: where two classes share a centre.
    """
    squares = np.diagonal(products)
    error = product_error(centres.shape[1], squares)
    differs = labels[:, None] != labels[None]
    found = squares[:, None] + squares[None] - 2 * products + error
    gaps = np.sqrt(np.where(differs, np.maximum(found, 0), 1))
    # Where the terms cancel, by differences of the coordinates.
    is_close = differs & (found <= 1e8 * error)
    for first in np.flatnonzero(is_close.any(axis=1)):
        near = np.flatnonzero(is_close[first])
        exact = np.linalg.norm(centres[near] - centres[first], axis=1)
        if not exact.all():
            second = near[exact == 0][0]
            raise ValueError(
                "prototypes.centres of different classes must differ, got equal centres "
                f"{first} and {second} of classes {labels[first]} and {labels[second]}"
            )
        gaps[first, near] = exact
    up = gaps * (1 + (centres.shape[1] + 4) * UNIT) + 4 * UNIT * np.abs(centres).max()
    return np.where(differs, up, 1.0)


def product_error(dimension: int, squares: np.ndarray) -> float:
    """What rounding may add to a squared distance of two centres that is computed by products."""
    return 4 * (dimension + 8) * UNIT * float(squares.max())


def rounded_quotient(radius: np.ndarray, lipschitz: float) -> np.ndarray:
    """`radius / lipschitz`, rounded down and at least 0."""
    return np.maximum(0, np.nextafter(radius / lipschitz, 0))
