"""Random changes of training images that keep their labels, made before noise is added."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcert import _checks

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def shift_randomly(key: jax.Array, images: jax.Array, *, pixels: int) -> jax.Array:
    """Move each image by a random number of pixels up or down and left or right.

    Args:
      key: a typed key; row j uses `fold_in(key, j)`.
      images: `[n, height, width, channels]`.
      pixels: the largest shift; each shift from `-pixels` to `pixels` is equally likely, one for
        each axis.

    Returns:
      `[n, height, width, channels]`, with zeros where nothing moved in.

    Raises:
      ValueError: if `images` has another rank or `pixels` is below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> training.shift_randomly(jax.random.key(0), jnp.ones((5, 8, 8, 1)), pixels=2).shape
      (5, 8, 8, 1)
    """
    pixels = _checks.positive_integer("pixels", pixels)
    _check_rank(images)
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))

    def crop(row: jax.Array, image: jax.Array) -> jax.Array:
        place = jax.random.randint(jax.random.fold_in(key, row), (2,), 0, 2 * pixels + 1)
        return jax.lax.dynamic_slice(image, (place[0], place[1], 0), images.shape[1:])

    return jax.vmap(crop)(jnp.arange(images.shape[0]), padded)


def flip_randomly(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability one half.

    Args:
      key: a typed key.
      images: `[n, height, width, channels]`.

    Returns:
      `[n, height, width, channels]`.

    Raises:
      ValueError: if `images` has another rank.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> training.flip_randomly(jax.random.key(0), jnp.ones((5, 8, 8, 3))).shape
      (5, 8, 8, 3)
    """
    _check_rank(images)
    chosen = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images)


def _check_rank(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be [n, height, width, channels], got shape {images.shape}")
