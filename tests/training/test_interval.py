"""Interval losses: their limits, their ramps, and what they make of a network on real digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxcert import data, lipschitz, models, smoothing, training
from jaxcert.lipschitz import Dense, Relu

EPSILON = 0.05


def small_layers():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]), jnp.float32)

    return [Dense(draw(8, 6), draw(8)), Relu(), Dense(draw(3, 8), draw(3))]


LAYERS = small_layers()
IMAGES = np.random.default_rng(1).uniform(size=(5, 6)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1])


def cross_entropy(scores):
    return optax.softmax_cross_entropy_with_integer_labels(scores, LABELS).mean()


@functools.cache
def compiled(loss, *static):
    """One program for each loss, whatever the radius and the mixture."""
    chosen = functools.partial(loss, noise=None, **dict(static))
    return jax.jit(lambda key, traced: chosen(key, LAYERS, IMAGES, LABELS, **traced))


def evaluate(loss, key, *, share=None, **traced):
    static = [] if loss is training.ibp_loss else [("attack_steps", 3)]
    static += [] if share is None else [("share", share)]
    return compiled(loss, *static)(key, traced)


def test_without_a_radius_every_loss_is_the_cross_entropy(key):
    expected = cross_entropy(lipschitz.apply_layers(LAYERS, IMAGES))
    for loss, settings in (
        (training.ibp_loss, {"clean_weight": 0.25}),
        (training.sabr_loss, {"share": 0.2}),
        (training.cc_ibp_loss, {"mixing": 0.4}),
        (training.mtl_ibp_loss, {"mixing": 0.4}),
    ):
        value, _ = evaluate(loss, key, epsilon=0.0, **settings)
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_losses_in_closed_form_and_in_order(key):
    region = lipschitz.ball(IMAGES, EPSILON, box=(0.0, 1.0))
    margins = lipschitz.margin_lower(LAYERS, region, LABELS, method="interval")
    worst = jnp.where(jnp.isinf(margins), 0.0, -margins)
    clean = cross_entropy(lipschitz.apply_layers(LAYERS, IMAGES))
    ibp, metrics = evaluate(training.ibp_loss, key, epsilon=EPSILON, clean_weight=0.25)
    np.testing.assert_allclose(ibp, 0.25 * clean + 0.75 * cross_entropy(worst), rtol=1e-5)
    certain = np.all(np.asarray(margins) > 0, axis=1)
    np.testing.assert_allclose(metrics["interval_accuracy"], certain.mean())
    full, _ = evaluate(training.ibp_loss, key, epsilon=EPSILON, clean_weight=0.0)
    settings = {"epsilon": EPSILON}
    sabr = [evaluate(training.sabr_loss, key, share=share, **settings)[0] for share in (0.2, 1.0)]
    np.testing.assert_allclose(sabr[1], full, rtol=1e-4)
    assert clean < sabr[0] < full
    for loss in (training.cc_ibp_loss, training.mtl_ibp_loss):
        adversarial, middle, interval = (
            evaluate(loss, key, mixing=mixing, **settings)[0] for mixing in (0.0, 0.5, 1.0)
        )
        np.testing.assert_allclose(interval, full, rtol=1e-4)
        assert clean < adversarial < middle < full
        if loss is training.mtl_ibp_loss:
            np.testing.assert_allclose(middle, (adversarial + interval) / 2, rtol=1e-5)
        else:  # cross-entropy is convex in the scores
            assert middle <= (adversarial + interval) / 2 + 1e-6


def test_losses_take_noise_and_stay_in_the_box(key):
    noise = smoothing.gaussian(0.5)
    value, _ = training.ibp_loss(key, LAYERS, IMAGES, LABELS, noise=noise, epsilon=EPSILON)
    noisy = np.clip(training.add_noise(key, jnp.asarray(IMAGES), noise=noise), 0, 1)
    expected, _ = training.ibp_loss(key, LAYERS, noisy, LABELS, noise=None, epsilon=EPSILON)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_smooth_ramp():
    steps = np.arange(0, 150)
    ramp = jax.vmap(functools.partial(training.smooth_ramp, begin=20, length=100, final=0.3))
    values = np.asarray(ramp(steps), float)
    assert np.all(values[:21] == 0)
    np.testing.assert_allclose(values[120:], 0.3, rtol=1e-6)
    rises = np.diff(values[20:121])
    assert np.all(rises > 0)
    # A quartic first quarter that goes over into a line without a kink.
    np.testing.assert_allclose(rises[30:], rises[50], rtol=1e-3)
    np.testing.assert_allclose(values[30] / values[25], 16.0, rtol=1e-3)
    assert rises[25] < 1.01 * rises[50]


@pytest.mark.parametrize("kind", ["mlp", "lenet"])
def test_layers_of_a_network_answer_as_it_does(kind):
    settings = {"num_classes": 4, "mean": (0.3, 0.5), "std": (0.4, 0.2), "rngs": nnx.Rngs(0)}
    shape = (6, 5, 2) if kind == "mlp" else (10, 10, 2)
    network = (
        models.MLP(input_shape=shape, hidden=(7,), **settings)
        if kind == "mlp"
        else models.LeNet(input_shape=shape, channels=(3, 4), hidden=6, padding=1, **settings)
    )
    images = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(
        lipschitz.apply_layers(training.interval_layers(network), images), network(images),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_unknown_networks_and_settings_are_named(key):
    with pytest.raises(TypeError, match=r"network must be a models.MLP"):
        training.interval_layers(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        evaluate(training.sabr_loss, key, epsilon=0.1, share=1.5)
    with pytest.raises(ValueError, match="length must lie in"):
        training.smooth_ramp(0, begin=0, length=0, final=1.0)


def train(loss, key, steps=250):
    """Train a small network on real digits with a ramp of epsilon; give its layers."""
    digits = data.load("digits", "train")
    network = models.MLP(
        input_shape=(8, 8, 1), num_classes=10, mean=0.3, std=0.4, hidden=(32,), rngs=nnx.Rngs(0)
    )
    optimizer = optax.adam(5e-3)
    graph, state = training.start(network, optimizer=optimizer)

    @jax.jit
    def step(state, key, index, images, labels):
        epsilon = training.smooth_ramp(index, begin=20, length=steps // 2, final=EPSILON)
        run = training.make_step(
            graph, optimizer=optimizer, loss=functools.partial(loss, epsilon=epsilon), noise=None
        )
        return run(state, key, images, labels)

    rng = np.random.default_rng(0)
    for index in range(steps):
        rows = rng.integers(0, len(digits.labels), 64)
        state, metrics = step(
            state, jax.random.fold_in(key, index), index, digits.images[rows], digits.labels[rows]
        )
    assert np.isfinite(float(metrics["loss"]))
    return training.interval_layers(nnx.merge(graph, state.parameters, state.variables))


def verified_accuracy(layers):
    digits = data.load("digits", "test")
    region = lipschitz.ball(digits.images, EPSILON, box=(0.0, 1.0))
    margins = jax.jit(functools.partial(lipschitz.margin_lower, method="interval"))(
        layers, region, digits.labels
    )
    right = lipschitz.apply_layers(layers, digits.images).argmax(axis=1) == digits.labels
    return float(np.mean(np.min(margins, axis=1) > 0)), float(np.mean(right))


def plain_loss(key, classify, images, labels, *, noise, epsilon):
    return training.cross_entropy(key, classify, images, labels, noise=noise)


def test_interval_training_makes_a_network_verifiable(key):
    verified, clean = verified_accuracy(train(plain_loss, key))
    assert clean > 0.9
    assert verified < 0.2
    verified, clean = verified_accuracy(train(training.ibp_loss, key))
    assert clean > 0.85
    assert verified > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "settings", "least"),
    [
        (training.sabr_loss, {"share": 0.4}, 0.5),
        (training.cc_ibp_loss, {"mixing": 0.3}, 0.5),
        (training.mtl_ibp_loss, {"mixing": 0.3}, 0.5),
    ],
)
def test_expressive_losses_make_a_network_verifiable(loss, settings, least, key):
    chosen = functools.partial(loss, attack_steps=3, **settings)
    verified, clean = verified_accuracy(train(chosen, key))
    assert clean > 0.9
    assert verified > least
