"""Claims about noise chosen for each input hold, and their twins are refuted."""

import pytest

from theory import ledger
from theory.data_dependent_radii import CLAIMS


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claim_holds_and_twins_are_refuted(claim):
    entries = list(ledger.run([claim], seed=11, trials=-(-claim.trials // 8)))
    assert len(entries) == 1 + len(claim.twins)
    assert [str(entry) for entry in entries if not entry.as_expected] == []
    assert entries[0].verdict.trials > 100
