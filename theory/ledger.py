"""What a claim is, and the ledger that runs claims and their broken twins."""

import dataclasses
import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What one check of a claim found; nothing to do with `jaxcert.smoothing.Verdict`.

    That one is the answer of a sequential test about one input; this one is about a theorem.

    Attributes:
        holds: whether the statement survived, its tightness included where it claims any.
        worst_slack: the smallest margin seen, negative where the statement is violated; its unit
            is said by the check.
        tightness: the share of the possible that the bound reaches in its worst tight case, 1 where
            nothing larger could hold; NaN where nothing is claimed.
        trials: the number of cases examined.
        witness: the worst case, in words precise enough to look at it again.
        seed: the seed of the check's random generator.
        measured: for figures, pairs of a bound and what was measured in a case; may be empty.
    """

    holds: bool
    worst_slack: float
    tightness: float
    trials: int
    witness: str
    seed: int
    measured: tuple[tuple[float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Claim:
    """A theorem, the formula that jaxcert uses for it, and broken formulas that must be refuted.

    Attributes:
        name: short and unique, for the command line.
        statement: the theorem in one sentence.
        reference: authors, title, year, identifier.
        hypotheses: what the check takes for granted, among it the region that it searches.
        check: takes a formula, a seed and a number of trials to a verdict; the same function judges
            the twins. The trials are the random cases that it draws of each kind that it looks at:
            starts of a search, networks, laws. What is enumerated is enumerated at any number.
        formula: the formula under test, from jaxcert.
        twins: the same formula broken in one way each, by description.
        trials: the number that the check is given unless another is asked for.
        axes: what the pairs in `Verdict.measured` are, the bound first.
    """

    name: str
    statement: str
    reference: str
    hypotheses: tuple[str, ...]
    check: Callable[[Any, int, int], Verdict]
    formula: Any
    twins: dict[str, Any]
    trials: int = 1
    axes: tuple[str, str] = ("bound", "measured")

    def __post_init__(self) -> None:
        if not self.twins:
            raise ValueError(f"claim {self.name} needs a broken twin: a check that can fail")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        claim: the claim's name.
        label: the claim's name, or the description of its twin.
        is_twin: whether the formula was broken on purpose.
        verdict: what the check found.
        seconds: what the check took.
    """

    claim: str
    label: str
    is_twin: bool
    verdict: Verdict
    seconds: float

    @property
    def as_expected(self) -> bool:
        """A claim must hold, a twin must not."""
        return bool(self.verdict.holds) != self.is_twin

    def __str__(self) -> str:
        words = ("refuted", "NOT REFUTED") if self.is_twin else ("holds", "FAILS")
        word = words[0] if self.as_expected else words[1]
        name = f"  twin: {self.label}" if self.is_twin else self.label
        v = self.verdict
        tightness = "-" if math.isnan(v.tightness) else f"{v.tightness:.9f}"
        return (
            f"{name:<52} {word:<11} {v.worst_slack:>+9.1e} {tightness:>12} {v.trials:>8} "
            f"{self.seconds:>6.1f}  {v.witness}"
        )


HEADER = (
    f"{'claim':<52} {'verdict':<11} {'slack':>9} {'tightness':>12} {'trials':>8} {'s':>6}  "
    "worst case"
)


def claim_seed(claim: Claim, seed: int) -> int:
    """Derive a claim's own seed, so that its verdict does not depend on the others that run."""
    return int(np.random.SeedSequence([seed, zlib.crc32(claim.name.encode())]).generate_state(1)[0])


def run(claims: Iterable[Claim], *, seed: int, trials: int | None = None) -> Iterator[Entry]:
    """Check every claim and every twin, one entry each, as they are done."""
    for claim in claims:
        own_seed, count = claim_seed(claim, seed), claim.trials if trials is None else trials
        for label, formula in ((None, claim.formula), *claim.twins.items()):
            start = time.perf_counter()
            verdict = claim.check(formula, own_seed, count)
            seconds = time.perf_counter() - start
            yield Entry(claim.name, label or claim.name, label is not None, verdict, seconds)


def select(claims: Sequence[Claim], names: Sequence[str]) -> list[Claim]:
    """Return the claims with these names, all of them for no name."""
    known = {claim.name: claim for claim in claims}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"no claim is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(claims)


def record(claim: Claim, entries: Sequence[Entry]) -> dict[str, Any]:
    """A claim and what was found about it and its twins, as JSON has it: no NaN."""
    held, *twins = entries
    return {
        "name": claim.name,
        "statement": claim.statement,
        "reference": claim.reference,
        "hypotheses": list(claim.hypotheses),
        "axes": list(claim.axes),
        **_values(held),
        "twins": [{"description": twin.label, **_values(twin)} for twin in twins],
    }


def _values(entry: Entry) -> dict[str, Any]:
    values = dataclasses.asdict(entry.verdict)
    for name in ("worst_slack", "tightness"):
        values[name] = float(values[name]) if math.isfinite(values[name]) else None
    # Checks may leave numbers of NumPy in it.
    values["holds"], values["trials"] = bool(values["holds"]), int(values["trials"])
    values["measured"] = [[float(bound), float(found)] for bound, found in values["measured"]]
    if entry.is_twin:
        del values["measured"]
    return {**values, "as_expected": entry.as_expected, "seconds": round(entry.seconds, 2)}
