import json

import pytest
from flax import nnx

from experiments import anisotropic
from jaxcert import models


@pytest.mark.slow
def test_smoke_preset_compares_both_kinds_of_noise_and_goes_on(tmp_path, capsys):
    module = models.MLP(
        input_shape=(8, 8, 1), num_classes=10, mean=(0.3,), std=(0.4,), hidden=(16,),
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    models.save(tmp_path / "models" / "digits_0.25", module)
    arguments = ["--preset", "smoke", "--models", str(tmp_path / "models")]
    arguments += ["--output", str(tmp_path / "results")]
    assert anisotropic.main(arguments) == 0
    result = json.loads((tmp_path / "results" / "anisotropic.json").read_text())
    rows = result["rows"]["gaussian"]
    assert len(rows) == 4
    for row in rows:
        assert row["scales"][0] >= row["sigma"] * (1 - 1e-6)
        assert row["inner_radius"] <= row["proxy_radius"]
    plane = json.loads((tmp_path / "results" / "anisotropic_plane.json").read_text())["plane"]
    assert {"gaussian ball", "gaussian region", "uniform ball", "uniform region"} < set(plane)
    assert (tmp_path / "results" / "anisotropic.png").stat().st_size > 10_000
    assert "| gaussian | 4 |" in capsys.readouterr().out
    stored = (tmp_path / "results" / "rows.json").read_text()
    assert anisotropic.main(arguments) == 0
    assert (tmp_path / "results" / "rows.json").read_text() == stored


def test_averages_count_wrong_images_as_zero():
    row = {
        "true_label": 1, "isotropic_label": 1, "label": 1, "isotropic_radius": 1.0,
        "proxy_radius": 3.0, "inner_radius": 0.5, "digits_of_volume_gained": 7.0,
    }  # fmt: skip
    wrong = row | {"label": -1, "proxy_radius": 0.0, "digits_of_volume_gained": None}
    summary = anisotropic.summarize([row, wrong])
    assert summary["accuracy"] == 0.5
    assert summary["isotropic_radius"] == 1.0
    assert summary["proxy_radius"] == 1.5
    assert summary["proxy_at_least_isotropic"] == 1
    assert summary["median_digits_of_volume_gained"] == 7.0


def test_committed_regions_are_nowhere_smaller_than_the_balls():
    result = json.loads((anisotropic.RESULTS / "anisotropic.json").read_text())
    table = (anisotropic.RESULTS / "anisotropic.md").read_text()
    assert set(result["rows"]) == {"gaussian", "uniform"}
    for family, rows in result["rows"].items():
        assert len(rows) == anisotropic.PRESETS["mnist"].num_images
        for row in rows:
            assert row["label"] == row["isotropic_label"]
            assert row["proxy_radius"] >= row["isotropic_radius"]
            assert row["scales"][0] >= row["sigma"] * (1 - 1e-6)
        summary = anisotropic.summarize(rows)
        assert summary == result["summaries"][family]
        assert summary["proxy_radius"] > 1.5 * summary["isotropic_radius"]
        assert f"| {summary['proxy_radius']:.4f} |" in table
    assert anisotropic.markdown(result) == table
