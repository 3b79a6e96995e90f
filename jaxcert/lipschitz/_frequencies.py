r"""The largest norm of the transfer matrices of a convolution, proved at every frequency.

A convolution of stride s on a torus of N pixels is one of stride 1 on N / s pixels, with the
residues of the pixels modulo s as further channels. So its transfer matrices are sums of taps times
waves, and their Gram matrices are trigonometric polynomials of few terms:

.. math::
    \hat K(w) = \sum_q K_q e^{i w q}, \qquad
    G(w) = \hat K(w) \hat K(w)^* = \sum_d C_d e^{i w d}, \qquad
    C_d = \sum_{q - q' = d} K_q K_{q'}^T = C_{-d}^T

The correlations C_d are computed once. After that the matrices t I - G(w) for many w are a product
of real matrices, and a Cholesky factorisation that completes proves that the largest eigenvalue of
G(w) is at most t. It is asked for at every frequency. Where t comes from does not matter: a search
that goes by turns through frequencies and vectors proposes it, and every frequency at which the
factorisation fails starts another search, which raises t.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from jaxcert.lipschitz._geometry import Axis
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._verified import factorisation_error

# Bytes of the matrices of a block: they should stay in a cache.
_BLOCK_BYTES = 2**18
# How far above a found eigenvalue the others are tested; tenfold after a failure, up to the last:
# often next to no looseness, and never many failures.
_FIRST_SLACK, _LAST_SLACK = 1e-8, 1e-4
# Turns of a search at most; it mostly stays after two or three.
_TURNS = 8
# Up to this size a dense eigenvector costs less than an iteration.
_DENSE_SIZE = 128


class Taps(NamedTuple):
    """A convolution of stride 1 on a torus.

    Attributes:
      offsets: pixels that the taps are moved by, `[t, 2]`.
      matrices: `[t, groups, m, n]`, with m at most n.
      periods: pixels of the torus, by axis.
    """

    offsets: np.ndarray
    matrices: np.ndarray
    periods: tuple[int, int]

    def sides(self) -> tuple[int, int]:
        """Rows of a transfer matrix, and groups."""
        return self.matrices.shape[2], self.matrices.shape[1]


def polyphase(kernel: np.ndarray, axes: Sequence[Axis], groups: int) -> Taps:
    """Write `[h, w, in, out]` with any stride and dilation as taps of stride 1.

    Let tap i read the pixel i * dilation = move * stride + residue. The transfer matrix at u is
    [K(u), K(u + N/s), ...] / sqrt(s), and K(u + aN/s) is the sum over the residues r of P_r(u)
    times exp(2 pi i a r / s) / sqrt(s), which is unitary in a and r, times waves of modulus 1. So
    [P_0(u), P_1(u), ...], made of the taps of each residue at their moves, has the same singular
    values. Residues that no tap has are left out; a transpose has the same singular values too.
    """
    inputs, outputs = kernel.shape[2:]
    moves, residues, periods = [], [], []
    for axis in axes:
        period, stride = axis.torus
        move, residue = np.divmod(np.arange(axis.taps) * axis.dilation, stride)
        moves.append(np.unique(move, return_inverse=True))
        residues.append(np.unique(residue, return_inverse=True))
        periods.append(period // stride)
    (rows, row), (columns, column) = moves
    (upper, above), (left, beside) = residues
    phases = np.zeros((len(rows), len(columns), len(upper), len(left), inputs, outputs))
    phases[row[:, None], column, above[:, None], beside] = kernel
    channels = len(upper) * len(left) * inputs
    matrices = phases.reshape(-1, channels, groups, outputs // groups).transpose(0, 2, 3, 1)
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mT
    offsets = np.stack([np.repeat(rows, len(columns)), np.tile(columns, len(rows))], axis=-1)
    return Taps(offsets, np.ascontiguousarray(matrices), (periods[0], periods[1]))


class Grams:
    """The matrices `t I - G(w)` of a convolution, up to `error` in norm, at any frequencies."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps
        count, self.groups, self.size, inner = taps.matrices.shape
        offsets, pairs = _differences(taps.offsets)
        # Long kernels on small images have more differences than frequencies.
        frequencies = math.prod(taps.periods) // 2 + 1
        correlating = count**2 * inner + frequencies * 4 * len(offsets)
        transforming = frequencies * 8 * (count * inner / self.size + 1.0) * inner
        self.pairs = pairs if correlating <= transforming else None
        self.offsets = taps.offsets if self.pairs is None else offsets
        if self.pairs is not None:
            self.even, self.odd = _parts(taps.matrices, self.pairs)
        # Entry by entry, |fl(G) - G| is at most gamma times S S^T, with S the sum of the absolute
        # taps, for either way: products of n + t terms, sums over d or twice over t, and waves
        # that are good to a few units. The squared Frobenius norm of S bounds the norm of that.
        # Entries that underflow are below 1e-290 of the largest tap, which is at least 1.
        sums = np.abs(taps.matrices).sum(axis=0)
        largest = float(np.square(sums).sum(axis=(-2, -1)).max())
        terms = inner + 2 * count + 2 * len(offsets) + 64
        self.error = gamma(terms, np.complex128) * largest * 1.01 + 1e-290
        self._waves = [
            np.exp(2j * np.pi / period * (np.arange(period)[:, None] * offset % period))
            for period, offset in zip(taps.periods, self.offsets.T, strict=True)
        ]

    def differences(self, shift: float, frequencies: np.ndarray) -> np.ndarray:
        """`shift I - G(w)` for each of `[f, 2]`, `[f * groups, m, m]`."""
        rows, columns = self._waves
        waves = rows[frequencies[:, 0]] * columns[frequencies[:, 1]]
        shape = (len(waves) * self.groups, self.size, self.size)
        if self.pairs is None:
            flat = self.taps.matrices.reshape(len(self.offsets), -1)
            transfer = (waves @ flat).reshape(*shape[:2], -1)
            found = transfer @ -transfer.conj().mT
        else:
            found = np.empty(shape, np.complex128)
            found.real = (waves.real @ self.even).reshape(shape)
            found.imag = (waves.imag @ self.odd).reshape(shape)
        diagonal = np.arange(self.size)
        found.real[:, diagonal, diagonal] += shift
        return found


def largest_squared_norm_upper(taps: Taps) -> float:
    """A proved upper bound on the largest squared norm of a transfer matrix of the torus."""
    grams = Grams(taps)
    size, groups = taps.sides()
    # In random order new largest values come early, where blocks are short.
    frequencies = np.random.default_rng(0).permutation(_frequencies(taps.periods))
    slack = _FIRST_SLACK
    bound = max(grams.error, _search(grams, np.zeros(2, int), 0)) * (1.0 + slack)
    longest = max(1, _BLOCK_BYTES // (16 * groups * size * size))
    first, length = 0, 1
    while first < len(frequencies):
        block = frequencies[first : first + length]
        failed = _first_failure(grams.differences(bound, block))
        if failed is None:
            # A later bound is larger, so what is proved here stays proved.
            first, length = first + length, min(2 * length, longest)
            continue
        frequency, group = divmod(failed, groups)
        slack = min(10.0 * slack, _LAST_SLACK)
        bound = max(bound, _search(grams, block[frequency], group)) * (1.0 + slack)
        first += frequency
    return bound + factorisation_error(size, bound, np.dtype(np.complex128)) + grams.error


def _frequencies(periods: tuple[int, int]) -> np.ndarray:
    """One of each pair of frequencies w and -w, where G is conjugate: `[f, 2]`."""
    height, width = periods
    u, v = np.divmod(np.arange((height // 2 + 1) * width), width)
    keep = (2 * v <= width) | ((u > 0) & (2 * u < height))
    return np.stack([u[keep], v[keep]], axis=-1)


def _differences(offsets: np.ndarray) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Differences d of offsets, one of d and -d and 0 first, and for each the pairs of taps."""
    count = len(offsets)
    difference = (offsets[:, None] - offsets).reshape(-1, 2)
    codes = difference @ np.array([2 * int(offsets.max()) + 1, 1])
    half = np.flatnonzero(codes >= 0)
    order = half[np.argsort(codes[half], kind="stable")]
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    members = np.split(order, starts)
    return difference[[pair[0] for pair in members]], [divmod(pair, count) for pair in members]


def _parts(
    matrices: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """What the cosines and the sines of -G(w) are multiplied with, `[d, groups * m * m]` each."""
    groups, size = matrices.shape[1:3]
    even = np.empty((len(pairs), groups, size, size))
    odd = np.empty_like(even)
    for index, (left, right) in enumerate(pairs):
        correlation = (matrices[left] @ matrices[right].mT).sum(axis=0)
        np.subtract(-correlation, correlation.mT, out=even[index])
        np.subtract(correlation.mT, correlation, out=odd[index])
    even[0] /= 2.0  # 0 is its own opposite.
    return even.reshape(len(pairs), -1), odd.reshape(len(pairs), -1)


def _first_failure(differences: np.ndarray) -> int | None:
    """The first Hermitian matrix, overwritten, whose Cholesky factorisation does not complete."""
    if differences.shape[-1] == 1:
        failed = np.flatnonzero(~(differences[:, 0, 0].real >= 0.0))
        return int(failed[0]) if len(failed) else None
    for index, difference in enumerate(differences):
        # One by one costs no more than in a batch, and says which. The transpose is the conjugate.
        factor, info = scipy.linalg.lapack.zpotrf(difference.T, lower=1, clean=0, overwrite_a=1)
        # Whatever is not a number reaches the last entry of the diagonal.
        if info != 0 or not math.isfinite(factor[-1, -1].real):
            return index
    return None


def _search(grams: Grams, frequency: np.ndarray, group: int) -> float:
    """An eigenvalue of G at some frequency, large among all: only a proposal.

    From one frequency, by turns: the best vector of a frequency, and the best frequency of a
    vector, whose squared image is a trigonometric polynomial over the whole torus.
    """
    taps, largest = grams.taps, 0.0
    height, width = taps.periods
    rows, columns = taps.offsets.T
    places = (rows[:, None] - rows) % height * width + (columns[:, None] - columns) % width
    for _ in range(_TURNS):
        value, vector = _largest_eigenvector(-grams.differences(0.0, frequency[None])[group])
        if value <= largest:
            break
        largest = value
        image = vector.conj() @ taps.matrices[:, group]
        coefficients = np.zeros(height * width, np.complex128)
        np.add.at(coefficients, places, image @ image.conj().T)
        values = np.fft.ifft2(coefficients.reshape(height, width), norm="forward").real
        best = np.unravel_index(np.argmax(values), values.shape)
        if values[best] <= largest * (1.0 + _FIRST_SLACK):
            break
        frequency = np.array(best)
    return largest


def _largest_eigenvector(gram: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest eigenvalue and its vector, more or less."""
    size = gram.shape[0]
    if size > _DENSE_SIZE:
        start = np.random.default_rng(size).standard_normal(size)
        try:
            values, vectors = scipy.sparse.linalg.eigsh(
                gram, k=1, which="LA", v0=start, tol=1e-7, ncv=40, maxiter=40
            )
            return float(values[0]), vectors[:, 0]
        except scipy.sparse.linalg.ArpackNoConvergence:
            pass
    last = [size - 1, size - 1]
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=last, check_finite=False)
    return float(values[0]), vectors[:, 0]
