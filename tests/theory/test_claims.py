"""Every claim holds, and each of its twins is refuted, by a shortened search."""

import dataclasses
import functools

import pytest

from theory import ledger, stopping
from theory.claims import CLAIMS

# Claims whose checks need more than a quarter of their trials to refute all twins.
TRIALS: dict[str, int] = {}
SHORTENED = {claim.name: functools.partial(claim.check, longest=150) for claim in stopping.CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claim_holds_and_twins_are_refuted(claim):
    claim = dataclasses.replace(claim, check=SHORTENED.get(claim.name, claim.check))
    trials = TRIALS.get(claim.name, -(-claim.trials // 4))
    entries = list(ledger.run([claim], seed=11, trials=trials))
    assert len(entries) == 1 + len(claim.twins)
    surprises = [str(entry) for entry in entries if not entry.as_expected]
    assert surprises == []
    verdict = entries[0].verdict
    assert verdict.trials > 3
    for bound, found in verdict.measured:
        assert bound == bound
        assert found == found


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_verdict_can_be_repeated(claim):
    check = SHORTENED.get(claim.name, claim.check)
    first, second = check(claim.formula, 5, 1), check(claim.formula, 5, 1)
    # By their text, since the tightness may be NaN.
    assert repr(first) == repr(second)
