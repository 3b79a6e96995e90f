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
    data_dependent,
    devices,
    environment,
    lipschitz,
    prototypes,
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
        paths = [options.compare] if options.compare else _committed_baselines(options.quick)
        baselines = [results.read(path) for path in paths]
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
    found_worse = False
    for path, baseline in zip(paths, baselines, strict=True):
        shared = set(report["cases"]) & set(baseline["cases"])
        if shared:
            part = {**report, "cases": {name: report["cases"][name] for name in shared}}
            lines, worse = results.compare(part, baseline)
            print("\n".join([f"baseline {path}", *lines]))
            found_worse = found_worse or bool(worse)
    return 1 if found_worse else 0


def _committed_baselines(quick: bool) -> list[Path]:
    """The baselines of this platform; none for a quick run, whose sizes differ."""
    if quick:
        return []
    here = jax.default_backend()
    return [
        path
        for path in sorted(_BASELINES.glob("*.json"))
        if results.read(path)["environment"]["hardware"]["platform"] == here
    ]


def _headline(found: dict[str, Any]) -> str:
    hardware, revision = found["hardware"], found["revision"]
    where = ", ".join(hardware["accelerators"]) or f"{hardware['cpu']}, {hardware['cores']} cores"
    changed = ", with uncommitted changes" if revision["dirty"] else ""
    return f"{where}; jax {found['versions']['jax']}; revision {revision['commit']}{changed}"


if __name__ == "__main__":
    # These modules register the cases when they are imported.
    assert batching
    assert cases
    assert data_dependent
    assert devices
    assert lipschitz
    assert prototypes
    assert tropical
    assert tropical_boundary
    sys.exit(main())
