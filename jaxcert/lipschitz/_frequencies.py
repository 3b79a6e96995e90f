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

import contextlib
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
# Up to this size the factorisations of a block are tried in one call.
_BATCHED_SIZE = 8
# Turns of a search at most; it mostly stays after two or three.
_TURNS = 8
# Up to this size a dense eigenvector costs less than an iteration.
_DENSE_SIZE = 128


class Taps(NamedTuple):
    """A convolution of stride 1 on a torus.

    Attributes:
      moves: pixels that the taps are moved by, along the height and along the width.
      matrices: `[t, groups, m, n]` for each pair of moves, with m at most n.
      periods: pixels of the torus, by axis.
    """

    moves: tuple[np.ndarray, np.ndarray]
    matrices: np.ndarray
    periods: tuple[int, int]


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
    return Taps((rows, columns), np.ascontiguousarray(matrices), (periods[0], periods[1]))


class Grams:
    """The matrices `t I - G(w)` of a convolution, up to `error` in norm, at any frequencies."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps
        count, self.groups, self.size, inner = taps.matrices.shape
        distinct = [len(np.unique(moves[:, None] - moves)) for moves in taps.moves]
        differences, frequencies = math.prod(distinct) // 2 + 1, math.prod(taps.periods) // 2 + 1
        # Operations over m^2. Long kernels on small images have many differences for their
        # frequencies, and transforms of the taps are cheaper.
        correlating = count**2 * inner + frequencies * 4 * differences
        transforming = frequencies * 8 * inner * (count / self.size + 1.0)
        self._tap_waves = [_waves(*axis) for axis in zip(taps.periods, taps.moves, strict=True)]
        self._even = self._odd = None
        if correlating <= transforming:
            offsets, pairs = _differences(taps.moves)
            self._even, self._odd = _parts(taps.matrices, pairs)
            self._waves = [_waves(*axis) for axis in zip(taps.periods, offsets.T, strict=True)]
        # Entry by entry, |fl(G) - G| is at most gamma times S S^T, with S the sum of the absolute
        # taps, for either way: products of n + t terms, sums over d or twice over t, and waves
        # that are good to a few units. The squared Frobenius norm of S bounds the norm of that.
        # Entries that underflow are below 1e-290 of the largest tap, which is at least 1.
        sums = np.abs(taps.matrices).sum(axis=0)
        largest = float(np.square(sums).sum(axis=(-2, -1)).max())
        terms = inner + 2 * count + 2 * differences + 64
        self.error = gamma(terms, np.complex128) * largest * 1.01 + 1e-290

    def differences(self, shift: float, frequencies: np.ndarray) -> np.ndarray:
        """`shift I - G(w)` for each of `[f, 2]`, `[f * groups, m, m]`."""
        u, v = frequencies.T
        shape = (len(frequencies) * self.groups, self.size, self.size)
        if self._even is None:
            rows, columns = self._tap_waves
            waves = (rows[u][:, :, None] * columns[v][:, None]).reshape(len(frequencies), -1)
            flat = self.taps.matrices.reshape(waves.shape[1], -1)
            transfer = (waves @ flat).reshape(*shape[:2], -1)
            found = transfer @ -transfer.conj().mT
        else:
            rows, columns = self._waves
            waves = rows[u] * columns[v]
            found = np.empty(shape, np.complex128)
            found.real = (waves.real @ self._even).reshape(shape)
            found.imag = (waves.imag @ self._odd).reshape(shape)
        diagonal = np.arange(self.size)
        found.real[:, diagonal, diagonal] += shift
        return found

    def along(self, vector: np.ndarray, group: int) -> np.ndarray:
        """`vector^* G(w) vector` on half of the torus, without a budget."""
        rows, columns = self._tap_waves
        image = vector.conj() @ self.taps.matrices[:, group]
        if image.shape[0] < image.shape[1]:
            image = np.asarray(np.linalg.qr(image.T, mode="r")).T  # Fewer columns, same products.
        image = image.reshape(rows.shape[1], columns.shape[1], -1)
        image = np.tensordot(rows[: len(rows) // 2 + 1], image, axes=1)
        image = columns @ image
        return np.square(image.real).sum(axis=-1) + np.square(image.imag).sum(axis=-1)


def largest_squared_norm_upper(taps: Taps) -> float:
    """A proved upper bound on the largest squared norm of a transfer matrix of the torus."""
    grams = Grams(taps)
    size, groups = grams.size, grams.groups
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


def _waves(period: int, moves: np.ndarray) -> np.ndarray:
    """exp(i w move) for all frequencies of a circle, `[period, moves]`, good to a few units."""
    return np.exp(2j * np.pi / period * (np.arange(period)[:, None] * moves % period))


def _differences(
    moves: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Differences d of taps, one of d and -d and 0 first, and for each the pairs of taps."""
    offsets = np.stack(np.meshgrid(*moves, indexing="ij"), axis=-1).reshape(-1, 2)
    difference = (offsets[:, None] - offsets).reshape(-1, 2)
    codes = difference @ np.array([2 * int(offsets.max()) + 1, 1])
    half = np.flatnonzero(codes >= 0)
    order = half[np.argsort(codes[half], kind="stable")]
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    members = np.split(order, starts)
    found = [np.divmod(member, len(offsets)) for member in members]
    return difference[[member[0] for member in members]], found


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
    size = differences.shape[-1]
    if size == 1:
        failed = np.flatnonzero(~(differences[:, 0, 0].real >= 0.0))
        return int(failed[0]) if len(failed) else None
    if size <= _BATCHED_SIZE:
        with contextlib.suppress(np.linalg.LinAlgError):
            if np.all(np.isfinite(np.linalg.cholesky(differences))):
                return None
    for index, difference in enumerate(differences):
        # Larger ones are as fast one by one, which says where. The transpose is the conjugate.
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
    largest = 0.0
    for _ in range(_TURNS):
        value, vector = _largest_eigenvector(-grams.differences(0.0, frequency[None])[group])
        if value <= largest:
            break
        largest = value
        values = grams.along(vector, group)
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
