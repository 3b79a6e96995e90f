"""1-Lipschitz networks on data: radii in closed form, the smoke preset, committed numbers."""

import json

import numpy as np
import pytest

from experiments import lipschitz_networks


def test_radii_divide_by_the_constant_of_the_pair_that_is_nearest():
    scores = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    pairwise = np.array([[0.0, 2.0, 0.5], [2.0, 0.0, 1.0], [0.5, 1.0, 0.0]])
    radii = lipschitz_networks.certified_radii(scores, pairwise)
    # 2 / 2 against 3 / 0.5, less what rounding may have cost; a tie certifies nothing.
    np.testing.assert_allclose(radii, [1.0, 0.0], atol=1e-4)
    assert radii[0] < 1.0


@pytest.mark.slow
def test_smoke_preset_fills_its_folder(tmp_path):
    arguments = ["--preset", "smoke", "--output", str(tmp_path / "run")]
    assert lipschitz_networks.main(arguments) == 0
    result = json.loads((tmp_path / "run" / "lipschitz_networks.json").read_text())
    for row in result["rows"]:
        assert row["certified"][0] <= row["under_attack"][0] <= row["accuracy"]
    # Networks in the folder are read again.
    assert lipschitz_networks.main(arguments) == 0


def test_committed_table_is_that_of_the_committed_numbers():
    path = lipschitz_networks.RESULTS / "lipschitz_networks"
    result = json.loads(path.with_suffix(".json").read_text())
    table = path.with_suffix(".md").read_text()
    assert result["command"] in table
    for run in lipschitz_networks.PRESETS["paper"]:
        own = [row for row in result["rows"] if row["run"] == [run.architecture, run.dataset]]
        assert [row["family"] for row in own] == list(run.families)
        assert lipschitz_networks.format_table(run, own) in table
        for row in own:
            assert row["attacks_within_certified_radius"] == 0
            assert row["certified_beyond_deepfool"] == 0
            assert row["sampled_gradient_over_bound"] <= 1 + 1e-5
            assert np.all(np.array(row["certified"]) <= row["under_attack"])
            assert row["features_lipschitz_upper"] <= 1 + 1e-4
