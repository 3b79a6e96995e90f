"""The norm of a convolution on its own image, border and all, by a banded factorisation.

Seen by rows of the image, a convolution is a band of blocks: output row y reads input row r through
the tap i that takes it there, and what that tap does along the width is one matrix T_i. So K'K is a
band of blocks that are sums of the products T_i' T_j, and t I - K'K is factorised within the band.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from jaxcert.lipschitz._geometry import Axis
from jaxcert.lipschitz._rounding import gamma, up
from jaxcert.lipschitz._verified import scaled

# How far above the proposal the bound is tried, in turn.
_SLACKS = (1e-8, 1e-6, 1e-4, 1e-2)


def banded_upper(kernel: np.ndarray, axes: Sequence[Axis], groups: int) -> float:
    """A proved upper bound on the spectral norm, from float64 `[h, w, in, out]`."""
    outputs = kernel.shape[-1] // groups
    return max(
        _one_group(kernel[..., group * outputs : (group + 1) * outputs], axes)
        for group in range(groups)
    )


def _one_group(kernel: np.ndarray, axes: Sequence[Axis]) -> float:
    kernel, scale = scaled(kernel)
    if scale == 0.0:
        return 0.0
    rows, columns = axes
    along_width = [_width_matrix(taps, columns) for taps in kernel]
    read = rows.inside()
    products = {
        (i, j): along_width[i].T @ along_width[j]
        for i in range(rows.taps)
        for j in range(rows.taps)
        if np.any((read[:, i] >= 0) & (read[:, j] >= 0))
    }
    size = along_width[0].shape[1]
    band: dict[tuple[int, int], np.ndarray] = {}
    for y in range(rows.outputs):
        for (i, j), product in products.items():
            place = (int(read[y, i]), int(read[y, j]))
            if min(place) >= 0 and place[0] >= place[1]:
                band[place] = band[place] + product if place in band else product
    if not band:
        return 0.0  # Every output reads padding alone.
    trace = sum(float(np.trace(block)) for (r, s), block in band.items() if r == s)
    proposal = _largest_singular_value(along_width, read, rows.size) ** 2
    # Sums of a column of T_i, of the taps of one pixel, and of at most two bands of blocks.
    reach = 1 + max(r - s for r, s in band)  # A circular padding joins the ends.
    terms = max(2 * reach * size, along_width[0].shape[0] + rows.taps**2)
    total = rows.size * size
    for slack in _SLACKS:
        shift = proposal * (1.0 + slack)
        if _completes(band, shift, rows.size, size, reach):
            error = 2.2 * gamma(terms) * total * shift + 1.01 * gamma(terms) * trace + 1e-290
            return up(math.sqrt(shift + error) * scale, terms=4)
    return up(math.sqrt(trace) * scale, terms=total)


def _width_matrix(taps: np.ndarray, axis: Axis) -> np.ndarray:
    """What one row of taps `[w, in, out]` does to a row: `[outputs * out, size * in]`."""
    count, inputs, outputs = taps.shape
    matrix = np.zeros((axis.outputs, outputs, axis.size, inputs))
    for x, pixels in enumerate(axis.inside()):
        for tap in range(count):
            if pixels[tap] >= 0:
                matrix[x, :, pixels[tap]] += taps[tap].T
    return matrix.reshape(axis.outputs * outputs, axis.size * inputs)


def _completes(
    band: dict[tuple[int, int], np.ndarray], shift: float, rows: int, size: int, reach: int
) -> bool:
    """Whether the block Cholesky factorisation of `shift I - K'K` runs to completion."""
    factor: dict[tuple[int, int], np.ndarray] = {}
    zero = np.zeros((size, size))
    for r in range(rows):
        first = max(0, r - reach + 1)
        for s in range(first, r + 1):
            block = (shift * np.eye(size) if r == s else 0.0) - band.get((r, s), zero)
            for k in range(first, s):
                if (r, k) in factor and (s, k) in factor:
                    block = block - factor[r, k] @ factor[s, k].T
            if r != s:
                factor[r, s] = scipy.linalg.solve_triangular(factor[s, s], block.T, lower=True).T
                continue
            try:
                factor[r, r] = np.linalg.cholesky(block)
            except np.linalg.LinAlgError:
                return False
            if not np.all(np.isfinite(factor[r, r])):
                return False
    return True


def _largest_singular_value(along_width: list[np.ndarray], read: np.ndarray, rows: int) -> float:
    """An estimate by Lanczos; the factorisation decides."""
    out_size, in_size = along_width[0].shape

    def forward(vector: np.ndarray) -> np.ndarray:
        image = vector.reshape(rows, in_size)
        result = np.zeros((len(read), out_size))
        for tap, matrix in enumerate(along_width):
            used = read[:, tap] >= 0
            result[used] += image[read[used, tap]] @ matrix.T
        return result.ravel()

    def back(vector: np.ndarray) -> np.ndarray:
        image = vector.reshape(len(read), out_size)
        result = np.zeros((rows, in_size))
        for tap, matrix in enumerate(along_width):
            used = read[:, tap] >= 0
            np.add.at(result, read[used, tap], image[used] @ matrix)
        return result.ravel()

    total = rows * in_size
    if total <= 3:
        dense = np.stack([forward(column) for column in np.eye(total)], axis=1)
        return float(np.linalg.norm(dense, 2))
    gram = scipy.sparse.linalg.LinearOperator(
        (total, total), matvec=lambda v: back(forward(v)), dtype=np.float64
    )
    start = np.random.default_rng(total).standard_normal(total)
    try:
        value = scipy.sparse.linalg.eigsh(
            gram, k=1, which="LA", v0=start, tol=1e-8, ncv=min(total, 30), maxiter=100,
            return_eigenvectors=False,
        )[0]  # fmt: skip
    except scipy.sparse.linalg.ArpackError:  # Of no convergence, or of a map that is 0.
        for _ in range(300):
            start = gram.matvec(start)
            start /= max(float(np.linalg.norm(start)), 1e-300)
        value = float(start @ gram.matvec(start))
    return math.sqrt(max(float(value), 1e-300))
