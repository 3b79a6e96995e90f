"""`jaxcert ladder` prints what it found, and an inversion is an error."""

import json

import numpy as np
import pytest
from flax import nnx

from jaxcert import _cli_ladder, cli, data, models
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


@pytest.mark.slow
def test_linear_network_is_as_far_from_its_boundary_as_geometry_says(data_dir, tmp_path, capsys):
    network = models.MLP(
        input_shape=(8, 8, 1), num_classes=3, mean=0.3, std=0.4, hidden=(), rngs=nnx.Rngs(1)
    )
    folder, path = tmp_path / "linear", tmp_path / "ladder.json"
    models.save(folder, network)
    words = [
        "ladder", "--model", str(folder), "--data-dir", str(data_dir), "--count", "2",
        "--methods", "product", "--json", str(path),
    ]  # fmt: skip
    assert cli.main(words) == 0
    assert "0 inversions" in capsys.readouterr().err
    document = json.loads(path.read_text())
    assert document["inversions"] == []
    # Scores are affine in the pixels; what they are at 0 and at unit vectors is all about them.
    probes = np.concatenate([np.zeros((1, 64)), np.eye(64)]).astype(np.float32)
    at_probes = np.asarray(network(probes.reshape(-1, 8, 8, 1)), np.float64)
    slopes = at_probes[1:] - at_probes[0]
    images = data.load("digits", "test", data_dir=data_dir, num_images=2).images
    scores = np.asarray(images, np.float64).reshape(2, 64) @ slopes + at_probes[0]
    distances = []
    for row in scores:
        own = row.argmax()
        others = [other for other in range(3) if other != own]
        distances.append(
            min(
                (row[own] - row[other]) / np.linalg.norm(slopes[:, own] - slopes[:, other])
                for other in others
            )
        )
    assert document["label"] == scores.argmax(axis=1).tolist()
    found = {rung["name"]: np.array(rung["values"]) for rung in document["rungs"]}
    for name in ("margin of pairs, product", "linear bounds", "attack"):
        np.testing.assert_allclose(found[name], distances, rtol=2e-2, err_msg=name)
    assert np.all(found["margin, product"] <= distances)
