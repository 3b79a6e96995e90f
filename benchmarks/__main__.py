"""The benchmarks on the command line: `python -m benchmarks`."""

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import (
    batching,
    cases,
    devices,
    environment,
    registry,
    results,
    timing,
    tropical,
    tropical_boundary,
)

_BASELINES = Path(__file__).resolve().parent / "baselines"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; return 1 when a ratio is worse than in the baseline."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--case", action="append", default=[], metavar="NAME",
        help=f"run this case only; may be repeated. Cases: {', '.join(registry.CASES)}",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--compare", type=Path, metavar="BASELINE",
        help="a report to compare with; the committed one of this platform by default",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        names = registry.select(options.case)
        baseline_path = options.compare or _committed_baseline(options.quick)
        baseline = results.read(baseline_path) if baseline_path else None
    except ValueError as error:
        parser.error(str(error))
    report: dict[str, Any] = {
        "format": results.FORMAT,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "environment": environment.describe(),
        "cases": {},
        "skipped": {},
    }
    print(_headline(report["environment"]), flush=True)
    for name in names:
        try:
            case = registry.CASES[name](options.quick)
        except registry.UnavailableError as error:
            report["skipped"][name] = str(error)
            print(f"{name}\n  skipped: {error}", flush=True)
            continue
        seconds = timing.measure(case.variants, repetitions=case.repetitions)
        report["cases"][name] = results.summarise(case, seconds)
        print("\n".join(results.table(name, report["cases"][name])), flush=True)
    report["environment"]["load_after"] = round(os.getloadavg()[0], 2)
    if options.output:
        results.write(options.output, report)
        print(f"written to {options.output}")
    if baseline is None:
        return 0
    lines, worse = results.compare(report, baseline)
    print("\n".join([f"baseline {baseline_path}", *lines]))
    return 1 if worse else 0


def _committed_baseline(quick: bool) -> Path | None:
    """The baseline of this platform; none for a quick run, whose sizes differ."""
    path = _BASELINES / f"{jax.default_backend()}.json"
    return path if path.exists() and not quick else None


def _headline(found: dict[str, Any]) -> str:
    hardware, revision = found["hardware"], found["revision"]
    where = ", ".join(hardware["accelerators"]) or f"{hardware['cpu']}, {hardware['cores']} cores"
    changed = ", with uncommitted changes" if revision["dirty"] else ""
    return f"{where}; jax {found['versions']['jax']}; revision {revision['commit']}{changed}"


if __name__ == "__main__":
    # These modules register the cases when they are imported.
    assert batching
    assert cases
    assert devices
    assert tropical
    assert tropical_boundary
    sys.exit(main())
