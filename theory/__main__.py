"""The ledger on the command line: `python -m theory`."""

import argparse
import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from theory import ledger
from theory.claims import CLAIMS


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a claim and a twin; return 1 when a claim fails or a twin survives."""
    options = _parser().parse_args(arguments)
    try:
        chosen = ledger.select(CLAIMS, [*options.claims, *options.claim])
    except ValueError as error:
        _parser().error(str(error))
    if options.list:
        for claim in chosen:
            print(f"{claim.name}: {claim.statement}\n  {claim.reference}")
            for hypothesis in claim.hypotheses:
                print(f"  given: {hypothesis}")
        return 0
    surprises, records = 0, []
    print(ledger.HEADER)
    # The bar goes to stderr, and only where somebody looks at it.
    with tqdm(total=sum(1 + len(claim.twins) for claim in chosen), disable=None) as bar:
        for claim in chosen:
            bar.set_description(claim.name)
            entries = []
            for entry in ledger.run([claim], seed=options.seed, trials=options.trials):
                tqdm.write(str(entry), file=sys.stdout)
                sys.stdout.flush()
                bar.update()
                entries.append(entry)
                surprises += not entry.as_expected
            records.append(ledger.record(claim, entries))
    print(f"{len(chosen)} claims, {surprises} surprises")
    if options.json is not None:
        options.json.write_text(json.dumps(_document(options, records), indent=1) + "\n")
    return 1 if surprises else 0


def _document(options: argparse.Namespace, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seed": options.seed,
        "trials": options.trials,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")},
        "claims": list(records),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m theory", description=__doc__)
    parser.add_argument("claims", nargs="*", help="names of claims; all of them by default")
    parser.add_argument(
        "--claim", action="append", default=[], metavar="NAME", help="the same, once a claim"
    )
    parser.add_argument(
        "--trials", type=_positive, metavar="N",
        help="how many random cases each check draws of each kind that it looks at, such as starts "
        "of a search or networks; every claim has a default of its own. Fewer take less time, and "
        "with very few a twin may survive",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the searches (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    parser.add_argument("--list", action="store_true", help="say what is claimed, and stop")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
