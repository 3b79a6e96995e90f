import json

from flax import nnx

from experiments import decide_mnist
from jaxcert import models


def test_smoke_preset_decides_as_fixed_sampling_does_with_fewer_samples(tmp_path, capsys):
    module = models.MLP(
        input_shape=(8, 8, 1), num_classes=10, mean=(0.3,), std=(0.4,), hidden=(16,),
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    models.save(tmp_path / "models" / "digits_0.25", module)
    arguments = ["--preset", "smoke", "--models", str(tmp_path / "models")]
    assert decide_mnist.main([*arguments, "--output", str(tmp_path / "results")]) == 0
    result = json.loads((tmp_path / "results" / "decide_mnist.json").read_text())
    (row,) = result["cases"]
    assert sum(row["verdicts"].values()) == row["images"] == 12
    assert row["verdicts"]["certified"] > 0 < row["verdicts"]["refuted"]
    assert 132 <= row["samples_an_image"] < result["num_samples"] / 2
    assert row["agree"] == row["fixed_images"] == 3
    for clock in ("wall", "processor"):
        ratio = row["fixed_seconds_for_all"][clock] / row["decide_seconds"][clock]
        assert row["speed_up"][clock] == ratio > 0
    text = (tmp_path / "results" / "decide_mnist.md").read_text()
    assert text in capsys.readouterr().out
    assert "| 0.25 | 0.125 | 12 |" in text
    assert "3 of 3" in text
