"""Margin losses in closed form, by finite differences, and in a step of training."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxcert import models, training

SCORES = np.array([[2.0, 0.5, -1.0], [0.3, 0.4, 0.0], [-1.0, 2.0, 1.9]])
LABELS = np.array([0, 0, 1])
ROOT = math.sqrt(2.0)


def cross_entropy(scores, label):
    return np.log(np.sum(np.exp(scores - scores[label])))


def value(loss, scores=SCORES, labels=LABELS, **settings):
    result, metrics = loss(
        jax.random.key(0), lambda x: x, jnp.asarray(scores, jnp.float32), jnp.asarray(labels),
        noise=None, **settings,
    )  # fmt: skip
    return float(result), {name: float(number) for name, number in metrics.items()}


def raised(row, label, amount):
    return row + np.where(np.arange(3) == label, 0.0, amount)


def test_margin_loss_raises_every_rival():
    expected = np.mean(
        [cross_entropy(raised(r, y, 0.7 * ROOT), y) for r, y in zip(SCORES, LABELS, strict=True)]
    )
    got, metrics = value(training.margin_loss, radius=0.7)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], 2 / 3, rtol=1e-6)
    # Margins 1.5, -0.1 and 0.1 against 0.7 sqrt(2) = 0.99.
    np.testing.assert_allclose(metrics["certified_estimate"], 1 / 3, rtol=1e-6)


def test_gloro_adds_the_class_of_what_is_not_robust():
    losses = []
    for row, label in zip(SCORES, LABELS, strict=True):
        top = int(np.argmax(row))
        bottom = max(row[j] + 0.7 * ROOT for j in range(3) if j != top)
        losses.append(cross_entropy(np.append(row, bottom), label))
    np.testing.assert_allclose(
        value(training.gloro_loss, radius=0.7)[0], np.mean(losses), rtol=1e-6
    )


def test_emma_raises_a_rival_no_further_than_to_a_tie():
    losses = []
    for row, label in zip(SCORES, LABELS, strict=True):
        effective = np.clip((row[label] - row) / (0.7 * ROOT), 0.01, 1.0)
        losses.append(cross_entropy(raised(row, label, effective * 0.7 * ROOT), label))
    got, _ = value(training.emma_loss, radius=0.7)
    np.testing.assert_allclose(got, np.mean(losses), rtol=1e-6)
    # No more than the plain margin loss, and equal to it where all rivals are far away.
    assert got < value(training.margin_loss, radius=0.7)[0]
    far = [[9.0, 0.0, 1.0]]
    plain = value(training.margin_loss, far, [0], radius=0.7)[0]
    np.testing.assert_allclose(value(training.emma_loss, far, [0], radius=0.7)[0], plain, rtol=1e-5)


def test_effective_margin_of_emma_is_a_constant_to_differentiation():
    def loss(scores):
        return training.emma_loss(
            jax.random.key(0), lambda x: x, scores, jnp.array([0]), noise=None, radius=0.7
        )[0]

    slope = jax.grad(loss)(jnp.array([[0.3, 0.1]]))
    # At a tie of two classes the gradient is that of the cross-entropy, -1/2 and 1/2.
    np.testing.assert_allclose(slope, [[-0.5, 0.5]], atol=1e-5)


def test_offset_and_annealed_losses():
    def lowered(row, label, offset, temperature):
        return (row - offset * (np.arange(3) == label)) / temperature

    pairs = list(zip(SCORES, LABELS, strict=True))
    offset = np.mean([0.3 * cross_entropy(lowered(r, y, 1.2, 0.3), y) for r, y in pairs])
    got, _ = value(training.offset_loss, offset=1.2, temperature=0.3)
    np.testing.assert_allclose(got, offset, rtol=1e-5)
    entropies = np.array([cross_entropy(lowered(r, y, 2.0, 0.75), y) for r, y in pairs])
    annealed = np.mean(0.75 * (1 - np.exp(-entropies)) ** 5.0 * entropies)
    np.testing.assert_allclose(value(training.logit_annealing_loss)[0], annealed, rtol=1e-5)
    # What is classified with a large margin hardly counts any more.
    easy = [[30.0, 0.0, 0.0]]
    assert value(training.logit_annealing_loss, easy, [0])[0] < 1e-12


LOSSES = {
    "margin": functools.partial(training.margin_loss, radius=0.3),
    "gloro": functools.partial(training.gloro_loss, radius=0.3),
    "emma": functools.partial(training.emma_loss, radius=0.3),
    "offset": training.offset_loss,
    "annealing": training.logit_annealing_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_and_fall_when_the_label_rises(name):
    def loss(scores):
        return LOSSES[name](
            jax.random.key(0), lambda x: x, scores, jnp.asarray(LABELS), noise=None
        )[0]

    for scores in (SCORES, np.zeros((3, 3)), 1e3 * SCORES):
        result, slope = jax.value_and_grad(loss)(jnp.asarray(scores, jnp.float32))
        assert np.isfinite(result)
        assert np.isfinite(slope).all()
    slope = np.asarray(jax.grad(loss)(jnp.asarray(SCORES, jnp.float32)))
    assert (slope[np.arange(3), LABELS] < 0).all()


def test_a_network_gives_its_own_constants_and_learns():
    network = models.LipschitzMLP(
        input_shape=(4,), num_classes=3, mean=0.0, std=0.5, family="sll", width=6, depth=2,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    constants = np.asarray(network.pairwise_lipschitz_estimate())
    weight = np.asarray(network.head.weight())
    expected = 2.0 * np.linalg.norm(weight[:, 0] - weight[:, 1])
    np.testing.assert_allclose(constants[0, 1], expected, rtol=1e-5)
    assert np.all(constants <= network.pairwise_lipschitz_upper() * (1 + 1e-5) + 1e-5)
    generator = np.random.default_rng(0)
    labels = jnp.asarray(generator.integers(0, 3, size=32))
    images = jnp.asarray(generator.normal(size=(32, 4)) * 0.2 + np.eye(3, 4)[labels], jnp.float32)
    optimizer = optax.adam(1e-2)
    structure, state = training.start(network, optimizer=optimizer)
    step = jax.jit(
        training.make_step(structure, optimizer=optimizer, loss=LOSSES["emma"], noise=None)
    )
    history = []
    for index in range(60):
        state, metrics = step(state, jax.random.key(index), images, labels)
        history.append(metrics)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["certified_estimate"] > history[0]["certified_estimate"] + 0.2


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="radius must be finite and above 0"):
        value(training.emma_loss, radius=0.0)
    with pytest.raises(ValueError, match="temperature must be finite and above 0"):
        value(training.offset_loss, temperature=-1.0)
