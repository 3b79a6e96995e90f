"""1-Lipschitz networks: their constants, and certificates under attack, whole and inflated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxcert import attacks, lipschitz, models, training


def mlp(family="cayley", std=1.0, seed=0):
    return models.LipschitzMLP(
        input_shape=(6,), num_classes=3, mean=0.1, std=std, family=family, width=8, depth=2,
        rngs=nnx.Rngs(seed),
    )  # fmt: skip


def test_scaling_of_pixels_multiplies_the_constants():
    one, half = mlp(), mlp(std=0.5)
    np.testing.assert_allclose(one.features_lipschitz_upper(), 1.0, atol=3e-5)
    np.testing.assert_allclose(half.features_lipschitz_upper(), 2.0, atol=6e-5)
    np.testing.assert_allclose(
        half.pairwise_lipschitz_upper(), 2 * one.pairwise_lipschitz_upper(), rtol=1e-6
    )
    weight = np.asarray(one.head.weight())
    np.testing.assert_allclose(np.linalg.norm(weight, axis=0), 1.0, atol=1e-6)
    pairwise = one.pairwise_lipschitz_upper()
    np.testing.assert_allclose(pairwise, pairwise.T)
    # Two classes of opposite weights differ by 2, more than the square root of 2.
    one.head.kernel[...] = jnp.stack([jnp.ones(8), -jnp.ones(8), jnp.arange(8.0)], axis=1)
    np.testing.assert_allclose(one.pairwise_lipschitz_upper()[0, 1], 2.0, atol=1e-4)


@pytest.mark.parametrize("family", ["sll", "gershgorin", "bro"])
def test_families_share_shapes_and_a_checkpoint_restores_them(tmp_path, family):
    network = mlp(family)
    assert network(jnp.zeros((4, 6))).shape == (4, 3)
    models.save(tmp_path / "network", network)
    again = models.restore(tmp_path / "network")
    assert again.settings == network.settings
    first, second = (models.fingerprint(models.from_nnx(one)) for one in (network, again))
    assert first == second


def test_convolutional_network_keeps_distances_on_the_way_to_its_layers():
    network = models.LipschitzCNN(
        input_shape=(12, 12, 1), num_classes=3, mean=0.0, std=1.0, family="bro", channels=6,
        depth=1, width=8, patch=2, rngs=nnx.Rngs(0),
    )  # fmt: skip
    assert network.image_size == (6, 6)
    images = jax.random.normal(jax.random.key(0), (2, 12, 12, 1))
    classify = models.from_nnx(network)
    jacobians = jax.jit(jax.vmap(jax.jacrev(lambda x: classify(x[None])[0])))(images)
    differences = np.asarray(jacobians, np.float64).reshape(2, 3, -1)
    differences = differences[:, :, None] - differences[:, None]
    pairwise = network.pairwise_lipschitz_upper()
    assert np.all(np.linalg.norm(differences, axis=-1) <= pairwise * (1 + 1e-5) + 1e-6)
    upper = network.features_lipschitz_upper()
    assert 0.99 < upper < 1.0 + 3e-5


@pytest.fixture(scope="module")
def trained():
    """A network, the points that it separates, and their labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, size=96)
    images = 0.3 * generator.normal(size=(96, 6)) + np.eye(3, 6)[labels]
    network = mlp("sll")
    optimizer = optax.adam(2e-2)
    structure, state = training.start(network, optimizer=optimizer)
    step = jax.jit(
        training.make_step(structure, optimizer=optimizer, loss=training.offset_loss, noise=None)
    )
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    for index in range(80):
        state, _ = step(state, jax.random.key(index), images, labels)
    return nnx.merge(structure, state.parameters, state.variables), images, labels


def radii_of(network, images, factor=1.0):
    """Certified radii and predictions; a factor above 1 breaks the certificate on purpose."""
    scores = np.asarray(network(images), np.float64)
    radii = lipschitz.margin_radius(scores, network.pairwise_lipschitz_upper())
    return factor * radii, scores.argmax(axis=1)


def test_certified_radii_survive_attack_and_inflated_ones_do_not(trained):
    network, images, labels = trained
    classify = models.from_nnx(network)
    assert np.mean(radii_of(network, images)[1] == np.asarray(labels)) > 0.9

    def broken(factor):
        radii, predicted = radii_of(network, images, factor)
        found = attacks.pgd(
            jax.random.key(0), classify, images, jnp.asarray(predicted),
            radius=jnp.asarray(radii, jnp.float32), num_steps=30,
        )  # fmt: skip
        return np.asarray(found.success).mean()

    assert broken(1.0 - 1e-5) == 0.0
    assert broken(1.5) > 0.3
    # The gap to a boundary that exists is small: the bound is nearly attained.
    radii, predicted = radii_of(network, images)
    distance = np.asarray(attacks.deepfool(classify, images, jnp.asarray(predicted)).distance)
    assert np.all(radii <= distance * (1 + 1e-5))
    assert np.median(radii / distance) > 0.6


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="family must be one of aol, sll"):
        mlp("orthogonal")
    settings = {"num_classes": 3, "mean": 0.0, "std": 1.0, "rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match="width must be even"):
        models.LipschitzMLP(input_shape=(6,), width=7, **settings)
    with pytest.raises(ValueError, match="family must be one of aol"):
        models.LipschitzCNN(input_shape=(12, 12, 1), family="ldlt", **settings)
    with pytest.raises(ValueError, match="patch must divide"):
        models.LipschitzCNN(input_shape=(13, 12, 1), **settings)


def test_a_network_without_head_gives_the_features_of_the_one_with_it(tmp_path):
    whole = mlp()
    encoder = models.LipschitzMLP(**{**whole.settings, "head": False}, rngs=nnx.Rngs(1))
    training.warm_start(encoder, whole)
    images = jax.random.normal(jax.random.key(0), (5, 6))
    features = encoder(images)
    assert features.shape == (5, 8)
    np.testing.assert_array_equal(whole.head(features), whole(images))
    assert encoder.features_lipschitz_upper() == whole.features_lipschitz_upper()
    with pytest.raises(ValueError, match="head must be true"):
        encoder.pairwise_lipschitz_upper()
    models.save(tmp_path / "encoder", encoder)
    np.testing.assert_array_equal(models.restore(tmp_path / "encoder")(images), features)
