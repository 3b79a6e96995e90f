"""Stability training: the same prediction with noise as without."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._noisy_scores import accuracy, draw_noise, noisy_scores


def stability_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    weight: float = 2.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy on clean images, and cross-entropy from the clean to the noisy prediction.

    .. math::
        \frac{1}{n} \sum_j \mathrm{CE}(F(x_j), y_j) + \lambda \,
        \mathrm{CE}\bigl(F(x_j + \varepsilon_j), F(x_j)\bigr), \qquad F = \mathrm{softmax}(f)

    where the second term is :math:`-\sum_c F_c(x_j) \log F_c(x_j + \varepsilon_j)`; the gradient
    goes through both of its predictions.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image in the second term, one scale or one an image.
      weight: lambda.

    Returns:
      The loss and the metrics `accuracy`, on the noisy copies, and `clean_accuracy`.

    Raises:
      ValueError: if `noise` is None, or `weight` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing, training
      >>> constant = lambda x: jnp.zeros((len(x), 4))
      >>> loss, _ = training.stability_loss(
      ...     jax.random.key(0), constant, jnp.eye(3), jnp.array([0, 1, 0]),
      ...     noise=smoothing.gaussian(1.0))
      >>> float(loss.round(4))  # 3 log 4
      4.1589

    References:
      Li, Chen, Wang, Carin, "Certified Adversarial Robustness with Additive Noise", 2019,
      arXiv:1809.03113. Zheng, Song, Leung, Goodfellow, "Improving the Robustness of Deep Neural
      Networks via Stability Training", 2016, arXiv:1604.04326.
    """
    _checks.positive_number("weight", weight)
    draws = draw_noise(key, images, noise=noise, num_samples=1)
    # One batch of both, so that batch statistics are those of what is deployed and of its noise.
    both = noisy_scores(classify, images, jnp.concatenate([jnp.zeros_like(draws), draws], axis=1))
    clean, noisy = both[:, 0], both[:, 1]
    right = optax.softmax_cross_entropy_with_integer_labels(clean, labels).mean()
    stable = optax.softmax_cross_entropy(noisy, jax.nn.softmax(clean)).mean()
    metrics = {
        "accuracy": accuracy(noisy[:, None], labels),
        "clean_accuracy": accuracy(clean[:, None], labels),
    }
    return right + weight * stable, metrics
