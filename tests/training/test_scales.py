"""Noise of its own for each image: carried from epoch to epoch, resumed, and adapted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import data, models, smoothing, training


def grow(key, classify, images, scales, *, factor=1.25):
    """Counts the visits of an image in its scale."""
    return factor * scales


def bright_or_dark():
    generator = np.random.default_rng(0)
    labels = np.arange(30, dtype=np.int32) % 2
    images = 0.25 + 0.5 * labels[:, None] + generator.uniform(-0.1, 0.1, (30, 6))
    return data.Dataset(images.astype(np.float32), labels, "brightness", "train", 2)


def run(**changed):
    network = models.MLP(
        input_shape=(6,), num_classes=2, mean=0.5, std=0.3, hidden=(4,), rngs=nnx.Rngs(0)
    )
    settings = {
        "noise": smoothing.gaussian(0.25),
        "num_epochs": 3,
        "batch_size": 8,
        "learning_rate": 0.02,
        "adapt": grow,
        "progress": False,
    } | changed
    result = training.train(jax.random.key(7), network, bright_or_dark(), **settings)
    return network, result


def spread(key, classify, images, labels, *, noise):
    """Reports the scales that it was handed."""
    loss, _ = training.cross_entropy(key, classify, images, labels, noise=noise)
    return loss, {"handed": noise.scale.mean(), "number": noise.scale.size}


def test_every_visit_of_an_image_moves_its_own_scale_and_the_loss_draws_at_it():
    _, result = run(loss=spread)
    # 24 of 30 images are visited in each of three epochs.
    visits = np.log(result.noise_scales / 0.25) / np.log(1.25)
    np.testing.assert_allclose(visits, np.round(visits), atol=1e-4)
    assert np.round(visits).sum() == 72
    assert set(np.round(visits)) == {1, 2, 3} or set(np.round(visits)) == {2, 3}
    for epoch in result.history:
        assert epoch["number"] == 8
        np.testing.assert_allclose(epoch["handed"], epoch["noise_scale"], rtol=1e-5)
    np.testing.assert_allclose(result.history[0]["handed"], 0.25 * 1.25, rtol=1e-5)
    assert result.history[2]["handed"] > result.history[1]["handed"] > 0.25 * 1.25


def test_scales_wait_for_their_epoch():
    _, result = run(adapt_after=2)
    visits = np.log(result.noise_scales / 0.25) / np.log(1.25)
    assert np.sum(np.isclose(visits, 1, atol=1e-4)) == 24
    assert np.sum(np.isclose(visits, 0, atol=1e-4)) == 6
    # With one scale and nothing that adapts there is nothing to report.
    assert run(adapt=None)[1].noise_scales is None


class ProcessEndError(Exception):
    """Stands for a process that ends."""


def test_a_resumed_run_has_the_same_scales_and_weights(tmp_path, monkeypatch):
    network, expected = run(checkpoint_dir=tmp_path / "whole")
    write = training._train._Checkpoints.write

    def write_and_end(self, state, history):
        write(self, state, history)
        if len(history) == 2:
            raise ProcessEndError

    with monkeypatch.context() as patch:
        patch.setattr(training._train._Checkpoints, "write", write_and_end)
        with pytest.raises(ProcessEndError):
            run(checkpoint_dir=tmp_path / "ended")
    again, result = run(checkpoint_dir=tmp_path / "ended")
    np.testing.assert_array_equal(result.noise_scales, expected.noise_scales)
    first, second = (models.fingerprint(models.from_nnx(one)) for one in (again, network))
    assert first == second
    with pytest.raises(ValueError, match=r"adapt was .*grow and is now .*factor=2.0"):
        run(checkpoint_dir=tmp_path / "ended", adapt=functools.partial(grow, factor=2.0))
    with pytest.raises(ValueError, match="adapt_after was 0 and is now 1"):
        run(checkpoint_dir=tmp_path / "ended", adapt_after=1)


def test_adapted_sigmas_climb_within_their_bounds(key):
    def edge(images):  # class 1 above 0.5
        return jnp.stack([-20 * (images[:, 0] - 0.5), 20 * (images[:, 0] - 0.5)], axis=1)

    images, start = jnp.array([[0.7], [2.0]]), jnp.full(2, 0.25)

    @jax.jit
    def adapted(learning_rate):
        return training.adapt_sigma(
            key, jax.tree_util.Partial(edge), images, start, smallest=0.1, largest=0.5,
            num_steps=3, num_samples=256, learning_rate=learning_rate,
        )  # fmt: skip

    found = adapted(0.02)
    # Far from the edge a larger sigma proves more; near it nothing is gained.
    assert 0.26 < found[1] < 0.5
    assert abs(found[0] - 0.25) < found[1] - 0.25
    assert adapted(10.0)[1] == 0.5


def test_training_with_sigmas_that_adapt():
    """The loop of data-dependent training: any loss, and the sigma of each image beside it."""
    _, result = run(
        loss=training.consistency_loss,
        adapt=functools.partial(
            training.adapt_sigma, smallest=0.1, largest=0.3, num_samples=16, learning_rate=0.005
        ),
        num_epochs=12,
        learning_rate=0.05,
    )
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert np.unique(result.noise_scales).size > 20
    assert result.noise_scales.min() >= 0.1
    assert result.noise_scales.max() <= 0.3


def test_noise_to_begin_with_is_needed():
    with pytest.raises(ValueError, match="noise must be given with adapt"):
        run(noise=None)
    with pytest.raises(ValueError, match="noise on a grid has one scale"):
        run(noise=smoothing.discrete_gaussian(0.25))
    with pytest.raises(ValueError, match="adapt_after must lie in"):
        run(adapt_after=-1)
