import mpmath
import numpy as np
import pytest
from scipy import stats

from jaxcert import smoothing
from jaxcert.smoothing._binomial import _smaller_of_bound_and_gap, two_sided_binomial_p_value
from jaxcert.smoothing._rounding import PROBABILITY_MARGIN

# Published values of the one-sided bound at alpha = 0.001.
REFERENCES = [
    (90, 100, 0.775329880168),
    (99, 100, 0.911373111296),
    (990, 1000, 0.976036187155),
    (99_990, 100_000, 0.999758677344),
    (50_489, 100_000, 0.499998948489),
    (50_490, 100_000, 0.500008948774),
]


@pytest.mark.parametrize(("count", "samples", "expected"), REFERENCES)
def test_lower_bound_matches_references(count, samples, expected):
    bound = smoothing.clopper_pearson_lower(count, samples, alpha=0.001)
    np.testing.assert_allclose(bound, expected, rtol=0, atol=1e-10)


def upper_tail(count: int, samples: int, probability: mpmath.mpf) -> mpmath.mpf:
    """P(Binomial(samples, probability) >= count), its terms added up until they vanish."""
    log_choose = (
        mpmath.loggamma(samples + 1)
        - mpmath.loggamma(count + 1)
        - mpmath.loggamma(samples - count + 1)
    )
    odds = probability / (1 - probability)
    term = mpmath.exp(
        log_choose
        + count * mpmath.log(probability)
        + (samples - count) * mpmath.log1p(-probability)
    )
    total = term
    while count < samples and term > total * mpmath.mpf("1e-30"):
        term *= odds * (samples - count) / (count + 1)
        total += term
        count += 1
    return total


def lower_tail(count: int, samples: int, probability: mpmath.mpf) -> mpmath.mpf:
    """P(Binomial(samples, probability) <= count)."""
    return upper_tail(samples - count, samples, 1 - probability)


@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-9])
@pytest.mark.parametrize("samples", [1, 2, 10, 137, 1000, 100_000])
def test_bounds_round_outwards_and_are_tight(samples, alpha):
    """The tail at the bound is at most alpha; moved inwards by 3e-10 it is above."""
    counts = sorted({0, 1, samples // 3, samples // 2, samples - 1, samples})
    lower = smoothing.clopper_pearson_lower(counts, samples, alpha=alpha)
    upper = smoothing.clopper_pearson_upper(counts, samples, alpha=alpha)
    with mpmath.workdps(50):
        exact_alpha = mpmath.mpf(alpha)
        nudge = mpmath.mpf(3 * PROBABILITY_MARGIN)
        for count, low, high in zip(counts, lower, upper, strict=True):
            low, high = mpmath.mpf(float(low)), mpmath.mpf(float(high))
            if count == 0:
                assert low == 0
            else:
                assert upper_tail(count, samples, low) <= exact_alpha
                assert upper_tail(count, samples, low * (1 + nudge)) > exact_alpha
            if count == samples:
                assert high == 1
            else:
                assert lower_tail(count, samples, high) <= exact_alpha
                assert lower_tail(count, samples, high * (1 - nudge)) > exact_alpha


def test_margin_is_ten_times_the_error_of_the_inverse_beta_function():
    """Random counts, sample sizes and levels, the largest and smallest counts among them."""
    generator = np.random.default_rng(0)
    for _ in range(150):
        samples = int(10 ** generator.uniform(1, 6))
        edge = 1 + int(10 ** generator.uniform(0, 1.5))
        count = int(generator.choice([edge, samples - edge, generator.integers(1, samples)]))
        count = min(max(count, 1), samples - 1)
        alpha = 10 ** generator.uniform(-9, -1)
        smaller, is_bound = _smaller_of_bound_and_gap(np.float64(count), np.float64(samples), alpha)
        with mpmath.workdps(40):
            smaller = mpmath.mpf(float(smaller))
            p = smaller if is_bound else 1 - smaller
            log_density = (
                mpmath.loggamma(samples + 1)
                - mpmath.loggamma(count)
                - mpmath.loggamma(samples - count + 1)
                + (count - 1) * mpmath.log(p)
                + (samples - count) * mpmath.log1p(-p)
            )
            residual = upper_tail(count, samples, p) - mpmath.mpf(alpha)
            assert abs(residual) / mpmath.exp(log_density) / smaller < PROBABILITY_MARGIN / 10


# SciPy's inverse of the incomplete beta function is far off at these, by a radius of .8 in the
# first; its parameter is 1000 there.
BROKEN_INVERSES = [
    (9_056, 999, 2.5e-4),
    (144_681, 999, 1e-3),
    (72_651, 999, 5e-4),
    (35_504, 999, 0.01),
    (74_467_707, 999, 5e-4),
    (247_028_382, 999, 1e-3),
]


@pytest.mark.parametrize(("samples", "failures", "alpha"), BROKEN_INVERSES)
def test_bounds_hold_where_the_inverse_beta_function_fails(samples, failures, alpha):
    count = samples - failures
    lower = float(smoothing.clopper_pearson_lower(count, samples, alpha=alpha))
    upper = float(smoothing.clopper_pearson_upper(failures, samples, alpha=alpha))
    with mpmath.workdps(40):
        assert upper_tail(count, samples, mpmath.mpf(lower)) <= alpha
        assert lower_tail(failures, samples, mpmath.mpf(upper)) <= alpha
        gap = 1 - mpmath.mpf(lower)
        assert upper_tail(count, samples, 1 - gap * (1 - mpmath.mpf("2e-9"))) > alpha
        assert lower_tail(failures, samples, mpmath.mpf(upper) * (1 - mpmath.mpf("2e-9"))) > alpha


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 2.5e-4])
def test_bounds_increase_with_the_count_around_every_parameter(alpha):
    """A wrong inverse stands out among its neighbours."""
    for samples in (9_056, 36_455, 144_681):
        failures = np.concatenate([np.arange(990, 1011), np.arange(0, samples, 97)])
        failures = np.unique(failures)
        lower = smoothing.clopper_pearson_lower(samples - failures, samples, alpha=alpha)
        assert np.all(np.diff(lower) < 0)
        assert np.all(lower < (samples - failures) / samples)
        np.testing.assert_allclose(
            smoothing.clopper_pearson_upper(failures, samples, alpha=alpha), 1 - lower, rtol=1e-9
        )


def test_tiny_alpha_is_no_nan():
    bounds = smoothing.clopper_pearson_lower([1, 50, 99, 100], 100, alpha=1e-300)
    assert np.all(np.isfinite(bounds))
    assert np.all(np.diff(bounds) > 0)


def test_extreme_counts_at_ten_million_samples():
    samples, alpha = 10_000_000, 0.001
    counts = [0, samples, samples // 2, samples - 1]
    bounds = smoothing.clopper_pearson_lower(counts, samples, alpha=alpha)
    assert bounds[0] == 0
    with mpmath.workdps(40):
        every = mpmath.mpf(alpha) ** (mpmath.mpf(1) / samples)
        assert abs(mpmath.mpf(bounds[1]) - every) < 1e-13
        # The radius near p = 1 magnifies an error in p by 1 / density.
        exact = mpmath.sqrt(2) * mpmath.erfinv(2 * every - 1)
        radius = smoothing.gaussian(1.0).radius(bounds[1])
        assert 0 <= exact - mpmath.mpf(float(radius)) < 1e-9
        for count, bound in zip(counts[2:], bounds[2:], strict=True):
            assert upper_tail(count, samples, mpmath.mpf(bound)) <= alpha
            assert upper_tail(count, samples, mpmath.mpf(bound) + mpmath.mpf("1e-9")) > alpha
    np.testing.assert_allclose(
        smoothing.clopper_pearson_upper([0, samples], samples, alpha=alpha),
        [-np.expm1(np.log(alpha) / samples), 1.0], rtol=2e-10,
    )  # fmt: skip


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("samples", [5, 40, 300])
def test_coverage_by_enumeration(samples, alpha):
    """Exact miss probability over a grid of p: at most alpha everywhere, and near it somewhere."""
    grid = np.linspace(0.0005, 0.9995, 1999)
    counts = np.arange(samples + 1)
    weights = stats.binom.pmf(counts[:, None], samples, grid)
    lower = smoothing.clopper_pearson_lower(counts, samples, alpha=alpha)[:, None]
    upper = smoothing.clopper_pearson_upper(counts, samples, alpha=alpha)[:, None]
    for missed in (lower > grid, upper < grid):
        miss = (weights * missed).sum(axis=0)
        assert miss.max() <= alpha * (1 + 1e-9)
        assert miss.max() > 0.8 * alpha


def test_a_bound_at_twice_alpha_fails_the_coverage_check():
    grid = np.linspace(0.0005, 0.9995, 1999)
    counts = np.arange(41)
    weights = stats.binom.pmf(counts[:, None], 40, grid)
    lower = smoothing.clopper_pearson_lower(counts, 40, alpha=0.1)[:, None]
    assert (weights * (lower > grid)).sum(axis=0).max() > 0.05


@pytest.mark.parametrize("samples", [1, 2, 9, 10, 1001])
def test_p_value_matches_the_exact_test(samples):
    counts = np.unique(np.linspace(0, samples, 12).astype(int))
    expected = [stats.binomtest(int(count), samples, 0.5).pvalue for count in counts]
    np.testing.assert_allclose(two_sided_binomial_p_value(counts, samples), expected, rtol=2e-10)


def test_p_value_without_draws_is_one():
    np.testing.assert_array_equal(two_sided_binomial_p_value([0], [0]), [1.0])


@pytest.mark.parametrize(
    "bound", [smoothing.clopper_pearson_lower, smoothing.clopper_pearson_upper]
)
def test_bad_input(bound):
    for alpha in (0.0, 1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
            bound(5, 10, alpha=alpha)
    with pytest.raises(TypeError, match="alpha must be a real number"):
        bound(5, 10, alpha="0.1")
    with pytest.raises(TypeError, match="counts must be integers"):
        bound(5.0, 10, alpha=0.1)
    with pytest.raises(ValueError, match=r"counts must lie in \[0, num_samples\], got 11 of 10"):
        bound([3, 11], 10, alpha=0.1)
    with pytest.raises(ValueError, match="counts must lie"):
        bound(-1, 10, alpha=0.1)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        bound(0, 0, alpha=0.1)
