"""Checking a finished log against itself: every radius from its counts, without the model."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcert import smoothing

from ._manifest import MANIFEST_NAME, ManifestError, parse_indices, read_manifest
from ._margin_rows import differences, radii_of_margins
from ._reader import Log, read_log
from ._rows import ABSTAIN, Row, parse_noise

# Other versions of SciPy may round the last digits of a quantile otherwise.
RELATIVE_TOLERANCE = 1e-10


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a log.

    Attributes:
        path: The log file.
        line: Line number, 0 when the problem is not one row's.
        index: Image that the row is about, -1 when the problem is not one row's.
        field: Column at fault.
        message: What was expected and what the log says.
    """

    path: str
    line: int
    index: int
    field: str
    message: str

    def __str__(self) -> str:
        where = f", line {self.line} (image {self.index})" if self.line else ""
        return f"{self.path}{where}, field {self.field}: {self.message}"


class RecheckResult(NamedTuple):
    """What a recheck looked at and found.

    Attributes:
        num_rows: Rows in the log.
        num_rederived: Rows whose radius was derived again, from counts or from margins.
        problems: What is wrong, in file order; empty when nothing is wrong that could be checked.
        num_unchecked: Rows whose radius could not be checked at all: neither derived again nor
            compared with the radii that counts can give.
    """

    num_rows: int
    num_rederived: int
    problems: tuple[Problem, ...]
    num_unchecked: int


def recheck(
    log: Log | str | os.PathLike[str],
    *,
    noise: smoothing.Noise | None = None,
    num_samples: int | None = None,
    alpha: float | None = None,
) -> RecheckResult:
    r"""Derive every radius again from counts, samples, alpha and noise alone, and compare.

    A row is flagged when it claims another radius than its counts give, predicts another class
    than its selection counts choose, has counts that do not sum to its samples, or contradicts
    itself; so are images that appear twice, and rows that disagree with the run's manifest. In a
    run with a tolerance the manifest implies the sample size of each row from its selection votes.

    A row of another tool carries no counts. With `noise`, `num_samples` and `alpha` given, its
    radius must still be one that some count gives,

    .. math:: \exists k \in \{0, \dots, N\}: |R(k, N, \alpha) - r| \le \text{half a printed unit},

    which catches radii above the largest that the samples allow.

    A row of a deterministic certificate carries scores and constants; its radius is derived from
    them by `lipschitz.margin_radius`.

    Args:
        log: A log, its path, or a run folder.
        noise: Noise of a log without counts.
        num_samples: Estimation samples of a log without counts.
        alpha: One-sided failure probability of a log without counts.

    Returns:
        Numbers of rows seen, rederived and left unchecked, and the problems.

    Raises:
        LogError: If the log cannot be read.
        ManifestError: If the run's manifest cannot be read.
        ValueError: If some but not all of `noise`, `num_samples` and `alpha` are given.

    Guarantee:
        Sound: a radius above the one that its counts certify is always flagged (beyond a relative
        1e-10, for the rounding of different SciPy versions). It trusts the counts themselves, and
        the scores and Lipschitz constants of a deterministic certificate.

    Example:
        >>> from jaxcert.report import Log, Row, recheck
        >>> row = Row(index=0, label=7, predict=7, radius=2.0, correct=True, time=0.1,
        ...           counts={7: 100}, samples=100, alpha=0.001, noise="gaussian(1.0)",
        ...           selection={7: 10})
        >>> problem, = recheck(Log("log.tsv", (row,))).problems
        >>> problem.message
        'claims 2.0, but the counts certify 1.5...'
    """
    if not isinstance(log, Log):
        log = read_log(log)
    given = [value is not None for value in (noise, num_samples, alpha)]
    if any(given) and not all(given):
        raise ValueError("noise, num_samples and alpha must be given together, or none of them")
    found: list[tuple[Row | None, str, str]] = []
    for row in log.rows:
        found += [(row, field, message) for field, message in _contradictions(row)]
    found += _repeated(log.rows)
    found += _against_manifest(log)
    groups: dict[tuple[str, float], list[Row]] = collections.defaultdict(list)
    plain = []
    margins = [row for row in log.rows if row.margin is not None]
    for row in log.rows:
        if row.margin is not None:
            continue
        if row.counts is None:
            plain.append(row)
        elif row.selection and row.samples == sum(row.counts.values()):
            assert row.noise is not None
            assert row.alpha is not None
            groups[row.noise, row.alpha].append(row)
    for (noise_text, row_alpha), rows in groups.items():
        found += _rederive(rows, parse_noise(noise_text), row_alpha)
    found += _rederive_margins(margins)
    num_rederived = sum(map(len, groups.values())) + len(margins)
    num_checked = num_rederived
    if plain and noise is not None and num_samples is not None and alpha is not None:
        found += _attainable(plain, noise, num_samples, alpha)
        num_checked += len(plain)
    problems = [
        Problem(row.path or log.path, row.line, row.index, field, message)
        if row
        else Problem(log.path, 0, -1, field, message)
        for row, field, message in found
    ]
    problems.sort(key=lambda problem: (problem.path, problem.line))
    num_rows = len(log.rows)
    return RecheckResult(num_rows, num_rederived, tuple(problems), num_rows - num_checked)


def _contradictions(row: Row) -> list[tuple[str, str]]:
    found = []
    if row.correct != row.is_right:
        found.append(
            ("correct", f"says {int(row.correct)}, but predict {row.predict}, label {row.label}")
        )
    if row.predict == ABSTAIN and row.radius != 0:
        found.append(("radius", f"must be 0 where the classifier abstains, got {row.radius!r}"))
    if row.radius < 0:
        found.append(("radius", f"must be at least 0, got {row.radius!r}"))
    if row.counts is not None and sum(row.counts.values()) != row.samples:
        found.append(
            ("counts", f"sum to {sum(row.counts.values())}, but samples says {row.samples}")
        )
    if row.selection is not None and not row.selection:
        found.append(("selection", "holds no votes"))
    return found


def _repeated(rows: Sequence[Row]) -> list[tuple[Row | None, str, str]]:
    first: dict[int, Row] = {}
    found: list[tuple[Row | None, str, str]] = []
    for row in rows:
        other = first.setdefault(row.index, row)
        if other is not row:
            place = f"line {other.line}" + (f" of {other.path}" if other.path != row.path else "")
            found.append((row, "idx", f"image {row.index} is already in {place}"))
    return found


def _against_manifest(log: Log) -> list[tuple[Row | None, str, str]]:
    # Only a run folder's own log has a manifest beside it; a copied log stands alone.
    if not log.rows or (log.rows[0].counts is None and log.rows[0].margin is None):
        return []
    folder = log.path if os.path.isdir(log.path) else os.path.dirname(log.path)
    manifest = read_manifest(folder or ".")
    if manifest is None:
        return []
    settings = manifest.get("settings", {})
    planned = settings.get("noise")
    images, num_classes = (manifest.get("data", {}).get(name) for name in ("images", "num_classes"))
    try:
        noises = set() if planned is None else _one_each(parse_noise(planned))
        wanted_images = None if images is None else _parse_images(images)
    except ValueError as error:
        raise ManifestError(f"{os.path.join(folder, MANIFEST_NAME)}: {error}") from None
    found: list[tuple[Row | None, str, str]] = []
    for row in log.rows:
        if wanted_images is not None and row.index not in wanted_images:
            found.append((row, "idx", f"image {row.index} is not in the manifest's {images}"))
        highest = {
            "label": row.label,
            "predict": row.predict,
            "counts": max(row.counts or (0,)),
            "selection": max(row.selection or (0,)),
        }
        for field, label in highest.items():
            if num_classes is not None and label >= num_classes:
                found.append(
                    (row, field, f"has class {label}, but the manifest says {num_classes} classes")
                )
        if row.margin is not None:
            if num_classes is not None and len(row.margin.scores) != num_classes:
                found.append((row, "scores", f"the manifest says {num_classes} classes"))
            elif row.predict < len(row.margin.scores):
                found += [
                    (row, field, f"the manifest says {wanted}")
                    for field, wanted in differences(row.margin, row.predict, settings)
                ]
            continue
        said = {
            "alpha": (settings.get("alpha"), row.alpha),
            "noise": (None if row.noise in noises else planned, row.noise),
        }
        if "tolerance" not in settings:
            said["samples"] = (settings.get("num_samples"), row.samples)
            said["selection"] = (
                settings.get("selection_samples"),
                sum(row.selection.values()) if row.selection is not None else None,
            )
        for field, (wanted, got) in said.items():
            if wanted is not None and wanted != got:
                found.append((row, field, f"the manifest says {wanted}, the row {got}"))
    if "tolerance" in settings:
        try:
            found += _against_plan(log.rows, settings)
        except (KeyError, ValueError) as error:
            path = os.path.join(folder, MANIFEST_NAME)
            raise ManifestError(
                f"{path}: no sample size follows from its settings: {error}"
            ) from None
    return found


def _against_plan(
    rows: Sequence[Row], settings: Mapping[str, Any]
) -> list[tuple[Row | None, str, str]]:
    """Flag sample sizes that are not those which the selection votes alone call for.

    A size that followed from the estimation votes would void the bound on these.
    """
    fewest = settings.get("selection_samples", 1)
    found: list[tuple[Row | None, str, str]] = []
    for row in rows:
        selection = row.selection or {}
        votes = sum(selection.values())
        if votes < fewest:
            found.append(
                (row, "selection", f"the manifest says at least {fewest}, the row {votes}")
            )
        if not selection or row.noise is None or row.alpha is None:
            continue
        (planned,) = smoothing.planned_samples(
            _dense(selection, 1 + max(selection))[None],
            noise=parse_noise(row.noise),
            tolerance=settings["tolerance"],
            max_samples=settings["num_samples"],
            alpha=row.alpha,
        ).tolist()
        if row.samples != planned:
            found.append(
                (row, "samples", f"the selection votes call for {planned}, the row {row.samples}")
            )
    return found


def _parse_images(text: str) -> set[int]:
    """Images of a manifest, whose text implies how many the data set has at least."""
    return set(parse_indices(text, length=1 + max(map(int, re.findall(r"\d+", text)), default=0)))


def _one_each(noise: smoothing.Noise) -> set[str]:
    """The noise of each image as text, whether the images share a scale or have their own."""
    scales = np.atleast_1d(np.asarray(noise.scale))
    return {str(dataclasses.replace(noise, scale=scale)) for scale in np.unique(scales)}


def _rederive(
    rows: Sequence[Row], noise: smoothing.Noise, alpha: float
) -> list[tuple[Row | None, str, str]]:
    votes = [(row.selection or {}, row.counts or {}) for row in rows]
    num_classes = 1 + max(max([*selection, *counts]) for selection, counts in votes)
    # Rows go in blocks: dense counts of a long run over 1000 classes would not fit in memory.
    block = max(1, 4_000_000 // num_classes)
    found: list[tuple[Row | None, str, str]] = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        selection = np.stack([_dense(row.selection or {}, num_classes) for row in part])
        counts = np.stack([_dense(row.counts or {}, num_classes) for row in part])
        certificate = smoothing.certificate_from_counts(selection, counts, noise=noise, alpha=alpha)
        found += _compared(part, certificate.label.tolist(), certificate.radius.tolist(), "counts")
    return found


def _rederive_margins(rows: Sequence[Row]) -> list[tuple[Row | None, str, str]]:
    found: list[tuple[Row | None, str, str]] = []
    for row in rows:
        assert row.margin is not None
        try:
            labels, radii = radii_of_margins([row.margin])
        except ValueError as error:
            found.append((row, "lipschitz", str(error)))
            continue
        found += _compared([row], labels, radii, "scores")
    return found


def _compared(
    rows: Sequence[Row], labels: Sequence[int], radii: Sequence[float], evidence: str
) -> list[tuple[Row | None, str, str]]:
    """Flag what differs from the classes and radii that the evidence gives."""
    found: list[tuple[Row | None, str, str]] = []
    for row, label, radius in zip(rows, labels, radii, strict=True):
        if row.predict != label:
            found.append(
                (row, "predict", f"says {row.predict}, but the {evidence} decide for {label}")
            )
        slack = RELATIVE_TOLERANCE * radius
        if row.radius > radius + slack:
            found.append(
                (row, "radius", f"claims {row.radius!r}, but the {evidence} certify {radius!r}")
            )
        elif row.radius < radius - slack:
            found.append(
                (row, "radius", f"says {row.radius!r}, less than the {evidence}' {radius!r}")
            )
    return found


def _dense(counts: Mapping[int, int], num_classes: int) -> np.ndarray:
    dense = np.zeros(num_classes, dtype=np.int64)
    for label, count in counts.items():
        dense[label] = count
    return dense


def _attainable(
    rows: Sequence[Row], noise: smoothing.Noise, num_samples: int, alpha: float
) -> list[tuple[Row | None, str, str]]:
    """Flag radii that no count out of `num_samples` gives, within their printed precision."""
    counts = np.arange(num_samples + 1)
    radii = noise.radius(smoothing.clopper_pearson_lower(counts, num_samples, alpha=alpha))
    largest = float(radii[-1])
    found: list[tuple[Row | None, str, str]] = []
    for row in rows:
        if row.predict == ABSTAIN:
            continue
        reach = row.resolution * (1 + 1e-9) + RELATIVE_TOLERANCE * largest
        place = int(np.searchsorted(radii, row.radius - reach))
        nearest = radii[place] if place <= num_samples else math.inf
        if nearest > row.radius + reach:
            detail = (
                f"the largest that {num_samples} samples at alpha {alpha} give is {largest:.6g}"
                if row.radius > largest
                else f"no count out of {num_samples} gives it at alpha {alpha}"
            )
            found.append((row, "radius", f"claims {row.radius!r}, but {detail}"))
    return found
