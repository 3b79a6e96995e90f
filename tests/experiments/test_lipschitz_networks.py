"""1-Lipschitz networks on data: the smoke preset, and committed numbers."""

import json

import numpy as np
import pytest

from experiments import _kept_networks, lipschitz_networks
from jaxcert import cli


@pytest.mark.slow
def test_smoke_preset_fills_its_folder(tmp_path):
    arguments = ["--preset", "smoke", "--output", str(tmp_path / "run")]
    assert lipschitz_networks.main(arguments) == 0
    result = json.loads((tmp_path / "run" / "lipschitz_networks.json").read_text())
    for row in result["rows"]:
        assert row["certified"][0] <= row["under_attack"][0] <= row["accuracy"]
        assert row["average_radius"] > 0
        # The run that the row comes from is one that the command line rechecks.
        folder = tmp_path / "run" / f"mlp_digits_{row['family']}_run"
        assert cli.main(["recheck", str(folder)]) == 0
    # Networks in the folder are read again.
    assert lipschitz_networks.main(arguments) == 0


def test_committed_table_is_that_of_the_committed_numbers():
    path = _kept_networks.RESULTS / "lipschitz_networks"
    result = json.loads(path.with_suffix(".json").read_text())
    table = path.with_suffix(".md").read_text()
    assert result["command"] in table
    for run in lipschitz_networks.PRESETS["paper"]:
        own = [row for row in result["rows"] if row["run"] == [run.architecture, run.dataset]]
        assert [row["family"] for row in own] == list(run.families)
        assert lipschitz_networks.format_table(run, own) in table
        for row in own:
            assert row["features_lipschitz_upper"] <= 1 + 1e-4
            assert np.all(np.diff(row["certified"]) <= 0)
            assert max(row["certified"]) <= row["accuracy"]
            if "under_attack" not in row:
                continue
            assert row["attacks_within_certified_radius"] == 0
            assert row["certified_beyond_deepfool"] == 0
            assert row["sampled_gradient_over_bound"] <= 1 + 1e-5
            assert np.all(np.array(row["certified"]) <= row["under_attack"])
