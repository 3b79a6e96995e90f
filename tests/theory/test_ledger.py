"""The ledger reports what its checks found, and says no when it must."""

import math

import pytest

from theory import __main__ as command
from theory import ledger


def verdict_of(formula, seed):
    return ledger.Verdict(formula >= 0.0, formula, math.nan, 1, "the one case", seed)


def claim(formula=0.5, twins=None, name="planted"):
    return ledger.Claim(
        name=name,
        statement="A number is not negative.",
        reference="nobody, 2000",
        hypotheses=("arithmetic",),
        check=verdict_of,
        formula=formula,
        twins={"negative": -1.0} if twins is None else twins,
    )


def test_claim_without_twin_is_refused():
    with pytest.raises(ValueError, match="claim planted needs a broken twin"):
        claim(twins={})


@pytest.mark.parametrize(
    ("planted", "code", "words"),
    [
        (claim(), 0, ["holds", "refuted", "1 claims, 0 surprises"]),
        (claim(formula=-0.5), 1, ["FAILS", "refuted", "1 claims, 1 surprises"]),
        (claim(twins={"not broken": 1.0}), 1, ["holds", "NOT REFUTED", "1 claims, 1 surprises"]),
    ],
)
def test_exit_code_and_words(monkeypatch, capsys, planted, code, words):
    monkeypatch.setattr(command, "CLAIMS", (planted,))
    assert command.main([]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line


def test_unknown_name_is_an_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["no-such-claim"])
    assert "no claim is called no-such-claim" in capsys.readouterr().err


def test_list_names_every_claim_and_runs_none(capsys, monkeypatch):
    monkeypatch.setattr(ledger, "run", pytest.fail)
    assert command.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(claim.name in printed and claim.reference in printed for claim in command.CLAIMS)


def test_names_are_unique():
    names = [claim.name for claim in command.CLAIMS]
    assert len(set(names)) == len(names)


def test_seed_of_a_claim_is_its_own():
    alone = [entry.verdict.seed for entry in ledger.run([claim(name="b")], seed=3)]
    among = [entry.verdict.seed for entry in ledger.run([claim(name="a"), claim(name="b")], seed=3)]
    assert alone == among[2:]
    assert alone[0] != among[0]
