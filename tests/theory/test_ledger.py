"""The ledger reports what its checks found, and says no when it must."""

import json
import math

import numpy as np
import pytest

from theory import __main__ as command
from theory import ledger


def verdict_of(formula, seed, trials):
    # As a check may leave it, with numbers of NumPy.
    holds, count = np.bool_(formula >= 0.0), np.int64(trials)
    return ledger.Verdict(holds, formula, math.nan, count, "the one case", seed, ((2.0, 1.0),))


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
        (claim(), 0, ["slack", "holds", "refuted", "1 claims, 0 surprises"]),
        (claim(formula=-0.5), 1, ["slack", "FAILS", "refuted", "1 claims, 1 surprises"]),
        (
            claim(twins={"not broken": 1.0}),
            1,
            ["slack", "holds", "NOT REFUTED", "1 claims, 1 surprises"],
        ),
    ],
)
def test_exit_code_and_words(monkeypatch, capsys, planted, code, words):
    monkeypatch.setattr(command, "CLAIMS", (planted,))
    assert command.main([]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line


@pytest.mark.parametrize("arguments", [["no-such-claim"], ["--claim", "no-such-claim"]])
def test_unknown_name_is_an_error(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert "no claim is called no-such-claim" in capsys.readouterr().err


def test_claim_flag_runs_that_claim_with_so_many_trials(monkeypatch, capsys):
    monkeypatch.setattr(command, "CLAIMS", (claim(name="one"), claim(name="other")))
    assert command.main(["--claim", "other", "--trials", "77"]) == 0
    printed = capsys.readouterr().out
    assert "other" in printed
    assert "one " not in printed.replace("the one case", "")
    assert printed.count(" 77 ") == 2


@pytest.mark.parametrize("trials", ["0", "-3", "many"])
def test_trials_are_a_positive_number(capsys, trials):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--trials", trials])
    assert "--trials" in capsys.readouterr().err


def test_trials_are_those_of_the_claim_by_default():
    planted = claim()
    assert next(ledger.run([planted], seed=0)).verdict.trials == planted.trials
    assert next(ledger.run([planted], seed=0, trials=5)).verdict.trials == 5


def test_json_holds_what_was_found(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "CLAIMS", (claim(), claim(name="wrong", formula=-0.5)))
    path = tmp_path / "ledger.json"
    assert command.main(["--json", str(path), "--seed", "4"]) == 1
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert document["seed"] == 4
    first, second = document["claims"]
    assert (first["name"], first["holds"], first["as_expected"]) == ("planted", True, True)
    assert (second["holds"], second["as_expected"]) == (False, False)
    assert first["worst_slack"] == 0.5
    assert first["tightness"] is None
    assert first["measured"] == [[2.0, 1.0]]
    (twin,) = first["twins"]
    assert (twin["description"], twin["holds"], twin["as_expected"]) == ("negative", False, True)


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
