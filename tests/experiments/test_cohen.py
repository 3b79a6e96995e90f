import dataclasses
import json
import os

import pytest

from experiments import cohen
from jaxcert import report


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A preset of seconds, whose results go to a folder of the test."""
    preset = dataclasses.replace(
        cohen.PRESETS["smoke"],
        recipe={"num_epochs": 4, "batch_size": 64, "learning_rate": 5e-3, "progress": False},
        num_images=12,
        num_samples=200,
        sigmas=(0.25,),
    )
    monkeypatch.setattr(cohen, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(cohen.PRESETS, "smoke", preset)
    return preset


def test_preset_trains_certifies_and_reports_and_goes_on(tiny, tmp_path, monkeypatch, capsys):
    output, networks = tmp_path / "run", tmp_path / "networks"
    command = ["--preset", "smoke", "--output", str(output), "--models", str(networks)]
    assert cohen.main(command) == 0
    assert sorted(os.listdir(output)) == ["curve.png", "result.json", "sigma_0.25", "table.md"]
    assert sorted(os.listdir(networks)) == ["digits_0.25", "digits_0.25.json"]
    assert not (tmp_path / "results").exists()
    summary = report.summarize(report.read_log(output / "sigma_0.25"))
    assert summary.num_images == 12
    assert summary.num_right >= 6
    assert report.recheck(output / "sigma_0.25").problems == ()
    result = json.loads((output / "result.json").read_text())
    assert result["runs"][0]["average_radius"] == summary.average_radius
    assert result["runs"][0]["train"]["seconds"] > 0
    table = (output / "table.md").read_text()
    assert f"{summary.average_radius:.4f} ± {summary.average_radius_error:.4f}" in table
    assert f"--models {networks}" in table
    assert f"{summary.num_right}/12" in capsys.readouterr().out

    # With networks and rows there, the same command neither trains nor samples.
    before = (output / "sigma_0.25" / "log.tsv").read_bytes()
    monkeypatch.setattr(cohen.training, "train", None)
    monkeypatch.setattr(report.RunLog, "append", None)
    assert cohen.main(command) == 0
    assert (output / "sigma_0.25" / "log.tsv").read_bytes() == before


@pytest.mark.parametrize(("published", "status", "verdict"), [(0.1, 0, "yes"), (0.9, 1, "NO")])
def test_published_radius_is_compared_and_results_are_kept(
    tiny, tmp_path, monkeypatch, published, status, verdict
):
    preset = dataclasses.replace(tiny, published={0.25: published})
    monkeypatch.setitem(cohen.PRESETS, "smoke", preset)
    command = ["--output", str(tmp_path / "run")]
    assert cohen.main(command) == status
    assert not (tmp_path / "results").exists()
    assert cohen.main([*command, "--publish", "--note", "which was busy"]) == status
    kept = ["cohen_smoke.json", "cohen_smoke.md", "cohen_smoke.png", "cohen_smoke_sigma_0.25.tsv"]
    assert sorted(os.listdir(tmp_path / "results")) == kept
    table = (tmp_path / "results" / "cohen_smoke.md").read_text()
    assert f"| {published:.3f} |" in table
    assert f"| {verdict} |" in table
    assert ", which was busy:\n" in table
    assert "--publish --note 'which was busy'\n" in table
    assert json.loads((tmp_path / "results" / kept[0]).read_text())["note"] == "which was busy"
    assert report.recheck(tmp_path / "results" / kept[3]).num_rederived == 12


def test_network_of_another_recipe_is_refused(tiny, tmp_path):
    cohen.trained(tiny, 0.25, folder=tmp_path)
    cohen.trained(tiny, 0.25, folder=tmp_path)
    longer = dataclasses.replace(tiny, recipe={**tiny.recipe, "num_epochs": 5})
    with pytest.raises(ValueError, match=r"'num_epochs': 4.*'num_epochs': 5.*--models"):
        cohen.trained(longer, 0.25, folder=tmp_path)
    (tmp_path / "digits_0.25.json").unlink()
    assert cohen.trained(longer, 0.25, folder=tmp_path)[1] == {}


def test_noise_levels_can_be_run_one_by_one(tiny, tmp_path, monkeypatch, capsys):
    preset = dataclasses.replace(tiny, sigmas=(0.25, 0.5), published={0.25: 0.1, 0.5: 0.1})
    monkeypatch.setitem(cohen.PRESETS, "smoke", preset)
    command = ["--output", str(tmp_path / "run")]
    assert cohen.main([*command, "--sigma", "0.25"]) == 0
    alone = (tmp_path / "run" / "sigma_0.25" / "log.tsv").read_bytes()
    cohen.main([*command, "--publish"])
    assert (tmp_path / "run" / "sigma_0.25" / "log.tsv").read_bytes() == alone
    assert len(os.listdir(tmp_path / "results")) == 5
    with pytest.raises(SystemExit):
        cohen.main([*command, "--sigma", "0.3"])
    with pytest.raises(SystemExit):
        cohen.main([*command, "--sigma", "0.25", "--publish"])
    assert "leave out --sigma" in capsys.readouterr().err


def test_nearness_allows_the_tolerance_and_two_standard_errors(tiny):
    preset = dataclasses.replace(tiny, published={0.25: 1.0}, tolerance=0.03)
    rows = [report.Row(i, 1, 1, radius, True, 0.0) for i, radius in enumerate((0.9, 1.0))]
    summary = report.summarize(report.Log("x", tuple(rows)))
    assert summary.average_radius_error == pytest.approx(0.05)
    for radius, is_near in ((0.871, True), (0.869, False), (1.5, True)):
        moved = summary._replace(average_radius=radius)
        comparison = cohen.compare(preset, 0.25, moved)
        assert comparison["is_near"] is is_near
        assert comparison["allowed_below"] == pytest.approx(0.13)


def test_smoke_takes_images_and_samples_worth_a_picture():
    # The fixture changes the preset for its tests; this is the one that `make certify` runs.
    smoke = cohen.PRESETS["smoke"]
    assert smoke.num_images is None
    assert smoke.num_samples == 10_000
    assert len(smoke.sigmas) == 3


def test_mnist_asks_for_what_is_published():
    mnist = cohen.PRESETS["mnist"]
    assert mnist.published == {0.25: 0.911, 0.5: 1.558, 1.0: 1.618}
    assert (mnist.num_samples, mnist.num_images, mnist.tolerance) == (100_000, 200, 0.03)
