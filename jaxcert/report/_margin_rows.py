"""What a row of a deterministic certificate holds: scores, and the constants behind its radius."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcert import lipschitz

NORMS = ("l2", "linf", "l1")
FIELDS = ("scores", "lipschitz", "slack", "norm")


@dataclasses.dataclass(frozen=True)
class Margin:
    """The evidence for a radius that a margin and Lipschitz constants certify.

    Attributes:
        scores: Score of each class.
        lipschitz: Lipschitz constant of all scores together, one number; or a constant for each
            difference between the predicted class and a class, in class order.
        slack: What is taken from the score of the predicted class first, for rounding.
        norm: Norm of the radius, `"l2"`, `"linf"` or `"l1"`.
    """

    scores: tuple[float, ...]
    lipschitz: tuple[float, ...]
    slack: float
    norm: str


def format_margin(margin: Margin) -> tuple[str, ...]:
    """Write the evidence as the fields of `FIELDS`, each number so that it reads back the same."""
    return (
        ",".join(repr(float(value)) for value in margin.scores),
        ",".join(repr(float(value)) for value in margin.lipschitz),
        repr(float(margin.slack)),
        margin.norm,
    )


def parse_numbers(text: str) -> tuple[float, ...]:
    """Read finite numbers joined by commas."""
    values = tuple(float(part) for part in text.split(","))
    if not all(map(math.isfinite, values)):
        raise ValueError(text)
    return values


def parse_constants(text: str) -> tuple[float, ...]:
    """Read Lipschitz constants: numbers of at least 0."""
    values = parse_numbers(text)
    if min(values) < 0:
        raise ValueError(text)
    return values


def parse_norm(text: str) -> str:
    """Read the name of a norm."""
    if text not in NORMS:
        raise ValueError(text)
    return text


def slack_of(scores: Sequence[float] | np.ndarray, rounding: float) -> float:
    """A part of the largest score, rounded up; 0 for none."""
    return float(np.nextafter(rounding * np.abs(scores).max(), np.inf)) if rounding else 0.0


def differences(margin: Margin, predict: int, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a manifest says of a row otherwise: field, and what it should be."""
    found: list[tuple[str, Any]] = []
    if settings.get("norm", margin.norm) != margin.norm:
        found.append(("norm", settings["norm"]))
    if "rounding" in settings and margin.slack < slack_of(margin.scores, settings["rounding"]):
        found.append(("slack", slack_of(margin.scores, settings["rounding"])))
    if "lipschitz" in settings:
        constants = np.asarray(settings["lipschitz"], np.float64)
        wanted = tuple((constants[predict] if constants.ndim else constants[None]).tolist())
        if wanted != margin.lipschitz:
            found.append(("lipschitz", wanted))
    return found


def radii_of_margins(margins: Sequence[Margin]) -> tuple[list[int], list[float]]:
    """Derive the predicted class and the radius of each row from its evidence alone.

    Raises:
        ValueError: If the numbers of scores and constants of a row do not fit each other.
    """
    labels = [int(np.argmax(margin.scores)) for margin in margins]
    radii = [0.0] * len(margins)
    # Rows that share their constants are one call.
    groups: dict[tuple[int, tuple[float, ...]], list[int]] = collections.defaultdict(list)
    for place, margin in enumerate(margins):
        classes = len(margin.scores)
        if classes < 2 or len(margin.lipschitz) not in (1, classes):
            raise ValueError(
                "lipschitz must be one constant or one for each of 2 or more scores, got "
                f"{len(margin.lipschitz)} for {classes}"
            )
        groups[classes, margin.lipschitz].append(place)
    for (classes, constants), places in groups.items():
        scores = np.array([margins[place].scores for place in places], np.float64)
        rows = np.arange(len(places))
        own = np.array([labels[place] for place in places])
        slack = np.array([margins[place].slack for place in places])
        # The next number below, so that the subtraction takes off at least the slack.
        scores[rows, own] = np.nextafter(scores[rows, own] - slack, -np.inf)
        # Only the row of the predicted class is looked at, and that is what they share.
        together = np.asarray(constants[0] if len(constants) == 1 else [constants] * classes)
        found = np.asarray(lipschitz.margin_radius(scores, together))
        kept = np.where(scores.argmax(axis=1) == own, found, 0.0)
        for place, radius in zip(places, kept.tolist(), strict=True):
            radii[place] = radius
    return labels, radii
