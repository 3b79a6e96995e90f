"""Gaussian noise rounded to a grid, sampled exactly in integers.

Let Z be a real Gaussian in units of the grid, rounded to the nearest integer. Its magnitude is at
least k with probability S_k = 2 Q((k - 1/2) / s), Q being the normal upper tail and s = sigma *
levels. So with U uniform on [0, 1) the magnitude is the number of k >= 1 with U < S_k. Here U has
95 random bits, and each S_k is held as an integer number of 2**-95.
"""

import decimal
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import _checks
from jaxcert.smoothing._random_words import random_words

_SIGN_BIT = np.uint32(0x80000000)
_WORD_BITS = (31, 32, 32)
BITS = sum(_WORD_BITS)

# With at most 2**13 thresholds, each good to 2**-94, and at most 2**20 coordinates the noise of an
# input is within 2**-61 of the exact distribution in total variation; see `Noise.radius`.
MAX_THRESHOLDS = 2**13
MAX_COORDINATES = 2**20
_MAX_INDEX = 2**17

_DIGITS = 60
_PI = "3.14159265358979323846264338327950288419716939937510582097494459230781640628620900"


class Grid(NamedTuple):
    """The multiples of `1 / levels`, and Gaussian noise of deviation `sigma` rounded to them."""

    sigma: float
    levels: int


@functools.lru_cache(maxsize=32)
def thresholds(grid: Grid) -> tuple[int, ...]:
    """The probabilities S_1 > S_2 > ... in units of 2**-95, rounded down, as long as not 0.

    The normal distribution function comes from its series of positive terms, in decimals: an error
    below 1e-40, so that each threshold is within 2**-94 of its probability.

    Raises:
      ValueError: if there would be more than `MAX_THRESHOLDS`.
    """
    with decimal.localcontext(prec=_DIGITS):
        deviation = decimal.Decimal(grid.sigma) * grid.levels
        # Beyond 12 deviations a tail is below 2**-107, so this many are enough.
        last = math.ceil(12 * deviation) + 1
        density = (2 / decimal.Decimal(_PI)).sqrt()
        found: list[int] = []
        for k in range(1, last + 1):
            x = (k - decimal.Decimal("0.5")) / deviation
            if x > 13:
                break
            tail = 1 - density * (-x * x / 2).exp() * _odd_series(x)
            threshold = math.floor(tail * 2**BITS) if tail > 0 else 0
            if threshold == 0:
                break
            if len(found) == MAX_THRESHOLDS - 1:
                raise ValueError(
                    f"sigma must be below about {MAX_THRESHOLDS / 11.4:.0f} steps of the grid, "
                    f"got {float(deviation):.0f} steps of 1 / {grid.levels}"
                )
            found.append(threshold)
    return tuple(found)


def _odd_series(x: decimal.Decimal) -> decimal.Decimal:
    """Sum of x**(2n + 1) / (2n + 1)!!, to a relative 1e-45."""
    square, term, total, odd = x * x, x, x, 1
    # Once terms halve, what is left out is less than the last one.
    while 2 * square > odd or term > total * decimal.Decimal("1e-45"):
        odd += 2
        term = term * square / odd
        total += term
    return total


def threshold_words(grid: Grid) -> np.ndarray:
    """The thresholds as uint32 `[2**n, 3]`, most significant word first, padded by zeros."""
    values = thresholds(grid)
    table = np.zeros((2 ** max(len(values), 1).bit_length(), 3), np.uint32)
    for row, value in enumerate(values):
        table[row] = (value >> 64, (value >> 32) & 0xFFFFFFFF, value & 0xFFFFFFFF)
    return table


def sample_indices(keys: jax.Array, count: int, *, grid: Grid) -> jax.Array:
    """Draw noise in units of the grid: int32 `[..., count]` for keys `[...]`.

    The first 31 bits decide almost always. Only when they equal those of a threshold for some
    coordinate are the other 64 drawn; the result is the same as if they always were.
    """
    table = threshold_words(grid)
    words = random_words(keys, count)
    first = words & ~_SIGN_BIT
    magnitude, is_undecided = locate(first, table)

    def refine() -> jax.Array:
        rest = random_words(keys, 2 * count, block=1)
        return locate_exactly(first, rest[..., :count], rest[..., count:], table)

    magnitude = jax.lax.cond(jnp.any(is_undecided), refine, lambda: magnitude)
    return jnp.where(words >= _SIGN_BIT, -magnitude, magnitude)


def locate(first: jax.Array, table: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Count the thresholds above U from its first word, and say where that does not decide."""
    leading = jnp.asarray(table[:, 0])
    magnitude = _count_above(first.shape, table.shape[0], lambda row: first < leading[row])
    return magnitude, leading[magnitude] == first


def locate_exactly(
    first: jax.Array, second: jax.Array, third: jax.Array, table: np.ndarray
) -> jax.Array:
    """Count the thresholds above U from all of its words."""
    columns = [jnp.asarray(table[:, word]) for word in range(3)]

    def is_below(row: jax.Array) -> jax.Array:
        a, b, c = (column[row] for column in columns)
        last = (second < b) | ((second == b) & (third < c))
        return (first < a) | ((first == a) & last)

    return _count_above(first.shape, table.shape[0], is_below)


def _count_above(
    shape: tuple[int, ...], rows: int, is_below: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Binary search in a descending table whose last row is above nothing."""
    count = jnp.zeros(shape, jnp.int32)
    for bit in reversed(range(rows.bit_length() - 1)):
        candidate = count + np.int32(1 << bit)
        count = jnp.where(is_below(candidate - 1), candidate, count)
    return count


def to_inputs(indices: jax.Array, levels: int) -> jax.Array:
    """The float32 nearest to `indices / levels`, or next to it: a function of the index alone."""
    return indices.astype(jnp.float32) / np.float32(levels)


def to_indices(values: jax.Array, levels: int) -> jax.Array:
    """The nearest grid points of floating values, int32."""
    return jnp.rint(values.astype(jnp.float32) * np.float32(levels)).astype(jnp.int32)


def is_on_grid(values: jax.Array, levels: int) -> jax.Array:
    """Whether each value is finite, within reach, and a multiple of `1 / levels` up to rounding."""
    scaled = values.astype(jnp.float32) * np.float32(levels)
    nearest = jnp.rint(scaled)
    slack = jnp.maximum(jnp.abs(nearest), 1.0) * np.float32(2.0**-20)
    return (jnp.abs(scaled - nearest) <= slack) & (jnp.abs(nearest) <= _MAX_INDEX)


def check_on_grid(name: str, inputs: jax.Array, *, levels: int) -> None:
    """Raise unless each value is a multiple of `1 / levels` up to the rounding of float32.

    Traced values cannot be looked at; samples of such an input off the grid are no votes.
    """
    coordinates = math.prod(inputs.shape[1:])
    if coordinates > MAX_COORDINATES:
        raise ValueError(
            f"{name} must have at most {MAX_COORDINATES} coordinates for noise on a grid, "
            f"got {coordinates}"
        )
    if not _checks.is_concrete(inputs):
        return
    scaled = np.asarray(inputs).astype(np.float64) * levels
    nearest = np.rint(scaled)
    if np.any(np.abs(nearest) > _MAX_INDEX):
        raise ValueError(
            f"{name} must lie within {_MAX_INDEX} steps of 0 for noise on the grid of "
            f"1 / {levels}, got {np.abs(nearest).max():.0f} steps"
        )
    off = np.abs(scaled - nearest) > np.maximum(np.abs(nearest), 1.0) * 2.0**-21
    if np.any(off):
        rows = np.flatnonzero(off.reshape(off.shape[0], -1).any(axis=1))
        raise ValueError(
            f"{name} must be multiples of 1 / {levels} for noise on that grid, got "
            f"{np.asarray(inputs)[off].flat[0]} in row {rows[0]} ({rows.size} such rows)"
        )
