"""Certificates in input space, through trained encoders whose Lipschitz constant is proved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import attacks, data, lipschitz, models, prototypes, smoothing, training

SHAPE = {"input_shape": (8, 8, 1), "mean": 0.3, "rngs": nnx.Rngs(0)}


def one_lipschitz(dataset):
    """An encoder of the constant 1, trained by clustering."""
    encoder = models.LipschitzMLP(
        **SHAPE, num_classes=10, std=1.0, family="sll", width=16, depth=2, head=False
    )
    settings = {"samples_per_cluster": 6}
    training.train(
        jax.random.key(1), encoder, dataset, num_epochs=4, batch_size=72, learning_rate=5e-3,
        loss=functools.partial(training.magnet_loss, **settings), progress=False,
        arrange=functools.partial(
            training.cluster_batches, num_classes=10, batch_size=72, **settings
        ),
    )  # fmt: skip
    return encoder, encoder.features_lipschitz_upper()


def plain(dataset):
    """An encoder of random weights: distances survive a random projection."""
    encoder = models.MLP(**SHAPE, num_classes=16, std=0.4, hidden=(32,))
    return encoder, lipschitz.network_lipschitz_upper(encoder, method="eclipse_fast")


@pytest.fixture(scope="module", params=[one_lipschitz, plain])
def encoded(request):
    """An encoder, its centres and constant, test images, and how an attack within radii fares."""
    dataset = data.load("digits", "train", num_images=720)
    encoder, upper = request.param(dataset)
    encode = models.from_nnx(encoder)
    table = prototypes.fit_prototypes(
        jax.random.key(2), encode(dataset.images), dataset.labels, num_classes=10,
        clusters_per_class=2, num_restarts=1, num_steps=10,
    )  # fmt: skip
    classify = prototypes.classifier(encode, table, num_classes=10)
    test = data.load("digits", "test", num_images=60)

    def is_changed(radii, labels):
        return np.asarray(attacks.pgd(
            jax.random.key(3), classify, test.images, jnp.asarray(labels, jnp.int32),
            radius=jnp.asarray(np.maximum(radii, 1e-6), jnp.float32), num_steps=20,
        ).success)  # fmt: skip

    return encode, table, upper, test, is_changed


def test_attacks_respect_the_certificate_and_catch_a_halved_constant(encoded):
    encode, table, upper, test, is_changed = encoded
    features = encode(test.images)
    found = prototypes.centroid_certificate(features, table, lipschitz=upper)
    correct = found.label == test.labels
    assert correct.mean() > 0.8
    assert np.median(found.radius) > 0.02
    # The features were computed in float32; the certificate starts from them.
    assert not is_changed(found.radius * (1 - 1e-4) - 1e-5, found.label).any()
    halved = prototypes.centroid_certificate(features, table, lipschitz=upper / 2)
    np.testing.assert_allclose(halved.radius, 2 * found.radius)
    assert is_changed(halved.radius, found.label).mean() > 0.1
    for budget in (0.1, 0.4, 1.0):
        certified = correct & (found.radius > budget)
        fooled = is_changed(np.full(60, budget), test.labels)
        assert not (certified & fooled).any()
        assert certified.mean() <= (~fooled).mean() <= correct.mean()


def test_deterministic_and_smoothed_certificates_stand_side_by_side():
    """One centre a class and no encoder: the smoothed radius is that of a half-space, too."""
    table = prototypes.Prototypes(jnp.array([[0.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1]))
    images = jnp.array([[0.5, 0.0], [-1.0, 3.0], [1.2, 0.0]])
    classify = prototypes.classifier(jax.tree_util.Partial(jnp.array), table, num_classes=2)
    fixed = prototypes.centroid_certificate(images, table)
    np.testing.assert_allclose(fixed.radius, [0.5, 2.0, 0.2], rtol=1e-6)
    noisy = smoothing.certify(
        jax.random.key(5), classify, images, noise=smoothing.gaussian(0.5), num_classes=2,
        num_samples=4000,
    )  # fmt: skip
    np.testing.assert_array_equal(noisy.label, fixed.label)
    # Gaussian noise leaves half-spaces as they are: sampling is all that is lost, up to what
    # the number of samples allows at most.
    best = smoothing.max_radius(smoothing.gaussian(0.5), num_samples=4000, alpha=0.001)
    assert (noisy.radius <= fixed.radius).all()
    assert (noisy.radius >= np.minimum(fixed.radius, best) - 0.1).all()
