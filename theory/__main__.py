"""The ledger on the command line: `python -m theory`."""

import argparse
import sys
from collections.abc import Sequence

from theory import (
    binomial_bounds,
    grid_noise,
    ledger,
    prediction,
    smoothing_radii,
    stopping,
    tropical_boundary,
    tropical_pruning,
)

CLAIMS = (
    *smoothing_radii.CLAIMS,
    *grid_noise.CLAIMS,
    *binomial_bounds.CLAIMS,
    *prediction.CLAIMS,
    *stopping.CLAIMS,
    *tropical_boundary.CLAIMS,
    *tropical_pruning.CLAIMS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a claim and a twin; return 1 when a claim fails or a twin survives."""
    parser = argparse.ArgumentParser(prog="python -m theory", description=__doc__)
    parser.add_argument("claims", nargs="*", help="names of claims; all of them by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the searches (default 0)")
    parser.add_argument("--list", action="store_true", help="say what is claimed, and stop")
    options = parser.parse_args(arguments)
    try:
        chosen = ledger.select(CLAIMS, options.claims)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for claim in chosen:
            print(f"{claim.name}: {claim.statement}\n  {claim.reference}")
            for hypothesis in claim.hypotheses:
                print(f"  given: {hypothesis}")
        return 0
    surprises = 0
    for entry in ledger.run(chosen, seed=options.seed):
        print(entry, flush=True)
        surprises += not entry.as_expected
    print(f"{len(chosen)} claims, {surprises} surprises")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
