"""The loss at the end of an attack, in closed form for linear scores, and warm starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import models, training


def linear(x):
    """Two classes; the second wins where the first pixel exceeds the second."""
    return jnp.stack([x[:, 1] - x[:, 0], x[:, 0] - x[:, 1]], axis=1)


def test_the_attack_reaches_the_corner_of_the_ball_for_linear_scores():
    key = jax.random.key(0)
    images = jnp.array([[0.9, 0.3], [0.05, 0.6], [0.5, 0.45]])
    labels = jnp.array([1, 0, 1])
    radius = 0.2
    # The worst corner, cut to [0, 1]: the winner's pixel falls, the other rises.
    corner = np.clip(np.array([[0.7, 0.5], [0.25, 0.4], [0.3, 0.65]]), 0, 1)
    margins = np.where(labels == 1, 2, -2) * (corner[:, 0] - corner[:, 1])
    loss, metrics = training.adversarial_cross_entropy(
        key, linear, images, labels, noise=None, radius=radius
    )
    np.testing.assert_allclose(loss, np.log1p(np.exp(-margins)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], 2 / 3, rtol=1e-6)
    clean, _ = training.cross_entropy(key, linear, images, labels, noise=None)
    assert loss > clean


def test_pixels_stay_within_their_range():
    # Without the range the attack on a black image would reach a margin of 0.
    images, labels = jnp.array([[0.0, 0.4]]), jnp.array([0])
    loss, _ = training.adversarial_cross_entropy(
        jax.random.key(1), lambda x: linear(jnp.minimum(x, 1)), images, labels, noise=None,
        radius=0.2, num_steps=1, step_size=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(loss, np.log1p(np.exp(-2 * (0.2 - 0.2))), rtol=1e-5)
    floor, _ = training.adversarial_cross_entropy(
        jax.random.key(1), lambda x: -linear(x), images, jnp.array([1]), noise=None, radius=0.2
    )
    np.testing.assert_allclose(floor, np.log1p(np.exp(-2 * (0.2 - 0.2))), rtol=1e-5)


@pytest.mark.parametrize("change", [{"radius": 0.0}, {"num_steps": 0}, {"step_size": -1.0}])
def test_settings_must_be_positive(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        training.adversarial_cross_entropy(
            jax.random.key(0), linear, jnp.zeros((1, 2)), jnp.array([0]), noise=None, **change
        )


def test_warm_start_copies_what_is_shared_and_nothing_else():
    shape = {"input_shape": (2, 2, 1), "mean": 0.2, "std": 0.5}
    source = models.MLP(**shape, hidden=(4,), num_classes=3, rngs=nnx.Rngs(0))
    module = models.MLP(**shape, hidden=(4,), num_classes=5, rngs=nnx.Rngs(1))
    head = np.asarray(module.head.kernel[...])
    copied = training.warm_start(module, source)
    assert copied[:2] == ["layers/0/bias", "layers/0/kernel"]
    np.testing.assert_array_equal(module.layers[0].kernel[...], source.layers[0].kernel[...])
    np.testing.assert_array_equal(module.head.kernel[...], head)
    with pytest.raises(ValueError, match="MLP and Linear, which share none"):
        training.warm_start(source, nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
