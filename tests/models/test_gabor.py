"""The Gabor layer: its filters, its shared bank, its parameters and its bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import lipschitz, models


def test_filters_are_those_of_the_formula():
    sigma, gamma, wave, phase, alpha, angle = 0.7, 1.3, 2.0, 0.4, -1.5, 0.9
    bank = models.gabor_filters(sigma, gamma, wave, phase, alpha, angle, kernel_size=4)
    points = np.linspace(-1, 1, 4)
    for row, y in enumerate(points):
        for column, x in enumerate(points):
            u = x * np.cos(angle) - y * np.sin(angle)
            v = x * np.sin(angle) + y * np.cos(angle)
            value = alpha * np.exp(-(sigma**2) * (u**2 + gamma**2 * v**2))
            np.testing.assert_allclose(
                bank[row, column], value * np.cos(wave * u + phase), rtol=1e-5, atol=1e-6
            )
    assert models.gabor_filters(1.0, 1.0, 1.0, 0.0, 2.0, 0.5, kernel_size=1).shape == (1, 1)


@pytest.fixture(scope="module")
def layer():
    return models.GaborConv(3, 6, families=2, orientations=4, strides=2, rngs=nnx.Rngs(0))


def test_layer_applies_one_bank_to_every_channel(layer):
    images = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype(np.float32)
    bank = layer.filters()
    responses = [
        jax.lax.conv_general_dilated(
            images[..., channel : channel + 1],
            bank[:, :, None],
            (2, 2),
            [(2, 2), (2, 2)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for channel in range(3)
    ]
    expected = jax.nn.relu(jnp.concatenate(responses, axis=-1)) @ layer.mixing[...]
    np.testing.assert_allclose(layer(images), expected, rtol=1e-4, atol=1e-5)


def test_orientations_are_fixed_or_trained_as_told(layer):
    trained = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(layer, nnx.Param))}
    assert trained == {"inverse_width", "aspect_ratio", "frequency", "phase", "amplitude", "mixing"}
    other = models.GaborConv(
        3, 6, families=2, orientations=4, fixed=("phase", "amplitude"), rngs=nnx.Rngs(0)
    )
    trained = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(other, nnx.Param))}
    assert trained == {"inverse_width", "aspect_ratio", "frequency", "orientation", "mixing"}
    np.testing.assert_allclose(other.orientation[...], np.arange(4) * np.pi / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="fixed must be names out of inverse_width"):
        models.GaborConv(3, 6, families=2, fixed=("theta",), rngs=nnx.Rngs(0))


def test_bound_of_the_layer_holds_for_its_jacobians(layer):
    upper = float(layer.lipschitz_upper((7, 7)))
    images = np.random.default_rng(1).normal(size=(4, 7, 7, 3)).astype(np.float32)
    jacobians = jax.vmap(jax.jacobian(lambda x: layer(x[None])[0].ravel()))(images)
    norms = np.linalg.norm(np.asarray(jacobians, np.float64).reshape(4, -1, 7 * 7 * 3), 2, (1, 2))
    assert norms.max() <= upper
    assert norms.max() > 0.3 * upper
    # The closed form bounds the bank whatever its orientation.
    closed = lipschitz.gabor_lipschitz_upper(
        layer.inverse_width[...], layer.aspect_ratio[...], layer.amplitude[...], kernel_size=5
    )
    mixing = lipschitz.spectral_norm_upper(layer.mixing[...])
    assert upper <= float(jnp.linalg.norm(closed) * mixing)


@pytest.mark.parametrize("name", ["gabor_lenet", "gabor_resnet20"])
def test_networks_by_name_have_the_shapes_of_the_others(name):
    def scores(images):
        network = models.create(
            name, input_shape=(28, 28, 1), num_classes=7, mean=0.4, std=0.3, seed=0
        )
        network.eval()
        return network(images)

    out = jax.eval_shape(scores, jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32))
    assert out.shape == (3, 7)


def test_network_without_gabor_layers_has_ordinary_convolutions_of_equal_shapes():
    def layers(x, count):
        network = models.GaborLeNet(
            input_shape=(12, 12, 1), num_classes=3, mean=0.0, std=1.0, channels=(4, 6),
            hidden=5, gabor_layers=count, families=1, orientations=2, rngs=nnx.Rngs(0),
        )  # fmt: skip
        kinds = [type(layer).__name__ for layer in network.layers]
        assert kinds == ["GaborConv"] * count + ["Conv"] * (2 - count)
        outputs = []
        for layer in network.layers:
            x = layer(x)
            outputs.append(x)
        return outputs

    images = jax.ShapeDtypeStruct((2, 12, 12, 1), jnp.float32)
    for count in range(3):
        shapes = [out.shape for out in jax.eval_shape(lambda x, c=count: layers(x, c), images)]
        assert shapes == [(2, 6, 6, 4), (2, 3, 3, 6)]


def test_checkpoint_keeps_fixed_parameters(tmp_path):
    network = models.GaborLeNet(
        input_shape=(8, 8, 1), num_classes=2, mean=0.0, std=1.0, channels=(2,), hidden=3,
        families=1, orientations=3, fixed=("phase", "orientation"), rngs=nnx.Rngs(1),
    )  # fmt: skip
    network.layers[0].phase[...] = jnp.full((1, 1), 0.25)
    models.save(tmp_path / "network", network)
    again = models.restore(tmp_path / "network")
    assert again.settings == network.settings
    first, second = (models.fingerprint(models.from_nnx(one)) for one in (network, again))
    assert first == second
