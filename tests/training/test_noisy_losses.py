"""Losses on several noisy copies of an image, each against its formula in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

from jaxcert import smoothing, training
from jaxcert.training import _noisy_scores

# Weights of a linear network from 5 pixels to 3 classes, and 4 images.
WEIGHTS = np.random.default_rng(1).normal(size=(5, 3)) * 2
IMAGES = np.random.default_rng(2).uniform(0.1, 0.9, size=(4, 5)).astype(np.float32)
LABELS = np.array([1, 2, 2, 1])
SIGMAS = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
EACH = smoothing.gaussian(SIGMAS)

LOSSES = {
    "smooth_adv": functools.partial(training.smooth_adv_loss, radius=0.5),
    "macer": training.macer_loss,
    "consistency": training.consistency_loss,
    "stability": training.stability_loss,
    "smooth_mix": training.smooth_mix_loss,
}


def linear(weights):
    return jax.tree_util.Partial(lambda w, x: x @ w, jnp.asarray(weights, jnp.float32))


def evaluate(loss, key, *, weights=WEIGHTS, noise=EACH, radius=None):
    """Loss and metrics; the radius is traced, so that several share a program."""
    arguments = {} if radius is None else {"radius": jnp.float32(radius)}
    return _evaluate(loss)(key, linear(weights), noise, arguments)


@functools.cache
def _evaluate(loss):
    return jax.jit(
        lambda key, classify, noise, arguments: loss(
            key, classify, jnp.asarray(IMAGES), jnp.asarray(LABELS), noise=noise, **arguments
        )
    )


_draw = jax.jit(_noisy_scores.draw_noise, static_argnames="num_samples")


def draws_of(key, num_samples=3, noise=EACH):
    drawn = _draw(key, jnp.asarray(IMAGES), noise=noise, num_samples=num_samples)
    return np.asarray(drawn, np.float64)


def scores_of(images, draws, weights=WEIGHTS):
    return (images[:, None] + draws) @ np.asarray(weights, np.float32).astype(np.float64)


def cross_entropy(scores):
    return -special.log_softmax(scores, axis=-1)[np.arange(4), :, LABELS].mean()


def climb(draws, *, num_steps, step, radius, weights=WEIGHTS):
    """The attack, with the gradient of the linear network in closed form."""
    points = IMAGES.astype(np.float64)
    own = np.eye(3)[LABELS][:, None]
    for _ in range(num_steps):
        softmax = special.softmax(scores_of(points, draws, weights), axis=-1)
        of_label = (softmax * own).sum(axis=2)
        share = of_label / of_label.sum(axis=1, keepdims=True)
        slopes = ((softmax - own) * share[:, :, None]).sum(axis=1) @ weights.T
        points = points + step * slopes / np.linalg.norm(slopes, axis=1, keepdims=True)
        points = np.clip(points, 0, 1)
        if radius is not None:
            lengths = np.linalg.norm(points - IMAGES, axis=1, keepdims=True)
            points = IMAGES + (points - IMAGES) * np.minimum(1, radius / lengths)
    return points


def test_every_image_has_draws_of_its_own_scale(key):
    unit = draws_of(key, 3, smoothing.gaussian(1.0))
    np.testing.assert_allclose(draws_of(key), SIGMAS[:, None, None] * unit, rtol=1e-6)
    assert np.unique(unit).size == unit.size
    one_scale = draws_of(key, 3, smoothing.gaussian(0.25))
    np.testing.assert_allclose(one_scale, 0.25 * unit, rtol=1e-6)


def test_plain_augmentation_takes_a_scale_of_each_image_too(key):
    unit = training.add_noise(key, jnp.zeros((4, 5)), noise=smoothing.gaussian(1.0))
    found = training.add_noise(key, jnp.asarray(IMAGES), noise=EACH)
    np.testing.assert_allclose(found, IMAGES + SIGMAS[:, None] * unit, rtol=1e-5, atol=1e-6)


def test_smooth_adv_is_the_cross_entropy_where_the_attack_ends(key):
    loss = functools.partial(training.smooth_adv_loss, num_samples=3, attack_steps=5)
    found, metrics = evaluate(loss, key, radius=0.3)
    draws = draws_of(jax.random.fold_in(key, 0))
    attacked = climb(draws, num_steps=5, step=2 * 0.3 / 5, radius=0.3)
    scores = scores_of(attacked, draws)
    np.testing.assert_allclose(found, cross_entropy(scores), rtol=1e-4)
    right = scores.argmax(axis=-1) == LABELS[:, None]
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)
    # It is an attack: harder than the images, and a longer reach is harder still.
    assert found > 1.05 * cross_entropy(scores_of(IMAGES, draws))
    further, _ = evaluate(loss, key, radius=0.6)
    assert further > found


_ascend = jax.jit(_noisy_scores.ascend, static_argnames="num_steps")


def test_the_attack_stays_in_ball_and_box(key):
    draws = jnp.asarray(draws_of(key), jnp.float32)
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)

    def attacked(weights, step_size, radius):
        points = _ascend(
            key, linear(weights), images, labels, draws,
            num_steps=3, step_size=jnp.float32(step_size), radius=radius,
        )  # fmt: skip
        assert points.min() >= 0
        assert points.max() <= 1
        return np.linalg.norm(np.asarray(points) - IMAGES, axis=1)

    assert attacked(WEIGHTS, 1.0, jnp.float32(0.25)).max() <= 0.25 * (1 + 1e-5)
    assert attacked(WEIGHTS, 1.0, jnp.float32(9.0)).max() > 0.25
    # A flat network gives no direction, so that one is drawn.
    assert attacked(0 * WEIGHTS, 0.05, jnp.float32(0.25)).min() > 0.01


def test_macer_in_closed_form(key):
    loss = functools.partial(
        training.macer_loss, num_samples=3, weight=3.0, margin=2.0, temperature=1.5
    )
    found, metrics = evaluate(loss, key)
    scores = scores_of(IMAGES, draws_of(key))
    soft = special.softmax(scores, axis=-1).mean(axis=1)
    sharp = special.softmax(1.5 * scores, axis=-1).mean(axis=1)
    second, first = np.sort(sharp, axis=1)[:, -2:].T
    gaps = stats.norm.ppf(first) - stats.norm.ppf(second)
    counts = (sharp.argmax(axis=1) == LABELS) & (np.abs(gaps) <= 2)
    # One is wrong, and one beyond the margin.
    assert counts.tolist() == [True, False, True, False]
    hinges = np.where(counts, SIGMAS / 2 * (2.0 - gaps), 0)
    expected = (-np.log(soft[np.arange(4), LABELS] + 1e-10) + 3.0 * hinges).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    radius = (SIGMAS / 2 * gaps)[counts].mean()
    np.testing.assert_allclose(metrics["soft_radius"], radius, rtol=1e-4)


def test_macer_has_a_finite_gradient_where_predictions_are_certain(key):
    def value(weights):
        classify = jax.tree_util.Partial(lambda w, x: x @ w, weights)
        images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
        return training.macer_loss(key, classify, images, labels, noise=EACH)[0]

    found, gradient = jax.jit(jax.value_and_grad(value))(jnp.asarray(100 * WEIGHTS, jnp.float32))
    assert np.isfinite(found)
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0)
    with pytest.raises(ValueError, match="noise must be Gaussian"):
        evaluate(training.macer_loss, key, noise=smoothing.uniform(0.5))


def test_consistency_in_closed_form(key):
    loss = functools.partial(
        training.consistency_loss, num_samples=3, weight=7.0, entropy_weight=0.25
    )
    found, metrics = evaluate(loss, key)
    scores = scores_of(IMAGES, draws_of(key))
    each = special.softmax(scores, axis=-1)
    mean = each.mean(axis=1)
    divergence = special.rel_entr(mean[:, None], each).sum(axis=2).mean()
    entropy = special.entr(mean).sum(axis=1).mean()
    expected = cross_entropy(scores) + 7.0 * divergence + 0.25 * entropy
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["divergence"], divergence, rtol=1e-4)


def test_stability_in_closed_form(key):
    found, metrics = evaluate(functools.partial(training.stability_loss, weight=4.0), key)
    noisy = scores_of(IMAGES, draws_of(key, 1))
    clean = scores_of(IMAGES, np.zeros((4, 1, 5)))
    target = special.softmax(clean, axis=-1)
    stable = -(target * special.log_softmax(noisy, axis=-1)).sum(axis=-1).mean()
    np.testing.assert_allclose(found, cross_entropy(clean) + 4.0 * stable, rtol=1e-5)
    right = clean.argmax(axis=-1) == LABELS[:, None]
    np.testing.assert_allclose(metrics["clean_accuracy"], right.mean(), rtol=1e-6)


def test_smooth_mix_in_closed_form(key):
    loss = functools.partial(
        training.smooth_mix_loss, num_samples=3, weight=2.0, step_size=0.2, attack_steps=3
    )
    found, metrics = evaluate(loss, key)
    noise_key, _, mix_key = (jax.random.fold_in(key, stage) for stage in range(3))
    draws = draws_of(noise_key)
    attacked = climb(draws, num_steps=3, step=0.2, radius=None)
    scores = scores_of(IMAGES, draws)
    mean = special.softmax(scores, axis=-1).mean(axis=1)
    share = np.asarray(jax.random.uniform(mix_key, (4, 1), jnp.float32, 0, 0.5), np.float64)
    mixed = special.softmax(scores_of((1 - share) * IMAGES + share * attacked, draws), axis=-1)
    target = ((1 - share) * mean + share / 3)[:, None]
    terms = special.rel_entr(target, mixed).sum(axis=2).mean(axis=1)
    is_right = mean.argmax(axis=1) == LABELS
    assert 0 < is_right.sum() < 4
    divergence = np.where(is_right, terms, 0).mean()
    np.testing.assert_allclose(metrics["divergence"], divergence, rtol=1e-3)
    np.testing.assert_allclose(found, cross_entropy(scores) + 2.0 * divergence, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_noise_is_needed_and_settings_are_checked(name, key):
    arguments = (key, linear(WEIGHTS), jnp.asarray(IMAGES), jnp.asarray(LABELS))
    with pytest.raises(ValueError, match="noise must be given"):
        LOSSES[name](*arguments, noise=None)
    with pytest.raises(ValueError, match=r"noise.scale must be a scalar or of shape \(4,\)"):
        LOSSES[name](*arguments, noise=smoothing.gaussian([0.1, 0.2]))
    setting = {"smooth_adv": "num_samples"}.get(name, "weight")
    with pytest.raises(ValueError, match=f"{setting} must"):
        LOSSES[name](*arguments, noise=EACH, **{setting: 0})
    if name == "smooth_adv":
        for radius, words in ((-1.0, "radius must be finite and above 0"), ([1.0, 2.0], "one num")):
            with pytest.raises(ValueError, match=words):
                training.smooth_adv_loss(*arguments, noise=EACH, radius=radius)


class Normalized(nnx.Module):
    """With batch statistics, which an attack must neither use nor change."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.second = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.second(jax.nn.relu(self.norm(self.first(x))))


def test_only_the_loss_updates_batch_statistics(key):
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    structure, state = nnx.split(Normalized())

    @jax.jit
    def means(state):
        trained = nnx.merge(structure, state)
        trained.train()
        training.smooth_adv_loss(
            key, trained, images, labels, noise=EACH, radius=0.1, num_samples=2, attack_steps=1
        )
        # The same update, from the points where the attack of the network as it was has ended.
        fresh = nnx.merge(structure, state)
        fresh.train()
        drawn = _noisy_scores.draw_noise(
            jax.random.fold_in(key, 0), images, noise=EACH, num_samples=2
        )
        attacked = _noisy_scores.ascend(
            jax.random.fold_in(key, 1), nnx.merge(structure, state), images, labels, drawn,
            num_steps=1, step_size=jnp.float32(0.2), radius=jnp.float32(0.1),
        )  # fmt: skip
        fresh((attacked[:, None] + drawn).reshape(-1, 5))
        return trained.norm.mean[...], fresh.norm.mean[...]

    found, expected = means(state)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert np.any(found != 0)
