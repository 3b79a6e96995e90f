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
G(w) is at most t. It is asked for at every frequency. Where t comes from does not matter: wherever
the factorisation fails, an eigenvalue is computed and t raised to a little above it. In random
order that happens only a few times, as often as a new largest value comes up.
"""

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from jaxcert.lipschitz._geometry import Axis
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._verified import factorisation_error, largest_eigenvalue_estimate

# Bytes of the matrices of a block: they should stay in a cache.
_BLOCK_BYTES = 2**18
# How far above a found eigenvalue the others are tested; threefold after a failure, up to the last:
# often next to no looseness, and never many failures.
_FIRST_SLACK, _LAST_SLACK = 1e-8, 1e-4
# Up to this size the factorisations of a block are tried in one call.
_BATCHED_SIZE = 8


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
    (rows, row, upper, above), (columns, column, left, beside) = (_moves(axis) for axis in axes)
    phases = np.zeros((len(rows), len(columns), len(upper), len(left), inputs, outputs))
    phases[row[:, None], column, above[:, None], beside] = kernel
    channels = len(upper) * len(left) * inputs
    matrices = phases.reshape(-1, channels, groups, outputs // groups).transpose(0, 2, 3, 1)
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mT
    height, width = (period // stride for period, stride in (axis.torus for axis in axes))
    return Taps((rows, columns), np.ascontiguousarray(matrices), (height, width))


@functools.lru_cache(maxsize=64)
def _moves(axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Moves of the taps of an axis and which of them each tap has, and residues likewise."""
    moves, residues = np.divmod(np.arange(axis.taps) * axis.dilation, axis.torus[1])
    return (
        *np.unique(moves, return_inverse=True),
        *np.unique(residues, return_inverse=True),
    )


class Grams:
    """The matrices `t I - G(w)` of a convolution, up to `error` in norm, at any frequencies."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps
        count, self.groups, self.size, inner = taps.matrices.shape
        moves = (tuple(taps.moves[0].tolist()), tuple(taps.moves[1].tolist()))
        distinct = [len({a - b for a in axis for b in axis}) for axis in moves]
        differences, frequencies = math.prod(distinct) // 2 + 1, math.prod(taps.periods) // 2 + 1
        # Operations over m^2. Long kernels on small images have many differences for their
        # frequencies, and transforms of the taps are cheaper.
        correlating = count**2 * inner + frequencies * 4 * differences
        transforming = frequencies * 8 * inner * (count / self.size + 1.0)
        self._minus_even = self._minus_odd = None
        if correlating <= transforming:
            moves, pairs = _differences(*moves)  # From here on, of the correlations.
            self._minus_even, self._minus_odd = _minus_parts(taps.matrices, pairs)
        self._waves = [_waves(*axis) for axis in zip(taps.periods, moves, strict=True)]
        # Products of waves at each frequency: of the differences, or of the taps.
        self.terms = count if self._minus_even is None else len(self._minus_even)
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
        rows, columns = self._waves
        if self._minus_even is None:
            waves = (rows[u][:, :, None] * columns[v][:, None]).reshape(len(frequencies), -1)
            flat = self.taps.matrices.reshape(waves.shape[1], -1)
            transfer = (waves @ flat).reshape(*shape[:2], -1)
            found = transfer @ -transfer.conj().mT
        else:
            waves = rows[u] * columns[v]
            found = np.empty(shape, np.complex128)
            found.real = (waves.real @ self._minus_even).reshape(shape)
            found.imag = (waves.imag @ self._minus_odd).reshape(shape)
        diagonal = np.arange(self.size)
        found.real[:, diagonal, diagonal] += shift
        return found


def largest_squared_norm_upper(taps: Taps) -> float:
    """A proved upper bound on the largest squared norm of a transfer matrix of the torus."""
    grams = Grams(taps)
    size, groups = grams.size, grams.groups
    frequencies = _frequencies(*taps.periods)
    bound, slack = grams.error, _FIRST_SLACK
    # Of long kernels with few channels the waves are larger than the matrices.
    entries = max(groups * size * size, grams.terms)
    longest = max(1, _BLOCK_BYTES // (16 * entries))
    first, length = 0, 1
    while first < len(frequencies):
        block = frequencies[first : first + length]
        failed = _first_failure(grams.differences(bound, block))
        if failed is None:
            # A later bound is larger, so what is proved here stays proved.
            first, length = first + length, min(2 * length, longest)
            continue
        frequency, group = divmod(failed, groups)
        first += frequency
        gram = -grams.differences(0.0, block[frequency : frequency + 1])[group]
        bound = max(bound, largest_eigenvalue_estimate(gram)) * (1.0 + slack)
        slack = min(3.0 * slack, _LAST_SLACK)
    return bound + factorisation_error(size, bound, np.dtype(np.complex128)) + grams.error


@functools.lru_cache(maxsize=64)
def _frequencies(height: int, width: int) -> np.ndarray:
    """One of each pair of frequencies w and -w, where G is conjugate: `[f, 2]`.

    Smooth kernels are largest at 0, which comes first. The others are in random order.
    """
    u, v = np.divmod(np.arange((height // 2 + 1) * width), width)
    keep = (2 * v <= width) | ((u > 0) & (2 * u < height))
    order = 1 + np.random.default_rng(0).permutation(np.count_nonzero(keep) - 1)
    return np.stack([u[keep], v[keep]], axis=-1)[np.concatenate([[0], order])]


@functools.lru_cache(maxsize=64)
def _waves(period: int, moves: tuple[int, ...]) -> np.ndarray:
    """exp(i w move) for all frequencies of a circle, `[period, moves]`, good to a few units."""
    steps = np.arange(period)[:, None] * np.array(moves) % period
    return np.exp(2j * np.pi / period * steps)


@functools.lru_cache(maxsize=64)
def _differences(
    rows: tuple[int, ...], columns: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[np.ndarray, np.ndarray]]]:
    """Differences d of taps, one of d and -d and 0 first, and for each the pairs of taps."""
    offsets = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    difference = (offsets[:, None] - offsets).reshape(-1, 2)
    codes = difference @ np.array([2 * int(offsets.max()) + 1, 1])
    half = np.flatnonzero(codes >= 0)
    order = half[np.argsort(codes[half], kind="stable")]
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    members = np.split(order, starts)
    found = [np.divmod(member, len(offsets)) for member in members]
    firsts = difference[[member[0] for member in members]]
    return (tuple(firsts[:, 0].tolist()), tuple(firsts[:, 1].tolist())), found


def _minus_parts(
    matrices: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """What the cosines and the sines of -G(w) are multiplied with, `[d, groups * m * m]` each."""
    groups, size = matrices.shape[1:3]
    correlations = np.empty((len(pairs), groups, size, size))
    for index, (left, right) in enumerate(pairs):
        np.sum(matrices[left] @ matrices[right].mT, axis=0, out=correlations[index])
    odd = correlations.mT - correlations
    even = correlations.mT + correlations
    np.negative(even, out=even)
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
    factorise = scipy.linalg.lapack.zpotrf
    for index, difference in enumerate(differences):
        # Larger ones are as fast one by one, which says where. The transpose is the conjugate.
        factor, info = factorise(difference.T, lower=1, clean=0, overwrite_a=1)
        # Whatever is not a number reaches the last entry of the diagonal.
        if info != 0 or not math.isfinite(factor.item(-1).real):
            return index
    return None
