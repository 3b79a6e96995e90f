"""Random shifts and flips."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import training


def test_shift_moves_each_image_as_a_whole(key):
    images = np.zeros((400, 7, 7, 1), np.float32)
    images[:, 3, 3] = 1.0
    shifted = np.asarray(training.shift_randomly(key, images, pixels=2))
    assert shifted.shape == images.shape
    np.testing.assert_array_equal(shifted.sum(axis=(1, 2, 3)), 1.0)
    _, rows, columns, _ = np.nonzero(shifted)
    # 400 draws miss one of 25 places with probability below 25 exp(-16) = 3e-6.
    assert {*zip(rows.tolist(), columns.tolist(), strict=True)} == {
        (row, column) for row in range(1, 6) for column in range(1, 6)
    }


def test_what_moves_out_is_lost_and_zeros_come_in(key):
    shifted = np.asarray(training.shift_randomly(key, jnp.ones((50, 4, 5, 2)), pixels=1))
    assert set(np.unique(shifted)) == {0.0, 1.0}
    # A shift along one axis loses 5 or 4 of 20 pixels, along both 8.
    assert set(np.unique(shifted[..., 0].sum(axis=(1, 2)))) == {20.0, 15.0, 16.0, 12.0}


def test_flip_mirrors_about_half(key):
    images = jax.random.uniform(key, (200, 2, 3, 1))
    flipped = np.asarray(training.flip_randomly(key, images))
    same = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    # Five standard deviations of a fair coin: false alarms below 1e-6.
    assert abs(int(mirrored.sum()) - 100) < 5 * np.sqrt(50)


@pytest.mark.parametrize(
    "augment",
    [training.flip_randomly, functools.partial(training.shift_randomly, pixels=1)],
)
def test_images_need_four_axes(key, augment):
    with pytest.raises(ValueError, match="height, width, channels"):
        augment(key, jnp.ones((4, 3)))
