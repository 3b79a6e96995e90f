"""SmoothAdv: adversarial training of the soft smoothed classifier."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._noisy_scores import (
    accuracy,
    ascend,
    draw_noise,
    mean_cross_entropy,
    noisy_scores,
)


def smooth_adv_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    radius: ArrayLike,
    num_samples: int = 2,
    attack_steps: int = 4,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy on noisy copies of an image that was attacked under the same noise.

    .. math::
        \frac{1}{n m} \sum_{j,i} \mathrm{CE}(f(x_j' + \varepsilon_{ji}), y_j), \qquad
        x_j' \approx \arg\max_{\lVert x' - x_j \rVert_2 \le r}
        - \log \frac{1}{m} \sum_i \mathrm{softmax}(f(x' + \varepsilon_{ji}))_{y_j}

    The maximum is sought by T steps of length 2 r / T along the normalised gradient, cut to [0, 1]
    and projected onto the ball; the noise is drawn once, for all steps and for the loss. The
    attacked network is in evaluation mode and its gradient does not reach the weights.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      noise: added to each image, one scale or one an image.
      radius: r, of the l2 ball, in pixel units; may be traced, such as by a schedule.
      num_samples: m, noisy copies of each image.
      attack_steps: T.

    Returns:
      The loss and the metric `accuracy`, on the attacked noisy copies.

    Raises:
      ValueError: if `noise` is None, or a setting is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing, training
      >>> loss, metrics = training.smooth_adv_loss(
      ...     jax.random.key(0), lambda x: 9 * x, jnp.eye(3), jnp.array([0, 1, 2]),
      ...     noise=smoothing.gaussian(0.1), radius=1.5)
      >>> float(metrics["accuracy"])
      0.0

    References:
      Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck, "Provably Robust Deep Learning via
      Adversarially Trained Smoothed Classifiers", 2019, arXiv:1906.04584.
    """
    num_samples = _checks.positive_integer("num_samples", num_samples)
    attack_steps = _checks.positive_integer("attack_steps", attack_steps)
    if _checks.is_concrete(radius):
        _checks.positive_values("radius", radius)
    length = jnp.asarray(radius, images.dtype)
    if length.ndim:
        raise ValueError(f"radius must be one number for all images, got shape {length.shape}")
    draws = draw_noise(jax.random.fold_in(key, 0), images, noise=noise, num_samples=num_samples)
    attacked = ascend(
        jax.random.fold_in(key, 1), classify, images, labels, draws,
        num_steps=attack_steps, step_size=2 * length / attack_steps, radius=length,
    )  # fmt: skip
    scores = noisy_scores(classify, attacked, draws)
    return mean_cross_entropy(scores, labels), {"accuracy": accuracy(scores, labels)}
