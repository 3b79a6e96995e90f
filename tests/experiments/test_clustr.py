"""Training by clustering: the smoke preset, and what the committed numbers show."""

import copy
import json

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import _clustr_networks, _clustr_report, clustr
from jaxcert import models


@pytest.fixture(params=["mnist", "fashion_mnist", "cifar10_jpeg"])
def committed(request):
    path = clustr.RESULTS / f"clustr_{request.param}"
    return json.loads(path.with_suffix(".json").read_text()), path


def withstood(result, name, norm):
    (row,) = [row for row in result["rows"] if row["network"] == name]
    return np.array([b["under_attack"] for b in row["budgets"] if b["norm"] == norm])


def test_committed_table_is_that_of_the_committed_numbers(committed):
    result, path = committed
    assert _clustr_report.format_result(result) == path.with_suffix(".md").read_text()
    named = {row["network"] for row in result["rows"]}
    assert named >= {"nominal", "adversarial", "clustr", "clustr_trades", "lipschitz_clustr"}
    assert path.with_suffix(".png").stat().st_size < 200_000


def test_no_attack_beats_a_certificate_on_any_network_at_any_budget(committed):
    result, _ = committed
    assert _clustr_report.is_sound(result)
    count = 0
    for row in result["rows"]:
        assert row["changed_within_radius"] == 0
        assert row["under_attack_without_budget"] == 0
        for budget in row["budgets"]:
            assert budget["certified_and_moved"] == 0
            for left in budget["by_attack"].values():
                assert budget["certified"] <= left <= row["accuracy"]
                count += 1
    assert count >= 6 * 3 * len(result["rows"])
    by_name = {row["network"]: row for row in result["rows"]}
    # Half of a constant that is nearly attained claims what attacks refute.
    half = result["preset"]["num_test"] / 2
    assert by_name["lipschitz_clustr"]["changed_with_halved_constant"] > half


def test_a_certificate_beyond_an_attack_is_seen(committed):
    result, _ = committed
    for change in ({"certified": 1.0}, {"certified_and_moved": 1}):
        broken = copy.deepcopy(result)
        broken["rows"][-1]["budgets"][-1] |= change
        assert not _clustr_report.is_sound(broken)
    broken = copy.deepcopy(result)
    broken["rows"][0]["changed_within_radius"] = 1
    assert not _clustr_report.is_sound(broken)


def test_matrices_of_a_one_lipschitz_network_give_its_function():
    images = np.random.default_rng(0).uniform(size=(5, 3, 2, 1)).astype(np.float32)
    for head in (True, False):
        network = models.LipschitzMLP(
            input_shape=(3, 2, 1), num_classes=3, mean=0.4, std=1.0, family="cayley", width=4,
            depth=2, head=head, rngs=nnx.Rngs(jax.random.key(0)),
        )  # fmt: skip
        frozen = _clustr_networks.frozen(network)
        np.testing.assert_allclose(frozen(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_smoke_preset_fills_its_folder(tmp_path):
    arguments = ["--preset", "smoke", "--output", str(tmp_path / "run")]
    assert clustr.main(arguments) == 0
    result = json.loads((tmp_path / "run" / "clustr_smoke.json").read_text())
    assert [row["network"] for row in result["rows"]] == list(clustr.NETWORKS)
    # Rows and networks in the folder are read again.
    before = (tmp_path / "run" / "digits_clustr_row.json").stat().st_mtime_ns
    assert clustr.main([*arguments, "--only", "clustr"]) == 0
    assert (tmp_path / "run" / "digits_clustr_row.json").stat().st_mtime_ns == before
