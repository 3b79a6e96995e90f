"""Certificates against classifiers whose smoothed version is known exactly, and broken rules.

A rule is sound when the rate of violations (a wrong class, or a radius beyond the true one) is at
most alpha at every input. The check is an exact binomial test that raises a false alarm with
probability below 1e-6; each broken rule must fail it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

from jaxcert import smoothing
from tests.smoothing.classifiers import ball, half_space, interval

SEEDS, SAMPLES, ALPHA = 4000, 200, 0.05


def assert_sound(label, radius, *, true_label, true_radius, alpha=ALPHA):
    violated = (label != smoothing.ABSTAIN) & ((label != true_label) | (radius > true_radius))
    test = stats.binomtest(int(violated.sum()), violated.size, alpha, alternative="greater")
    assert test.pvalue > 1e-6, f"{violated.sum()} of {violated.size} certificates are false"


def counts_for_many_seeds(key, classify, point, noise, num_samples):
    """Votes at one input under independent keys: int `[SEEDS, 2]`."""
    keys = jax.random.split(key, SEEDS)
    count = jax.jit(
        jax.vmap(
            lambda one: smoothing.class_counts(
                one, classify, point, noise=noise, num_samples=num_samples, num_classes=2
            )[0]
        )
    )
    return np.asarray(count(keys))


def certified(selection, counts, noise):
    certificate = smoothing.certificate_from_counts(selection, counts, noise=noise, alpha=ALPHA)
    return certificate.label, certificate.radius


def selection_reused(selection, counts, noise):
    return certified(counts, counts, noise)


def selection_added(selection, counts, noise):
    return certified(selection, counts + selection, noise)


def alpha_ignored(selection, counts, noise):
    selected = selection.argmax(axis=1)
    share = counts[np.arange(len(counts)), selected] / counts.sum(axis=1)
    share = np.minimum(share, 1 - 0.5 / counts.sum(axis=1))
    return np.where(share > 0.5, selected, smoothing.ABSTAIN), noise.radius(share)


def float32_quantile(selection, counts, noise):
    certificate = smoothing.certificate_from_counts(selection, counts, noise=noise, alpha=ALPHA)
    p_lower = certificate.p_lower.astype(np.float32)
    radius = np.asarray(noise.scale) * np.asarray(jax.scipy.special.ndtri(jnp.asarray(p_lower)))
    return certificate.label, np.where(certificate.radius > 0, radius, 0.0)


# Name, classifier, input, noise, true class of the smoothed classifier and its robust radius.
def exact_cases():
    sigma = 0.5
    yield "half-space", half_space, [0.6, 1.0], smoothing.gaussian(sigma), 1, 0.6
    yield "half-space, on its boundary", half_space, [0.0, 1.0], smoothing.gaussian(sigma), 0, 0.0
    yield "half-space, l1 uniform", half_space, [0.3, 1.0], smoothing.uniform(sigma), 1, 0.3
    yield "half-space, l1 laplace", half_space, [0.3, 1.0], smoothing.laplace(sigma), 1, 0.3

    def inside(x):
        return special.ndtr((1 - x) / sigma) - special.ndtr((-1 - x) / sigma) - 0.5

    edge = optimize.brentq(inside, 0, 3, xtol=1e-14)
    yield "interval", interval, [0.2], smoothing.gaussian(sigma), 1, edge - 0.2
    yield "interval, from outside", interval, [1.5], smoothing.gaussian(sigma), 0, 1.5 - edge

    def inside_ball(x):
        return stats.ncx2.cdf(1 / 0.3**2, 4, (x / 0.3) ** 2) - 0.5

    edge = optimize.brentq(inside_ball, 1e-6, 3, xtol=1e-12)
    point = [0.3, 0.2, 0.0, 0.0]
    distance = np.linalg.norm(np.float32(point))
    yield "ball", ball, point, smoothing.gaussian(0.3), 1, edge - distance


CASES = {case[0]: case[1:] for case in exact_cases()}


@pytest.fixture(scope="module")
def votes():
    """Selection and estimation votes of each case, drawn once with separate keys."""
    drawn = {}
    for index, (name, (classify, point, noise, _, _)) in enumerate(CASES.items()):
        key = jax.random.fold_in(jax.random.key(190208), index)
        inputs = jnp.asarray(point, jnp.float32)[None]
        drawn[name] = tuple(
            counts_for_many_seeds(jax.random.fold_in(key, stage), classify, inputs, noise, samples)
            for stage, samples in enumerate((20, SAMPLES))
        )
    return drawn


@pytest.mark.parametrize("name", CASES)
def test_certified_radii_do_not_exceed_the_truth(votes, name):
    _, point, noise, true_label, true_radius = CASES[name]
    label, radius = certified(*votes[name], noise)
    # The distance of the float32 input is meant, not that of the decimal.
    true_radius = true_radius + abs(float(np.float32(point[0])) - point[0])
    assert_sound(label, radius, true_label=true_label, true_radius=true_radius)
    if true_radius > 0.1:
        assert np.median(radius) > 0.3 * true_radius, "a sound rule must still say something"


@pytest.mark.parametrize("rule", [selection_reused, selection_added, alpha_ignored])
def test_broken_rules_are_caught(votes, rule):
    """On the boundary both classes tie: whatever is certified beyond radius 0 is false."""
    name = "half-space, on its boundary"
    _, _, noise, true_label, true_radius = CASES[name]
    label, radius = rule(*votes[name], noise)
    with pytest.raises(AssertionError, match="certificates are false"):
        assert_sound(label, radius, true_label=true_label, true_radius=true_radius)


def test_alpha_ignored_is_caught_away_from_the_boundary(votes):
    _, _, noise, true_label, true_radius = CASES["half-space"]
    label, radius = alpha_ignored(*votes["half-space"], noise)
    with pytest.raises(AssertionError, match="certificates are false"):
        assert_sound(label, radius, true_label=true_label, true_radius=true_radius)


def test_float32_quantile_is_caught():
    """Near 1 float32 has few values of p: a radius computed from one can exceed its bound.

    The votes are exact binomial draws for a half-space, whose radius is sigma * ndtri(p); the
    truth lies between the sound radius for that many misses and the float32 one.
    """
    noise, samples, seeds = smoothing.gaussian(1.0), 10**7, 100_000
    misses = np.arange(12)
    counts = np.stack([misses, samples - misses], axis=1)
    sound = certified(counts, counts, noise)[1]
    excess = float32_quantile(counts, counts, noise)[1] - sound
    worst = int(excess.argmax())
    assert excess[worst] > 1e-4
    true_radius = float(sound[worst] + excess[worst] / 2)
    incorrect = np.random.default_rng(1).binomial(samples, special.ndtr(-true_radius), seeds)
    counts = np.stack([incorrect, samples - incorrect], axis=1)
    truth = {"true_label": 1, "true_radius": true_radius}
    assert_sound(*certified(counts, counts, noise), **truth)
    with pytest.raises(AssertionError, match="certificates are false"):
        assert_sound(*float32_quantile(counts, counts, noise), **truth)


@pytest.mark.slow
def test_certify_end_to_end_over_thousands_of_keys():
    """The verb itself, one call with 5000 inputs that differ in their ids alone."""
    point, noise, copies = 0.35, smoothing.gaussian(0.5), 5000
    inputs = jnp.full((copies, 2), point, jnp.float32)
    certificate = smoothing.certify(
        jax.random.key(3), half_space, inputs, noise=noise, num_classes=2, num_samples=1000,
        alpha=ALPHA,
    )  # fmt: skip
    truth = {"true_label": 1, "true_radius": float(np.float32(point))}
    assert_sound(certificate.label, certificate.radius, **truth)
    assert np.all(certificate.radius > truth["true_radius"] - 0.15)
