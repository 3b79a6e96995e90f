"""The pruning experiment on small data, and what its committed table says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _tropical, tropical_pruning

RESULTS = _tropical.RESULTS


@pytest.fixture
def layers():
    return _tropical.initial_layers(jax.random.key(0), (6, 10, 8, 4))


def test_widths_are_the_largest_that_fit(layers):
    total = 6 * 10 + 10 * 8 + 8 * 4
    assert tropical_pruning.widths_for(layers, total) == [10, 8]
    widths = tropical_pruning.widths_for(layers, total // 2)
    sizes = [6, *widths, 4]
    assert sum(a * b for a, b in zip(sizes, sizes[1:], strict=False)) <= total // 2
    assert tropical_pruning.widths_for(layers, 0) == [1, 1]


def test_all_methods_keep_as_many_weights(layers):
    networks = tropical_pruning.pruned_networks(layers, 0.4)
    assert list(networks) == list(tropical_pruning.METHODS)
    counts = {name: tropical_pruning.count(network) for name, network in networks.items()}
    widths = tropical_pruning.widths_for(layers, int(0.4 * 172))
    number = 6 * widths[0] + widths[0] * widths[1] + 4 * widths[1]
    # The minimiser shrinks further weights away.
    assert counts.pop("tropical") <= number
    assert set(counts.values()) == {number}
    alive = {
        name: [int(jnp.sum(jnp.any(weight != 0, axis=1))) for weight, _ in network[:-1]]
        for name, network in networks.items()
    }
    assert alive["tropical_neurons"] == alive["longest_neurons"] == widths
    assert alive["tropical"][0] == widths[0]
    assert alive["tropical"][1] <= widths[1]


def test_fine_tuning_moves_what_it_should(layers):
    pruned = tropical_pruning.pruned_networks(layers, 0.4)["class_blind"]
    features = jax.random.normal(jax.random.key(1), (50, 6))
    labels = jnp.argmax(features[:, :4], axis=1)
    settings = {"seed": 0, "steps": 5}
    for tuning in tropical_pruning.TUNINGS:
        tuned = tropical_pruning.tuned(pruned, features, labels, tuning=tuning, **settings)
        for (weight, bias), (new_weight, new_bias) in zip(pruned, tuned, strict=True):
            np.testing.assert_array_equal(weight == 0, (new_weight == 0) | (weight == 0))
            assert np.all(new_weight[weight == 0] == 0)
            assert np.array_equal(weight, new_weight) == (tuning != "all")
            assert np.array_equal(bias, new_bias) == (tuning == "none")


@pytest.mark.slow
def test_smoke_preset_runs_and_resumes(tmp_path, monkeypatch):
    arguments = ["--preset", "smoke", "--output", str(tmp_path)]
    assert tropical_pruning.main(arguments) == 0
    first = json.loads((tmp_path / "result.json").read_text())
    assert {row["method"] for row in first["rows"]} == set(tropical_pruning.METHODS)
    for row in first["rows"]:
        assert row["unpruned"] > 0.8
        assert row["weights"] <= row["kept"] * row["total"]
    for name in ("curves.png", "toys.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    monkeypatch.setattr(_tropical, "trained_head", None)
    assert tropical_pruning.main(arguments) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == first
    for row in first["toys"]:
        assert row["objective"] <= row["objective_alternating"] * (1 + 1e-5)


def test_committed_table_is_that_of_the_committed_numbers():
    result = json.loads((RESULTS / "tropical_pruning.json").read_text())
    assert (RESULTS / "tropical_pruning.md").read_text() == tropical_pruning.markdown(result)
    assert "--preset paper" in result["command"]
    preset = tropical_pruning.PRESETS["paper"]
    expected = len(preset.networks) * len(preset.kept) * preset.num_seeds
    assert len(result["rows"]) == expected * len(tropical_pruning.METHODS)
    for row in result["rows"]:
        assert row["weights"] <= row["kept"] * row["total"]
