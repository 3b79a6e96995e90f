"""Gabor layers on data: the smoke preset, and the committed numbers."""

import json

import numpy as np
import pytest

from experiments import _kept_networks, gabor_layers


@pytest.mark.slow
def test_smoke_preset_fills_its_folder(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--output", str(tmp_path / "run")]
    assert gabor_layers.main(arguments) == 0
    result = json.loads((tmp_path / "run" / "gabor_layers.json").read_text())
    assert [row["network"] for row in result["rows"]] == list(gabor_layers.NETWORKS)
    for row in result["rows"]:
        assert 0 <= row["accuracy_under_attack"][0] <= row["accuracy"] <= 1
        assert row["first_layer_upper"] < row["network_upper"]
    # Networks in the folder are read again.
    assert gabor_layers.main(arguments) == 0
    assert "gabor, weight 1" in capsys.readouterr().out


def test_figure_shows_bounds_above_the_norm_and_the_unrotated_form_below(tmp_path):
    summary = gabor_layers.draw(tmp_path / "figure.png", taps=3, count=2000)
    assert summary["closed form"]["below"] == 0
    assert summary["sum of absolute taps"]["below"] == 0
    assert summary["without rotation (not a bound)"]["below"] > 0
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_committed_table_is_that_of_the_committed_numbers():
    path = _kept_networks.RESULTS / "gabor_layers"
    result = json.loads(path.with_suffix(".json").read_text())
    runs = gabor_layers.PRESETS["paper"]
    table = path.with_suffix(".md").read_text()
    assert gabor_layers.format_table(runs, result["rows"]) in table
    assert result["command"] in table
    assert result["figure"]["closed form"]["below"] == 0
    for run in runs:
        own = [row for row in result["rows"] if row["run"] == [run.architecture, run.dataset]]
        assert len(own) == len(run.seeds) * len(gabor_layers.NETWORKS)
        attacked = np.array([row["accuracy_under_attack"] for row in own])
        assert np.all(np.diff(attacked, axis=1) <= 0)
    assert path.with_suffix(".png").stat().st_size < 200_000
