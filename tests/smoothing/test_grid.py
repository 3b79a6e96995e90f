"""Noise on a grid: the exact distribution, the arithmetic, and certificates against the truth."""

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import special, stats

from jaxcert import smoothing
from jaxcert.smoothing import _grid
from tests.smoothing.classifiers import NUM_HASH_CLASSES, half_space, hash_of_bits

GRIDS = [
    _grid.Grid(float(np.float32(sigma)), levels)
    for sigma, levels in ((0.25, 255), (0.5, 255), (0.02, 255), (0.7, 4), (0.001, 255))
]


def exact_tail(grid, k):
    """P(|Z| >= k), to far more digits than are compared."""
    deviation = mpmath.mpf(grid.sigma) * grid.levels
    return mpmath.erfc((k - mpmath.mpf(1) / 2) / deviation / mpmath.sqrt(2))


def exact_probabilities(grid, last):
    """P(Z = k) for |k| <= last, float64."""
    k = np.arange(-last, last + 1)
    deviation = grid.sigma * grid.levels
    return special.ndtr((k + 0.5) / deviation) - special.ndtr((k - 0.5) / deviation)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_thresholds_are_the_exact_ones_rounded_down(grid):
    values = _grid.thresholds(grid)
    with mpmath.workdps(70):
        step = max(len(values) // 60, 1)
        for k in [*range(1, len(values) + 1, step), len(values)]:
            assert values[k - 1] == int(mpmath.floor(exact_tail(grid, k) * 2**_grid.BITS))
        # The table ends where nothing is left.
        assert exact_tail(grid, len(values) + 1) * 2**_grid.BITS < 1
    assert all(above >= below for above, below in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_total_variation_is_within_the_budget(grid):
    """Exact and sampled noise, coupled by U, differ where U falls between two thresholds."""
    values = _grid.thresholds(grid)
    with mpmath.workdps(70):
        unit = mpmath.mpf(2) ** -_grid.BITS
        gaps = [exact_tail(grid, k) - value * unit for k, value in enumerate(values, start=1)]
        assert all(0 <= gap < unit for gap in gaps)
        one_coordinate = sum(gaps) + exact_tail(grid, len(values) + 1)
        whole_input = one_coordinate * _grid.MAX_COORDINATES
        # What `Noise.radius` subtracts is the step down from any probability above one half.
        step_down = mpmath.mpf(1.0) - mpmath.mpf(float(np.nextafter(1.0, 0.0)))
        assert whole_input < mpmath.mpf(2) ** -61 < step_down / 2**7


def test_too_few_bits_would_break_the_budget():
    """With 31 bits, those of the first word, the noise of an image is off by more than 1e-6."""
    grid = GRIDS[0]
    gap = sum(float(exact_tail(grid, k)) % 2.0**-31 for k in range(1, 717))
    assert gap * 784 > 1e-6


def test_radius_allows_for_the_sampling():
    noise, plain = smoothing.discrete_gaussian(0.5), smoothing.gaussian(0.5)
    for probability in (0.6, 0.9, 1 - 2.0**-30, 1 - 2.0**-52):
        budget = mpmath.mpf(2) ** -61
        with mpmath.workdps(60):
            exact = mpmath.sqrt(2) * mpmath.erfinv(2 * (mpmath.mpf(probability) - budget) - 1) / 2
            assert mpmath.mpf(float(noise.radius(probability))) <= exact
        assert noise.radius(probability) <= plain.radius(probability)
    assert noise.radius(0.9) > plain.radius(0.9) - 1e-12
    assert np.isfinite(noise.radius(1.0))
    np.testing.assert_array_equal(noise.radius([0.2, 0.5]), 0.0)


def words_of(value):
    return [jnp.asarray([part], jnp.uint32) for part in _split(value)]


def _split(value):
    return value >> 64, (value >> 32) & 0xFFFFFFFF, value & 0xFFFFFFFF


@pytest.mark.parametrize("grid", GRIDS[:3], ids=str)
def test_every_comparison_at_and_beside_the_thresholds(grid):
    """U is drawn by hand: at a threshold, one unit below and above, and at either end."""
    values = _grid.thresholds(grid)
    table = _grid.threshold_words(grid)
    drawn = [value + shift for value in values for shift in (-1, 0, 1)] + [0, 2**_grid.BITS - 1]
    first, second, third = (
        jnp.asarray(part, jnp.uint32) for part in np.array([_split(u) for u in drawn]).T
    )
    descending = np.array(values[::-1], dtype=object)
    expected = np.array([len(values) - np.searchsorted(descending, u, "right") for u in drawn])
    exactly = np.asarray(_grid.locate_exactly(first, second, third, table))
    np.testing.assert_array_equal(exactly, expected)
    quickly, is_undecided = (np.asarray(part) for part in _grid.locate(first, table))
    assert np.all(
        is_undecided[: 3 * len(values) : 3] | (quickly == expected)[: 3 * len(values) : 3]
    )
    np.testing.assert_array_equal(quickly[~is_undecided], expected[~is_undecided])


def test_undecided_words_are_drawn_further(key, monkeypatch):
    """With first words forced onto a threshold the others decide, as often as they should."""
    grid = GRIDS[0]
    value = _grid.thresholds(grid)[40]
    original = _grid.random_words

    def forced(keys, count, *, block=0):
        words = original(keys, count, block=block)
        return jnp.full_like(words, value >> 64) if block == 0 else words

    monkeypatch.setattr(_grid, "random_words", forced)
    indices = np.asarray(_grid.sample_indices(key, 20_000, grid=grid))
    assert set(np.unique(indices)) == {40, 41}
    share = ((value >> 32) & 0xFFFFFFFF) / 2**32
    assert stats.binomtest(int((indices == 41).sum()), 20_000, share).pvalue > 1e-6


@pytest.mark.parametrize("grid", GRIDS[:4], ids=str)
def test_distribution(key, grid):
    """Chi-squared against the exact probabilities; a false alarm has probability 1e-6."""
    draws = 400_000
    indices = np.asarray(
        jax.jit(lambda one: _grid.sample_indices(one, draws, grid=grid))(
            jax.random.fold_in(key, hash(grid.levels))
        )
    )
    last = int(4 * grid.sigma * grid.levels)
    expected = draws * exact_probabilities(grid, last)
    observed = np.bincount(indices[np.abs(indices) <= last] + last, minlength=2 * last + 1)
    beyond = draws - expected.sum()
    expected, observed = np.append(expected, beyond), np.append(observed, draws - observed.sum())
    order = np.argsort(expected)
    # Cells that expect too few are pooled.
    cells = np.minimum(np.cumsum(expected[order]) // 25, 200)
    pooled = [np.bincount(cells.astype(int), part[order]) for part in (observed, expected)]
    pooled = [part[pooled[1] > 0] for part in pooled]
    assert stats.chisquare(*pooled).pvalue > 1e-6


def test_distribution_of_another_rounding_is_caught(key):
    """Noise rounded towards zero, as a cast to integers does, fails the same kind of test."""
    grid = GRIDS[3]
    drawn = smoothing.gaussian(grid.sigma).sample(key, (100_000,)) * grid.levels
    at_zero = int((drawn.astype(jnp.int32) == 0).sum())
    probability = exact_probabilities(grid, 0)[0]
    assert stats.binomtest(at_zero, 100_000, probability).pvalue < 1e-6
    rounded = int((jnp.rint(drawn) == 0).sum())
    assert stats.binomtest(rounded, 100_000, probability).pvalue > 1e-6


def test_noise_is_the_rounding_of_the_gaussian_of_the_same_key(key):
    """Float noise from the same words, rounded, agrees but for a handful of near-ties."""
    exact, drawn = (
        np.asarray(jax.jit(lambda one, noise=noise: noise.sample(one, (50_000,)))(key))
        for noise in (smoothing.discrete_gaussian(0.25), smoothing.gaussian(0.25))
    )
    differs = np.abs(255 * exact - np.rint(255 * drawn)) > 0.5
    assert differs.sum() < 10


def counts(key, inputs, **settings):
    settings = {
        "noise": smoothing.discrete_gaussian(0.25),
        "num_samples": 203,
        "num_classes": NUM_HASH_CLASSES,
    } | settings
    return np.asarray(smoothing.class_counts(key, hash_of_bits, inputs, **settings))


@pytest.fixture
def pixels(key):
    return np.asarray(jax.random.randint(key, (5, 7, 3), 0, 256))


def test_network_sees_a_function_of_the_index_alone(key, pixels):
    """Two float32 forms of the same grid points give bitwise equal noisy inputs."""
    divided = pixels.astype(np.float32) / np.float32(255)
    multiplied = pixels.astype(np.float32) * np.float32(1 / 255)
    assert not np.array_equal(divided, multiplied)
    np.testing.assert_array_equal(counts(key, divided), counts(key, multiplied))
    shifted = counts(key, divided, noise=smoothing.gaussian(0.25))
    assert not np.array_equal(shifted, counts(key, multiplied, noise=smoothing.gaussian(0.25)))


def test_noise_is_that_of_sample_for_every_chunk_size(key, pixels):
    sample = jax.jit(lambda keys: smoothing.discrete_gaussian(0.25).sample(keys, (7, 3)))
    expected = np.zeros((5, NUM_HASH_CLASSES), int)
    for j in range(5):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, j), jnp.arange(60))
        drawn = np.rint(255 * np.asarray(sample(keys))).astype(int)
        noisy = jnp.asarray(pixels[j] + drawn, jnp.float32) / np.float32(255)
        labels = jnp.argmax(jax.jit(hash_of_bits)(noisy), axis=1)
        expected[j] = np.bincount(np.asarray(labels), minlength=NUM_HASH_CLASSES)
    inputs = jnp.asarray(pixels / 255.0, jnp.float32)
    for chunk_size in (7, 1000):
        drawn = counts(key, inputs, num_samples=60, chunk_size=chunk_size)
        np.testing.assert_array_equal(drawn, expected)


def test_same_draw_under_transformations(key):
    noise = smoothing.discrete_gaussian(0.5)
    keys = jax.random.split(key, (2, 3))
    together = jax.jit(lambda keys: noise.sample(keys, (4, 5)))(keys)
    mapped = jax.jit(jax.vmap(lambda row: noise.sample(row, (4, 5))))(keys)
    np.testing.assert_array_equal(together, mapped)


SIGMA, STEPS = np.float32(4.3 / 255), 3


def half_space_counts(key, noise, seeds, samples):
    """Votes at a point `STEPS` steps beyond the last grid point of class 0."""
    classify = lambda x: half_space(x - np.float32(20.5 / 255))  # noqa: E731
    inputs = jnp.full((1, 1), (20 + STEPS) / 255, jnp.float32)
    count = lambda one: smoothing.class_counts(  # noqa: E731
        one, classify, inputs, noise=noise, num_samples=samples, num_classes=2
    )[0]
    return np.asarray(jax.jit(jax.vmap(count))(jax.random.split(key, seeds)))


def assert_sound(radius, true_radius, alpha):
    violated = radius > true_radius
    test = stats.binomtest(int(violated.sum()), violated.size, alpha, alternative="greater")
    assert test.pvalue > 1e-6, f"{violated.sum()} of {violated.size} certificates are false"


def test_half_space_of_the_grid(key):
    """The smoothed classifier flips at the real plane halfway between two grid points."""
    noise, alpha, truth = smoothing.discrete_gaussian(SIGMA), 0.05, (STEPS - 0.5) / 255
    votes = half_space_counts(key, noise, 3000, 300)
    certificate = smoothing.certificate_from_counts(
        votes * 0 + [0, 1], votes, noise=noise, alpha=alpha
    )
    assert_sound(certificate.radius, truth, alpha)
    assert np.median(certificate.radius) > 0.6 * truth
    # No room is left: the mean over many seeds gives the plane itself.
    share = votes[:, 1].sum() / votes.sum()
    deviation = np.sqrt(share * (1 - share) / votes.sum())
    assert abs(share - special.ndtr(truth / float(SIGMA))) < 5 * deviation
    # A vote for the nearer grid point by noise that is not rounded over the half step is caught.
    broken = smoothing.gaussian(SIGMA).radius(certificate.p_lower) + 0.5 / 255
    with pytest.raises(AssertionError, match="certificates are false"):
        assert_sound(broken, truth, alpha)


def lowest_bits(inputs):
    """Class 0 where a value is a multiple of 2**-24, as every float32 sum of 1 and noise is."""
    scaled = inputs[:, 0] * np.float32(2**24)
    margin = jnp.where(scaled == jnp.rint(scaled), 1.0, -1.0)
    return jnp.stack([margin, -margin], axis=1)


def certify_lowest_bits(key, noise):
    return smoothing.certify(
        key, lowest_bits, jnp.array([[1.0], [0.0]]), noise=noise, num_classes=2, num_samples=20_000
    )


def test_float_noise_can_be_told_apart_and_grid_noise_cannot(key):
    """A network that looks at the lowest bits knows which input float noise was added to.

    So a certificate at 1 reaches beyond 0, where the smoothed class is certainly another.
    """
    false = certify_lowest_bits(key, smoothing.gaussian(0.3))
    np.testing.assert_array_equal(false.label, [0, 1])
    assert false.radius[0] > 1.0
    sound = certify_lowest_bits(key, smoothing.discrete_gaussian(0.3))
    np.testing.assert_array_equal(sound.label, [0, 1])
    # Balls of different labels keep apart.
    assert sound.radius.min() > 0
    assert sound.radius.sum() < 1.0


def test_certify_and_predict_and_text(key):
    noise = smoothing.discrete_gaussian(0.25, levels=16)
    inputs = jnp.array([[5 / 16], [-8 / 16]])
    certificate = smoothing.certify(
        key, half_space, inputs, noise=noise, num_classes=2, num_samples=5000
    )
    np.testing.assert_array_equal(certificate.label, [1, 0])
    # Class 1 is above 0: its plane is half a step from 0.
    assert np.all(certificate.radius <= [4.5 / 16, 8.5 / 16])
    assert np.all(certificate.radius > [3.5 / 16, 6.5 / 16])
    assert str(noise) == "discrete_gaussian(0.25, levels=16)"
    for one in (noise, smoothing.discrete_gaussian(0.12)):
        again = smoothing.parse_noise(str(one))
        assert again.grid == one.grid
        assert float(again.scale) == float(one.scale)


def test_one_trace_for_a_sigma(key):
    @chex.assert_max_traces(n=2)  # One to check shapes, one to compile.
    def classify(x):
        return half_space(x)

    for seed in range(3):
        smoothing.class_counts(
            jax.random.fold_in(key, seed), classify, jnp.full((2, 2), seed / 255),
            noise=smoothing.discrete_gaussian(0.02), num_samples=50, num_classes=2,
        )  # fmt: skip


class TestBadInput:
    def test_inputs_off_the_grid(self, key):
        inputs = np.full((3, 4), 0.2, np.float32)
        counts(key, inputs[:, :, None])
        inputs[1, 2] = 0.3
        with pytest.raises(ValueError, match=r"inputs must be multiples of 1 / 255.*0.3.* row 1"):
            counts(key, inputs)
        with pytest.raises(ValueError, match="inputs must be multiples"):
            counts(key, jnp.full((2, 3), 77 / 255, jnp.bfloat16))
        with pytest.raises(ValueError, match="inputs must lie within 131072 steps"):
            counts(key, np.full((1, 2), 1e6, np.float32))

    def test_inputs_of_too_many_coordinates(self, key):
        with pytest.raises(ValueError, match="inputs must have at most 1048576 coordinates"):
            counts(key, jnp.zeros((1, 2**20 + 1)))

    @pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
    def test_sigma_that_is_not_positive(self, sigma):
        with pytest.raises(ValueError, match="sigma must be finite and above 0"):
            smoothing.discrete_gaussian(sigma)

    def test_sigma_that_fits_no_table(self):
        with pytest.raises(ValueError, match="sigma must be below about 719 steps of the grid"):
            smoothing.discrete_gaussian(50.0, levels=16)
        with pytest.raises(ValueError, match="sigma must be one number"):
            smoothing.discrete_gaussian([0.25, 0.5])
        with pytest.raises(TypeError, match="sigma must be a real number"):
            smoothing.discrete_gaussian("wide")
        with pytest.raises(TypeError, match="sigma must be known"):
            jax.jit(lambda sigma: smoothing.discrete_gaussian(sigma).scale)(0.25)

    def test_levels(self):
        with pytest.raises(ValueError, match="levels must lie in"):
            smoothing.discrete_gaussian(0.25, levels=0)
        with pytest.raises(TypeError, match="levels must be an integer"):
            smoothing.discrete_gaussian(0.25, levels=255.0)

    def test_noise_that_lost_its_grid(self, key):
        noise = smoothing.Noise("discrete_gaussian", jnp.float32(0.25))
        with pytest.raises(ValueError, match="must have a grid"):
            noise.sample(key, (2,))

    @pytest.mark.parametrize(
        "text", ["gaussian(0.5, levels=16)", "discrete_gaussian([0.5, 0.2])", "uniform(1, levels=)"]
    )
    def test_text(self, text):
        with pytest.raises(ValueError, match="noise must"):
            smoothing.parse_noise(text)


def test_traced_inputs_off_the_grid_are_no_votes(key):
    noise = smoothing.discrete_gaussian(0.25)
    count = jax.jit(
        lambda inputs: smoothing.class_counts(
            key, half_space, inputs, noise=noise, num_samples=50, num_classes=2
        )
    )
    inputs = jnp.array([[1.0], [jnp.nan], [jnp.inf], [3e9], [0.5 / 255], [20 / 255]])
    np.testing.assert_array_equal(count(inputs).sum(axis=1), [50, 0, 0, 0, 0, 50])


@pytest.mark.parametrize("sigma", [1e-4, 1e-7, 1e-30])
def test_noise_far_below_the_grid_is_zero(key, sigma):
    noise = smoothing.discrete_gaussian(sigma)
    assert not np.any(noise.sample(key, (1000,)))
