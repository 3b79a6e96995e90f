"""A ladder of bounds: its rungs, their order, and how it is printed."""

from typing import NamedTuple

import numpy as np

SIDES = ("lower", "upper", "other")
QUANTITIES = ("distance", "lipschitz")


class Rung(NamedTuple):
    """One number for each input.

    Attributes:
      name: what computed it.
      quantity: `"distance"`, l2 from an input to the nearest one of another class, or
        `"lipschitz"`, of all scores together around the input.
      side: `"lower"` and `"upper"` bound the quantity of this network; `"other"` is about another
        classifier, the smoothed one, and is compared with nothing.
      values: float64 `[b]`.
    """

    name: str
    quantity: str
    side: str
    values: np.ndarray


class Ladder(NamedTuple):
    """What is known about the surroundings of some inputs.

    Attributes:
      label: int64 `[b]`, the class of the network at each input.
      margin: float64 `[b]`, its score less the next one.
      smoothed_label: int64 `[b]`, the class that the smoothed classifier is certified for, or
        `smoothing.ABSTAIN`; -1 as well where none was smoothed.
      rungs: from the cheapest proof to the strongest attack.
    """

    label: np.ndarray
    margin: np.ndarray
    smoothed_label: np.ndarray
    rungs: tuple[Rung, ...]


def inversions(ladder: Ladder) -> list[str]:
    """Find lower bounds that are above upper bounds of the same quantity: each is a bug.

    Args:
      ladder: from `certification_ladder`.

    Returns:
      A sentence for each input and pair that is out of order; no number is out of order too.

    Example:
      >>> import numpy as np
      >>> from jaxcert.ladder import Ladder, Rung, inversions
      >>> rungs = (Rung("proof", "distance", "lower", np.array([0.5, 0.9])),
      ...          Rung("attack", "distance", "upper", np.array([0.6, 0.8])))
      >>> inversions(Ladder(np.zeros(2, int), np.ones(2), np.zeros(2, int), rungs))
      ['input 1: distance 0.9 proved from below by proof, but 0.8 is the upper bound by attack']
    """
    found = []
    for lower in ladder.rungs:
        if np.isnan(lower.values).any():
            found += [
                f"input {n}: {lower.quantity} by {lower.name} is no number"
                for n in np.flatnonzero(np.isnan(lower.values))
            ]
        for upper in ladder.rungs:
            if lower.side == "lower" and upper.side == "upper" and lower.quantity == upper.quantity:
                found += [
                    f"input {n}: {lower.quantity} {lower.values[n]:.9g} proved from below by "
                    f"{lower.name}, but {upper.values[n]:.9g} is the upper bound by {upper.name}"
                    for n in np.flatnonzero(lower.values > upper.values)
                ]
    return found


def format_ladder(ladder: Ladder) -> str:
    """Write the ladder as a table in Markdown: a rung a row, with its middle and its ends.

    Args:
      ladder: from `certification_ladder`.

    Returns:
      The table; for a single input there is one column of values.

    Example:
      >>> import numpy as np
      >>> from jaxcert.ladder import Ladder, Rung, format_ladder
      >>> rungs = (Rung("proof", "distance", "lower", np.array([0.5])),)
      >>> print(format_ladder(Ladder(np.zeros(1, int), np.ones(1), np.zeros(1, int), rungs)))
      | quantity | side | rung | value |
      | --- | --- | --- | ---: |
      | distance | lower | proof | 0.5 |
    """
    single = ladder.label.size == 1
    names = ["value"] if single else ["least", "median", "largest"]
    lines = [
        "| " + " | ".join(["quantity", "side", "rung", *names]) + " |",
        "| --- | --- | --- |" + " ---: |" * len(names),
    ]
    for rung in ladder.rungs:
        shown = rung.values if single else np.quantile(rung.values, [0, 0.5, 1], method="nearest")
        cells = [rung.quantity, rung.side, rung.name, *(f"{value:.4g}" for value in shown)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
