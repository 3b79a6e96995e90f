"""The smoke preset of the ladder measures, resumes and draws."""

import json

import numpy as np
import pytest

from experiments import ladder as experiment
from jaxcert.ladder import Ladder, Rung


def planted(key, layers, inputs, **settings):
    rungs = (
        Rung("proof", "distance", "lower", np.full(len(inputs), 0.6)),
        Rung("attack", "distance", "upper", np.array([0.7, np.inf, 0.6, 0.9])),
    )
    count = len(inputs)
    return Ladder(np.zeros(count, int), np.ones(count), np.zeros(count, int), rungs)


def test_smoke_preset_writes_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment.ladder, "certification_ladder", planted)
    words = ["--preset", "smoke", "--output", str(tmp_path)]
    assert experiment.main(words) == 0
    assert "fresh weights 0 inversions" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "ladder.json", "ladder.md", "ladder_fresh_weights.png",
    }  # fmt: skip
    assert "| distance | lower | proof | 0.6 | 0.6 | 0.6 |" in (tmp_path / "ladder.md").read_text()
    monkeypatch.setattr(experiment.ladder, "certification_ladder", pytest.fail)
    assert experiment.main(words) == 0


def test_inversion_is_an_error(tmp_path, monkeypatch, capsys):
    def wrong(*args, **settings):
        found = planted(*args, **settings)
        lower = found.rungs[0]._replace(values=np.full(4, 0.65))
        return found._replace(rungs=(lower, *found.rungs[1:]))

    monkeypatch.setattr(experiment.ladder, "certification_ladder", wrong)
    assert experiment.main(["--preset", "smoke", "--output", str(tmp_path)]) == 1
    assert "input 2: distance 0.65" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["RSL18a", "WK17a", "KW18"])
def test_committed_ladders_have_no_inversion(name):
    document = json.loads((experiment.RESULTS / "ladder.json").read_text())
    (row,) = [row for row in document["rows"] if row["network"].startswith(name)]
    assert len(row["labels"]) == 50
    assert row["inversions"] == []
    assert experiment.ladder.inversions(experiment.as_ladder(row)) == []


@pytest.mark.slow
def test_smoke_preset_itself(tmp_path):
    assert experiment.main(["--preset", "smoke", "--output", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "ladder.json").read_text())["rows"]
    assert len(row["rungs"]) >= 8
