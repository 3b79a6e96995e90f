"""The distinct directions among generators: what their signs depend on."""

from typing import Any, NamedTuple

import numpy as np

from jaxcert import _checks


class Lines(NamedTuple):
    """Generators up to length and sign, in coordinates of their span.

    Attributes:
      units: float64 `[k, r]`, unit vectors of distinct lines, in the basis.
      basis: float64 `[r, d]`, orthonormal rows: `units @ basis` are the lines in R^d.
      line_of: int64 `[m]`, the line of each generator, and -1 for zero.
      orientation: int8 `[m]`, the sign of a generator along its line, and 0 for zero.
    """

    units: np.ndarray
    basis: np.ndarray
    line_of: np.ndarray
    orientation: np.ndarray

    @property
    def rank(self) -> int:
        """Dimension of the span."""
        return self.basis.shape[0]

    @property
    def dimension(self) -> int:
        """Dimension of the space."""
        return self.basis.shape[1]

    @property
    def num_generators(self) -> int:
        """How many generators there were."""
        return self.line_of.size

    def signs_of_generators(self, signs: np.ndarray) -> np.ndarray:
        """Signs of lines `[n, k]` as signs of generators `[n, m]`."""
        return signs[:, self.line_of] * self.orientation


def finite_matrix(name: str, value: Any) -> np.ndarray:
    """Return `value` as a float64 matrix of finite numbers on the host, or raise."""
    if not _checks.is_concrete(value):
        raise TypeError(f"{name} must be concrete for work on the host, got a traced array")
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" and str(array.dtype) != "bfloat16":
        raise TypeError(f"{name} must be an array of real numbers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must have shape [m, d] with d >= 1, got {array.shape}")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise ValueError(f"{name} must be finite, got NaN or infinity in rows {bad[:8].tolist()}")
    return array


def distinct_lines(name: str, generators: Any, *, tolerance: float) -> Lines:
    """Drop zero generators, merge parallel ones, and find their span."""
    array = finite_matrix(name, generators)
    # Below that, rounding would tell apart what is the same.
    if not 1e-13 <= tolerance < 0.1:
        raise ValueError(f"tolerance must lie in [1e-13, 0.1), got {tolerance}")
    # By powers of two first, so that no square overflows or vanishes.
    scale = np.max(np.abs(array), axis=1, initial=0.0)
    nonzero = np.flatnonzero(scale)
    scaled = array[nonzero] * np.exp2(-np.frexp(scale[nonzero])[1])[:, None]
    units = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    representative = _first_parallel(units, tolerance)
    kept, number = np.unique(representative, return_inverse=True)
    line_of = np.full(array.shape[0], -1)
    orientation = np.zeros(array.shape[0], np.int8)
    line_of[nonzero] = number
    if nonzero.size:
        orientation[nonzero] = np.sign(np.sum(units * units[representative], axis=1))
    kept_units = units[kept]
    _, values, basis = np.linalg.svd(kept_units, full_matrices=False)
    rank = int(np.sum(values > tolerance * np.max(values, initial=0.0)))
    if rank == array.shape[1]:
        # No change of coordinates, no rounding: integer generators keep exact determinants.
        return Lines(kept_units, np.eye(rank), line_of, orientation)
    return Lines(_normalised(kept_units @ basis[:rank].T), basis[:rank], line_of, orientation)


def _first_parallel(units: np.ndarray, tolerance: float) -> np.ndarray:
    """For each unit vector the first one that is parallel to it, perhaps itself: `[k]`."""
    representative = np.arange(units.shape[0])
    # Parallel vectors are neighbours in the order of their shadows on any line.
    shadow = np.abs(units @ np.cos(1.0 + np.arange(units.shape[1])))
    order = np.argsort(shadow, kind="stable")
    far = np.diff(shadow[order]) > 2.0 * units.shape[1] * tolerance
    for members in np.split(order, np.flatnonzero(far) + 1):
        members = np.sort(members)
        while members.size > 1:
            first = members[0]
            products = units[members] @ units[first]
            sine = np.linalg.norm(units[members] - products[:, None] * units[first], axis=1)
            parallel = sine <= tolerance
            representative[members[parallel]] = first
            members = members[~parallel]
    return representative


def coordinates(units: np.ndarray, rank: int) -> np.ndarray:
    """Unit vectors `[k, d]` that span a space of the given rank, in a basis of it."""
    basis = np.linalg.svd(units, full_matrices=False)[2]
    return _normalised(units @ basis[:rank].T)


def _normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
