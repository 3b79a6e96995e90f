"""Sigma by gradient ascent, beside an oracle that integrates the noise on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxcert import smoothing
from jaxcert.smoothing import NonFiniteScoresError, optimize_sigma, soft_radius_estimate

STEEPNESS = 20.0
POINTS = np.array([0.0, 0.4, -0.9, 0.7, 3.0])
INPUTS = jnp.asarray(POINTS[:, None], jnp.float32)
BOUNDS = (0.05, 1.0)
TRACES = []


def interval_logits(weight, limit, inputs):
    """Class 1 on [-1, 1], softly, and nothing finite beyond the limit."""
    TRACES.append(1)
    margin = weight * (1.0 - inputs[:, 0] ** 2)
    margin = jnp.where(inputs[:, 0] > limit, jnp.nan, margin)
    return jnp.stack([-margin / 2, margin / 2], axis=1)


def interval(weight=STEEPNESS, limit=np.inf):
    """The classifier as a pytree: other weights are the same program."""
    return jax.tree_util.Partial(interval_logits, jnp.float32(weight), jnp.float32(limit))


def oracle(sigma, point, *, family="gaussian", max_probability=0.999):
    """R(sigma) by quadrature: 4000 equally likely quantiles of the noise."""
    tails = (np.arange(4000) + 0.5) / 4000
    unit = stats.norm.ppf(tails) if family == "gaussian" else 2 * tails - 1
    p = special.expit(STEEPNESS * (1 - (point + sigma * unit) ** 2)).mean()
    first, second = max(p, 1 - p), min(p, 1 - p)
    if family == "uniform":
        return sigma * (first - second)
    cut = np.clip([first, second], 1 - max_probability, max_probability)
    return sigma / 2 * float(np.subtract(*special.ndtri(cut)))


def best(point, **settings):
    return max(oracle(sigma, point, **settings) for sigma in np.geomspace(*BOUNDS, 200))


def found_radii(sigma, **settings):
    return np.array([oracle(float(s), x, **settings) for s, x in zip(sigma, POINTS, strict=True)])


def optimize(key, **settings):
    settings = {
        "initial_sigma": 0.25, "num_steps": 150, "num_samples": 64, "bounds": BOUNDS,
    } | settings  # fmt: skip
    classify = settings.pop("classify", interval())
    return optimize_sigma(key, classify, settings.pop("inputs", INPUTS), **settings)


def test_finds_the_best_sigma_by_quadrature(key):
    sigma = optimize(key)
    reached = found_radii(sigma)
    np.testing.assert_array_less(0.93 * np.array([best(x) for x in POINTS]), reached)
    assert sigma[4] > 0.6, "far away, more noise is better, up to where the interval is seen"
    assert reached.sum() > 1.3 * found_radii(np.full(5, 0.25)).sum()


@pytest.mark.slow
def test_uniform_noise(key):
    reached = found_radii(optimize(key, family="uniform"), family="uniform")
    expected = np.array([best(x, family="uniform") for x in POINTS])
    np.testing.assert_array_less(0.93 * expected, reached)


def test_a_search_that_jumps_about_keeps_the_fixed_sigma_or_a_better_one(key):
    """A learning rate without sense: sigma leaps between floor and cap, and is judged at the end.

    The judge has 64 samples: three of its standard errors, 0.15 sigma each, are allowed.
    """
    sigma = np.asarray(optimize(key, learning_rate=1e4))
    assert set(sigma.tolist()) <= {np.float32(value).item() for value in (*BOUNDS, 0.25)}
    assert (sigma == np.float32(0.25)).any()
    start = found_radii(np.full(5, 0.25))
    np.testing.assert_array_less(start - 3 * 0.15 * sigma, found_radii(sigma))


def test_result_belongs_to_the_input_and_the_key(key):
    expected = np.asarray(optimize(key))
    order = np.array([3, 1, 0, 4, 2])
    moved = optimize(key, inputs=INPUTS[order], ids=order)
    np.testing.assert_allclose(moved, expected[order], rtol=1e-5)
    assert np.abs(np.asarray(optimize(jax.random.fold_in(key, 1))) - expected).max() > 1e-4


@pytest.mark.slow
def test_result_does_not_depend_on_chunks(key):
    """After few steps: sums of chunks differ in the last bit, and an ascent amplifies that."""
    settings = {"num_steps": 2, "num_samples": 10}
    whole, chunked = (optimize(key, chunk_size=size, **settings) for size in (None, 7))
    np.testing.assert_allclose(chunked, whole, rtol=1e-4)


def test_noise_is_fresh_and_never_that_of_certification(key):
    """With one key for all: what the search saw shares no draw with any certifier."""
    seen = []

    def spy(inputs):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), inputs)
        return jnp.concatenate([inputs, -inputs], axis=1)

    def draws(run):
        seen.clear()
        jax.block_until_ready(run())
        jax.effects_barrier()
        return np.concatenate([x.reshape(-1) for x in seen])

    origin, noise = jnp.zeros((2, 1)), smoothing.gaussian(1.0)
    searched = draws(
        lambda: optimize_sigma(
            key, spy, origin, initial_sigma=1.0, num_steps=4, num_samples=25,
            learning_rate=1e-30, keep_better=False, chunk_size=50,
        )
    )  # fmt: skip
    searched = searched[searched != 0]  # The turn before the first draws, and sees no noise.
    assert len(np.unique(searched)) == len(searched) == 2 * 4 * 25
    certified = draws(
        lambda: smoothing.certify(
            key, spy, origin, noise=noise, num_classes=2, num_samples=100, chunk_size=100
        )
    )
    assert len(np.unique(certified)) >= 2 * 200
    assert not set(certified.tolist()) & set(searched.tolist())


@pytest.mark.slow
def test_derivative_through_the_search(key):
    def sigmas(arguments):
        weight, inputs, initial = arguments
        return optimize_sigma(
            key, interval(weight), inputs, initial_sigma=initial, num_steps=3, num_samples=8,
            keep_better=False,
        ).sum()  # fmt: skip

    arguments = (jnp.float32(STEEPNESS / 8), INPUTS[:2], jnp.full(2, 0.5, jnp.float32))
    value_and_grad = jax.jit(jax.value_and_grad(sigmas))
    _, gradients = value_and_grad(arguments)
    for position, gradient in enumerate(gradients):
        ends = []
        for step in (-0.01, 0.01):
            moved = list(arguments)
            moved[position] = moved[position] + np.float32(step)
            ends.append(float(value_and_grad(tuple(moved))[0]))
        difference = (ends[1] - ends[0]) / 0.02
        assert abs(difference) > 1e-3
        np.testing.assert_allclose(gradient.sum(), difference, rtol=0.02)


def test_new_weights_inputs_and_keys_compile_nothing(key):
    optimize(key)
    before = len(TRACES)
    for seed in range(1, 3):
        optimize(
            jax.random.fold_in(key, seed), inputs=INPUTS + seed, classify=interval(seed),
            initial_sigma=0.25 + 0.1 * seed, learning_rate=0.1 * seed, bounds=(0.1, 2.0),
        )  # fmt: skip
    assert len(TRACES) == before


def softmax_within(limit, inputs):
    """Probabilities up to a distance."""
    found = jax.nn.softmax(interval_logits(STEEPNESS, np.float32(np.inf), inputs))
    return jnp.where(jnp.abs(inputs) < limit, found, 0.6)


def search_softmax(key, limit):
    classify = jax.tree_util.Partial(softmax_within, jnp.float32(limit))
    return optimize(key, classify=classify, scores="probabilities")


def test_scores_that_are_no_probabilities(key):
    with pytest.raises(ValueError, match="must return probabilities that sum to 1, got values"):
        search_softmax(key, 2.0)
    with pytest.raises(ValueError, match="scores before a softmax are scores='logits'"):
        optimize(key, scores="probabilities")


@pytest.mark.slow
def test_probabilities_as_scores(key):
    np.testing.assert_allclose(search_softmax(key, np.inf), optimize(key), rtol=1e-3)
    with pytest.raises(NonFiniteScoresError, match="finite, and probabilities, for noise up to 1"):
        search_softmax(key, 3.1)


def test_ascent_that_diverges(key):
    with pytest.raises(NonFiniteScoresError, match="NaN or infinity for 1 of 5 inputs, first row"):
        optimize(key, classify=interval(limit=2.99))


@pytest.mark.slow
def test_ascent_that_diverges_while_traced(key):
    traced = jax.jit(lambda x: optimize(key, classify=interval(limit=2.99), inputs=x))(INPUTS)
    assert traced[4] == np.float32(0.25), "no error under jit, and no change"
    np.testing.assert_allclose(traced[:4], optimize(key)[:4], rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"initial_sigma": 0.0}, ValueError, "initial_sigma must be finite and above 0"),
        ({"initial_sigma": [0.1, 0.2]}, ValueError, "initial_sigma must be a scalar or of shape"),
        ({"initial_sigma": 2.0}, ValueError, "initial_sigma must lie within bounds"),
        ({"bounds": (1.0, 0.5)}, ValueError, "bounds must be .lower, upper. with lower < upper"),
        ({"bounds": (-1.0, 0.5)}, ValueError, "bounds must be finite and above 0"),
        ({"bounds": 1.0}, TypeError, "bounds must be two numbers"),
        ({"num_steps": 0}, ValueError, "num_steps must lie in"),
        ({"num_samples": 2.5}, TypeError, "num_samples must be an integer"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be finite and above 0"),
        ({"family": "laplace"}, ValueError, "family must be one of gaussian, uniform"),
        ({"scores": "votes"}, ValueError, "scores must be one of logits, probabilities"),
        ({"max_probability": 0.5}, ValueError, "max_probability must be above 1/2"),
        ({"inputs": np.full((1, 1), np.nan, np.float32)}, ValueError, "inputs must be finite"),
        ({"classify": lambda x: x}, ValueError, "classify must tell at least two classes, got 1"),
        ({"classify": 3}, TypeError, "classify must be callable"),
        ({"key": np.zeros(2, np.uint32)}, TypeError, "key must be a typed key"),
    ],
)
def test_bad_input(key, change, error, message):
    with pytest.raises(error, match=message):
        optimize(change.pop("key", key), **change)


def test_soft_radius_and_its_slope(key):
    settings = {"num_samples": 4000, "max_probability": 0.9999}

    def total(sigma):
        radius = soft_radius_estimate(
            key, interval(), INPUTS, noise=smoothing.gaussian(sigma), **settings
        )
        return radius.sum(), radius

    slope, radius = jax.jit(jax.grad(total, has_aux=True))(jnp.full(5, 0.4, jnp.float32))
    cut = {"max_probability": 0.9999}
    np.testing.assert_allclose(radius, [oracle(0.4, x, **cut) for x in POINTS], rtol=0.1)
    numeric = [(oracle(0.41, x, **cut) - oracle(0.39, x, **cut)) / 0.02 for x in POINTS]
    np.testing.assert_allclose(slope, numeric, atol=0.25)
    with pytest.raises(ValueError, match="noise must be one of gaussian, uniform, got laplace"):
        soft_radius_estimate(key, interval(), INPUTS, noise=smoothing.laplace(1.0))
