"""Layers, their evaluation, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert.lipschitz import Conv, Dense, Flatten, Relu, apply_layers
from tests.lipschitz.relu_networks import conv_network, dense_network, draw, scores_of


@pytest.mark.parametrize(
    ("strides", "padding", "groups", "dilation"),
    [
        ((2, 3), "SAME", 1, None),
        (None, "VALID", 2, (2, 1)),
        ((1, 2), ((2, 0), (1, 3)), 1, None),
    ],
)
def test_convolution_is_that_of_its_definition(strides, padding, groups, dilation):
    rng = np.random.default_rng(0)
    kernel = draw(rng, 3, 2, 4 // groups, 6, fan_in=24)
    layer = Conv(kernel, draw(rng, 6, fan_in=6), strides, padding, groups, dilation)
    inputs = rng.normal(size=(2, 7, 9, 4)).astype(np.float32)
    np.testing.assert_allclose(
        apply_layers([layer], inputs), scores_of([layer], inputs), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("network", "shape"), [(dense_network, (6,)), (conv_network, (8, 8, 1))])
def test_network_is_that_of_its_definition(network, shape):
    inputs = np.random.default_rng(1).uniform(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(
        apply_layers(network(), inputs), scores_of(network(), inputs), rtol=1e-4, atol=1e-4
    )


GOOD = Dense(jnp.ones((2, 3)), jnp.zeros(2))
IMAGE = Conv(jnp.ones((3, 3, 1, 2)), jnp.zeros(2))


@pytest.mark.parametrize(
    ("layers", "shape", "error", "message"),
    [
        ([], (3,), TypeError, "non-empty list"),
        ([GOOD, "relu"], (3,), TypeError, r"layers\[1\] must be a Dense"),
        ([GOOD, GOOD], (3,), ValueError, r"layers\[1\].weight takes vectors of 3 values"),
        ([GOOD], (1, 3, 1), ValueError, "put a Flatten before it"),
        ([IMAGE], (5, 5, 3), ValueError, "takes 1 channels"),
        # A kernel in the order of torch: [out, in, h, w].
        ([Conv(jnp.ones((2, 1, 3, 3)), jnp.zeros(3))], (5, 5, 1), ValueError, "takes 3 channels"),
        ([Dense(jnp.array([[np.nan]]), jnp.zeros(1))], (1,), ValueError, "weight must be finite"),
        ([Dense(jnp.ones((2, 3)), jnp.zeros(3))], (3,), ValueError, r"bias must have shape \(2,\)"),
        ([Dense(jnp.ones((2, 3), int), jnp.zeros(2))], (3,), TypeError, "weight must be a float"),
        ([Conv(IMAGE.kernel, IMAGE.bias, padding="same")], (5, 5, 1), ValueError, "padding must"),
        ([Conv(IMAGE.kernel, IMAGE.bias, (1,))], (5, 5, 1), ValueError, "strides must have one"),
        ([Conv(IMAGE.kernel, IMAGE.bias, groups=3)], (5, 5, 1), ValueError, "groups must divide"),
    ],
)
def test_bad_layers_are_named(layers, shape, error, message):
    with pytest.raises(error, match=message):
        apply_layers(layers, jnp.zeros((1, *shape)))


def test_layers_without_weights_pass_shapes_on():
    value = apply_layers([Relu(), Flatten()], jnp.array([[[-1.0, 2.0], [3.0, -4.0]]]))
    np.testing.assert_array_equal(value, [[0.0, 2.0, 3.0, 0.0]])
