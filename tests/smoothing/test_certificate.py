import numpy as np
import pytest

from jaxcert import smoothing

GAUSSIAN = smoothing.gaussian(1.0)


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(100, 1.500475024), (1000, 2.463262615), (10_000, 3.198577515), (100_000, 3.811456563),
     (1_000_000, 4.346773699)],
)  # fmt: skip
def test_largest_radius_matches_references(num_samples, expected):
    radius = smoothing.max_radius(GAUSSIAN, num_samples=num_samples, alpha=0.001)
    np.testing.assert_allclose(radius, expected, rtol=0, atol=1e-9)
    everything = [[0, num_samples]]
    certificate = smoothing.certificate_from_counts(
        everything, everything, noise=GAUSSIAN, alpha=0.001
    )
    assert certificate.radius == radius


def test_largest_radius_where_everything_abstains():
    """0.001 = 2**-9.97: nine samples cannot exceed one half, ten can."""
    assert smoothing.max_radius(GAUSSIAN, num_samples=9, alpha=0.001) == 0
    assert smoothing.max_radius(GAUSSIAN, num_samples=10, alpha=0.001) > 0
    several = smoothing.max_radius(smoothing.gaussian([0.5, 1.0]), num_samples=100, alpha=0.001)
    np.testing.assert_allclose(several, [0.750237512, 1.500475024], atol=1e-9)


def test_threshold_of_abstention():
    """Published: 50489 of 100000 abstains, 50490 certifies."""
    counts = np.array([[50_489, 49_511], [50_490, 49_510]])
    certificate = smoothing.certificate_from_counts(counts, counts, noise=GAUSSIAN, alpha=0.001)
    np.testing.assert_array_equal(certificate.label, [smoothing.ABSTAIN, 0])
    assert certificate.radius[0] == 0
    assert 0 < certificate.radius[1] < 1e-4
    assert certificate.p_lower[0] < 0.5 < certificate.p_lower[1]


def test_the_class_is_that_of_the_selection_samples():
    certificate = smoothing.certificate_from_counts(
        [[6, 4], [5, 5], [1, 9]], [[10, 990], [990, 10], [10, 990]], noise=GAUSSIAN, alpha=0.01
    )
    np.testing.assert_array_equal(certificate.label, [smoothing.ABSTAIN, 0, 1])


def test_another_alpha_needs_no_new_samples():
    counts = [[900, 100]]
    radii = [
        smoothing.certificate_from_counts(counts, counts, noise=GAUSSIAN, alpha=alpha).radius[0]
        for alpha in (0.1, 0.01, 0.001)
    ]
    assert radii[0] > radii[1] > radii[2] > 0


def test_a_row_without_samples_abstains():
    certificate = smoothing.certificate_from_counts(
        [[0, 9], [0, 9]], [[0, 0], [0, 99]], noise=GAUSSIAN, alpha=0.01
    )
    np.testing.assert_array_equal(certificate.label, [smoothing.ABSTAIN, 1])
    assert certificate.radius[0] == certificate.p_lower[0] == 0


def test_scale_for_each_input():
    counts = np.array([[900, 100]] * 2)
    certificate = smoothing.certificate_from_counts(
        counts, counts, noise=smoothing.uniform([0.5, 1.0]), alpha=0.01
    )
    np.testing.assert_allclose(certificate.radius[1], 2 * certificate.radius[0], rtol=1e-14)


def test_bad_input():
    good = np.array([[3, 7]])
    certify = smoothing.certificate_from_counts
    with pytest.raises(TypeError, match="counts must be integers"):
        certify(good, good / 10, noise=GAUSSIAN, alpha=0.01)
    with pytest.raises(ValueError, match=r"one shape \[b, classes\]"):
        certify(good, [[1, 2, 3]], noise=GAUSSIAN, alpha=0.01)
    with pytest.raises(ValueError, match=r"must have shape \[b, classes\], got \(2,\)"):
        certify(good, [1, 2], noise=GAUSSIAN, alpha=0.01)
    with pytest.raises(ValueError, match="counts must not be negative"):
        certify(good, [[-1, 2]], noise=GAUSSIAN, alpha=0.01)
    with pytest.raises(ValueError, match="selection_counts must have votes in every row"):
        certify([[0, 0]], good, noise=GAUSSIAN, alpha=0.01)
    with pytest.raises(ValueError, match=r"noise.scale must be a scalar or of shape \(1,\)"):
        certify(good, good, noise=smoothing.gaussian([1.0, 2.0]), alpha=0.01)
    for alpha in (0, 1, 1.5):
        with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
            certify(good, good, noise=GAUSSIAN, alpha=alpha)
    with pytest.raises(ValueError, match="num_samples must lie in"):
        smoothing.max_radius(GAUSSIAN, num_samples=0, alpha=0.01)
