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
LABELS = np.array([0, 2, 1, 1])
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


def evaluate(loss, key, *, weights=WEIGHTS, noise=EACH):
    """Loss, metrics and the gradient of the weights."""

    def value(weights):
        found, metrics = loss(
            key,
            linear(weights),
            jnp.asarray(IMAGES),
            jnp.asarray(LABELS),
            noise=noise,
        )
        return found, metrics

    return jax.jit(jax.value_and_grad(value, has_aux=True))(jnp.asarray(weights, jnp.float32))


def draws_of(key, num_samples, noise=EACH):
    drawn = _noisy_scores.draw_noise(key, jnp.asarray(IMAGES), noise=noise, num_samples=num_samples)
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
    np.testing.assert_allclose(draws_of(key, 3), SIGMAS[:, None, None] * unit, rtol=1e-6)
    assert np.unique(unit).size == unit.size
    one_scale = draws_of(key, 3, smoothing.gaussian(0.25))
    np.testing.assert_allclose(one_scale, 0.25 * unit, rtol=1e-6)


def test_plain_augmentation_takes_a_scale_of_each_image_too(key):
    unit = training.add_noise(key, jnp.zeros((4, 5)), noise=smoothing.gaussian(1.0))
    found = training.add_noise(key, jnp.asarray(IMAGES), noise=EACH)
    np.testing.assert_allclose(found, IMAGES + SIGMAS[:, None] * unit, rtol=1e-5, atol=1e-6)


def test_smooth_adv_is_the_cross_entropy_where_the_attack_ends(key):
    loss = functools.partial(training.smooth_adv_loss, radius=0.3, num_samples=6, attack_steps=5)
    (found, metrics), _ = evaluate(loss, key)
    draws = draws_of(jax.random.fold_in(key, 0), 6)
    attacked = climb(draws, num_steps=5, step=2 * 0.3 / 5, radius=0.3)
    scores = scores_of(attacked, draws)
    np.testing.assert_allclose(found, cross_entropy(scores), rtol=1e-4)
    right = scores.argmax(axis=-1) == LABELS[:, None]
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)
    # It is an attack: harder than the images, and a longer reach is harder still.
    assert found > 1.05 * cross_entropy(scores_of(IMAGES, draws))
    (further, _), _ = evaluate(functools.partial(loss, radius=0.6), key)
    assert further > found


def test_the_attack_stays_in_ball_and_box(key):
    draws = jnp.asarray(draws_of(key, 2), jnp.float32)
    for radius in (None, 0.25):
        points = _noisy_scores.ascend(
            key, linear(WEIGHTS), jnp.asarray(IMAGES), jnp.asarray(LABELS), draws,
            num_steps=3, step_size=jnp.float32(1.0), radius=radius,
        )  # fmt: skip
        assert points.min() >= 0
        assert points.max() <= 1
        lengths = np.linalg.norm(np.asarray(points) - IMAGES, axis=1)
        if radius is None:
            assert lengths.max() > 0.25
        else:
            assert lengths.max() <= 0.25 * (1 + 1e-5)
    # A flat network gives no direction, so that one is drawn.
    points = _noisy_scores.ascend(
        key, linear(0 * WEIGHTS), jnp.asarray(IMAGES), jnp.asarray(LABELS), draws,
        num_steps=1, step_size=jnp.float32(0.05), radius=0.25,
    )  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(points - IMAGES, axis=1), 0.05, rtol=1e-4)


def test_macer_in_closed_form(key):
    loss = functools.partial(
        training.macer_loss, num_samples=40, weight=3.0, margin=2.0, temperature=1.5
    )
    (found, metrics), _ = evaluate(loss, key)
    scores = scores_of(IMAGES, draws_of(key, 40))
    soft = special.softmax(scores, axis=-1).mean(axis=1)
    sharp = special.softmax(1.5 * scores, axis=-1).mean(axis=1)
    second, first = np.sort(sharp, axis=1)[:, -2:].T
    gaps = stats.norm.ppf(first) - stats.norm.ppf(second)
    counts = (sharp.argmax(axis=1) == LABELS) & (np.abs(gaps) <= 2)
    # The images cover both cases.
    assert 0 < counts.sum() < 4
    hinges = np.where(counts, SIGMAS / 2 * (2.0 - gaps), 0)
    expected = (-np.log(soft[np.arange(4), LABELS] + 1e-10) + 3.0 * hinges).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    radius = (SIGMAS / 2 * gaps)[counts].mean()
    np.testing.assert_allclose(metrics["soft_radius"], radius, rtol=1e-4)


def test_macer_has_a_finite_gradient_where_predictions_are_certain(key):
    (found, _), gradient = evaluate(training.macer_loss, key, weights=100 * WEIGHTS)
    assert np.isfinite(found)
    assert np.isfinite(gradient).all()
    with pytest.raises(ValueError, match="noise must be Gaussian"):
        evaluate(training.macer_loss, key, noise=smoothing.uniform(0.5))


def test_consistency_in_closed_form(key):
    loss = functools.partial(
        training.consistency_loss, num_samples=3, weight=7.0, entropy_weight=0.25
    )
    (found, metrics), _ = evaluate(loss, key)
    scores = scores_of(IMAGES, draws_of(key, 3))
    each = special.softmax(scores, axis=-1)
    mean = each.mean(axis=1)
    divergence = special.rel_entr(mean[:, None], each).sum(axis=2).mean()
    entropy = special.entr(mean).sum(axis=1).mean()
    expected = cross_entropy(scores) + 7.0 * divergence + 0.25 * entropy
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["divergence"], divergence, rtol=1e-4)


def test_stability_in_closed_form(key):
    (found, metrics), _ = evaluate(functools.partial(training.stability_loss, weight=4.0), key)
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
    (found, metrics), _ = evaluate(loss, key)
    noise_key, _, mix_key = (jax.random.fold_in(key, stage) for stage in range(3))
    draws = draws_of(noise_key, 3)
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
    network = Normalized()
    network.train()

    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    training.smooth_adv_loss(
        key, network, images, labels, noise=EACH, radius=0.1, num_samples=2, attack_steps=2
    )
    after_attack = np.asarray(network.norm.mean[...])
    # The same update, from the points where the attack of the network as it was has ended.
    other = Normalized()
    other.train()
    draws = _noisy_scores.draw_noise(jax.random.fold_in(key, 0), images, noise=EACH, num_samples=2)
    attacked = _noisy_scores.ascend(
        jax.random.fold_in(key, 1), Normalized(), images, labels, draws,
        num_steps=2, step_size=jnp.float32(0.1), radius=jnp.float32(0.1),
    )  # fmt: skip
    other((attacked[:, None] + draws).reshape(-1, 5))
    np.testing.assert_allclose(after_attack, other.norm.mean[...], rtol=1e-5, atol=1e-7)
    assert np.any(after_attack != 0)
