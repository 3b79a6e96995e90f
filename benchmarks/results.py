"""Results as JSON, as a table, and beside a baseline."""

import json
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.registry import Aim, Case

FORMAT = 1
# A ratio changed when its quartiles left those of the baseline and its median moved by this much.
_NOTICEABLE = 0.05


def summarise(case: Case, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The stored form of one case: settings, raw times and ratios."""
    return {
        "settings": case.settings,
        "items": case.items,
        "unit": case.unit,
        "seconds": seconds,
        "ratios": [_ratio(aim, seconds) for aim in case.aims],
    }


def _ratio(aim: Aim, seconds: dict[str, list[float]]) -> dict[str, Any]:
    found = timing.ratio(seconds[aim.numerator], seconds[aim.denominator])
    return {**aim._asdict(), **found._asdict(), "met": aim.is_met(found.median)}


def table(name: str, result: dict[str, Any]) -> list[str]:
    """Lines for one case: a time an item for each variant, then the ratios."""
    lines = [name]
    width = max(len(variant) for variant in result["seconds"])
    for variant, seconds in result["seconds"].items():
        found = timing.spread([value / result["items"] for value in seconds])
        lines.append(
            f"  {variant:<{width}}  {_time(found.median)} a {result['unit']}"
            f"  ({_time(found.low)} .. {_time(found.high)})"
        )
    for entry in result["ratios"]:
        lines.append(f"  {_title(entry)}  {_range(entry)}{_verdict(entry)}")
    return lines


def _title(entry: dict[str, Any]) -> str:
    return f"{entry['numerator']} / {entry['denominator']}"


def _range(entry: dict[str, Any]) -> str:
    return f"{entry['median']:.3f} ({entry['low']:.3f} .. {entry['high']:.3f})"


def _verdict(entry: dict[str, Any]) -> str:
    if entry["met"] is None:
        return ""
    bound = (
        f"at most {entry['at_most']}"
        if entry["at_most"] is not None
        else f"at least {entry['at_least']}"
    )
    return f"  aim {bound}: {'met' if entry['met'] else 'missed'}"


def _time(seconds: float) -> str:
    for factor, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.4g} {unit}"
    return f"{seconds:.4g} s"


def is_worse(entry: dict[str, Any], baseline: dict[str, Any]) -> bool:
    """Whether a ratio with an aim moved away from it, by more than the two runs scatter."""
    before, now = baseline["median"], entry["median"]
    if entry["at_most"] is not None:
        return entry["low"] > baseline["high"] and now > before * (1 + _NOTICEABLE)
    if entry["at_least"] is not None:
        return entry["high"] < baseline["low"] and now < before * (1 - _NOTICEABLE)
    return False


def compare(report: dict[str, Any], baseline: dict[str, Any]) -> tuple[list[str], int]:
    """Put the ratios of a report beside those of a baseline.

    Returns:
      Lines, and how many ratios are worse.
    """
    lines, worse = [], 0
    hardware = (report["environment"]["hardware"], baseline["environment"]["hardware"])
    if hardware[0] != hardware[1]:
        lines.append(f"  note: the baseline is from other hardware, {hardware[1]}")
    for name, case in report["cases"].items():
        known = {
            (entry["numerator"], entry["denominator"]): entry
            for entry in baseline["cases"].get(name, {}).get("ratios", [])
        }
        for entry in case["ratios"]:
            before = known.get((entry["numerator"], entry["denominator"]))
            if before is None:
                lines.append(f"  {name}: {_title(entry)}  {_range(entry)}, not in the baseline")
                continue
            is_bad = is_worse(entry, before)
            worse += is_bad
            lines.append(
                f"  {name}: {_title(entry)}  {_range(before)} -> {_range(entry)}"
                f"{'  WORSE' if is_bad else ''}"
            )
    return lines, worse


def read(path: Path) -> dict[str, Any]:
    """Read a report; raise `ValueError` if the file is not one."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the report {path}: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ValueError(f"{path} is no report of format {FORMAT}")
    return report


def write(path: Path, report: dict[str, Any]) -> None:
    """Write a report, times with seven significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_rounded(report), indent=1)
    path.write_text(_flat_lists(text) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value


def _flat_lists(text: str) -> str:
    """Put each list of numbers on one line."""
    lines: list[str] = []
    collecting: list[str] | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if collecting is not None:
            collecting.append(stripped)
            if stripped.rstrip(",") == "]":
                lines.append(collecting[0] + " ".join(collecting[1:-1]) + collecting[-1])
                collecting = None
            elif stripped.endswith(("{", "[")):
                lines.extend([collecting[0], line])
                collecting = None
        elif stripped.endswith("["):
            collecting = [line]
        else:
            lines.append(line)
    return "\n".join(lines)
