"""The magnet loss with one cheap attack beside it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._clusters import magnet_loss


def magnet_trades_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    samples_per_cluster: int = 20,
    gap: float = 12.5,
    radius: float = 8 / 255,
    step_size: float = 10 / 255,
    weight: float = 8.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""The magnet loss and the distance of answers under an attack of one step.

    .. math::
        L_{\mathrm{magnet}} + \frac{\beta}{n} \sum_j H\bigl(p(x_j), \, p(x_j')\bigr), \qquad
        p_c(x) \propto \sum_{m : y_m = c} e^{-\lVert z(x) - \mu_m \rVert^2 / 2 v}

    with the cross-entropy H, and x' from one signed gradient step on it from a random point of the
    l-infinity ball, put back into the ball and into [0, 1].

    Args:
      key: this step's key.
      classify: the encoder, from `[n, *shape]` to features `[n, d]`.
      images: `[n, *shape]` in [0, 1], cluster after cluster.
      labels: int32 `[n]`, equal within a cluster.
      noise: added to each image of the magnet loss; None for clean training.
      samples_per_cluster: images of each cluster.
      gap: of the magnet loss.
      radius: of the l-infinity ball, in pixel units.
      step_size: of the attack, in pixel units.
      weight: beta.

    Returns:
      The loss and the metrics of `magnet_loss` with `divergence`, the mean of H.

    Raises:
      ValueError: if the batch does not consist of whole clusters, or a setting is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> pixels = jnp.array([[0.1], [0.2], [0.8], [0.9]])
      >>> _, metrics = training.magnet_trades_loss(
      ...     jax.random.key(0), lambda x: x, pixels, jnp.array([0, 0, 1, 1]), noise=None,
      ...     samples_per_cluster=2)
      >>> sorted(metrics)
      ['accuracy', 'divergence', 'variance']

    References:
      Alfarra, Perez, Bibi, Thabet, Arbelaez, Ghanem, "Rethinking Clustering for Robustness", 2020,
      arXiv:2006.07682. Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, "Theoretically Principled
      Trade-off between Robustness and Accuracy", 2019, arXiv:1901.08573.
    """
    for name, value in (("radius", radius), ("step_size", step_size), ("weight", weight)):
        _checks.positive_number(name, value)
    magnet, metrics = magnet_loss(
        jax.random.fold_in(key, 0), classify, images, labels, noise=noise,
        samples_per_cluster=samples_per_cluster, gap=gap,
    )  # fmt: skip
    features = classify(images)
    by_cluster = features.reshape(-1, samples_per_cluster, features.shape[-1])
    centres = jnp.mean(by_cluster, axis=1)
    own = jnp.sum((by_cluster - centres[:, None]) ** 2)
    scale = 2 * jnp.maximum(own / (images.shape[0] - 1), 1e-12)
    classes = labels[::samples_per_cluster]
    is_same = classes[:, None] == classes[None]

    def log_posteriors(
        features: jax.Array, centres: jax.Array, scale: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities of the clusters, and of the class of each: `[n, clusters]` twice."""
        squares = jnp.sum((features[:, None] - centres[None]) ** 2, axis=2)
        logs = jax.nn.log_softmax(-squares / scale)
        masked = jnp.where(is_same[None], logs[:, None], -jnp.inf)
        return logs, jax.nn.logsumexp(masked, axis=2)

    def divergence(points: jax.Array, parts: tuple[jax.Array, ...]) -> jax.Array:
        features, centres, scale = parts
        clean, _ = log_posteriors(features, centres, scale)
        _, attacked = log_posteriors(classify(points), centres, scale)
        # The sum over classes of p log q, written as one over clusters: p of a class is a sum.
        return -jnp.sum(jnp.exp(clean) * attacked, axis=1)

    frozen = jax.lax.stop_gradient((features, centres, scale))
    offsets = jax.random.uniform(
        jax.random.fold_in(key, 1), images.shape, images.dtype, -radius, radius
    )
    begin = jnp.clip(images + offsets, 0, 1)
    gradient = jax.grad(lambda points: jnp.sum(divergence(points, frozen)))(begin)
    moved = images + jnp.clip(begin + step_size * jnp.sign(gradient) - images, -radius, radius)
    attacked = jax.lax.stop_gradient(jnp.clip(moved, 0, 1))
    mean = jnp.mean(divergence(attacked, (features, centres, scale)))
    return magnet + weight * mean, {**metrics, "divergence": mean}
