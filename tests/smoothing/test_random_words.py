import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcert.smoothing import _random_words

# Known answers for Threefry-2x32, 20 rounds, from the reference implementation (Random123).
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_threefry_known_answers(key, counter, expected):
    words = _random_words.threefry_2x32(
        tuple(jnp.uint32(word) for word in key), tuple(jnp.uint32(word) for word in counter)
    )
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_words_are_both_halves_of_what_jax_random_draws(key, count):
    half = (count + 1) // 2
    words = np.asarray(_random_words.random_words(key, 2 * half))
    folded = words[:half] ^ words[half:]
    np.testing.assert_array_equal(folded, np.asarray(jax.random.bits(key, (half,))))
    np.testing.assert_array_equal(_random_words.random_words(key, count), words[:count])


def test_each_key_has_words_of_its_own(key):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(6)).reshape(2, 3)
    words = _random_words.random_words(keys, 50)
    chex.assert_shape(words, (2, 3, 50))
    one_by_one = [_random_words.random_words(one, 50) for one in keys.ravel()]
    np.testing.assert_array_equal(np.asarray(words).reshape(6, 50), np.stack(one_by_one))
    assert len(np.unique(np.asarray(words))) == 300


def test_every_bit_of_a_word_is_fair_and_independent_of_the_others(key):
    """Chi-squared tests of bits, bit pairs and the two halves of a block; false alarm 1e-6."""
    words = np.asarray(_random_words.random_words(key, 2**18))
    bits = ((words[:, None] >> np.arange(32, dtype=np.uint32)) & 1).astype(np.float64) * 2 - 1
    halves = np.concatenate([bits[: 2**17], bits[2**17 :]], axis=1)
    # Under independence each entry is a sum of 2**17 fair signs.
    products = halves.T @ halves / np.sqrt(2**17)
    entries = products[np.triu_indices(64, k=1)]
    statistic = (entries**2).sum() + (halves.sum(axis=0) ** 2).sum() / 2**17
    freedom = entries.size + 64
    assert stats.chi2.sf(statistic, freedom) > 1e-6
    assert stats.chi2.cdf(statistic, freedom) > 1e-6
