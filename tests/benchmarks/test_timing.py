"""The arithmetic of the measurements, on a clock that the test moves."""

import pytest

from benchmarks import timing


class Clock:
    """Seconds that pass only when something is called."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def task(self, name, *durations):
        """A function that takes the given durations, one after the other, then the last again."""
        remaining = list(durations)

        def run():
            self.calls.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return run

    def __call__(self):
        return self.now


def test_measure_returns_each_duration_in_order():
    clock = Clock()
    variants = {"a": clock.task("a", 100.0, 1.0, 2.0, 3.0), "b": clock.task("b", 50.0, 7.0)}
    seconds = timing.measure(variants, repetitions=3, clock=clock, settle=0.0)
    # The first calls are the warm-up and are not in the result.
    assert seconds == {"a": [1.0, 2.0, 3.0], "b": [7.0, 7.0, 7.0]}


def test_measure_interleaves_and_turns_the_order_round():
    clock = Clock()
    variants = {name: clock.task(name, 1.0) for name in "abc"}
    timing.measure(variants, repetitions=3, warm_ups=2, clock=clock, settle=0.0)
    assert "".join(clock.calls) == "aabbcc" + "abc" + "cba" + "abc"


def test_measure_refuses_zero_repetitions():
    with pytest.raises(ValueError, match="repetitions must be at least 1, got 0"):
        timing.measure({}, repetitions=0)


def test_spread_is_the_quartiles():
    assert timing.spread([5.0, 1.0, 2.0, 3.0, 4.0]) == (2.0, 3.0, 4.0)
    assert timing.spread([1.0, 2.0]) == (1.25, 1.5, 1.75)


def test_ratio_pairs_measurements_before_taking_the_median():
    # A machine that slows down fivefold half-way leaves paired ratios alone; the ratio of the
    # medians would be 10 / 10.
    numerator, denominator = [2.0, 2.0, 10.0, 10.0, 10.0], [1.0, 1.0, 5.0, 5.0, 5.0]
    assert timing.ratio(numerator, denominator) == (2.0, 2.0, 2.0)
    assert timing.ratio([1.0, 10.0, 3.0], [2.0, 2.0, 2.0]).median == 1.5


def test_ratio_refuses_measurements_that_do_not_pair():
    with pytest.raises(ValueError, match="same length, got 1 and 2"):
        timing.ratio([1.0], [1.0, 2.0])
