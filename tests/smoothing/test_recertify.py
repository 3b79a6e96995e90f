"""Recertification against half-spaces, for which both probabilities and the disagreement are known.

The old class 1 begins at 0, the new one at `EDGE`: the class is lost between them, so that
p' = p - zeta exactly and the new radius is the distance to `EDGE`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxcert import smoothing
from jaxcert.smoothing import _recertify

SIGMA, EDGE, POINT = 0.5, np.float32(0.05), np.float32(0.45)
NOISE = smoothing.gaussian(SIGMA)
P_OLD = special.ndtr(float(POINT) / SIGMA)
P_NEW = special.ndtr((float(POINT) - float(EDGE)) / SIGMA)
EARLIER_SAMPLES, FRESH_SAMPLES, KEYS, ALPHA = 400, 150, 4000, 0.2


def shifted(edge, inputs):
    margin = inputs[:, 0] - edge
    return jnp.stack([-margin, margin], axis=1)


OLD = jax.tree_util.Partial(shifted, jnp.float32(0.0))
NEW = jax.tree_util.Partial(shifted, EDGE)


def over_keys(key, count):
    return np.asarray(jax.jit(jax.vmap(count))(jax.random.split(key, KEYS)))


@pytest.fixture(scope="module")
def sampled():
    """Earlier votes and fresh disagreements at one input, under thousands of keys."""
    key, inputs = jax.random.key(230519521), jnp.asarray([[POINT, 0.3]])
    earlier = over_keys(
        jax.random.fold_in(key, 0),
        lambda one: smoothing.class_counts(
            one, OLD, inputs, noise=NOISE, num_samples=EARLIER_SAMPLES, num_classes=2
        )[0],
    )
    fresh = over_keys(
        jax.random.fold_in(key, 1),
        lambda one: smoothing.disagreement_counts(
            one, OLD, NEW, inputs, noise=NOISE, num_samples=FRESH_SAMPLES, num_classes=2
        )[0],
    )
    return earlier, fresh


def claims(earlier, lost, *, earlier_alpha, disagreement_alpha):
    selection = np.broadcast_to([0, 1], earlier.shape)
    certificate = smoothing.certificate_from_counts(
        selection, earlier, noise=NOISE, alpha=earlier_alpha
    )
    return _recertify.recertification_from_counts(
        certificate, noise=NOISE, is_direct=np.zeros(len(lost), bool), successes=lost,
        num_samples=np.full(len(lost), FRESH_SAMPLES), num_runs=0, alpha=ALPHA,
        disagreement_alpha=disagreement_alpha,
    )  # fmt: skip


def assert_rate(violated, alpha):
    """An exact binomial test that raises a false alarm with probability below 1e-6."""
    violated = np.asarray(violated)
    test = stats.binomtest(int(violated.sum()), violated.size, alpha, alternative="greater")
    assert test.pvalue > 1e-6, f"{violated.sum()} of {violated.size} claims are false"


def is_false(result):
    """Whether either bound is wrong, or the radius beyond the truth."""
    return (
        (result.earlier_p_lower > P_OLD)
        | (result.disagreement_upper < P_OLD - P_NEW)
        | (result.radius > float(POINT) - float(EDGE))
    )


def test_disagreement_is_the_mass_between_the_two_boundaries(sampled):
    _, fresh = sampled
    total = fresh.sum(axis=0)
    np.testing.assert_array_equal(fresh.sum(axis=1), FRESH_SAMPLES)
    # The new class 1 lies within the old one: no vote for class 0 is ever lost.
    assert total[2] == 0
    draws = KEYS * FRESH_SAMPLES
    for count, probability in ((total[1], P_NEW), (total[3], P_OLD - P_NEW)):
        assert stats.binomtest(int(count), draws, probability).pvalue > 1e-6


def test_both_bounds_hold_together_at_alpha(sampled):
    earlier, fresh = sampled
    result = claims(earlier, fresh[:, 3], earlier_alpha=ALPHA / 2, disagreement_alpha=ALPHA / 2)
    assert_rate(is_false(result), ALPHA)
    # A sound rule must still say something.
    assert np.median(result.radius) > 0.5 * (POINT - EDGE)


def test_alpha_that_is_not_split_is_caught(sampled):
    earlier, fresh = sampled
    result = claims(earlier, fresh[:, 3], earlier_alpha=ALPHA, disagreement_alpha=ALPHA)
    with pytest.raises(AssertionError, match="claims are false"):
        assert_rate(is_false(result), ALPHA)


@pytest.mark.parametrize("broken", ["ignored", "estimated"])
def test_disagreement_without_its_bound_is_caught(sampled, broken):
    """The earlier radius as it was, or less the observed share of disagreements."""
    earlier, fresh = sampled
    result = claims(earlier, fresh[:, 3], earlier_alpha=ALPHA / 2, disagreement_alpha=ALPHA / 2)
    zeta = 0.0 if broken == "ignored" else fresh[:, 3] / FRESH_SAMPLES
    radius = NOISE.radius(np.maximum(result.earlier_p_lower - zeta, 0.0))
    if broken == "ignored":
        with pytest.raises(AssertionError, match="claims are false"):
            assert_rate(radius > float(POINT) - float(EDGE), ALPHA)
    else:
        # What is broken is the bound itself: an estimate falls below zeta about half the time.
        with pytest.raises(AssertionError, match="claims are false"):
            assert_rate(zeta < P_OLD - P_NEW, ALPHA)


@pytest.mark.parametrize("offset", [-0.02, -0.005, 0.0, 0.005, 0.02])
def test_the_choice_of_the_branch_costs_no_alpha(offset):
    """Around the threshold, where either branch is taken, exact binomial draws keep to alpha."""
    threshold, samples, fresh, seeds = 0.9, 2000, 3000, 100_000
    p_old, zeta = threshold + offset, 0.01
    generator = np.random.default_rng(7)
    counts = generator.binomial(samples, p_old, seeds)
    earlier = smoothing.certificate_from_counts(
        np.broadcast_to([0, 1], (seeds, 2)), np.stack([samples - counts, counts], axis=1),
        noise=NOISE, alpha=ALPHA / 2,
    )  # fmt: skip
    is_direct = earlier.p_lower > threshold
    result = _recertify.recertification_from_counts(
        earlier, noise=NOISE, is_direct=is_direct,
        successes=generator.binomial(fresh, np.where(is_direct, p_old - zeta, zeta)),
        num_samples=np.full(seeds, fresh), num_runs=0, alpha=ALPHA, disagreement_alpha=ALPHA / 2,
    )  # fmt: skip
    if offset >= 0.02:
        assert is_direct.mean() > 0.5
    wrong_bound = ~is_direct & (
        (result.earlier_p_lower > p_old) | (result.disagreement_upper < zeta)
    )
    assert_rate(wrong_bound | (result.p_lower > p_old - zeta), ALPHA)


def network(key):
    keys = jax.random.split(key, 2)
    return jax.random.normal(keys[0], (16, 64)) / 4, jax.random.normal(keys[1], (64, 4)) / 8


def run_network(weights, inputs):
    return jax.nn.relu(inputs @ weights[0]) @ weights[1]


def pruned(weights, share):
    def prune(matrix):
        return jnp.where(jnp.abs(matrix) < jnp.quantile(jnp.abs(matrix), share), 0.0, matrix)

    return jax.tree.map(prune, weights)


@pytest.fixture(scope="module")
def networks():
    weights = network(jax.random.key(5))
    return tuple(
        jax.tree_util.Partial(run_network, chosen) for chosen in (weights, pruned(weights, 0.01))
    )


def test_pruned_network(key, networks):
    """Against the pruned network itself, sampled heavily, and against plain sampling as costly."""
    old, new = networks
    inputs = 0.7 * jax.random.normal(jax.random.fold_in(key, 1), (16, 16))
    settings = {"noise": smoothing.gaussian(0.25)}
    earlier = smoothing.certify(
        key, old, inputs, num_classes=4, num_samples=20_000, selection_samples=20_000, **settings
    )
    again = smoothing.recertify(
        key, old, new, inputs, certificate=earlier, num_samples=3000, **settings
    )
    selected = earlier.selection_counts.argmax(axis=1)
    truth = smoothing.class_counts(
        jax.random.key(99), new, inputs, num_samples=20_000, num_classes=4, **settings
    )
    votes = np.asarray(truth)[np.arange(16), selected]
    upper = smoothing.clopper_pearson_upper(votes, 20_000, alpha=1e-8)
    assert np.all(again.p_lower <= upper)
    assert again.is_direct.any()
    assert not again.is_direct.all()
    np.testing.assert_array_equal(again.is_direct, again.earlier_p_lower > 0.995)
    np.testing.assert_array_equal(again.num_samples, 3000)
    # The old network runs only where the new one does not say the class.
    assert np.all(again.num_runs[again.is_direct] == 3000)
    share = (again.num_runs / 3000 - 1)[~again.is_direct]
    np.testing.assert_allclose(share, (1 - votes / 20_000)[~again.is_direct], atol=0.06)
    # What the new network alone would give, on average, from as many runs of a network.
    plain = settings["noise"].radius(
        smoothing.clopper_pearson_lower(votes * 3600 // 20_000, 3600, alpha=0.001)
    )
    middle = (again.earlier_p_lower > 0.6) & (again.earlier_p_lower < 0.97)
    assert middle.sum() >= 5
    assert again.radius[middle].mean() > plain[middle].mean() + 0.004


def earlier_run(batch, noise, num_samples=1000):
    """A run with made-up counts for class 0: what follows does not depend on them."""
    votes = np.linspace(0.55, 1.0, batch) * num_samples // 1
    counts = np.stack([votes, num_samples - votes, 0 * votes, 0 * votes], axis=1).astype(int)
    return smoothing.certificate_from_counts(counts, counts, noise=noise, alpha=0.001)


def test_the_same_network_loses_nothing_but_the_bound(key, networks):
    old, _ = networks
    inputs = 0.7 * jax.random.normal(key, (6, 16))
    earlier = earlier_run(6, NOISE)
    again = smoothing.recertify(
        key, old, old, inputs, certificate=earlier, noise=NOISE, num_samples=1000, alpha=0.002,
        direct_above=1.0,
    )  # fmt: skip
    np.testing.assert_array_equal(again.successes, 0)
    np.testing.assert_array_equal(again.earlier_p_lower, earlier.p_lower)
    np.testing.assert_allclose(earlier.p_lower - again.p_lower, 1 - 0.001 ** (1 / 1000), rtol=1e-6)
    assert np.all(again.p_lower <= earlier.p_lower)


def test_lost_votes_are_those_of_the_counts_of_both_networks(key, networks):
    """Running the old network on some samples alone misses no disagreement."""
    old, _ = networks
    new = jax.tree.map(lambda weights: weights * (1 + 0.05 * jnp.sin(100 * weights)), old)
    inputs = 0.7 * jax.random.normal(key, (5, 16))
    settings = {"noise": smoothing.gaussian(np.linspace(0.2, 1.0, 5)), "num_samples": 700}
    ids = np.array([4, 0, 9, 2, 1])
    counts = np.asarray(
        smoothing.disagreement_counts(
            jax.random.fold_in(key, _recertify._DISAGREEMENT), old, new, inputs, num_classes=4,
            ids=ids, **settings,
        )
    )  # fmt: skip
    selected = (counts[:, :4] + counts[:, 4:]).argmax(axis=1)
    votes = 1000 * np.eye(4, dtype=int)[selected]
    earlier = smoothing.certificate_from_counts(votes, votes, noise=settings["noise"], alpha=0.001)
    mesh = jax.make_mesh((len(jax.devices()),), ("samples",))
    results = [
        smoothing.recertify(
            key, old, new, inputs, certificate=earlier, ids=ids, direct_above=1.0, **settings,
            **layout,
        )
        for layout in ({"chunk_size": 90}, {"mesh": mesh})
    ]  # fmt: skip
    for again in results:
        for one, other in zip(again, results[0], strict=True):
            np.testing.assert_array_equal(one, other)
    assert again.successes.sum() > 5
    np.testing.assert_array_equal(again.successes, counts[np.arange(5), 4 + selected])


def test_rows_keep_their_noise_whatever_the_branch(key, networks):
    """Direct and other rows run in separate launches; ids name the noise in each."""
    old, new = networks
    inputs = 0.7 * jax.random.normal(key, (8, 16))
    sigmas = np.linspace(0.2, 0.4, 8)
    noise = smoothing.gaussian(sigmas)
    earlier = earlier_run(8, noise)
    threshold = float(np.median(earlier.p_lower))
    whole = smoothing.recertify(
        key, old, new, inputs, certificate=earlier, noise=noise, num_samples=500,
        direct_above=threshold,
    )  # fmt: skip
    assert 0 < whole.is_direct.sum() < 8
    order = np.random.default_rng(1).permutation(8)
    part = smoothing.recertify(
        key, old, new, inputs[order], ids=order, noise=smoothing.gaussian(sigmas[order]),
        certificate=smoothing.Certificate(*(field[order] for field in earlier)),
        num_samples=500, direct_above=threshold,
    )  # fmt: skip
    for all_rows, some_rows in zip(whole, part, strict=True):
        np.testing.assert_array_equal(all_rows[order], some_rows)


@pytest.mark.slow
@pytest.mark.parametrize("direct_above", [0.8, 1.0])
def test_verb_over_thousands_of_inputs(direct_above):
    """Equal inputs that differ in their ids alone, through both branches."""
    copies, key = 3000, jax.random.key(11)
    inputs = jnp.full((copies, 2), POINT)
    earlier = smoothing.certify(
        key, OLD, inputs, noise=NOISE, num_classes=2, num_samples=EARLIER_SAMPLES, alpha=ALPHA
    )
    result = smoothing.recertify(
        key, OLD, NEW, inputs, certificate=earlier, noise=NOISE, num_samples=FRESH_SAMPLES,
        alpha=ALPHA, direct_above=direct_above,
    )  # fmt: skip
    assert_rate(result.radius > float(POINT) - float(EDGE), ALPHA)
    assert np.median(result.radius) > 0.5 * (POINT - EDGE)
    assert 0.01 < result.is_direct.mean() < 0.99 or direct_above == 1.0
    assert_rate(result.p_lower > P_NEW, ALPHA)


class TestBadInput:
    def recertify(self, key, *, old=OLD, new=NEW, inputs=None, **settings):
        inputs = jnp.zeros((2, 1)) if inputs is None else inputs
        counts = np.array([[10, 90], [20, 80]])
        settings = {
            "certificate": smoothing.certificate_from_counts(
                counts, counts, noise=NOISE, alpha=0.001
            ),
            "noise": NOISE,
            "num_samples": 10,
        } | settings
        return smoothing.recertify(key, old, new, inputs, **settings)

    def test_alphas(self, key):
        with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
            self.recertify(key, alpha=0.0)
        with pytest.raises(ValueError, match="disagreement_alpha must be below alpha"):
            self.recertify(key, alpha=0.001, disagreement_alpha=0.001)

    def test_threshold(self, key):
        with pytest.raises(ValueError, match=r"direct_above must lie in \[0, 1\], got 99"):
            self.recertify(key, direct_above=99)
        with pytest.raises(ValueError, match="direct_above must lie"):
            self.recertify(key, direct_above=np.nan)
        with pytest.raises(TypeError, match="direct_above must be a real number"):
            self.recertify(key, direct_above="high")

    def test_certificate(self, key):
        with pytest.raises(TypeError, match="certificate must be a Certificate"):
            self.recertify(key, certificate=np.zeros((2, 2)))
        with pytest.raises(ValueError, match="certificate must have one row for each of the 3"):
            self.recertify(key, inputs=jnp.zeros((3, 1)))

    def test_samples(self, key):
        with pytest.raises(ValueError, match="num_samples must lie in"):
            self.recertify(key, num_samples=0)
        with pytest.raises(ValueError, match="direct_samples must lie in"):
            self.recertify(key, direct_samples=0)

    def test_classifiers_are_named(self, key):
        with pytest.raises(TypeError, match="old_classify must be callable"):
            self.recertify(key, old=3)
        with pytest.raises(ValueError, match=r"new_classify must return scores .*\(2, 2\)"):
            self.recertify(key, new=lambda x: jnp.zeros((x.shape[0], 3)))

    @pytest.mark.parametrize("direct_above", [0.0, 1.0])
    def test_scores_that_are_not_finite(self, key, direct_above):
        def broken(inputs):
            return jnp.where(inputs > 0.3, jnp.nan, shifted(np.float32(0.0), inputs))

        with pytest.raises(smoothing.NonFiniteScoresError, match="finite scores"):
            self.recertify(key, new=broken, num_samples=200, direct_above=direct_above)

    def test_traced(self, key):
        with pytest.raises(TypeError, match="recertify computes its statistics on the host"):
            jax.jit(lambda inputs: self.recertify(key, inputs=inputs))(jnp.zeros((2, 1)))
