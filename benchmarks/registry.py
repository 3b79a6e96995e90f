"""Cases by name: what is timed, and which ratios are of interest."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

CASES: dict[str, Callable[[bool], "Case"]] = {}


class Aim(NamedTuple):
    """A ratio to report, with the value it should reach.

    Attributes:
      numerator: name of a variant.
      denominator: name of a variant.
      at_most: the ratio should not exceed this; None if it has no such aim.
      at_least: the ratio should reach this; None if it has no such aim.
    """

    numerator: str
    denominator: str
    at_most: float | None = None
    at_least: float | None = None

    def is_met(self, value: float) -> bool | None:
        """Whether a ratio reaches the aim; None without one."""
        if self.at_most is not None:
            return value <= self.at_most
        if self.at_least is not None:
            return value >= self.at_least
        return None


class Case(NamedTuple):
    """One comparison, ready to run.

    Attributes:
      variants: functions to time, by name; each blocks until its result is ready.
      aims: the ratios to report.
      settings: sizes and choices, stored with the result.
      items: what one call of a variant processes, for times per item.
      unit: name of such an item.
      repetitions: measurements of each variant.
    """

    variants: dict[str, Callable[[], object]]
    aims: tuple[Aim, ...]
    settings: dict[str, Any]
    items: int
    unit: str
    repetitions: int


class UnavailableError(RuntimeError):
    """A case needs what this machine lacks: a package, several devices."""


def register(name: str) -> Callable[[Callable[[bool], Case]], Callable[[bool], Case]]:
    """Add a function from `quick` to a `Case` under a name."""

    def add(build: Callable[[bool], Case]) -> Callable[[bool], Case]:
        if name in CASES:
            raise ValueError(f"the case {name!r} is registered already")
        CASES[name] = build
        return build

    return add


def select(names: Iterable[str]) -> list[str]:
    """The cases that are asked for, in the order of registration; all without any name."""
    wanted = set(names)
    unknown = sorted(wanted - set(CASES))
    if unknown:
        raise ValueError(f"case must be one of {', '.join(CASES)}, got {', '.join(unknown)}")
    return [name for name in CASES if not wanted or name in wanted]
