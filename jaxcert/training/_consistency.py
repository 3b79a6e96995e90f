"""Consistency regularisation: equal predictions under different noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._noisy_scores import (
    accuracy,
    draw_noise,
    log_mean_softmax,
    mean_cross_entropy,
    noisy_scores,
)


def consistency_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    num_samples: int = 2,
    weight: float = 10.0,
    entropy_weight: float = 0.5,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy on noisy copies, with a penalty where they disagree about an image.

    .. math::
        \frac{1}{n} \sum_j \Bigl( \frac{1}{m} \sum_i \mathrm{CE}(F_{ji}, y_j) +
        \frac{\lambda}{m} \sum_i \mathrm{KL}(\bar F_j \Vert F_{ji}) + \eta H(\bar F_j) \Bigr)

    with :math:`F_{ji} = \mathrm{softmax}(f(x_j + \varepsilon_{ji}))` and its mean over i.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image, one scale or one an image.
      num_samples: m, noisy copies of each image, at least 2.
      weight: lambda.
      entropy_weight: eta, at least 0.

    Returns:
      The loss and the metrics `accuracy`, on the noisy copies, and `divergence`, the mean of KL.

    Raises:
      ValueError: if `noise` is None, or a setting is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing, training
      >>> constant = lambda x: jnp.zeros((len(x), 4))
      >>> loss, metrics = training.consistency_loss(
      ...     jax.random.key(0), constant, jnp.eye(3), jnp.array([0, 1, 0]),
      ...     noise=smoothing.gaussian(1.0))
      >>> float(loss.round(4)), float(metrics["divergence"].round(4))  # 1.5 log 4
      (2.0794, 0.0)

    References:
      Jeong, Shin, "Consistency Regularization for Certified Robustness of Smoothed Classifiers",
      2020, arXiv:2006.04062.
    """
    num_samples = _checks.positive_integer("num_samples", num_samples, minimum=2)
    _checks.positive_number("weight", weight)
    if entropy_weight != 0:
        _checks.positive_number("entropy_weight", entropy_weight)
    draws = draw_noise(key, images, noise=noise, num_samples=num_samples)
    scores = noisy_scores(classify, images, draws)
    logs = jax.nn.log_softmax(scores)
    mean_logs = log_mean_softmax(scores)
    mean = jnp.exp(mean_logs)
    divergence = jnp.sum(mean[:, None] * (mean_logs[:, None] - logs), axis=2).mean()
    entropy = -jnp.sum(mean * mean_logs, axis=1).mean()
    loss = mean_cross_entropy(scores, labels) + weight * divergence + entropy_weight * entropy
    return loss, {"accuracy": accuracy(scores, labels), "divergence": divergence}
