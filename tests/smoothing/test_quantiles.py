import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxcert.smoothing import _quantiles
from jaxcert.smoothing._random_words import random_words


def signed(magnitude, words):
    return np.asarray(_quantiles.with_sign_of(words, magnitude(words)), np.float64)


def stratified_words() -> np.ndarray:
    """Words of every magnitude: all small ones, and 64 in each binade of the 31-bit integer."""
    generator = np.random.default_rng(0)
    binades = [generator.integers(2**e, 2 ** (e + 1), 64) for e in range(31)]
    magnitudes = np.concatenate([np.arange(256), *binades, [2**31 - 1]]).astype(np.uint32)
    return np.concatenate([magnitudes, magnitudes | np.uint32(2**31)])


def exact_tail(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    magnitude = (words & np.uint32(2**31 - 1)).astype(np.float64)
    return (magnitude + 0.5) * 2.0**-32, np.where(words >> 31, -1.0, 1.0)


@pytest.mark.parametrize(
    ("magnitude", "quantile"),
    [
        (_quantiles.normal_magnitude, lambda tail: -special.ndtri(tail)),
        (_quantiles.laplace_magnitude, lambda tail: -np.log(2 * tail)),
        (_quantiles.uniform_magnitude, lambda tail: 2 * tail),
    ],
)
def test_transforms_are_the_quantile_functions(magnitude, quantile):
    words = stratified_words()
    tail, sign = exact_tail(words)
    drawn = signed(magnitude, jnp.asarray(words))
    # Rounding the tail probability to float32 costs the normal quantile up to 2e-7 near 0.
    np.testing.assert_allclose(drawn, sign * quantile(tail), rtol=1e-6, atol=3e-7)


def test_extreme_words_are_finite_and_reach_far():
    words = jnp.asarray([0, 2**31 - 1, 2**31, 2**32 - 1], jnp.uint32)
    normal = signed(_quantiles.normal_magnitude, words)
    assert np.all(np.isfinite(normal))
    np.testing.assert_allclose(normal[[0, 2]], [6.3380, -6.3380], atol=1e-3)
    np.testing.assert_allclose(normal[[1, 3]], 0.0, atol=1e-6)
    uniform = signed(_quantiles.uniform_magnitude, words)
    assert np.all(np.abs(uniform) <= 1.0)


@pytest.mark.parametrize(
    ("magnitude", "distribution"),
    [
        (_quantiles.normal_magnitude, stats.norm()),
        (_quantiles.laplace_magnitude, stats.laplace()),
        (_quantiles.uniform_magnitude, stats.uniform(-1, 2)),
    ],
)
@pytest.mark.parametrize("size", [100_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_draws_follow_the_distribution(key, magnitude, distribution, size):
    """Kolmogorov-Smirnov, and counts in the far tail; false alarm 1e-6 each."""
    drawn = signed(magnitude, random_words(key, size))
    assert stats.kstest(drawn, distribution.cdf).pvalue > 1e-6
    for probability in (1e-3, 30 / size):
        beyond = np.count_nonzero(drawn > distribution.isf(probability))
        assert stats.binomtest(beyond, size, probability).pvalue > 1e-6


def test_coordinates_are_uncorrelated_across_halves_and_samples(key):
    """Largest of all pairwise correlations against its exact null; false alarm 1e-6."""
    size, rows = 20_000, 16
    drawn = signed(_quantiles.normal_magnitude, random_words(key, size * rows))
    correlations = np.corrcoef(drawn.reshape(rows, size))[np.triu_indices(rows, 1)]
    worst = np.abs(correlations).max() * np.sqrt(size)
    assert correlations.size * 2 * stats.norm.sf(worst) > 1e-6
