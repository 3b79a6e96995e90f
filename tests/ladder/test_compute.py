"""The ladder of small networks is in order; a broken certificate or attack turns it over."""

import jax
import numpy as np
import pytest

from jaxcert import ladder, lipschitz, models, smoothing
from jaxcert.ladder import _compute, _layers
from jaxcert.lipschitz import Conv, Dense, Flatten, Relu


def dense(rng, outputs, inputs):
    weight = rng.normal(size=(outputs, inputs)).astype(np.float32)
    return Dense(weight, 0.3 * rng.normal(size=outputs).astype(np.float32))


def values(found, name):
    (rung,) = [rung for rung in found.rungs if rung.name == name]
    return rung.values


@pytest.mark.parametrize("kind", ["mlp", "lenet"])
def test_layers_are_the_network_in_pixel_units(kind):
    network = models.create(kind, input_shape=(8, 8, 1), num_classes=4, mean=0.3, std=0.4, seed=2)
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    scores = lipschitz.apply_layers(ladder.layers_of(network), images)
    np.testing.assert_allclose(scores, network(images), atol=2e-5)


def test_other_modules_are_refused():
    network = models.create(
        "resnet20", input_shape=(8, 8, 3), num_classes=4, mean=0.3, std=0.4, seed=2
    )
    with pytest.raises(TypeError, match="an MLP or a LeNet, got ResNet"):
        ladder.layers_of(network)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layers": []}, TypeError, "layers must be a list of layers"),
        ({"layers": [np.eye(2)]}, TypeError, "Dense, Conv, Relu or Flatten, got ndarray"),
        ({"noise": smoothing.laplace(0.1)}, ValueError, "noise must certify in l2"),
        ({"methods": ("magic",)}, ValueError, "method must be one of"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    rng = np.random.default_rng(0)
    settings = {"layers": [dense(rng, 2, 3)], "noise": None, "methods": ("product",), **change}
    with pytest.raises(error, match=words):
        ladder.certification_ladder(
            jax.random.key(0), settings.pop("layers"), np.ones((1, 3), np.float32), **settings
        )


def test_boundary_is_enclosed_only_for_one_hidden_layer():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(2, 3)).astype(np.float32)
    shallow = [Flatten(), dense(rng, 5, 3), Relu(), dense(rng, 2, 5)]
    label = _compute._scores(shallow, points).argmax(axis=1)
    below, above = _compute._boundary(shallow, points, label, np.full(2, np.inf), 500)
    assert np.all(below.values <= above.values)
    np.testing.assert_allclose(below.values, above.values, rtol=1e-6)
    deep = [dense(rng, 5, 3), Relu(), dense(rng, 5, 5), Relu(), dense(rng, 2, 5)]
    assert _compute._boundary(deep, points, label, np.full(2, np.inf), 10) == []


def test_margins_leave_out_the_methods_that_a_network_does_not_fit():
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(3, 3, 1, 2)).astype(np.float32)
    layers = [
        Conv(np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)),
        Conv(kernel, np.zeros(2, np.float32)), Relu(), Flatten(), dense(rng, 3, 8),
    ]  # fmt: skip
    scores = rng.normal(size=(2, 3))
    rungs = _compute._margin_rungs(layers, (4, 4, 1), scores, ("product", "eclipse_fast"))
    assert {rung.name for rung in rungs} == {
        "margin, product",
        "margin of pairs, product",
        "product",
    }


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(7)
    layers = [dense(rng, 8, 4), Relu(), dense(rng, 3, 8)]
    points = rng.normal(size=(4, 4)).astype(np.float32)
    found = ladder.certification_ladder(
        jax.random.key(0), layers, points, methods=("product", "eclipse_fast"),
        noise=smoothing.gaussian(0.25), num_samples=500, attack_steps=10,
    )  # fmt: skip
    return layers, points, found


@pytest.mark.slow
class TestWholeLadder:
    """With all its rungs, which take a while to compile."""

    def test_nothing_is_out_of_order(self, case):
        _, _, found = case
        assert ladder.inversions(found) == []
        assert {rung.side for rung in found.rungs} == {"lower", "upper", "other"}
        for name in ("margin, product", "linear bounds", "boundary, from below", "sampled"):
            assert np.all(values(found, name) > 0)

    def test_boundary_is_between_proofs_and_attacks(self, case):
        _, _, found = case
        exact = values(found, "boundary, from below")
        np.testing.assert_allclose(exact, values(found, "boundary, from above"), rtol=1e-6)
        assert np.all(values(found, "linear bounds") >= 0.5 * exact)
        assert np.all(values(found, "attack") <= 1.5 * exact)

    @pytest.mark.parametrize("name", ["margin_radius", "certified_radius_lower"])
    def test_certificate_that_claims_too_much_is_found(self, case, monkeypatch, name):
        layers, points, _ = case
        sound = getattr(lipschitz, name)
        monkeypatch.setattr(
            lipschitz, name, lambda *args, **settings: 12.0 * sound(*args, **settings)
        )
        found = ladder.certification_ladder(
            jax.random.key(0), layers, points, methods=("product", "eclipse_fast"),
            attack_steps=10,
        )  # fmt: skip
        assert ladder.inversions(found)

    def test_attack_that_claims_too_much_is_found(self, case, monkeypatch):
        layers, points, _ = case
        sound = _compute._attack
        monkeypatch.setattr(_compute, "_attack", lambda *args: 0.2 * sound(*args))
        found = ladder.certification_ladder(
            jax.random.key(0), layers, points, methods=("product",), attack_steps=10
        )
        assert any("upper bound by attack" in line for line in ladder.inversions(found))


def test_weights_are_taken_in_single_precision():
    layer = Dense(np.full((1, 1), 1 / 3), np.zeros(1))
    assert _layers.in_single_precision(layer).weight.dtype == np.float32
