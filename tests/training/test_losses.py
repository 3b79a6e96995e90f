"""Noise augmentation and the cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import smoothing, training


def test_each_image_has_a_noise_of_its_own(key):
    noise = smoothing.gaussian(0.5)
    images = np.random.default_rng(0).uniform(size=(7, 4, 3, 2)).astype(np.float32)
    noisy = np.asarray(training.add_noise(key, images, noise=noise))
    drawn = noise.sample(jax.random.fold_in(key, 5), (4, 3, 2))
    np.testing.assert_allclose(noisy[5], images[5] + drawn, rtol=1e-6, atol=1e-6)
    # All 168 draws differ, and leave the unit interval.
    assert np.unique(noisy - images).size > 160
    assert noisy.min() < 0.0
    assert noisy.max() > 1.0


def test_no_noise_is_the_image_itself(key):
    images = jnp.ones((2, 3))
    assert training.add_noise(key, images, noise=None) is images


def test_cross_entropy_in_closed_form(key):
    scores = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    loss, metrics = training.cross_entropy(
        key, lambda x: x, scores + 3.0, jnp.array([0, 1]), noise=None
    )
    np.testing.assert_allclose(loss, -(np.log(0.5) + np.log(0.2)) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], 0.5)
