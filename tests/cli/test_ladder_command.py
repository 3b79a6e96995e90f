"""`jaxcert ladder` prints what it found, and an inversion is an error."""

import json

import numpy as np
import pytest

from jaxcert import _cli_ladder, cli
from jaxcert.ladder import Ladder, Rung


def planted(lower):
    rungs = (
        Rung("proof", "distance", "lower", np.array([lower, 0.1])),
        Rung("attack", "distance", "upper", np.array([0.5, np.inf])),
    )
    return Ladder(np.zeros(2, int), np.ones(2), np.full(2, -1), rungs)


@pytest.mark.parametrize(("lower", "status", "count"), [(0.4, 0, 0), (0.6, 1, 1)])
def test_status_says_whether_a_rung_is_out_of_order(
    data_dir, model_dir, tmp_path, capsys, monkeypatch, lower, status, count
):
    asked = {}

    def ladder(key, layers, inputs, **settings):
        asked.update(settings, layers=layers, inputs=inputs)
        return planted(lower)

    monkeypatch.setattr(_cli_ladder.ladder, "certification_ladder", ladder)
    path, picture = tmp_path / "ladder.json", tmp_path / "ladder.png"
    words = [
        "ladder", "--model", str(model_dir), "--data-dir", str(data_dir), "--count", "2",
        "--sigma", "0.5", "--methods", "product", "--json", str(path), "--plot", str(picture),
    ]  # fmt: skip
    assert cli.main(words) == status
    shown = capsys.readouterr()
    assert "| distance | lower | proof |" in shown.out
    assert f"{count} inversions" in shown.err
    assert shown.out.count("proved from below by proof") == count
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert len(document["inversions"]) == count
    assert document["rungs"][1]["values"] == [0.5, None]
    assert picture.exists()
    assert asked["methods"] == ["product"]
    assert float(asked["noise"].scale) == 0.5
    assert asked["inputs"].shape == (2, 8, 8, 1)


def test_noise_of_another_norm_is_bad_input(data_dir, model_dir, capsys):
    words = [
        "ladder", "--model", str(model_dir), "--data-dir", str(data_dir), "--count", "1",
        "--noise", "laplace(0.5)",
    ]  # fmt: skip
    assert cli.main(words) == 2
    assert "noise must certify in l2" in capsys.readouterr().err
