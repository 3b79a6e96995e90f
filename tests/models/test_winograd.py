import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import models
from jaxcert.models import _winograd

SAME = ((1, 1), (1, 1))


def plain(x, kernel, bias, residual):
    """What `convolve` stands for, in float64."""
    x, kernel, bias, residual = (np.asarray(a, np.float64) for a in (x, kernel, bias, residual))
    padded = np.pad(x, ((1, 1), (0, 0), (1, 1), (0, 0)))
    height, _, width, _ = x.shape
    total = bias + residual
    for i in range(3):
        for j in range(3):
            total = total + padded[i : i + height, :, j : j + width] @ kernel[i, j]
    return np.maximum(total, 0.0)


@pytest.mark.parametrize("channels", [(3, 16), (16, 16), (32, 32), (5, 64)])
@pytest.mark.parametrize("size", [(4, 2), (8, 8), (12, 6)])
def test_convolution_is_the_plain_sum(key, channels, size):
    inputs, outputs = channels
    height, width = size
    keys = jax.random.split(key, 4)
    x = jax.random.normal(keys[0], (height, 3, width, inputs))
    kernel = jax.random.normal(keys[1], (3, 3, inputs, outputs)) / np.sqrt(9 * inputs)
    bias = jax.random.normal(keys[2], (outputs,))
    residual = jax.random.normal(keys[3], (height, 3, width, outputs))
    expected = plain(x, kernel, bias, residual)
    np.testing.assert_allclose(
        _winograd.convolve(x, kernel, bias, residual=residual), expected, rtol=0, atol=2e-5
    )
    without = _winograd.convolve(x, kernel, bias)
    np.testing.assert_allclose(without, plain(x, kernel, bias, 0.0), rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def network():
    """A ResNet-8 whose running averages are not the initial zeros and ones."""
    network = models.ResNet(
        input_shape=(16, 16, 3), num_classes=10, mean=0.4, std=0.2, depth=8, rngs=nnx.Rngs(3)
    )
    network.train()
    network(jax.random.uniform(jax.random.key(1), (16, 16, 16, 3)))
    network.eval()
    return network


def test_both_paths_of_the_resnet_agree(network):
    images = jax.random.uniform(jax.random.key(2), (4, 16, 16, 3))
    x = (images - 0.4) / 0.2
    usual = jax.jit(network._scores)(x)
    scale = float(jnp.abs(usual).max())
    np.testing.assert_allclose(
        jax.jit(network._scores_by_rows)(x), usual, rtol=0, atol=1e-4 * scale
    )
    if jax.default_backend() == "cpu":
        # The call takes the fast path, which rounds otherwise.
        compiled = jax.jit(models.from_nnx(network))(images)
        np.testing.assert_allclose(compiled, usual, rtol=0, atol=1e-4 * scale)
        assert not np.array_equal(compiled, usual)


def test_rows_do_not_depend_on_each_other(network):
    classify = jax.jit(models.from_nnx(network))
    images = jax.random.uniform(jax.random.key(2), (4, 16, 16, 3))
    together = classify(images)
    alone = classify(jnp.where(jnp.arange(4)[:, None, None, None] == 2, images, 0.0))
    np.testing.assert_array_equal(together[2], alone[2])


def test_gradients_of_both_paths_agree(network):
    x = jax.random.normal(jax.random.key(4), (2, 16, 16, 3))
    usual = jax.jit(jax.grad(lambda x: network._scores(x)[:, 0].sum()))(x)
    fast = jax.jit(jax.grad(lambda x: network._scores_by_rows(x)[:, 0].sum()))(x)
    np.testing.assert_allclose(fast, usual, rtol=0, atol=1e-3 * float(jnp.abs(usual).max()))


@pytest.mark.parametrize("shape", [(20, 16, 1), (9, 7, 2)])
def test_other_sizes_take_the_usual_path(shape):
    network = models.ResNet(
        input_shape=shape, num_classes=3, mean=0.0, std=1.0, depth=8, rngs=nnx.Rngs(0)
    )
    network.eval()
    x = jax.random.uniform(jax.random.key(2), (2, *shape))
    np.testing.assert_array_equal(jax.jit(network)(x), jax.jit(network._scores)(x))
