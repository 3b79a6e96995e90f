"""Subsets by number, their normals by cofactors, and sign vectors packed into words."""

import math
from typing import Any

import numpy as np

WORD_BITS = 64


def combinations(num_items: int, size: int, start: int, stop: int) -> np.ndarray:
    """The subsets of `range(num_items)` numbered `start` to `stop` in colexicographic order.

    Args:
      num_items: number of items.
      size: items in a subset.
      start: first number.
      stop: one past the last number, at most `math.comb(num_items, size)`.

    Returns:
      int64 `[stop - start, size]`, increasing along a row.
    """
    rank = np.arange(start, stop, dtype=np.int64)
    subsets = np.empty((rank.size, size), np.int64)
    for position in range(size, 0, -1):
        table = np.array([math.comb(item, position) for item in range(num_items)], np.int64)
        item = np.searchsorted(table, rank, side="right") - 1
        subsets[:, position - 1] = item
        rank = rank - table[item]
    return subsets


def normals(rows: Any) -> Any:
    """The generalised cross product of r - 1 vectors in R^r, by expansion along each row.

    No LAPACK: the expansion is as accurate for such small sizes, exact on small integers, and fast
    over a large batch.

    Args:
      rows: `[..., r - 1, r]`, an array of NumPy or of JAX.

    Returns:
      `[..., r]`, orthogonal to the rows, with `<normal, x> = det [rows; x]`.
    """
    library, rank = rows.__array_namespace__(), rows.shape[-1]
    minors = {0: library.ones(rows.shape[:-2], dtype=rows.dtype)}
    for row in range(rank - 1):
        grown: dict[int, Any] = {}
        for mask, minor in minors.items():
            for column in range(rank):
                bit = 1 << column
                if mask & bit:
                    continue
                term = minor * rows[..., row, column]
                if (mask >> column).bit_count() % 2:
                    term = -term
                grown[mask | bit] = grown[mask | bit] + term if mask | bit in grown else term
        minors = grown
    full = (1 << rank) - 1
    return library.stack(
        [minors[full ^ (1 << c)] * (-1.0) ** (rank - 1 - c) for c in range(rank)], axis=-1
    )


def num_words(num_bits: int) -> int:
    """How many words hold `num_bits` bits."""
    return -(-num_bits // WORD_BITS)


def pack(bits: np.ndarray) -> np.ndarray:
    """Pack booleans `[n, m]` into uint64 words `[n, w]`, item j in bit j % 64 of word j // 64."""
    rows, count = bits.shape
    padded = np.zeros((rows, num_words(count) * WORD_BITS), bool)
    padded[:, :count] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def pack_columns(bits: np.ndarray) -> np.ndarray:
    """Pack booleans `[m, n]`, one sign vector a column, as `pack` does their transpose."""
    octets = np.packbits(bits, axis=0, bitorder="little")
    words = np.zeros((bits.shape[1], num_words(bits.shape[0])), np.uint64)
    for number, octet in enumerate(octets):
        word, position = divmod(number, WORD_BITS // 8)
        words[:, word] |= octet.astype(np.uint64) << np.uint64(8 * position)
    return words


def unpack(words: np.ndarray, count: int) -> np.ndarray:
    """Undo `pack`: booleans `[n, count]`."""
    little = np.ascontiguousarray(words.astype("<u8", copy=False)).view(np.uint8)
    return np.unpackbits(little, axis=1, count=count, bitorder="little").astype(bool)


def group(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows of words and say where each run of equal rows starts.

    Args:
      words: uint64 `[n, w]`.

    Returns:
      `order [n]`, which sorts the rows, and `starts [g]`, positions in that order.
    """
    if words.shape[0] == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(words[:, 0]) if words.shape[1] == 1 else np.lexsort(words.T)
    ordered = words[order]
    different = np.any(ordered[1:] != ordered[:-1], axis=1)
    return order, np.concatenate([[0], np.flatnonzero(different) + 1])


def has_repeated(words: np.ndarray) -> bool:
    """Whether two rows of words `[n, w]` are equal."""
    if words.shape[1] == 1:
        ordered = np.sort(words[:, 0])
        return bool(np.any(ordered[1:] == ordered[:-1]))
    return group(words)[1].size < words.shape[0]
