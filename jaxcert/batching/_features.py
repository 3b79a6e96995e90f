"""Features and labels: read, scaled and renamed."""

from pathlib import Path

import numpy as np
from jax.typing import ArrayLike


def unit_rows(features: ArrayLike) -> np.ndarray:
    """Scale every row to Euclidean norm 1.

    Args:
      features: `[n, d]`, finite.

    Returns:
      float64 `[n, d]`.

    Raises:
      ValueError: if a row is zero, which has no direction: drop such rows first.

    Example:
      >>> from jaxcert import batching
      >>> batching.unit_rows([[3.0, 4.0]])
      array([[0.6, 0.8]])
    """
    rows = matrix(features)
    norms = np.linalg.norm(rows, axis=1)
    zero = np.flatnonzero(norms == 0)
    if zero.size:
        raise ValueError(
            f"features must have no zero row, got {zero.size} of them, the first at {zero[0]}; "
            "drop them with features[features.any(axis=1)]"
        )
    return rows / norms[:, None]


def binary_labels(labels: ArrayLike) -> np.ndarray:
    """Rename two labels, such as 0 and 1 or 1 and 2, to -1 and 1, the smaller one to -1.

    Args:
      labels: `[n]`, with exactly two different values.

    Returns:
      float64 `[n]`.

    Raises:
      ValueError: if there are not exactly two labels.

    Example:
      >>> from jaxcert import batching
      >>> batching.binary_labels([2, 1, 2])
      array([ 1., -1.,  1.])
    """
    values = np.asarray(labels)
    names = np.unique(values)
    if values.ndim != 1 or names.size != 2:
        raise ValueError(
            f"labels must have shape [n] and exactly two values, got shape {values.shape} and "
            f"values {names[:5].tolist()}"
        )
    return np.where(values == names[1], 1.0, -1.0)


def read_libsvm(
    path: str | Path, *, num_features: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Read a file in LIBSVM format, through scikit-learn, into dense arrays.

    Args:
      path: the file.
      num_features: d, where the last features may be missing from the file; the largest index of
        the file by default.

    Returns:
      features float64 `[n, d]` and targets float64 `[n]`.

    Raises:
      ValueError: if the file is not in this format or has more features than `num_features`.
      OSError: if it cannot be read.

    Example:
      >>> import pathlib, tempfile
      >>> from jaxcert import batching
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "small"
      ...     _ = path.write_text("1 1:0.5 3:2\n-1 2:1\n")
      ...     features, targets = batching.read_libsvm(path)
      >>> features.shape, targets
      ((2, 3), array([ 1., -1.]))
    """
    from sklearn import datasets  # Takes a second to import, which nothing else here needs.

    rows, targets = datasets.load_svmlight_file(str(path), n_features=num_features)
    return np.asarray(rows.toarray(), np.float64), np.asarray(targets, np.float64)


def matrix(features: ArrayLike) -> np.ndarray:
    """The features as finite float64 `[n, d]`, or raise."""
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"features must have shape [n, d], got shape {rows.shape}")
    if not np.all(np.isfinite(rows)):
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise ValueError(f"features must be finite, got NaN or infinity in row {bad[0]}")
    return rows
