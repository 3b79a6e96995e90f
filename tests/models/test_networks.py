"""Shapes, normalisation and architecture of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import models


def number_of_weights(module):
    return sum(
        leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    )


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet20"])
def test_scores_have_one_row_an_image(name, shape):
    def scores(images):
        network = models.create(name, input_shape=shape, num_classes=7, mean=0.4, std=0.3, seed=0)
        network.eval()
        return network(images)

    images = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    out = jax.eval_shape(scores, images)
    assert out.shape == (3, 7)
    assert out.dtype == jnp.float32


@pytest.mark.parametrize(("depth", "weights"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_resnets_have_the_published_number_of_weights(depth, weights):
    network = nnx.eval_shape(
        lambda: models.ResNet(
            input_shape=(32, 32, 3),
            num_classes=10,
            mean=0.0,
            std=1.0,
            depth=depth,
            rngs=nnx.Rngs(0),
        )
    )
    assert number_of_weights(network) == weights


def test_normalisation_is_inside_and_per_channel():
    network = models.MLP(
        input_shape=(2, 2, 3),
        num_classes=2,
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 1.0, 2.0),
        hidden=(),
        rngs=nnx.Rngs(0),
    )
    images = np.random.default_rng(0).uniform(size=(4, 2, 2, 3)).astype(np.float32)
    normalised = (images - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    kernel = np.asarray(network.head.kernel[...])
    expected = normalised.reshape(4, -1) @ kernel + np.asarray(network.head.bias[...])
    np.testing.assert_allclose(network(images), expected, rtol=1e-5, atol=1e-6)


def test_shortcut_takes_every_other_pixel_and_pads_channels_on_both_sides():
    network = nnx.eval_shape(
        lambda: models.ResNet(
            input_shape=(8, 8, 3), num_classes=10, mean=0.0, std=1.0, depth=8, rngs=nnx.Rngs(0)
        )
    )
    graphdef, state = nnx.split(network.blocks[1])
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    block = nnx.merge(graphdef, state)
    block.eval()
    x = jnp.arange(8 * 8 * 16, dtype=jnp.float32).reshape(1, 8, 8, 16)
    # With all weights 0 the block is the ReLU of its shortcut.
    y = block(x)
    assert y.shape == (1, 4, 4, 32)
    np.testing.assert_array_equal(y[..., 8:24], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., :8], 0.0)
    np.testing.assert_array_equal(y[..., 24:], 0.0)


def test_seed_decides_the_initial_weights():
    def weights(seed):
        network = models.create(
            "lenet", input_shape=(8, 8, 1), num_classes=10, mean=0.3, std=0.4, seed=seed
        )
        return models.fingerprint(models.from_nnx(network))

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)


def test_lenet_pads_small_images_only():
    def padding(side):
        return nnx.eval_shape(
            lambda: models.LeNet(
                input_shape=(side, side, 1), num_classes=10, mean=0.0, std=1.0, rngs=nnx.Rngs(0)
            )
        ).padding

    assert [padding(side) for side in (8, 28, 32)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "lenett"}, "name must be one of mlp, lenet"),
        ({"input_shape": (28, 28)}, r"input_shape must be \(height, width, channels\)"),
        ({"input_shape": (3, 28, 1)}, "sides of at least 4"),
        ({"num_classes": 1}, "num_classes must lie in"),
        ({"mean": (0.1, 0.2)}, "mean must be one finite number or one for each of 1 channels"),
        ({"std": 0.0}, "std must be above 0"),
        ({"std": float("nan")}, "std must be one finite number"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_bad_settings_are_named(changed, words):
    settings = {
        "name": "lenet",
        "input_shape": (28, 28, 1),
        "num_classes": 10,
        "mean": 0.1,
        "std": 0.3,
        "seed": 0,
    } | changed
    with pytest.raises(ValueError, match=words):
        models.create(**settings)


def test_depth_must_fit():
    with pytest.raises(ValueError, match="depth must be 6 k"):
        models.ResNet(
            input_shape=(32, 32, 3), num_classes=10, mean=0.0, std=1.0, depth=18, rngs=nnx.Rngs(0)
        )


def test_images_of_another_shape_are_refused():
    network = models.create("mlp", input_shape=(4, 4, 1), num_classes=2, mean=0.0, std=1.0, seed=0)
    with pytest.raises(
        ValueError, match=r"images must have shape \[n, 4, 4, 1\].*got \(5, 4, 4, 3\)"
    ):
        network(jnp.zeros((5, 4, 4, 3)))


def test_pixel_statistics_of_a_constant_channel():
    images = np.zeros((3, 2, 2, 2), np.float32)
    images[..., 1] = np.array([0.0, 0.5, 1.0], np.float32)[:, None, None]
    assert models.pixel_statistics(images) == ((0.0, 0.5), (1.0, 0.4082))
    with pytest.raises(ValueError, match="images must be a non-empty"):
        models.pixel_statistics(np.zeros((0, 3)))
