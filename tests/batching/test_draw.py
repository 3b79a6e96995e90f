"""Drawn batches have the law that the closed forms speak of."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcert import batching
from tests.batching import enumeration as oracle
from tests.batching.small_samplings import NAMES, build

DRAWS = 4000


@jax.jit
def weights_of_draws(sampling, keys, tau):
    """The vectors v of many draws, `[draws, n]`, and their sizes."""

    def one(key):
        batch = sampling.draw(key, tau)
        v = jnp.zeros(sampling.num_examples).at[batch.indices].add(batch.weights)
        return v, batch.size

    return jax.vmap(one)(keys)


# One of each way to draw; the others differ in their probabilities alone.
FAST = {
    "partition_nice skewed",
    "independent",
    "independent smoothness",
    "with_replacement weights",
}


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_draws_have_the_probabilities_of_the_enumeration(name, key):
    """A chi-square test at level 1e-4 for each of the eleven, with a fixed key."""
    with jax.enable_x64(True):
        sampling, batches = build(name)
        listed = list(batches(2))
        found, sizes = weights_of_draws(sampling, jax.random.split(key, DRAWS), 2)
    expected, counts = {}, {}
    for chance, v in listed:
        label = tuple(np.round(v, 6) + 0.0)
        expected[label] = expected.get(label, 0) + chance
    for v, size in zip(np.asarray(found), np.asarray(sizes), strict=True):
        label = tuple(np.round(v, 6) + 0.0)
        counts[label] = counts.get(label, 0) + 1
        if sampling.family != "with_replacement":
            assert size == np.count_nonzero(v)
    assert set(counts) <= set(expected)
    frequent = [label for label in expected if expected[label] * DRAWS >= 8]
    observed = np.array([counts.get(label, 0) for label in frequent] + [0.0])
    wanted = np.array([expected[label] * DRAWS for label in frequent] + [0.0])
    observed[-1], wanted[-1] = DRAWS - observed.sum(), DRAWS - wanted.sum()
    if wanted[-1] < 1e-6:
        observed, wanted = observed[:-1], wanted[:-1]
    statistic = np.sum((observed - wanted) ** 2 / wanted)
    assert stats.chi2.sf(statistic, len(wanted) - 1) > 1e-4
    # The same test sees draws that favour one example.
    observed[0], observed[1] = observed[0] + 8 * np.sqrt(wanted[0]), observed[1]
    assert stats.chi2.sf(np.sum((observed - wanted) ** 2 / wanted), len(wanted) - 1) < 1e-4


def test_one_compilation_for_all_sizes(key):
    sampling = batching.nice(np.ones(300), smoothness=0.5)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def draw(key, tau):
        return sampling.draw(key, tau)

    for tau in (1, 2, 63, 64, 65, 149, 150, 151, 299, 300):
        batch = draw(jax.random.fold_in(key, tau), tau)
        inside = np.asarray(batch.indices)[:tau]
        assert len(set(inside.tolist())) == tau == int(batch.size)
        weights = np.asarray(batch.weights)
        np.testing.assert_allclose(weights[:tau], 300 / tau, rtol=1e-6)
        assert not weights[tau:].any()
        assert np.all((np.asarray(batch.indices) >= 0) & (np.asarray(batch.indices) < 300))


def test_mapped_draws_are_the_single_ones(key):
    sampling = batching.partition_nice(
        np.ones(40), part_smoothness=[0.5, 0.5], part_of_example=np.arange(40) % 2
    )
    keys, taus = jax.random.split(key, 6), np.array([1, 20, 7, 13, 19, 2])
    mapped = jax.vmap(sampling.draw)(keys, jnp.asarray(taus))
    for row, tau in enumerate(taus):
        single = sampling.draw(keys[row], int(tau))
        assert int(mapped.size[row]) == tau
        np.testing.assert_array_equal(mapped.indices[row, :tau], single.indices[:tau])
        np.testing.assert_array_equal(mapped.weights[row], single.weights)
        assert set(np.asarray(single.indices[:tau]) % 2) == {int(single.part)}


def test_a_batch_does_not_depend_on_the_capacity_that_pads_it(key):
    sampling = batching.nice(np.ones(300), smoothness=0.5)
    short = sampling.draw(key, 10, capacity=16)
    assert short.indices.shape == (16,)
    assert len(set(np.asarray(short.indices)[:10].tolist())) == 10


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((jax.random.key(0), 7), ValueError, "batch_size must lie in"),
        ((jax.random.PRNGKey(0), 2), TypeError, "key must be a typed key"),
    ],
)
def test_bad_draws(arguments, error, words):
    sampling = batching.nice(oracle.EXAMPLE_SMOOTHNESS, smoothness=oracle.smoothness())
    with pytest.raises(error, match=words):
        sampling.draw(*arguments)


def test_a_batch_beyond_the_smallest_part_is_refused(key):
    sampling = batching.partition_nice(
        np.ones(5), part_smoothness=[1.0, 1.0], part_of_example=[0, 0, 0, 1, 1]
    )
    with pytest.raises(ValueError, match=r"must lie in \[1, 2\], up to the size of the smallest"):
        sampling.draw(key, 3)


def test_capacity_is_checked(key):
    sampling = batching.nice(oracle.EXAMPLE_SMOOTHNESS, smoothness=oracle.smoothness())
    with pytest.raises(ValueError, match="batch_size must be at most the capacity 2"):
        sampling.draw(key, 3, capacity=2)
    with pytest.raises(ValueError, match="capacity must lie in"):
        sampling.draw(key, 3, capacity=7)
