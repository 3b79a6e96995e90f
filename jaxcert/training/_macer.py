"""MACER: training that maximises the certified radius of the soft smoothed classifier."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy import special

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._noisy_scores import accuracy, draw_noise, noisy_scores


def macer_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    num_samples: int = 16,
    weight: float = 16.0,
    margin: float = 8.0,
    temperature: float = 16.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy of the mean prediction, and a hinge on the radius where it is right.

    .. math::
        \frac{1}{n} \sum_j \Bigl( -\log \bigl(\bar z_{j, y_j} + 10^{-10}\bigr) +
        \lambda \frac{\sigma_j}{2} \, 1[\hat y_j = y_j, \; |\xi_j| \le \gamma] \,
        (\gamma - \xi_j) \Bigr)

    where z-bar is the mean over m noisy copies of softmax(f), z-hat that of softmax(beta f), y-hat
    the largest entry of z-hat, and xi the difference of the normal quantiles of its two largest
    entries; a xi that is not finite does not count.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image, one scale or one an image; Gaussian, or the radius is no radius.
      num_samples: m, noisy copies of each image.
      weight: lambda.
      margin: gamma: xi is not pushed beyond it.
      temperature: beta, an inverse temperature that makes the soft classifier nearly hard.

    Returns:
      The loss and the metrics `accuracy`, on the noisy copies, and `soft_radius`, the mean of
      sigma xi / 2 over the images whose radius counts; an estimate, no certificate.

    Raises:
      ValueError: if `noise` is None or not Gaussian, or a setting is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing, training
      >>> loss, metrics = training.macer_loss(
      ...     jax.random.key(0), lambda x: x, 2 * jnp.eye(3), jnp.array([0, 1, 0]),
      ...     noise=smoothing.gaussian(1.0))
      >>> sorted(metrics)
      ['accuracy', 'soft_radius']

    References:
      Zhai, Dan, He, Zhang, Gong, Ravikumar, Hsieh, Wang, "MACER: Attack-free and Scalable Robust
      Training via Maximizing Certified Radius", 2020, arXiv:2001.02378.
    """
    num_samples = _checks.positive_integer("num_samples", num_samples)
    for name, value in (("weight", weight), ("margin", margin), ("temperature", temperature)):
        _checks.positive_number(name, value)
    if noise is not None and noise.family not in ("gaussian", "discrete_gaussian"):
        raise ValueError(f"noise must be Gaussian for the radius of this loss, got {noise.family}")
    draws = draw_noise(key, images, noise=noise, num_samples=num_samples)
    scores = noisy_scores(classify, images, draws)
    soft = jax.nn.softmax(scores).mean(axis=1)
    own = jnp.take_along_axis(soft, labels[:, None], axis=1)[:, 0]
    sharp = jax.nn.softmax(temperature * scores).mean(axis=1)
    top, which = jax.lax.top_k(sharp, 2)
    assert noise is not None  # draw_noise has refused it
    counts, gaps = _gaps(top, margin)
    counts &= which[:, 0] == labels
    half = jnp.broadcast_to(jnp.asarray(noise.scale) / 2, gaps.shape)
    hinges = jnp.where(counts, half * (margin - gaps), 0)
    radii = jnp.where(counts, half * gaps, 0)
    loss = (-jnp.log(own + 1e-10) + weight * hinges).mean()
    soft_radius = radii.sum() / jnp.maximum(counts.sum(), 1)
    return loss, {"accuracy": accuracy(scores, labels), "soft_radius": soft_radius}


def _gaps(top: jax.Array, margin: float) -> tuple[jax.Array, jax.Array]:
    """Which differences of quantiles count, and these differences, 0 where they do not."""
    values = special.ndtri(jax.lax.stop_gradient(top))
    gap = values[:, 0] - values[:, 1]
    counts = jnp.isfinite(gap) & (jnp.abs(gap) <= margin)
    # Where nothing counts the quantile is taken elsewhere, so that its gradient is finite.
    safe = special.ndtri(jnp.where(counts[:, None], top, 0.5))
    return counts, safe[:, 0] - safe[:, 1]
