"""Noise of its own for each training image, carried from epoch to epoch."""

from collections.abc import Callable
from typing import Protocol

import jax

from jaxcert.smoothing import optimize_sigma


class ScaleUpdate(Protocol):
    """From the scales of the noise of a batch to those of the next step on it."""

    def __call__(
        self,
        key: jax.Array,
        classify: Callable[[jax.Array], jax.Array],
        images: jax.Array,
        scales: jax.Array,
    ) -> jax.Array:
        """Change the scales; pure, traced once.

        Args:
          key: this step's own key for this use.
          classify: the network in evaluation mode, a constant to gradients.
          images: `[n, *shape]` in pixel units, without noise.
          scales: float32 `[n]`, above 0.

        Returns:
          float32 `[n]`, above 0.
        """
        ...


def adapt_sigma(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    scales: jax.Array,
    *,
    smallest: float,
    largest: float,
    num_steps: int = 1,
    num_samples: int = 8,
    learning_rate: float = 0.01,
) -> jax.Array:
    """Move each sigma a little up the softly smoothed radius of its image: a `ScaleUpdate`.

    The steps of `smoothing.optimize_sigma` from where the last epoch left each sigma. With
    Gaussian noise and any loss this is data-dependent training; the classifier still needs
    certifying, by `smoothing.certify_with_memory` if the sigma of each input is its own there too.

    Args:
      key: this step's key for this use.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      scales: sigma of each image, float32 `[n]`.
      smallest: the least sigma, above 0.
      largest: the largest sigma, at least that of the noise that training begins with.
      num_steps: steps of the ascent.
      num_samples: draws of noise for each image in each step.
      learning_rate: of the ascent.

    Returns:
      float32 `[n]` within `smallest` and `largest`.

    Raises:
      ValueError: if a setting is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> def classify(x):  # class 1 on [-1, 1]
      ...     return jnp.stack([20 * x[:, 0] ** 2, 20 * jnp.ones(len(x))], axis=1)
      >>> before = jnp.array([0.25, 0.25])
      >>> after = training.adapt_sigma(jax.random.key(0), classify, jnp.array([[-0.9], [3.0]]),
      ...                              before, smallest=0.1, largest=0.5, num_samples=100)
      >>> after > before
      Array([False,  True], dtype=bool)

    References:
      Alfarra, Bibi, Torr, Ghanem, "Data Dependent Randomized Smoothing", 2022, arXiv:2012.04351.
    """
    return optimize_sigma(
        key, classify, images, initial_sigma=scales, num_steps=num_steps, num_samples=num_samples,
        learning_rate=learning_rate, bounds=(smallest, largest), keep_better=False,
    )  # fmt: skip
