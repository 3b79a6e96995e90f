"""Numbers and tables that a log comes down to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcert import smoothing

from ._reader import Log
from ._rows import ABSTAIN, parse_noise

_STEPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Summary(NamedTuple):
    """A log in a few numbers; every rate has all images of the log as its denominator.

    Attributes:
        name: Name of the run.
        num_images: Rows in the log, the denominator of every rate.
        num_right: Images that the smoothed classifier gets right.
        num_abstained: Images on which it abstains.
        average_radius: Mean certified radius over all images, 0 for the wrong and the abstained.
        average_radius_error: Standard error of `average_radius`.
        radii: Radii of the next two, `[r]`.
        num_certified: Images right with radius >= r, int `[r]`.
        noise: Noise as text, None when the log does not say or it varies.
        norm: Norm of the radii, `"l2"`, `"l1"` or `"linf"`, None when the log does not say.
        num_samples: Estimation samples an image, None when the log does not say or it varies.
        alpha: One-sided failure probability an image, likewise.
        reachable_radius: Largest radius that noise, samples and alpha can give, likewise.
        seconds: Sum of the `time` column, NaN when the log does not say.
        is_deterministic: Whether margins and Lipschitz constants certify every radius, so that
            each holds with certainty.
    """

    name: str
    num_images: int
    num_right: int
    num_abstained: int
    average_radius: float
    average_radius_error: float
    radii: np.ndarray
    num_certified: np.ndarray
    noise: str | None
    norm: str | None
    num_samples: int | None
    alpha: float | None
    reachable_radius: float | None
    seconds: float
    is_deterministic: bool = False

    @property
    def clean_accuracy(self) -> float:
        """Share of images that the smoothed classifier gets right at radius 0."""
        return self.num_right / self.num_images

    @property
    def abstain_rate(self) -> float:
        """Share of images on which the smoothed classifier abstains."""
        return self.num_abstained / self.num_images

    @property
    def certified_accuracy(self) -> np.ndarray:
        """Share of images right with radius >= r, float64 `[r]`."""
        return self.num_certified / self.num_images

    @property
    def certified_accuracy_error(self) -> np.ndarray:
        """Standard error of `certified_accuracy`, float64 `[r]`."""
        return _rate_error(self.certified_accuracy, self.num_images)


def summarize(
    log: Log, *, radii: Sequence[float] | np.ndarray | None = None, name: str | None = None
) -> Summary:
    r"""Certified accuracy at radii, clean accuracy, abstentions and average certified radius.

    .. math::
        A(r) = \frac1n \sum_i 1[c_i = y_i, R_i \ge r], \qquad
        ACR = \frac1n \sum_i R_i 1[c_i = y_i]

    with `n` all images in the log. The test is `>=`, as in the field's first tool; with `>` the
    accuracy at the largest reachable radius, where many images pile up, would read 0.

    Args:
        log: A log with at least one row.
        radii: Radii at which to state certified accuracy; by default evenly spaced from 0.
        name: Name for tables, by default the log's.

    Returns:
        The summary. Standard errors describe how the numbers would vary over other draws of as
        many images; they are sqrt(p (1 - p) / n) for rates.

    Raises:
        ValueError: If the log has no rows, or a radius is negative or not finite.

    Example:
        >>> from jaxcert.report import Log, Row, summarize
        >>> rows = [Row(0, 7, 7, 0.5, True, 0.1), Row(1, 2, -1, 0.0, False, 0.1)]
        >>> summary = summarize(Log("log.tsv", tuple(rows)), radii=[0.5])
        >>> summary.clean_accuracy, summary.average_radius, summary.certified_accuracy
        (0.5, 0.25, array([0.5]))
    """
    if not log.rows:
        raise ValueError(f"{log.path} has no rows to summarize")
    grid = default_radii([log]) if radii is None else np.asarray(radii, dtype=np.float64).ravel()
    if not np.all(np.isfinite(grid) & (grid >= 0)):
        raise ValueError(f"radii must be finite and at least 0, got {radii}")
    num_images = len(log.rows)
    credited = np.where(log.is_right, log.radii, 0.0)
    noise = _common([row.noise for row in log.rows])
    num_samples = _common([row.samples for row in log.rows])
    alpha = _common([row.alpha for row in log.rows])
    margin_norm = _common([row.margin.norm if row.margin else None for row in log.rows])
    reachable = None
    if noise is not None and num_samples is not None and alpha is not None:
        largest = smoothing.max_radius(parse_noise(noise), num_samples=num_samples, alpha=alpha)
        reachable = float(np.max(largest))
    return Summary(
        name=log.name if name is None else name,
        num_images=num_images,
        num_right=int(np.sum(log.is_right)),
        num_abstained=sum(row.predict == ABSTAIN for row in log.rows),
        average_radius=float(np.mean(credited)),
        average_radius_error=(
            float(np.std(credited, ddof=1)) / math.sqrt(num_images) if num_images > 1 else math.nan
        ),
        radii=grid,
        num_certified=np.sum(log.is_right & (log.radii >= grid[:, None]), axis=1),
        noise=noise,
        norm=margin_norm if noise is None else parse_noise(noise).norm,
        num_samples=num_samples,
        alpha=alpha,
        reachable_radius=reachable,
        seconds=float(np.sum([row.time for row in log.rows])),
        is_deterministic=all(row.margin is not None for row in log.rows),
    )


def certified_accuracy_curve(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """The exact step function of certified accuracy over the radius.

    Args:
        log: A log with at least one row.

    Returns:
        Radii, increasing from 0, and the accuracy that holds up to and including each of them,
        both float64 `[k]`. Beyond the last radius the accuracy is 0.

    Raises:
        ValueError: If the log has no rows.

    Example:
        >>> from jaxcert.report import Log, Row, certified_accuracy_curve
        >>> rows = [Row(0, 7, 7, 0.5, True, 0.1), Row(1, 2, 2, 0.3, True, 0.1)]
        >>> certified_accuracy_curve(Log("log.tsv", tuple(rows)))
        (array([0. , 0.3, 0.5]), array([1. , 1. , 0.5]))
    """
    if not log.rows:
        raise ValueError(f"{log.path} has no rows to draw")
    right = np.sort(log.radii[log.is_right])
    radii = np.unique(np.concatenate([[0.0], right]))
    num_certified = right.size - np.searchsorted(right, radii, side="left")
    return radii, num_certified / len(log.rows)


def default_radii(logs: Sequence[Log], *, at_most: int = 9) -> np.ndarray:
    """Choose evenly spaced radii from 0 to the largest certified one.

    Args:
        logs: Logs that a table shows together.
        at_most: How many radii to choose at most.

    Returns:
        Increasing radii, float64 `[r]`.

    Example:
        >>> from jaxcert.report import Log, Row, default_radii
        >>> default_radii([Log("run", (Row(0, 7, 7, 0.6, True, 0.1),))], at_most=4)
        array([0.  , 0.25, 0.5 ])
    """
    largest = max((float(np.max(log.radii[log.is_right], initial=0.0)) for log in logs), default=0)
    for step in _STEPS:
        if largest < step * at_most:
            return step * np.arange(int(largest / step) + 1)
    return np.linspace(0.0, largest, at_most)


def format_table(summaries: Sequence[Summary], *, markdown: bool = False) -> str:
    """Lay summaries out as a table, a run a row.

    Args:
        summaries: Summaries that state accuracy at the same radii.
        markdown: Markdown rather than plain text.

    Returns:
        The table, and below it what its numbers mean. The number after a plus-minus sign is one
        standard error.

    Raises:
        ValueError: If there are no summaries or their radii differ.

    Example:
        >>> from jaxcert.report import Log, Row, format_table, summarize
        >>> rows = (Row(0, 7, 7, 0.5, True, 0.1), Row(1, 2, -1, 0.0, False, 0.1))
        >>> print(format_table([summarize(Log("run", rows), radii=[0.0, 0.25])]))
        run  images  right  abstain      ACR ± error    r≥0  r≥0.25
        run       2    1/2      1/2  0.2500 ± 0.2500  0.500   0.500
        ...
    """
    if not summaries:
        raise ValueError("summaries must not be empty")
    radii = summaries[0].radii
    if any(not np.array_equal(summary.radii, radii) for summary in summaries):
        raise ValueError("summaries must state accuracy at the same radii")
    header = ["run", "images", "right", "abstain", "ACR ± error"]
    header += [f"r≥{radius:.4g}" for radius in radii]
    cells = [header]
    for summary in summaries:
        cells.append(
            [
                summary.name,
                str(summary.num_images),
                f"{summary.num_right}/{summary.num_images}",
                f"{summary.num_abstained}/{summary.num_images}",
                f"{summary.average_radius:.4f} ± {summary.average_radius_error:.4f}",
                *(f"{accuracy:.3f}" for accuracy in summary.certified_accuracy),
            ]
        )
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        padded = [row[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(padded) + " |" if markdown else "  ".join(padded))
    if markdown:
        rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines.insert(1, "| " + " | ".join(rules) + " |")
    notes = _footnotes(summaries)
    if markdown:
        notes = [f"  - {note[2:]}" if note.startswith("  ") else f"- {note}" for note in notes]
    return "\n".join([*lines, "", *notes])


def summary_to_dict(summary: Summary) -> dict[str, Any]:
    """Turn a summary into values that JSON can hold, rates and standard errors included.

    Args:
        summary: A summary.

    Returns:
        Field names to numbers, text, lists and None; NaN becomes None.

    Example:
        >>> from jaxcert.report import Log, Row, summarize, summary_to_dict
        >>> log = Log("run", (Row(0, 7, 7, 0.6, True, 0.1),))
        >>> summary_to_dict(summarize(log))["average_radius"]
        0.6
    """
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in summary._asdict().items()
    }
    values |= {
        "clean_accuracy": summary.clean_accuracy,
        "abstain_rate": summary.abstain_rate,
        "certified_accuracy": summary.certified_accuracy.tolist(),
        "certified_accuracy_error": summary.certified_accuracy_error.tolist(),
    }
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


def _footnotes(summaries: Sequence[Summary]) -> list[str]:
    lines = [
        "Every rate is over all images of the run. Under r≥x: share of images predicted right "
        "with certified radius >= x.",
        "ACR: average certified radius, wrong and abstained images counted as 0, ± one standard "
        "error over images.",
    ]
    known = [summary for summary in summaries if summary.reachable_radius is not None]
    if known:
        lines.append("Largest radius that the samples of a run can reach:")
    lines += [
        f"  {summary.name}: {summary.norm} {summary.reachable_radius:.4g} by {summary.noise}, "
        f"{summary.num_samples:,} samples, alpha {summary.alpha:.10g}"
        for summary in known
    ]
    alphas = {summary.alpha for summary in known}
    for alpha in sorted(alpha for alpha in alphas if alpha is not None):
        most = max(summary.num_images for summary in known if summary.alpha == alpha)
        lines.append(
            f"Each radius holds with probability at least {1 - alpha:.10g} on its own: of {most} "
            f"images, at most {alpha * most:.3g} radii are expected to be too large."
        )
    certain = [summary.name for summary in summaries if summary.is_deterministic]
    if certain:
        lines.append(
            "Radii that hold with certainty, if their Lipschitz constants do: " + ", ".join(certain)
        )
    return lines


def _common(values: Sequence[Any]) -> Any:
    """The value that all share, or None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _rate_error(rate: np.ndarray, num_images: int) -> np.ndarray:
    return np.sqrt(rate * (1.0 - rate) / num_images)
