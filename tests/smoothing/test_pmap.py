import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import smoothing
from tests.smoothing.classifiers import NUM_HASH_CLASSES, hash_of_bits


@pytest.fixture
def inputs(key):
    return jax.random.randint(key, (5, 4, 3), 0, 256).astype(jnp.float32) / np.float32(255)


@pytest.mark.parametrize("num_devices", [1, 3, 4])
@pytest.mark.parametrize("num_samples", [2, 1037])
def test_counts_are_those_of_class_counts(key, inputs, num_devices, num_samples):
    devices = jax.local_devices()[:num_devices]
    if len(devices) < num_devices:
        pytest.skip(f"needs {num_devices} devices, real or simulated (JAX_NUM_CPU_DEVICES=4)")
    for noise in (smoothing.laplace(0.3), smoothing.gaussian(np.linspace(0.2, 0.6, 5))):
        settings = {
            "noise": noise, "num_samples": num_samples, "num_classes": NUM_HASH_CLASSES,
            "ids": [7, 1, 4, 0, 2],
        }  # fmt: skip
        counts = smoothing.pmap_class_counts(
            key, hash_of_bits, inputs, chunk_size=100, devices=devices, **settings
        )
        expected = smoothing.class_counts(key, hash_of_bits, inputs, **settings)
        np.testing.assert_array_equal(counts, expected)
        assert counts.dtype == jnp.int32


def test_new_weights_and_keys_do_not_retrace(key, inputs):
    traces = []

    def apply(weights, x):
        traces.append(x.shape)
        return x.reshape(x.shape[0], -1) @ weights

    for seed in range(3):
        fresh = jax.random.fold_in(key, seed)
        classify = jax.tree_util.Partial(apply, jax.random.normal(fresh, (12, 4)))
        smoothing.pmap_class_counts(
            fresh, classify, inputs, noise=smoothing.gaussian(0.5), num_samples=100, num_classes=4
        )
    assert len(traces) <= 2


def test_bad_input(key, inputs):
    settings = {"noise": smoothing.gaussian(0.5), "num_classes": NUM_HASH_CLASSES}
    with pytest.raises(ValueError, match="num_samples must lie in"):
        smoothing.pmap_class_counts(key, hash_of_bits, inputs, num_samples=0, **settings)
    with pytest.raises(ValueError, match="devices must name at least one"):
        smoothing.pmap_class_counts(
            key, hash_of_bits, inputs, num_samples=10, devices=[], **settings
        )
