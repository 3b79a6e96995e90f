"""The regulariser of Gabor layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxcert import lipschitz, models, training


@pytest.fixture(scope="module")
def network():
    return models.GaborLeNet(
        input_shape=(8, 8, 1), num_classes=2, mean=0.0, std=1.0, channels=(2, 3), hidden=4,
        families=2, orientations=2, rngs=nnx.Rngs(0),
    )  # fmt: skip


def test_penalty_is_the_mean_over_layers_of_squared_inverse_widths(network):
    squares = [np.mean(np.square(np.asarray(layer.inverse_width[...]))) for layer in network.layers]
    np.testing.assert_allclose(training.gabor_penalty(network), -np.mean(squares), rtol=1e-6)


def test_training_with_the_penalty_makes_envelopes_narrow_and_the_bound_small(network):
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
    labels = jnp.array([0, 1, 0, 1])
    optimizer = optax.sgd(0.05)
    loss = functools.partial(training.gabor_cross_entropy, weight=1.0)
    structure, state = training.start(network, optimizer=optimizer)
    step = jax.jit(training.make_step(structure, optimizer=optimizer, loss=loss, noise=None))
    before = state.parameters
    for index in range(20):
        state, metrics = step(state, jax.random.key(index), images, labels)
    assert metrics["mean_squared_inverse_width"] > -training.gabor_penalty(network)

    def bound(parameters):
        first = parameters["layers"][0]
        return lipschitz.gabor_lipschitz_upper(
            first["inverse_width"], jnp.ones((2, 1)), 1.0, kernel_size=5
        )

    assert np.all(bound(state.parameters) < bound(before))


def test_a_network_without_gabor_layers_is_refused():
    network = models.MLP(
        input_shape=(3,), num_classes=2, mean=0.0, std=1.0, hidden=(), rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match="must hold GaborConv layers, got MLP without"):
        training.gabor_penalty(network)
