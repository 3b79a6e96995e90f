"""Gabor and 1-Lipschitz networks read from Flax modules, beside what they do to distances."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from jaxcert import lipschitz, models
from jaxcert.lipschitz import _modules
from jaxcert.lipschitz._layers import Opaque

SETTINGS = {"num_classes": 3, "mean": 0.2, "std": 0.5}


def product(module, **settings):
    return lipschitz.network_lipschitz_upper(module, method="product", **settings)


def steepest_jacobian(module, shape, count=30):
    """The largest norm of a Jacobian at random points, in float64 from float32 entries."""
    points = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    jacobians = jax.jit(jax.vmap(jax.jacrev(lambda x: module(x[None])[0].ravel())))(points)
    matrices = np.asarray(jacobians, np.float64).reshape(count, -1, math.prod(shape))
    return float(np.linalg.norm(matrices, 2, axis=(1, 2)).max())


def mlp(family="cayley", **settings):
    return models.LipschitzMLP(
        input_shape=(6,), family=family, width=8, depth=2, rngs=nnx.Rngs(0),
        **{**SETTINGS, **settings},
    )  # fmt: skip


def test_lipschitz_network_is_its_features_times_its_head():
    network = mlp()
    head = np.linalg.norm(np.asarray(network.head.weight(), np.float64), 2)
    found = product(network)
    # Pixels are divided by 0.5; the layers have norm 1.
    assert found == pytest.approx(2 * head, rel=1e-4)
    assert steepest_jacobian(network, (6,)) <= found
    pairs = lipschitz.pairwise_lipschitz_upper(network, method="product")
    np.testing.assert_allclose(pairs, network.pairwise_lipschitz_upper(), rtol=1e-5)
    encoder = mlp(head=False)
    assert product(encoder) == pytest.approx(2.0, rel=1e-4)
    with pytest.raises(ValueError, match="must end in a matrix"):
        lipschitz.pairwise_lipschitz_upper(encoder, method="product")


def test_convolutional_network_is_read_too():
    network = models.LipschitzCNN(
        input_shape=(8, 8, 1), family="sll", channels=6, depth=1, width=4, patch=2,
        rngs=nnx.Rngs(0), **SETTINGS,
    )  # fmt: skip
    head = np.linalg.norm(np.asarray(network.head.weight(), np.float64), 2)
    assert product(network) == pytest.approx(network.features_lipschitz_upper() * head, rel=1e-5)
    with pytest.raises(ValueError, match=r"input_shape must be \(8, 8, 1\)"):
        product(network, input_shape=(9, 9, 1))


def test_gabor_network_is_bounded_above_what_it_does():
    network = models.GaborLeNet(
        input_shape=(8, 8, 1), channels=(2, 3), hidden=4, gabor_layers=1, families=1,
        orientations=2, rngs=nnx.Rngs(0), **SETTINGS,
    )  # fmt: skip
    found = product(network)
    first = float(network.layers[0].lipschitz_upper((8, 8)))
    assert first > 0
    assert 0 < steepest_jacobian(network, (8, 8, 1)) <= found
    # What the layer does counts: twice its mixing, twice the bound.
    network.layers[0].mixing[...] = 2 * network.layers[0].mixing[...]
    assert product(network) == pytest.approx(2 * found, rel=1e-5)


def test_gabor_residual_network_counts_its_stem():
    network = models.GaborResNet(input_shape=(8, 8, 1), depth=8, rngs=nnx.Rngs(0), **SETTINGS)
    network.eval()
    layers, shape = _modules.layers_of_module(network, None)
    assert shape == (8, 8, 1)
    stem = float(network.stem.lipschitz_upper((8, 8)))
    assert isinstance(layers[1], Opaque)
    assert stem <= layers[1].upper(shape) <= stem * (1 + 1e-5)
    assert layers[1].outputs(shape) == (8, 8, 16)


def test_layers_stand_among_others():
    rngs = nnx.Rngs(0)
    network = nnx.Sequential(
        models.GaborConv(2, 3, families=1, orientations=2, kernel_size=3, rngs=rngs),
        nnx.Conv(3, 2, (4, 4), padding="VALID", rngs=rngs), jax.nn.relu,
    )  # fmt: skip
    found = product(network, input_shape=(4, 4, 2))
    assert 0 < steepest_jacobian(network, (4, 4, 2)) <= found
    stack = nnx.Sequential(
        models.AOLLinear(5, 4, rngs=rngs), jax.nn.relu, models.LDLTStack((4, 6, 5, 3), rngs=rngs),
        models.NormalizedLinear(3, 2, rngs=rngs),
    )  # fmt: skip
    found = product(stack, input_shape=(5,))
    assert steepest_jacobian(stack, (5,)) <= found <= 2.0


def test_other_norms_methods_and_shapes_are_refused():
    with pytest.raises(ValueError, match="order must be 2 for a LipschitzMLP"):
        product(mlp(), order=1)
    with pytest.raises(ValueError, match="must be 'product' for networks with a LipschitzMLP"):
        lipschitz.network_lipschitz_upper(mlp(), method="lipsdp")
    layer = nnx.Sequential(models.SLLLinear(4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"a SLLLinear takes no input of shape \(3,\)"):
        product(layer, input_shape=(3,))
    assert product(layer, input_shape=(4,)) <= 1.0 + 1e-5
