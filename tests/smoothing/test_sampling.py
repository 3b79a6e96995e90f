import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import smoothing
from jaxcert.smoothing import _sampling
from jaxcert.smoothing._chunks import ChunkShape
from tests.smoothing.classifiers import NUM_HASH_CLASSES, half_space, hash_of_bits

NOISES = [smoothing.gaussian(0.25), smoothing.laplace(0.3), smoothing.uniform(0.5)]


@pytest.fixture
def inputs(key):
    return jax.random.uniform(key, (6, 5, 3))


def hashed(key, inputs, **settings):
    settings = {"noise": NOISES[0], "num_samples": 1037, "num_classes": NUM_HASH_CLASSES} | settings
    return np.asarray(smoothing.class_counts(key, hash_of_bits, inputs, **settings))


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.family)
def test_noise_is_that_of_noise_sample(key, inputs, noise):
    """Sample i of input j is noise.sample(fold_in(fold_in(key, j), i)), bit for bit."""
    expected = np.zeros((6, NUM_HASH_CLASSES), int)
    sample = jax.jit(jax.vmap(lambda one: noise.sample(one, (5, 3))))
    for j in range(6):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, j), jnp.arange(50))
        labels = jnp.argmax(hash_of_bits(inputs[j][None] + sample(keys)), axis=1)
        expected[j] = np.bincount(np.asarray(labels), minlength=NUM_HASH_CLASSES)
    np.testing.assert_array_equal(hashed(key, inputs, noise=noise, num_samples=50), expected)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.family)
@pytest.mark.parametrize("chunk_size", [1, 7, 1000, 5000, 10**6])
def test_noise_is_the_same_for_every_chunk_size(key, inputs, noise, chunk_size):
    if chunk_size == 1:
        settings = {"noise": noise, "num_samples": 101}
    else:
        settings = {"noise": noise}
    expected = hashed(key, inputs, **settings)
    np.testing.assert_array_equal(hashed(key, inputs, chunk_size=chunk_size, **settings), expected)
    assert np.all(expected.sum(axis=1) == settings.get("num_samples", 1037))


def test_noise_follows_the_ids_in_any_order_and_company(key, inputs):
    expected = hashed(key, inputs)
    order = np.array([4, 0, 5, 2, 1, 3])
    np.testing.assert_array_equal(hashed(key, inputs[order], ids=order), expected[order])
    np.testing.assert_array_equal(hashed(key, inputs[3:4], ids=[3]), expected[3:4])
    assert not np.array_equal(hashed(key, inputs[3:4]), expected[3:4])


def test_other_keys_inputs_and_samples_have_other_noise(key, inputs):
    same = jnp.broadcast_to(inputs[:1], inputs.shape)
    counts = hashed(key, same)
    assert len(np.unique(counts, axis=0)) == len(counts)
    assert not np.array_equal(counts, hashed(jax.random.fold_in(key, 1), same))


@pytest.mark.parametrize("layout", [(4,), (2, 2), (1, 4), (4, 1)])
@pytest.mark.parametrize("num_samples", [1, 3, 1037])
def test_noise_is_the_same_on_every_layout_of_devices(key, inputs, layout, num_samples):
    if len(jax.devices()) < 4:
        pytest.skip("needs four devices, real or simulated (JAX_NUM_CPU_DEVICES=4)")
    names = ("images", "samples") if len(layout) == 2 else ("samples",)
    mesh = jax.make_mesh(layout, names)
    expected = hashed(key, inputs[:5], num_samples=num_samples)
    counts = hashed(key, inputs[:5], num_samples=num_samples, mesh=mesh, chunk_size=37)
    np.testing.assert_array_equal(counts, expected)


def test_scale_for_each_input(key, inputs):
    sigmas = np.linspace(0.1, 0.6, 6)
    counts = hashed(key, inputs, noise=smoothing.gaussian(sigmas), chunk_size=100)
    for j, sigma in enumerate(sigmas):
        alone = hashed(key, inputs[j : j + 1], ids=[j], noise=smoothing.gaussian(sigma))
        np.testing.assert_array_equal(counts[j : j + 1], alone)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_inputs_are_counted_exactly(key, dtype):
    inputs = jnp.array([[10.0], [-10.0]], dtype)
    counts = smoothing.class_counts(
        key, half_space, inputs, noise=NOISES[0], num_samples=70_001, num_classes=2
    )
    np.testing.assert_array_equal(counts, [[0, 70_001], [70_001, 0]])
    assert counts.dtype == jnp.int32


def test_under_jit_and_vmap(key, inputs):
    keys = jax.random.split(key, 3)
    count = lambda one, sigma: smoothing.class_counts(  # noqa: E731
        one, hash_of_bits, inputs, noise=smoothing.gaussian(sigma), num_samples=200,
        num_classes=NUM_HASH_CLASSES,
    )  # fmt: skip
    over_keys = jax.jit(jax.vmap(count, (0, None)))(keys, 0.25)
    over_sigmas = jax.vmap(count, (None, 0))(keys[0], jnp.array([0.25, 0.5]))
    for index in range(3):
        np.testing.assert_array_equal(over_keys[index], count(keys[index], 0.25))
    np.testing.assert_array_equal(over_sigmas[1], count(keys[0], 0.5))


def test_samples_with_scores_that_are_not_finite_are_no_votes(key):
    def sometimes_nan(inputs):
        scores = half_space(inputs)
        broken = jnp.where(inputs[:, :1] > 0.5, jnp.nan, scores)
        return jnp.where(inputs[:, :1] < -0.5, jnp.inf, broken)

    inputs = jnp.zeros((1, 1))
    settings = {"noise": smoothing.gaussian(0.5), "num_samples": 1000, "num_classes": 2}
    whole = np.asarray(smoothing.class_counts(key, half_space, inputs, **settings))
    counts = np.asarray(smoothing.class_counts(key, sometimes_nan, inputs, **settings))
    assert whole.sum() == 1000
    assert np.all(counts < whole)
    assert 600 < counts.sum() < 760


def test_a_tie_goes_to_the_lowest_class(key, inputs):
    counts = smoothing.class_counts(
        key, lambda x: jnp.zeros((x.shape[0], 3)), inputs, noise=NOISES[0], num_samples=10,
        num_classes=3,
    )  # fmt: skip
    np.testing.assert_array_equal(counts, [[10, 0, 0]] * 6)


def test_one_trace_for_many_calls(key, inputs):
    """Other keys, inputs, ids, scales, weights and sample sizes within a chunk do not retrace."""

    @chex.assert_max_traces(n=2)  # One to check shapes, one to compile.
    def apply(weights, x):
        return x.reshape(x.shape[0], -1) @ weights

    for seed in range(4):
        fresh = jax.random.fold_in(key, seed)
        classify = jax.tree_util.Partial(apply, jax.random.normal(fresh, (15, 4)))
        smoothing.class_counts(
            fresh, classify, inputs + seed, noise=smoothing.gaussian(0.1 + seed),
            num_samples=1000 * (seed + 1), num_classes=4, chunk_size=250, ids=np.arange(6) + seed,
        )  # fmt: skip


def test_memory_is_bounded_by_the_chunk_not_by_the_samples(key, inputs):
    def temporary_bytes(num_samples, samples_per_chunk):
        noise = smoothing.gaussian(jnp.full((6,), 0.5))
        compiled = _sampling._count.lower(
            key, jax.tree_util.Partial(hash_of_bits), inputs, noise,
            jnp.arange(6, dtype=jnp.uint32), num_samples, num_classes=NUM_HASH_CLASSES,
            shape=ChunkShape(1, samples_per_chunk), mesh=None,
        ).compile()  # fmt: skip
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(10**9, 100) == temporary_bytes(100, 100)
    assert temporary_bytes(100, 10_000) > 10 * temporary_bytes(100, 100)


class TestBadInput:
    """Each bad argument has an error of its own that names it."""

    def count(self, key, classify=half_space, inputs=None, **settings):
        inputs = jnp.zeros((2, 3)) if inputs is None else inputs
        settings = {"noise": NOISES[0], "num_samples": 10, "num_classes": 2} | settings
        return smoothing.class_counts(key, classify, inputs, **settings)

    def test_key(self, key):
        with pytest.raises(TypeError, match="key must be a typed key"):
            self.count(jax.random.PRNGKey(3))
        with pytest.raises(TypeError, match="key must be a typed key"):
            self.count(3)
        with pytest.raises(ValueError, match="key must be a single key"):
            self.count(jax.random.split(key))
        with pytest.raises(ValueError, match="threefry2x32"):
            self.count(jax.random.key(3, impl="rbg"))

    def test_rank(self, key):
        with pytest.raises(ValueError, match=r"inputs must have a leading batch axis.*\(3,\)"):
            self.count(key, inputs=jnp.zeros(3))
        with pytest.raises(ValueError, match="inputs must not be empty"):
            self.count(key, inputs=jnp.zeros((0, 3)))

    def test_integer_images(self, key):
        with pytest.raises(TypeError, match=r"inputs must be floating point, got uint8.*255"):
            self.count(key, inputs=np.zeros((2, 3), np.uint8))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_pixels_that_are_not_finite(self, key, bad):
        inputs = np.zeros((3, 4), np.float32)
        inputs[1, 2] = bad
        with pytest.raises(ValueError, match="inputs must be finite.*rows 1"):
            self.count(key, inputs=inputs)

    def test_num_samples(self, key):
        for bad in (0, -5, 2**31):
            with pytest.raises(ValueError, match="num_samples must lie in"):
                self.count(key, num_samples=bad)
        with pytest.raises(TypeError, match="num_samples must be an integer"):
            self.count(key, num_samples=1e5)

    def test_chunk_size(self, key):
        with pytest.raises(ValueError, match="chunk_size must lie in"):
            self.count(key, chunk_size=0)

    def test_num_classes_that_disagrees_with_the_scores(self, key):
        with pytest.raises(ValueError, match=r"\(2, 3\) for two inputs, got \(2, 2\)"):
            self.count(key, num_classes=3)

    def test_classify_that_drops_the_batch_axis(self, key):
        with pytest.raises(ValueError, match=r"classify must return scores.*got \(2,\)"):
            self.count(key, classify=lambda x: x[:, 0])

    def test_classify_that_returns_labels(self, key):
        with pytest.raises(TypeError, match="floating-point scores, got int32"):
            self.count(key, classify=lambda x: jnp.zeros((x.shape[0], 2), jnp.int32))

    def test_classify_that_takes_other_shapes(self, key):
        with pytest.raises(ValueError, match=r"classify must accept a batch.*\(2, 3\)"):
            self.count(key, classify=lambda x: x @ jnp.zeros((7, 2)))

    def test_classify_that_is_no_function(self, key):
        with pytest.raises(TypeError, match="classify must be callable"):
            self.count(key, classify=np.zeros(3))

    def test_sigmas_that_are_not_one_an_input(self, key):
        with pytest.raises(ValueError, match=r"noise.scale must be a scalar or of shape \(2,\)"):
            self.count(key, noise=smoothing.gaussian([0.1, 0.2, 0.3]))

    def test_ids(self, key):
        with pytest.raises(ValueError, match=r"ids must have shape \(2,\)"):
            self.count(key, ids=[1, 2, 3])
        with pytest.raises(TypeError, match="ids must be integers"):
            self.count(key, ids=[0.0, 1.0])
        with pytest.raises(ValueError, match=r"ids must lie in \[0, 2\*\*32\)"):
            self.count(key, ids=[-1, 0])

    def test_mesh_with_other_axes(self, key):
        with pytest.raises(ValueError, match="mesh must have axes named 'images', 'samples'"):
            self.count(key, mesh=jax.make_mesh((1,), ("batch",)))
