"""The lottery-ticket study on small data, and what its committed table says."""

import json

import numpy as np

from experiments import _tropical, tropical_lottery

RESULTS = _tropical.RESULTS


def test_smoke_preset_runs(tmp_path):
    assert tropical_lottery.main(["--preset", "smoke", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    first = [row for row in result["rows"] if row["round"] == 0]
    # The unpruned network is compared with itself.
    assert {row["initial"] for row in first} == {"ticket"}
    for row in first:
        assert row["accuracy"] > 0.8
        np.testing.assert_allclose(
            [row["relative_distance"], row["overlap"], row["normal_angle"]], [0, 1, 0], atol=1e-6
        )
    later = [row for row in result["rows"] if row["round"] > 0]
    assert {row["initial"] for row in later} == set(tropical_lottery.INITIALS)
    assert {round(row["kept"], 6) for row in later} == {0.7, 0.49}
    for name in ("numbers.png", "moons.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert (tmp_path / "table.md").read_text() == tropical_lottery.markdown(result)


def test_costs_are_smaller_the_better():
    values = np.array([0.5, 1.0, 2.0])
    assert np.argmin(tropical_lottery.cost("area_ratio", values)) == 1
    assert np.argmin(tropical_lottery.cost("accuracy", values)) == 2
    assert np.argmin(tropical_lottery.cost("normal_angle", values)) == 0


def test_committed_table_is_that_of_the_committed_numbers():
    result = json.loads((RESULTS / "tropical_lottery.json").read_text())
    assert (RESULTS / "tropical_lottery.md").read_text() == tropical_lottery.markdown(result)
    assert "--preset paper" in result["command"]
    preset = tropical_lottery.PRESETS["paper"]
    rounds = preset.num_rounds * len(tropical_lottery.INITIALS) + 1
    assert len(result["rows"]) == len(preset.toys) * preset.num_seeds * rounds
