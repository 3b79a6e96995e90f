"""Gradient norms from the backward pass, against gradients of single examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import batching

SHAPES = {"kernel": (3, 3, 1, 2), "bias": (2,), "weights": (18, 3), "offset": (3,)}


def network(params, images, labels, probe):
    """One convolution, one dense layer, cross-entropy; plain operations where there is no probe."""
    if probe is None:
        hidden = jax.lax.conv_general_dilated(
            images, params["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = jnp.tanh(hidden + params["bias"]).reshape(len(images), -1)
        scores = hidden @ params["weights"] + params["offset"]
    else:
        hidden = batching.conv(images, params["kernel"], params["bias"], probe, strides=(2, 2))
        hidden = jnp.tanh(hidden).reshape(len(images), -1)
        scores = batching.dense(hidden, params["weights"], params["offset"], probe)
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)[:, 0]


def layered(params, probe, examples):
    return network(params, *examples, probe)


def single(params, example):
    return network(params, example[0][None], example[1][None], None)[0]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32) / 2
        for name, shape in SHAPES.items()
    }
    images = jnp.asarray(rng.standard_normal((9, 5, 5, 1)), jnp.float32)
    return params, (images, jnp.asarray(rng.integers(0, 3, 9)))


def test_layers_give_the_norms_of_single_gradients(case):
    params, examples = case
    indices = jnp.array([4, 0, 7, 7, 2])
    weights = jnp.array([1.0, 2.0, 0.5, 0.0, 3.0])
    slow = batching.example_losses(single, examples).weighted_gradient(params, indices, weights)
    fast = batching.layered_losses(layered, examples).weighted_gradient(params, indices, weights)
    for one, other in zip(jax.tree.leaves(slow[0]), jax.tree.leaves(fast[0]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slow[1], fast[1], rtol=1e-4)
    np.testing.assert_allclose(slow[2], fast[2], rtol=1e-5)
    assert slow[1][3] == fast[1][3] == 0
    assert np.all(np.asarray(slow[1])[[0, 1, 2, 4]] > 1e-3)


def test_a_layer_that_is_left_out_is_missed(case):
    """The comparison above can fail: without the convolution's part the norms are too small."""
    params, examples = case

    def without(params, probe, examples):
        images, labels = examples
        hidden = batching.conv(
            images, params["kernel"], params["bias"], jnp.zeros_like(probe), strides=(2, 2)
        )
        hidden = jnp.tanh(hidden).reshape(len(images), -1)
        scores = batching.dense(hidden, params["weights"], params["offset"], probe)
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)[:, 0]

    indices, weights = jnp.arange(9), jnp.ones(9)
    full = batching.layered_losses(layered, examples).weighted_gradient(params, indices, weights)
    part = batching.layered_losses(without, examples).weighted_gradient(params, indices, weights)
    assert np.all(np.asarray(part[1]) < 0.99 * np.asarray(full[1]))


def test_dense_layers_form_no_single_gradients():
    """No array of examples times inputs times outputs occurs in the program."""
    inputs, kernel = jnp.ones((7, 11)), jnp.ones((11, 13))

    def loss(kernel, bias, probe):
        return jnp.sum(batching.dense(inputs, kernel, bias, probe) ** 2)

    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(kernel, jnp.ones(13), jnp.ones(7)))
    assert "[7,11,13]" not in program
    assert "[7,13]" in program

    def one(kernel, row):
        return jnp.sum((row @ kernel) ** 2)

    each = jax.make_jaxpr(jax.vmap(jax.grad(one), (None, 0)))(kernel, inputs)
    assert "[7,11,13]" in str(each)


def test_inner_products_are_directional_derivatives(case):
    params, examples = case
    objective = batching.example_losses(single, examples)
    direction = jax.tree.map(jnp.ones_like, params)
    batch = batching.nice(jnp.ones(9), smoothness=0.5).draw(jax.random.key(0), 5)
    found = batching.batch_inner_products(objective, params, batch, direction, microbatch_size=2)
    each = jax.vmap(jax.grad(single), (None, 0))(params, objective.take(batch.indices))
    wanted = sum(leaf.reshape(9, -1).sum(axis=1) for leaf in jax.tree.leaves(each))
    np.testing.assert_allclose(found[:5], wanted[:5], rtol=1e-4, atol=1e-4)
    assert not np.asarray(found)[5:].any()
    with pytest.raises(ValueError, match="objective must come from example_losses"):
        batching.batch_inner_products(
            batching.layered_losses(layered, examples), params, batch, direction
        )


def test_examples_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="examples must share one leading axis"):
        batching.example_losses(single, (jnp.ones((3, 2)), jnp.ones(4)))
