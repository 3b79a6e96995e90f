"""Adaptive certificates: what they save, and that choosing the sample size costs no soundness."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxcert import smoothing
from jaxcert.smoothing import _sequential
from tests.smoothing.classifiers import half_space

SIGMA = 0.5
NOISE = smoothing.gaussian(SIGMA)
DISTANCES = np.array([-1.2, -0.6, -0.002, 0.25, 0.5, 0.9, 4.0])
INPUTS = jnp.asarray(DISTANCES[:, None], jnp.float32)
ALLOCATIONS = ["each", "average"]


def certify(key, classify=half_space, inputs=INPUTS, **settings):
    settings = {"noise": NOISE, "num_classes": 2, "max_samples": 20_000} | settings
    return smoothing.certify_adaptive(key, classify, inputs, **settings)


def assert_equal(certificate, other):
    for one, two in zip(certificate, other, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("relative_to", ["max_samples", "infinite_samples"])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_half_space(key, allocation, relative_to):
    certificate = certify(key, allocation=allocation, relative_to=relative_to)
    clear = np.abs(DISTANCES) > 0.1
    expected = (DISTANCES > 0).astype(int)
    np.testing.assert_array_equal(certificate.label[clear], expected[clear])
    assert np.all(certificate.radius <= np.abs(DISTANCES))
    wanted = smoothing.certify(key, half_space, INPUTS, noise=NOISE, num_classes=2,
                               num_samples=20_000).radius.sum()  # fmt: skip
    assert certificate.radius.sum() > 0.9 * wanted
    if relative_to == "max_samples":
        # Each has a saving; the input on the boundary is worth next to nothing.
        assert certificate.num_samples.mean() < 10_000
        assert certificate.num_samples[2] < 8000
    np.testing.assert_array_equal(
        certificate.num_samples,
        certificate.counts.sum(axis=1) + certificate.selection_counts.sum(axis=1),
    )
    assert np.all(certificate.counts.sum(axis=1) <= 20_000)
    for field in certificate:
        assert isinstance(field, np.ndarray)
        assert field.shape[0] == len(INPUTS)


def test_a_smaller_tolerance_spends_more_and_certifies_more(key):
    spent, radii = [], []
    for tolerance in (0.2, 0.05, 0.01):
        certificate = certify(key, tolerance=tolerance, relative_to="max_samples")
        spent.append(certificate.num_samples.sum())
        radii.append(certificate.radius.sum())
    assert spent == sorted(spent)
    assert radii == sorted(radii)


def test_the_counts_are_those_of_certify_and_give_the_certificate_back(key):
    """The pilot goes on where the selection ended, the estimation has keys of its own."""
    certificate = certify(key, inputs=INPUTS[3:4], ids=[3], chunk_size=100)
    pilot, estimation = (
        int(field.sum()) for field in (certificate.selection_counts, certificate.counts)
    )
    assert pilot > 100
    fixed = smoothing.certify(
        key, half_space, INPUTS[3:4], ids=[3], noise=NOISE, num_classes=2, chunk_size=100,
        num_samples=estimation, selection_samples=pilot,
    )  # fmt: skip
    for name in fixed._fields:
        np.testing.assert_array_equal(getattr(fixed, name), getattr(certificate, name))


def test_each_depends_on_nothing_but_the_input_and_its_id(key):
    whole = certify(key, max_samples=2000)
    order = np.array([6, 2, 0, 5, 1, 3, 4])
    permuted = certify(key, inputs=INPUTS[order], ids=order, max_samples=2000, chunk_size=77)
    assert_equal(tuple(field[order] for field in whole), permuted)
    alone = certify(key, inputs=INPUTS[4:5], ids=[4], max_samples=2000)
    assert_equal(tuple(field[4:5] for field in whole), alone)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_on_a_mesh(key, allocation):
    if len(jax.devices()) < 4:
        pytest.skip("needs four devices, real or simulated (JAX_NUM_CPU_DEVICES=4)")
    mesh = jax.make_mesh((2, 2), ("images", "samples"))
    settings = {"max_samples": 2000, "allocation": allocation}
    assert_equal(certify(key, **settings), certify(key, mesh=mesh, **settings))


def test_one_trace_for_pilot_and_estimation(key):
    @chex.assert_max_traces(n=2)  # One to check shapes, one to compile.
    def apply(weights, x):
        return x @ weights

    for seed in range(3):
        weights = jnp.array([[-1.0, 1.0]]) * (seed + 1.0)
        certify(
            jax.random.fold_in(key, seed), jax.tree_util.Partial(apply, weights),
            inputs=INPUTS + 0.01 * seed, tolerance=0.05 + 0.01 * seed, max_samples=5000,
            allocation=ALLOCATIONS[seed % 2],
        )  # fmt: skip


@pytest.mark.parametrize("noise", [smoothing.laplace(0.5), smoothing.uniform(1.0)], ids=str)
def test_in_l1(key, noise):
    certificate = certify(key, noise=noise, inputs=INPUTS[:6], relative_to="max_samples")
    distances = np.abs(DISTANCES[:6])
    assert np.all(certificate.radius <= distances)
    assert np.all(certificate.radius[[1, 3, 4]] > 0.75 * distances[[1, 3, 4]])


def test_a_scale_for_each_input(key):
    sigmas = np.linspace(0.3, 0.8, len(INPUTS))
    certificate = certify(key, noise=smoothing.gaussian(sigmas), max_samples=5000)
    alone = certify(
        key, inputs=INPUTS[4:5], ids=[4], noise=smoothing.gaussian(sigmas[4]), max_samples=5000
    )
    assert_equal(tuple(field[4:5] for field in certificate), alone)


def test_inputs_without_hope_take_no_estimation_samples(key):
    def even(inputs):
        """Four classes, equally likely under any noise that is symmetric."""
        first, second = inputs[:, 0] > 0, inputs[:, 1] > 0
        return jax.nn.one_hot(2 * first.astype(jnp.int32) + second.astype(jnp.int32), 4)

    certificate = certify(key, even, inputs=jnp.zeros((3, 2)), num_classes=4)
    np.testing.assert_array_equal(certificate.label, smoothing.ABSTAIN)
    np.testing.assert_array_equal(certificate.radius, 0)
    np.testing.assert_array_equal(certificate.counts, 0)
    np.testing.assert_array_equal(certificate.num_samples, 100)


def assert_sound(num_false, number, alpha):
    test = stats.binomtest(int(num_false), number, alpha, alternative="greater")
    assert test.pvalue > 1e-6, f"{num_false} of {number} certificates are false"


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("distance", [0.2, 0.6])
def test_certificates_are_false_at_most_at_rate_alpha(key, allocation, distance):
    """Copies of one input that differ in their ids: their radii may exceed the truth rarely."""
    copies, alpha = 2000, 0.05
    inputs = jnp.full((copies, 1), distance, jnp.float32)
    certificate = certify(
        key, inputs=inputs, allocation=allocation, alpha=alpha, max_samples=1000,
        relative_to="max_samples",
    )  # fmt: skip
    truth = float(np.float32(distance))
    false = (certificate.radius > truth) | (certificate.label == 0)
    assert_sound(false.sum(), copies, alpha)
    assert false.sum() > 0.3 * alpha * copies, "far below alpha samples would be wasted"


def test_the_best_of_several_bounds_is_caught():
    """A rule that samples on and keeps the largest fixed-sample radius on its way is not sound."""
    copies, alpha, distance = 2000, 0.05, 0.2
    looks = _sequential.look_schedule(1000)
    blocks = np.diff(looks, prepend=0)
    share = special.ndtr(distance / SIGMA)
    counts = np.cumsum(
        np.random.default_rng(32).binomial(blocks, share, (copies, looks.size)), axis=1
    )
    radius = NOISE.radius(smoothing.clopper_pearson_lower(counts, looks, alpha=alpha))
    assert_sound((radius[:, -1] > distance).sum(), copies, alpha)
    with pytest.raises(AssertionError, match="certificates are false"):
        assert_sound((radius.max(axis=1) > distance).sum(), copies, alpha)


class TestBadInput:
    @pytest.mark.parametrize("name", ["alpha", "tolerance"])
    def test_probabilities(self, key, name):
        for bad in (0, 1, -0.5):
            with pytest.raises(ValueError, match=f"{name} must lie strictly between 0 and 1"):
                certify(key, **{name: bad})

    @pytest.mark.parametrize("name", ["max_samples", "selection_samples"])
    def test_sizes(self, key, name):
        with pytest.raises(ValueError, match=f"{name} must lie in"):
            certify(key, **{name: 0})

    def test_choices(self, key):
        with pytest.raises(ValueError, match="allocation must be one of each, average, got 'all'"):
            certify(key, allocation="all")
        with pytest.raises(ValueError, match="relative_to must be one of infinite_samples"):
            certify(key, relative_to="truth")

    def test_a_network_that_is_not_finite_for_some_noise(self, key):
        def fragile(inputs):
            return jnp.where(inputs[:, :1] > 2.0, jnp.nan, half_space(inputs))

        with pytest.raises(smoothing.NonFiniteScoresError, match="got NaN or infinity.*of row"):
            certify(key, fragile)

    def test_under_a_transformation(self, key):
        with pytest.raises(TypeError, match="under jax.jit or jax.vmap use class_counts"):
            jax.jit(lambda inputs: certify(key, inputs=inputs))(INPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_soundness_over_many_keys_at_mixed_distances(key, allocation):
    """Inputs that share a plan must not lend each other probability."""
    copies, alpha = 4000, 0.05
    distances = np.float32(np.resize([0.05, 0.15, 0.4, 0.8, 1.3], copies))
    certificate = certify(
        key, inputs=jnp.asarray(distances[:, None]), allocation=allocation, alpha=alpha,
        max_samples=3000, relative_to="max_samples",
    )  # fmt: skip
    false = (certificate.radius > distances) | (certificate.label == 0)
    for distance in np.unique(distances):
        here = distances == distance
        assert_sound(false[here].sum(), int(here.sum()), alpha)
