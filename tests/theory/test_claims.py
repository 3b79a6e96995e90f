"""Every claim holds, and each of its twins is refuted, by a shortened search."""

import dataclasses
import functools

import pytest

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


def shortened(claims, **settings):
    return [
        dataclasses.replace(claim, check=functools.partial(claim.check, **settings))
        for claim in claims
    ]


CLAIMS = [
    *shortened(smoothing_radii.CLAIMS, starts=16, steps=60),
    *shortened(grid_noise.CLAIMS, count=200),
    *binomial_bounds.CLAIMS,
    *prediction.CLAIMS,
    *shortened(stopping.CLAIMS, longest=150),
    *tropical_boundary.CLAIMS,
    *tropical_pruning.CLAIMS,
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claim_holds_and_twins_are_refuted(claim):
    entries = list(ledger.run([claim], seed=11))
    assert len(entries) == 1 + len(claim.twins)
    surprises = [str(entry) for entry in entries if not entry.as_expected]
    assert surprises == []


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_verdict_can_be_repeated(claim):
    first, second = claim.check(claim.formula, 5), claim.check(claim.formula, 5)
    # By their text, since the tightness may be NaN.
    assert repr(first) == repr(second)
    assert first.trials > 10
