"""Losses of a batch, and what they are evaluated on."""

from collections.abc import Callable
from typing import Protocol

import chex
import jax
import jax.numpy as jnp
import optax

from jaxcert.smoothing import Noise


class Loss(Protocol):
    """A training scheme: from a batch to the scalar that is minimised, and metrics to report."""

    def __call__(
        self,
        key: jax.Array,
        classify: Callable[[jax.Array], jax.Array],
        images: jax.Array,
        labels: jax.Array,
        *,
        noise: Noise | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Evaluate the loss of one batch; pure, traced once.

        Args:
          key: this step's own key; fold it for each further use.
          classify: from `[n, *shape]` to scores `[n, classes]`; the network in training mode.
          images: `[n, *shape]` in pixel units, without noise.
          labels: int32 `[n]`.
          noise: what the network is to withstand, or None; of one scale, or of one an image where
            `train` adapts them.

        Returns:
          The loss to be minimised and the metrics, scalars that are averaged over each epoch.
        """
        ...


def add_noise(key: jax.Array, images: jax.Array, *, noise: Noise | None) -> jax.Array:
    """Add noise to each image with a key of its own, `fold_in(key, row)`.

    Args:
      key: a typed key.
      images: `[n, *shape]`.
      noise: a `Noise` of one scale or one an image, or None to return the images as they are.

    Returns:
      `[n, *shape]`, not clipped: the certificate is about unclipped noise.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing, training
      >>> images = jnp.zeros((5, 8, 8, 1))
      >>> training.add_noise(jax.random.key(0), images, noise=smoothing.gaussian(0.25)).shape
      (5, 8, 8, 1)
    """
    if noise is None:
        return images
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(images.shape[0]))
    return images + noise.sample(keys, images.shape[1:])


def cross_entropy(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Mean cross-entropy on one noisy copy of each image, the training of Cohen et al.

    .. math::
        -\frac{1}{n} \sum_j \log \mathrm{softmax}(f(x_j + \varepsilon_j))_{y_j}

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image; None for clean training.

    Returns:
      The loss and the metric `accuracy`, on the noisy copies.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> loss, metrics = training.cross_entropy(
      ...     jax.random.key(0), lambda x: x, jnp.eye(3), jnp.array([0, 1, 0]), noise=None)
      >>> float(metrics["accuracy"].round(3))
      0.667

    References:
      Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
      arXiv:1902.02918, section 3.3.
    """
    scores = classify(add_noise(key, images, noise=noise))
    chex.assert_rank([scores, labels], [2, 1])
    chex.assert_equal_shape_prefix([scores, labels], 1)
    loss = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
    return loss, {"accuracy": (scores.argmax(axis=-1) == labels).mean()}
