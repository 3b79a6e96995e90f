import dataclasses

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxcert import smoothing

FAMILIES = {
    "gaussian": smoothing.gaussian,
    "laplace": smoothing.laplace,
    "uniform": smoothing.uniform,
}


def exact_radius(family: str, scale: float, probability: float) -> mpmath.mpf:
    p, scale = mpmath.mpf(probability), mpmath.mpf(scale)
    if family == "gaussian":
        return scale * mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)
    if family == "laplace":
        return -scale * mpmath.log(2 * (1 - p))
    return 2 * scale * (p - mpmath.mpf(1) / 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [0.25, 0.12, 3.7])
def test_radius_is_the_exact_one_rounded_down(family, scale):
    noise = FAMILIES[family](scale)
    applied = float(np.float32(scale))
    tails = np.concatenate([2.0 ** -np.arange(2, 50, 2), np.linspace(0.001, 0.499, 25)])
    probabilities = np.concatenate([1 - tails, 0.5 + 2.0 ** -np.arange(3, 50, 2)])
    with mpmath.workdps(60):
        for probability in probabilities:
            radius = mpmath.mpf(float(noise.radius(probability)))
            exact = exact_radius(family, applied, probability)
            assert radius <= exact
            assert radius >= exact * (1 - mpmath.mpf("3e-14"))
            # A tenth of the margin would do: the margin covers the error tenfold.
            assert abs(radius / (1 - mpmath.mpf(64) * 2**-52) / exact - 1) < 64 * 2.0**-52 / 10


@pytest.mark.parametrize("family", FAMILIES)
def test_radius_is_zero_at_or_below_one_half(family):
    noise = FAMILIES[family](0.5)
    np.testing.assert_array_equal(noise.radius([0.0, 0.3, 0.5]), 0.0)
    assert noise.radius(np.nextafter(0.5, 1)) > 0


@pytest.mark.parametrize("probability", [-0.1, 1.1, np.nan])
def test_radius_refuses_what_is_no_probability(probability):
    with pytest.raises(ValueError, match=r"p_lower must lie in \[0, 1\]"):
        smoothing.gaussian(0.5).radius(probability)


def test_radius_counts_the_scale_that_was_applied():
    """0.12 is not a float32: the noise on the device is smaller, and so must the radius be."""
    assert float(np.float32(0.12)) < 0.12
    assert smoothing.gaussian(0.12).radius(0.99) < 0.12 * smoothing.gaussian(1.0).radius(0.99)


def test_one_scale_an_input():
    noise = smoothing.gaussian(jnp.array([0.25, 0.5]))
    radius = noise.radius([0.9, 0.9])
    np.testing.assert_allclose(radius[1], 2 * radius[0], rtol=1e-15)
    with pytest.raises(ValueError, match=r"the shape \(2,\) of the scale as its first axes"):
        noise.sample(jax.random.key(1), (3,))
    keys = jax.random.split(jax.random.key(1), (2, 5))
    several = noise.sample(keys, (3, 4))
    assert several.shape == (2, 5, 3, 4)
    np.testing.assert_array_equal(several[1, 2], smoothing.gaussian(0.5).sample(keys[1, 2], (3, 4)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [0.25, 0.12, 1e-3, 123.456, 1 / 3])
def test_text_round_trips_exactly(family, scale):
    noise = FAMILIES[family](scale)
    again = smoothing.parse_noise(str(noise))
    assert again.family == family
    assert float(again.scale) == float(noise.scale)


def test_text_round_trips_for_several_scales():
    noise = smoothing.laplace([0.12, 0.7])
    again = smoothing.parse_noise(str(noise))
    np.testing.assert_array_equal(again.scale, noise.scale)


@pytest.mark.parametrize(
    "text",
    ["", "gaussian", "cauchy(1)", "gaussian()", "gaussian(a)", "gaussian(1,2)", "uniform([1"],
)
def test_text_that_is_no_noise(text):
    with pytest.raises(ValueError, match="noise must"):
        smoothing.parse_noise(text)


@pytest.mark.parametrize(("family", "name"), [("gaussian", "sigma"), ("uniform", "half_width")])
@pytest.mark.parametrize("scale", [0.0, -0.25, np.nan, np.inf, 1e-60, [0.5, 0.0]])
def test_scale_must_be_positive(family, name, scale):
    with pytest.raises(ValueError, match=f"{name} must be finite and above 0"):
        FAMILIES[family](scale)


def test_scale_must_be_a_number():
    with pytest.raises(TypeError, match="sigma must be a real number"):
        smoothing.gaussian("large")
    with pytest.raises(ValueError, match="sigma must be a scalar or one value"):
        smoothing.gaussian(np.ones((2, 2)))


def test_sample_is_differentiable_in_the_scale(key):
    def mean_square(sigma):
        return jnp.mean(smoothing.gaussian(sigma).sample(key, (1000,)) ** 2)

    slope = jax.grad(mean_square)(0.5)
    np.testing.assert_allclose(slope, 2 * mean_square(0.5) / 0.5, rtol=1e-5)


def test_sample_under_vmap_is_sample_one_by_one(key):
    keys = jax.random.split(key, 3)
    noise = smoothing.laplace(0.5)
    together = jax.vmap(lambda one: noise.sample(one, (4, 5)))(keys)
    for index in range(3):
        np.testing.assert_array_equal(together[index], noise.sample(keys[index], (4, 5)))


def test_sample_needs_a_typed_threefry_key():
    noise = smoothing.gaussian(1.0)
    with pytest.raises(TypeError, match=r"typed key such as jax.random.key"):
        noise.sample(jax.random.PRNGKey(1), (2,))
    with pytest.raises(ValueError, match="threefry"):
        noise.sample(jax.random.key(1, impl="rbg"), (2,))


def test_radius_rounds_a_replaced_scale_as_sampling_does():
    noise = dataclasses.replace(smoothing.gaussian(1.0), scale=np.float64(0.12))
    assert noise.radius(0.99) == smoothing.gaussian(0.12).radius(0.99)
