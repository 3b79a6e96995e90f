"""The attack experiment on small data, and what its committed table says."""

import json

import numpy as np
import pytest

from experiments import _tropical, tropical_attack
from jaxcert import tropical

RESULTS = _tropical.RESULTS


def test_generator_change_is_that_of_the_matching_weights():
    generator = np.random.default_rng(0)
    network = [
        generator.normal(size=shape).astype(np.float32) for shape in ((5, 4), (5,), (3, 5), (3,))
    ]
    images = generator.uniform(size=(6, 4)).astype(np.float32)
    labels = np.asarray(tropical_attack.scores(network, images)).argmax(axis=1)
    found = tropical.tropical_attack(*network, images, labels, bounds=None, confidence=3.0)
    change = tropical_attack.generator_change(network, images, np.asarray(found.inputs))
    done = np.asarray(found.success)
    assert done.sum() > 2
    np.testing.assert_allclose(change[done], found.generator_change[done], rtol=1e-3)


@pytest.mark.slow
def test_smoke_preset_runs(tmp_path):
    assert tropical_attack.main(["--preset", "smoke", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    rows = {row["attack"]: row for row in result["rows"]}
    assert set(rows) == set(tropical_attack.NAMES)
    for row in rows.values():
        assert row["success"] > 0.9
        shares = [row["within"][str(budget)] for budget in tropical_attack.BUDGETS]
        assert shares == sorted(shares)
    assert rows["tropical_plain"]["mean"] < 1.3 * rows["deepfool"]["mean"]
    assert (tmp_path / "attack.png").stat().st_size > 10_000
    assert (tmp_path / "table.md").read_text() == tropical_attack.markdown(result)


def test_committed_table_is_that_of_the_committed_numbers():
    result = json.loads((RESULTS / "tropical_attack.json").read_text())
    assert (RESULTS / "tropical_attack.md").read_text() == tropical_attack.markdown(result)
    assert "--preset paper" in result["command"]
    assert len(result["rows"]) == 3 * len(tropical_attack.NAMES)
    for row in result["rows"]:
        distances = tropical_attack.all_distances([row], row["attack"])
        assert len(distances) == row["images"]
        assert row["success"] == np.mean(np.isfinite(distances))
        for budget in tropical_attack.BUDGETS:
            assert row["within"][str(budget)] == np.mean(distances <= budget)
