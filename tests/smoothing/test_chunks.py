import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import models
from jaxcert.smoothing import _chunks


@pytest.mark.parametrize(
    ("num_images", "num_samples", "chunk_size"),
    [(1, 1, 1), (7, 1000, 64), (7, 10, 64), (100, 3, 7), (3, 100_000, 999), (5, 10, 10**6)],
)
def test_chunks_cover_the_work_with_little_padding(num_images, num_samples, chunk_size):
    shape = _chunks.chunk_shape(
        num_images=num_images, num_samples=num_samples, chunk_size=chunk_size, row_bytes=1
    )
    assert 1 <= shape.images * shape.samples <= chunk_size
    assert shape.samples <= num_samples
    assert shape.images <= num_images
    launches = -(-num_samples // shape.samples)
    # Even shares: fewer padded rows than there are launches.
    assert 0 <= launches * shape.samples - num_samples < launches


def test_default_chunk_follows_the_activations():
    def rows(num_bytes):
        return _chunks.chunk_shape(
            num_images=1, num_samples=10**6, chunk_size=None, row_bytes=num_bytes
        ).samples

    budget = _chunks._ACTIVATION_BYTES["cpu"]
    if jax.default_backend() == "cpu":
        assert abs(rows(budget // 500) - 500) < 5
    assert rows(2**40) == 16
    assert rows(1) >= rows(100) > rows(2**30)


def test_largest_activation_is_seen_through_inner_programs():
    weights = np.ones((12, 1000), np.float32)

    def dense(x):
        return jax.jit(lambda x: x.reshape(x.shape[0], -1) @ weights)(x)[:, :2]

    scores, num_bytes = _chunks.trace_classifier(
        jax.tree_util.Partial(dense), (4, 3), np.dtype(np.float32)
    )
    assert scores.shape == (2, 2)
    assert num_bytes == 4000

    def convolutional(x):
        maps = jax.lax.conv_general_dilated(
            x, jnp.ones((3, 3, 1, 8)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return maps.mean(axis=(1, 2))

    _, num_bytes = _chunks.trace_classifier(
        jax.tree_util.Partial(convolutional), (8, 8, 1), np.dtype(np.float32)
    )
    assert num_bytes == _chunks._FEATURE_MAP_WEIGHT * 8 * 8 * 8 * 4


def test_sizes_for_the_networks_of_the_benchmarks():
    """Measured: a few hundred rows for dense layers, a few tens for feature maps."""
    if jax.default_backend() != "cpu":
        pytest.skip("the sizes are those for a CPU")
    sizes = {}
    for name, shape in (("mlp", (28, 28, 1)), ("lenet", (28, 28, 1)), ("resnet20", (32, 32, 3))):
        network = models.create(name, input_shape=shape, num_classes=10, mean=0.5, std=0.5, seed=0)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            _, row_bytes = _chunks.trace_classifier(
                models.from_nnx(network), shape, np.dtype(np.float32)
            )
        chunk = _chunks.chunk_shape(
            num_images=1, num_samples=10**6, chunk_size=None, row_bytes=row_bytes
        )
        sizes[name] = chunk.samples
    assert 256 <= sizes["mlp"] <= 1024
    assert 16 <= sizes["lenet"] <= 48
    assert sizes["resnet20"] == 16
