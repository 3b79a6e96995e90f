"""The page of results says what the files say, and the committed one is that of the claims."""

import json
from pathlib import Path

import pytest

from theory import __main__ as command
from theory import page
from theory.claims import CLAIMS

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)


def document(seed, *, holds=True, twin_holds=False, slack=0.5):
    verdict = {
        "holds": holds, "worst_slack": slack, "tightness": None, "trials": 7, "witness": "there",
        "seed": 1, "as_expected": holds, "seconds": 1.5,
    }  # fmt: skip
    twin = {**verdict, "description": "doubled", "holds": twin_holds, "as_expected": not twin_holds}
    claim = {
        "name": "planted", "statement": "It is so.", "reference": "nobody, 2000",
        "hypotheses": ["little"], "axes": ["bound", "found"], "measured": [[1.0, 0.5], [2.0, 2.0]],
        "twins": [twin], **verdict,
    }  # fmt: skip
    return {"seed": seed, "trials": None, "versions": {"jax": "1"}, "claims": [claim]}


def test_page_joins_the_seeds():
    text = page.page([document(0), document(1, slack=0.25)], ["images/some.png"])
    assert "on seeds 0, 1, with JAX 1: 1 claims, 1 broken\ntwins, 0 surprises." in text
    assert "| [planted](#planted) | holds | +2.5e-01 |  | 14 | 2 of 2 |" in text
    assert "| doubled | refuted |" in text
    assert "- worst case, slack +2.5e-01: there" in text


def test_page_shows_failures_and_survivors(tmp_path):
    text = page.page([document(0), document(1, holds=False, twin_holds=True)], [])
    assert "\ntwins, 2 surprises" in text
    assert "| [planted](#planted) | **fails** |" in text
    assert "| doubled | **not refuted** |" in text
    path = tmp_path / "one.json"
    path.write_text(json.dumps(document(0, holds=False)))
    assert page.main([str(path), "--output", str(tmp_path / "docs" / "page.md")]) == 1


def test_files_about_other_claims_are_refused(tmp_path):
    paths = []
    for seed, name in ((0, "planted"), (1, "other")):
        content = document(seed)
        content["claims"][0]["name"] = name
        paths.append(tmp_path / f"{seed}.json")
        paths[-1].write_text(json.dumps(content))
    with pytest.raises(ValueError, match="same claims"):
        page.read(paths)


def test_program_writes_page_and_pictures(tmp_path):
    path = tmp_path / "seed.json"
    path.write_text(json.dumps(document(0)))
    output = tmp_path / "docs" / "results.md"
    assert page.main([str(path), "--output", str(output)]) == 0
    assert "(images/results_1.png)" in output.read_text()
    assert (output.parent / "images" / "results_1.png").stat().st_size > 3000


def test_committed_results_are_those_of_all_claims_without_surprise():
    documents = page.read([ROOT / "theory" / "results" / f"seed_{seed}.json" for seed in SEEDS])
    assert [found["seed"] for found in documents] == list(SEEDS)
    for found in documents:
        listed = {claim["name"]: claim for claim in found["claims"]}
        assert set(listed) == {claim.name for claim in CLAIMS}
        for claim in command.CLAIMS:
            record = listed[claim.name]
            assert record["statement"] == claim.statement
            assert record["holds"]
            assert {twin["description"] for twin in record["twins"]} == set(claim.twins)
            assert not any(twin["holds"] for twin in record["twins"])
    text = (ROOT / "docs" / "theory_results.md").read_text()
    assert "\ntwins, 0 surprises" in text
    assert all(f"### {claim.name}\n" in text for claim in CLAIMS)
