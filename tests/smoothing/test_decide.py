import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxcert import smoothing
from jaxcert.smoothing import Verdict
from tests.smoothing.classifiers import NUM_HASH_CLASSES, half_space, hash_of_bits

NOISE = smoothing.gaussian(0.5)
DISTANCES = np.array([-0.9, -0.4, 0.0, 0.1, 0.35, 0.6, 1.4])
INPUTS = jnp.asarray(DISTANCES[:, None], jnp.float32)


def decide(key, classify=half_space, inputs=INPUTS, **settings):
    settings = {"noise": NOISE, "radius": 0.25, "num_classes": 2, "max_samples": 10_000} | settings
    return smoothing.decide_radius(key, classify, inputs, **settings)


def assert_equal(decision, other):
    for one, two in zip(decision, other, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("rule", ["spending", "betting", "one_sided_betting", "union"])
def test_half_space(key, rule):
    """Its radius is the distance, so exactly the distances above the radius are certified."""
    decision = decide(key, rule=rule)
    np.testing.assert_array_equal(decision.verdict, [1, 1, -1, -1, 1, 1, 1])
    np.testing.assert_array_equal(decision.label, [0, 0, -1, -1, 1, 1, 1])
    np.testing.assert_array_equal(decision.counts.sum(axis=1), decision.num_samples)
    np.testing.assert_array_equal(decision.selection_counts.sum(axis=1), 100)
    assert decision.num_samples[-1] < 100
    assert decision.num_samples.max() <= 10_000
    for field in decision:
        assert isinstance(field, np.ndarray)
        assert field.shape[0] == len(INPUTS)


def test_counts_are_those_of_the_samples_of_certify(key):
    """Growing blocks leave no sample out and take none twice, on the noise of `certify`."""

    def mostly_the_first(inputs):
        scores = hash_of_bits(inputs)
        return jnp.stack([jnp.sum(scores[:, :-1], axis=1), scores[:, -1]], axis=1)

    share = 1 - 1 / NUM_HASH_CLASSES
    radius = 0.5 * special.ndtri(share + 0.05)
    decision = decide(key, mostly_the_first, max_samples=700, radius=radius, give_up=0)
    assert len(set(decision.num_samples)) > 2
    for row in (int(decision.num_samples.argmin()), int(decision.num_samples.argmax())):
        certificate = smoothing.certify(
            key, mostly_the_first, INPUTS[row : row + 1], ids=[row], noise=NOISE, num_classes=2,
            num_samples=int(decision.num_samples[row]), chunk_size=50,
        )  # fmt: skip
        np.testing.assert_array_equal(decision.counts[row], certificate.counts[0])
        np.testing.assert_array_equal(
            decision.selection_counts[row], certificate.selection_counts[0]
        )


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_a_verdict_does_not_depend_on_chunks_or_company(key, chunk_size):
    settings = {"max_samples": 500}
    whole = decide(key, **settings)
    order = np.array([6, 2, 0, 5, 1, 3, 4])
    permuted = decide(key, inputs=INPUTS[order], ids=order, chunk_size=chunk_size, **settings)
    assert_equal(tuple(field[order] for field in whole), permuted)
    alone = decide(key, inputs=INPUTS[3:4], ids=[3], chunk_size=chunk_size, **settings)
    assert_equal(tuple(field[3:4] for field in whole), alone)


def test_on_a_mesh(key):
    if len(jax.devices()) < 4:
        pytest.skip("needs four devices, real or simulated (JAX_NUM_CPU_DEVICES=4)")
    for mesh in (jax.make_mesh((2, 2), ("images", "samples")), jax.make_mesh((4,), ("images",))):
        assert_equal(decide(key), decide(key, mesh=mesh, chunk_size=50))


def test_work_larger_than_a_launch_is_cut(key, monkeypatch):
    expected = decide(key)
    monkeypatch.setattr("jaxcert.smoothing._packed._LARGEST_LAUNCH", 300)
    assert_equal(decide(key), expected)


def test_one_trace_for_all_rounds_and_calls(key):
    """Other keys, inputs, radii, scales and weights do not retrace either."""

    @chex.assert_max_traces(n=2)  # One to check shapes, one to compile.
    def apply(weights, x):
        return x @ weights

    for seed in range(3):
        weights = jnp.array([[-1.0, 1.0]]) * (seed + 1.0)
        decision = decide(
            jax.random.fold_in(key, seed), jax.tree_util.Partial(apply, weights),
            inputs=INPUTS + 0.01 * seed, radius=0.25 + 0.05 * seed,
            noise=smoothing.gaussian(0.5 + 0.1 * seed),
        )  # fmt: skip
        assert len(set(decision.num_samples)) > 3


def test_radius_and_scale_for_each_input(key):
    sigmas = np.linspace(0.3, 0.6, len(INPUTS))
    radii = np.linspace(0.1, 0.5, len(INPUTS))
    decision = decide(key, noise=smoothing.gaussian(sigmas), radius=radii)
    clear = np.abs(np.abs(DISTANCES) - radii) > 0.05
    expected = np.where(np.abs(DISTANCES) > radii, 1, -1)
    np.testing.assert_array_equal(decision.verdict[clear], expected[clear])
    one = decide(
        key, inputs=INPUTS[4:5], ids=[4], noise=smoothing.gaussian(sigmas[4]), radius=radii[4]
    )
    assert_equal(tuple(field[4:5] for field in decision), one)


@pytest.mark.parametrize("noise", [smoothing.laplace(0.5), smoothing.uniform(1.0)], ids=str)
def test_in_l1(key, noise):
    decision = decide(key, noise=noise)
    np.testing.assert_array_equal(decision.verdict, [1, 1, -1, -1, 1, 1, 1])


@pytest.mark.parametrize("noise", [NOISE, smoothing.laplace(0.5), smoothing.uniform(1.0)], ids=str)
def test_the_threshold_is_the_least_probability_with_the_radius(noise):
    from jaxcert.smoothing._decide import probability_for_radius

    radii = np.array([1e-6, 0.1, 0.25, 0.9])
    threshold = probability_for_radius(noise, radii)
    assert np.all(noise.radius(threshold) >= radii)
    assert np.all(noise.radius(np.nextafter(threshold, 0)) < radii)
    if noise is NOISE:
        np.testing.assert_allclose(threshold, special.ndtr(radii / 0.5), rtol=1e-13)


def test_undecided_inputs_end_at_max_samples(key):
    inputs = jnp.full((5, 1), 0.25)
    decision = decide(key, inputs=inputs, max_samples=2000, give_up=0)
    np.testing.assert_array_equal(decision.verdict, Verdict.UNDECIDED)
    np.testing.assert_array_equal(decision.label, smoothing.ABSTAIN)
    np.testing.assert_array_equal(decision.num_samples, 2000)


class TestBadInput:
    def test_radius(self, key):
        for bad in (0, -1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match="radius must be finite and above 0"):
                decide(key, radius=bad)
        with pytest.raises(ValueError, match=r"radius must be a scalar or of shape \(7,\)"):
            decide(key, radius=[0.1, 0.2])
        with pytest.raises(TypeError, match="radius must be a real number"):
            decide(key, radius="large")

    def test_a_radius_out_of_reach(self, key):
        with pytest.raises(ValueError, match=r"radius must be one that max_samples=100 votes.*got"):
            decide(key, max_samples=100, radius=1.0)
        with pytest.raises(ValueError, match="radius must be one that max_samples"):
            decide(key, noise=smoothing.uniform(0.5), radius=0.5)

    def test_a_network_that_is_not_finite_for_some_noise(self, key):
        def fragile(inputs):
            return jnp.where(inputs[:, :1] > 2.0, jnp.nan, half_space(inputs))

        with pytest.raises(smoothing.NonFiniteScoresError, match="got NaN or infinity.*of row 6"):
            decide(key, fragile)

    def test_settings(self, key):
        for name, bad in (("alpha", 0), ("max_samples", 0), ("selection_samples", 0)):
            with pytest.raises(ValueError, match=name):
                decide(key, **{name: bad})
        with pytest.raises(ValueError, match="rule must be one of"):
            decide(key, rule="hope")
        with pytest.raises(ValueError, match="chunk_size must lie in"):
            decide(key, chunk_size=0)
        with pytest.raises(ValueError, match=r"\(2, 3\) for two inputs"):
            decide(key, num_classes=3)
        with pytest.raises(TypeError, match="key must be a typed key"):
            decide(3)

    def test_under_a_transformation(self, key):
        with pytest.raises(TypeError, match="under jax.jit or jax.vmap use class_counts"):
            jax.jit(lambda inputs: decide(key, inputs=inputs))(INPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["spending", "betting", "one_sided_betting", "union"])
def test_verb_at_the_exact_radius_over_thousands_of_keys(key, rule):
    """Every certificate is false by a hair, every refutation too: each at most alpha of them."""
    copies, alpha = 5000, 0.05
    inputs = jnp.full((copies, 1), 0.25, jnp.float32)
    decision = decide(key, inputs=inputs, rule=rule, alpha=alpha, max_samples=2000)
    for verdict in (Verdict.CERTIFIED, Verdict.REFUTED):
        false = int((decision.verdict == verdict).sum())
        test = stats.binomtest(false, copies, alpha, alternative="greater")
        assert test.pvalue > 1e-6, f"{false} of {copies} decisions are false"
