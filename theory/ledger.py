"""What a claim is, and the ledger that runs claims and their broken twins."""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        holds: whether the statement survived, its tightness included where it claims any.
        worst_slack: the smallest margin seen, negative where the statement is violated; its unit
            is said by the check.
        tightness: the share of the possible that the bound reaches in its worst tight case, 1 where
            nothing larger could hold; NaN where nothing is claimed.
        trials: the number of cases examined.
        witness: the worst case, in words precise enough to look at it again.
        seed: the seed of the check's random generator.
    """

    holds: bool
    worst_slack: float
    tightness: float
    trials: int
    witness: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Claim:
    """A theorem, the formula that jaxcert uses for it, and broken formulas that must be refuted.

    Attributes:
        name: short and unique, for the command line.
        statement: the theorem in one sentence.
        reference: authors, title, year, identifier.
        hypotheses: what the check takes for granted, among it the region that it searches.
        check: takes a formula and a seed to a verdict; the same function judges the twins.
        formula: the formula under test, from jaxcert.
        twins: the same formula broken in one way each, by description.
    """

    name: str
    statement: str
    reference: str
    hypotheses: tuple[str, ...]
    check: Callable[[Any, int], Verdict]
    formula: Any
    twins: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.twins:
            raise ValueError(f"claim {self.name} needs a broken twin: a check that can fail")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        label: the claim's name, or the description of its twin.
        is_twin: whether the formula was broken on purpose.
        verdict: what the check found.
    """

    label: str
    is_twin: bool
    verdict: Verdict

    @property
    def as_expected(self) -> bool:
        """A claim must hold, a twin must not."""
        return self.verdict.holds != self.is_twin

    def __str__(self) -> str:
        words = ("refuted", "NOT REFUTED") if self.is_twin else ("holds", "FAILS")
        word = words[0] if self.as_expected else words[1]
        name = f"  twin: {self.label}" if self.is_twin else self.label
        v = self.verdict
        tightness = "-" if math.isnan(v.tightness) else f"{v.tightness:.9f}"
        return (
            f"{name:<44} {word:<11} slack {v.worst_slack:+.1e}  tightness {tightness:>11}  "
            f"trials {v.trials:>6}  {v.witness}"
        )


def claim_seed(claim: Claim, seed: int) -> int:
    """Derive a claim's own seed, so that its verdict does not depend on the others that run."""
    return int(np.random.SeedSequence([seed, zlib.crc32(claim.name.encode())]).generate_state(1)[0])


def run(claims: Iterable[Claim], *, seed: int) -> Iterator[Entry]:
    """Check every claim and every twin, one entry each, as they are done."""
    for claim in claims:
        own_seed = claim_seed(claim, seed)
        yield Entry(claim.name, False, claim.check(claim.formula, own_seed))
        for description, broken in claim.twins.items():
            yield Entry(description, True, claim.check(broken, own_seed))


def select(claims: Sequence[Claim], names: Sequence[str]) -> list[Claim]:
    """Return the claims with these names, all of them for no name."""
    known = {claim.name: claim for claim in claims}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"no claim is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(claims)
