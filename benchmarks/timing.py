"""Interleaved measurements, and ratios that survive a noisy machine."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# A pause before each measurement, for thread pools of other libraries to stop spinning.
_SETTLE_SECONDS = 0.02


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    median: float
    high: float


def measure(
    variants: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    settle: float = _SETTLE_SECONDS,
) -> dict[str, list[float]]:
    """Time functions that return when their work is done.

    All variants run once in each repetition, so a disturbance of the machine meets all of them, and
    in turn forwards and backwards, so none always follows the same other.

    Args:
      variants: what to time, by name. Each must block until its result is ready.
      repetitions: measurements of each variant.
      warm_ups: calls of each variant before the first measurement: compilation, caches.
      clock: seconds.
      settle: seconds of pause before each measurement.

    Returns:
      Seconds, a list of length `repetitions` for each variant.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, got {repetitions}")
    names = list(variants)
    for name in names:
        for _ in range(warm_ups):
            variants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(repetitions):
        for name in names if repetition % 2 == 0 else reversed(names):
            time.sleep(settle)
            start = clock()
            variants[name]()
            seconds[name].append(clock() - start)
    return seconds


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Median and quartiles."""
    return Spread(
        *(float(v) for v in np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)))
    )


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratios of measurements that were taken side by side."""
    if len(numerator) != len(denominator):
        raise ValueError(
            f"numerator and denominator must have the same length, "
            f"got {len(numerator)} and {len(denominator)}"
        )
    return spread(np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64))
