"""The rows of a memory of regions, and the search for those that a new region may meet.

Rows are only ever appended, so memories of different age share one buffer: each looks at the rows
that it knows. Whoever appends to a memory that is not the newest copies first.
"""

import math
import threading

import numpy as np

# Coordinates of the coarse copy: enough to tell most regions apart, few enough to stay in a cache.
_COARSE = 64
_UNIT = float(np.finfo(np.float32).eps)
# What a value or a product can lose where float32 underflows.
_TINY = float(np.finfo(np.float32).tiny)
# Rows whose coarse distances in l1 are computed at once, in a cache.
_BLOCK = 4096
# For all indices, so that memories can be copied; it is held for an append.
_LOCK = threading.Lock()


class RegionIndex:
    """Centres, labels and radii of regions, with a coarse float32 copy of the centres."""

    def __init__(self, shape: tuple[int, ...], norm: str, dtype: np.dtype, anisotropic: bool):
        self.shape, self.norm, self.size = shape, norm, math.prod(shape)
        self.blocks = block_of_coordinates(shape)
        lengths = np.bincount(self.blocks).astype(np.float64)
        self.weights = np.ones_like(lengths) if norm == "l1" else 1 / np.sqrt(lengths)
        self.summing = np.zeros((self.size, len(lengths)))
        self.summing[np.arange(self.size), self.blocks] = self.weights[self.blocks]
        self.used = 0
        self.columns: dict[str, np.ndarray] = {
            "inputs": np.empty((0, self.size), dtype),
            "labels": np.empty(0, np.int64),
            "radii": np.empty(0, np.float64),
            # Radius of a ball in the norm of the index that holds the region.
            "reach": np.empty(0, np.float64),
            "coarse": np.empty((0, len(lengths)), np.float32),
            "coarse_norms": np.empty(0, np.float64),
            # The same of absolute values, which bounds what rounding did to the coarse ones.
            "spreads": np.empty(0, np.float64),
        }
        if anisotropic:
            self.columns["scales"] = np.empty((0, self.size), np.float32)

    def column(self, name: str, count: int) -> np.ndarray:
        """The first `count` values of a column, read only."""
        view = self.columns[name][:count]
        view.flags.writeable = False
        return view

    def extend(
        self,
        count: int,
        inputs: np.ndarray,
        labels: np.ndarray,
        radii: np.ndarray,
        scales: np.ndarray | None,
    ) -> "RegionIndex":
        """Append rows behind the first `count`, in a copy where others already stand there."""
        with _LOCK:
            target = self if self.used == count else self._copy(count)
            target._append(inputs, labels, radii, scales)
        return target

    def _copy(self, count: int) -> "RegionIndex":
        dtype = self.columns["inputs"].dtype
        other = RegionIndex(self.shape, self.norm, dtype, "scales" in self.columns)
        other.columns = {name: values[:count].copy() for name, values in self.columns.items()}
        other.used = count
        return other

    def _append(
        self, inputs: np.ndarray, labels: np.ndarray, radii: np.ndarray, scales: np.ndarray | None
    ) -> None:
        first, last = self.used, self.used + len(inputs)
        capacity = len(self.columns["labels"])
        if last > capacity:
            capacity = max(last, 2 * capacity, 64)
            for name, values in self.columns.items():
                grown = np.empty((capacity, *values.shape[1:]), values.dtype)
                grown[:first] = values[:first]
                self.columns[name] = grown
        place = slice(first, last)
        coarse, lengths, spreads = self.coarse(inputs)
        rows = {
            "inputs": inputs,
            "labels": labels,
            "radii": radii,
            "reach": radii if scales is None else reach_of(radii, scales),
            "coarse": coarse,
            "coarse_norms": lengths,
            "spreads": spreads,
        }
        if scales is not None:
            rows["scales"] = scales
        for name, values in rows.items():
            self.columns[name][place] = values
        self.used = last

    def coarse(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weighted sums over blocks of coordinates: no norm of a difference grows under them.

        Returns:
          Sums, float32 `[n, blocks]`; their lengths `[n]`; lengths of the sums of absolute values.
        """
        wide = inputs.astype(np.float64)
        coarse = (wide @ self.summing).astype(np.float32)
        absolute = np.abs(wide) @ self.summing
        return coarse, _lengths(coarse.astype(np.float64)), _lengths(absolute)

    def candidates(self, count: int, point: np.ndarray, reach: float) -> np.ndarray:
        """Indices of all regions, among others, that may meet a ball of radius `reach`.

        A region is left out only if the coarse distance, less all that rounding can have added to
        it, exceeds the sum of the radii.
        """
        coarse, lengths = self.columns["coarse"][:count], self.columns["coarse_norms"][:count]
        (own,), (own_length,), (own_spread,) = self.coarse(point[None])
        limits = self.columns["reach"][:count] + reach
        # What the coarse values lost: a rounding to float32, and that of the sums in float64.
        spreads = self.columns["spreads"][:count] + own_spread
        spreads *= 2 * _UNIT * (math.sqrt(len(own)) if self.norm == "l1" else 1.0)
        limits = (limits + spreads + 8 * len(own) * _TINY) * (1 + 1e-9)
        # Where float32 overflowed a region stays in.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.norm == "l1":
                found = np.empty(count, np.float32)
                for start in range(0, count, _BLOCK):
                    rows = slice(start, start + _BLOCK)
                    difference = coarse[rows] - own
                    np.abs(difference, out=difference)
                    found[rows] = difference @ np.ones(len(own), np.float32)
                distances = found.astype(np.float64) * (1 - 2 * (len(own) + 4) * _UNIT)
                apart = np.isfinite(distances) & (distances > limits)
            else:
                products = (coarse @ own).astype(np.float64)
                squares = lengths**2 + own_length**2
                rounding = 4 * (len(own) + 8) * (_UNIT * squares + _TINY)
                apart = squares - 2 * products - rounding > limits**2
                apart &= np.isfinite(products)
        return np.flatnonzero(~apart)


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(rows * rows, axis=1))


def reach_of(radii: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Radius of a ball that holds `{ d : |d / scales| <= radius }`, rounded up."""
    return radii * scales.astype(np.float64).max(axis=-1) * (1 + 1e-15)


def block_of_coordinates(shape: tuple[int, ...]) -> np.ndarray:
    """The block of each coordinate, `[d]`: squares of an image, else runs of coordinates.

    Differences of natural images are smooth, and sums over squares keep most of their length.
    """
    if len(shape) in (2, 3) and min(shape[:2]) >= 8:
        side = math.isqrt(_COARSE)
        rows, columns = (np.arange(length) * side // length for length in shape[:2])
        blocks = rows[:, None] * side + columns[None, :]
        blocks = np.broadcast_to(blocks.reshape(*shape[:2], *[1] * (len(shape) - 2)), shape)
        return blocks.reshape(-1)
    size = math.prod(shape)
    return np.arange(size) * min(size, _COARSE) // size
