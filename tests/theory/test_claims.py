"""Every claim holds, and each of its twins is refuted, by a shortened search."""

import dataclasses
import functools

import pytest

from theory import data_dependent_radii, ledger, stopping
from theory.claims import CLAIMS

# Claims whose checks need more, or can do with fewer, than a quarter of their trials.
TRIALS = {
    "law-of-robustness": 1,
    "zonotope-volume": 1,
    "optimal-batch-size": 12,
    "data-dependent-memory": 5,
}
# Claims about noise chosen for each input, whose streams and regions are too few otherwise.
FEWEST = {claim.name: 100 for claim in data_dependent_radii.CLAIMS}
SHORTENED = {claim.name: functools.partial(claim.check, longest=150) for claim in stopping.CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claim_holds_and_twins_are_refuted_again_and_again(claim):
    claim = dataclasses.replace(claim, check=SHORTENED.get(claim.name, claim.check))
    trials = TRIALS.get(claim.name, -(-claim.trials // 4))
    entries = list(ledger.run([claim], seed=11, trials=trials))
    assert len(entries) == 1 + len(claim.twins)
    surprises = [str(entry) for entry in entries if not entry.as_expected]
    assert surprises == []
    first = entries[0].verdict
    assert first.trials > FEWEST.get(claim.name, 3)
    assert all(bound == bound and found == found for bound, found in first.measured)
    # By their text, since the tightness may be NaN.
    assert repr(claim.check(claim.formula, first.seed, trials)) == repr(first)
