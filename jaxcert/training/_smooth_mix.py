"""SmoothMix: mixing an image with its adversarial example, and its prediction with the uniform."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._noisy_scores import (
    accuracy,
    ascend,
    draw_noise,
    mean_cross_entropy,
    noisy_scores,
)


def smooth_mix_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    num_samples: int = 4,
    weight: float = 5.0,
    step_size: float = 1.0,
    attack_steps: int = 2,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy on noisy copies, and calmed predictions towards an adversarial example.

    .. math::
        \frac{1}{n m} \sum_{j,i} \mathrm{CE}(F(x_j + \varepsilon_{ji}), y_j) +
        \eta \, 1[\hat y_j = y_j] \, \mathrm{KL}\bigl(t_j \Vert F(\tilde x_j + \varepsilon_{ji})
        \bigr), \quad
        \tilde x_j = (1 - l_j) x_j + l_j x_j', \quad t_j = (1 - l_j) \bar F_j + l_j / C

    with :math:`F = \mathrm{softmax}(f)`, its mean over the noisy copies of an image, y-hat the
    largest entry of that mean, and l uniform on [0, 1/2]. The adversarial example x' takes T steps
    of one length along the normalised gradient of the cross-entropy of that mean, within [0, 1] but
    in no ball. One draw of noise serves all terms; the gradient goes through the target too.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      noise: added to each image, one scale or one an image.
      num_samples: m, noisy copies of each image.
      weight: eta.
      step_size: the l2 length of a step, in pixel units.
      attack_steps: T.

    Returns:
      The loss and the metrics `accuracy`, on the noisy copies, and `divergence`, the mean of the
      second term before its weight.

    Raises:
      ValueError: if `noise` is None, or a setting is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing, training
      >>> constant = lambda x: jnp.zeros((len(x), 4))
      >>> loss, _ = training.smooth_mix_loss(
      ...     jax.random.key(0), constant, jnp.eye(3), jnp.array([0, 1, 0]),
      ...     noise=smoothing.gaussian(1.0))
      >>> float(loss.round(4))  # log 4: the uniform prediction is its own target
      1.3863

    References:
      Jeong, Park, Kim, Lee, Kim, Shin, "SmoothMix: Training Confidence-calibrated Smoothed
      Classifiers for Certified Robustness", 2021, arXiv:2111.09277.
    """
    num_samples = _checks.positive_integer("num_samples", num_samples)
    attack_steps = _checks.positive_integer("attack_steps", attack_steps)
    for name, value in (("weight", weight), ("step_size", step_size)):
        _checks.positive_number(name, value)
    noise_key, attack_key, mix_key = (jax.random.fold_in(key, stage) for stage in range(3))
    draws = draw_noise(noise_key, images, noise=noise, num_samples=num_samples)
    attacked = ascend(
        attack_key, classify, images, labels, draws,
        num_steps=attack_steps, step_size=jnp.asarray(step_size, images.dtype), radius=None,
    )  # fmt: skip
    scores = noisy_scores(classify, images, draws)
    mean = jax.nn.softmax(scores).mean(axis=1)
    share = jax.random.uniform(mix_key, (images.shape[0], 1), images.dtype, 0, 0.5)
    by_pixel = share.reshape(-1, *[1] * (images.ndim - 1))
    mixed = images + by_pixel * (attacked - images)
    target = ((1 - share) * mean + share / mean.shape[1])[:, None]
    logs = jax.nn.log_softmax(noisy_scores(classify, mixed, draws))
    # Above 0 since the share of the uniform is, except where that share is drawn as exactly 0.
    own = target * jnp.log(jnp.maximum(target, 1e-20))
    terms = jnp.sum(own - target * logs, axis=2).mean(axis=1)
    divergence = jnp.where(mean.argmax(axis=1) == labels, terms, 0).mean()
    loss = mean_cross_entropy(scores, labels) + weight * divergence
    return loss, {"accuracy": accuracy(scores, labels), "divergence": divergence}
