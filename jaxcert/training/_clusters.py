"""Training by clustering features: the loss of a batch of clusters, and the choice of batches."""

import functools
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import _checks, prototypes
from jaxcert._classifier import as_partial
from jaxcert.smoothing import Noise
from jaxcert.training._losses import add_noise

_FEATURE_ROWS = 1000


def magnet_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    samples_per_cluster: int = 20,
    gap: float = 12.5,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""The magnet loss: pull each image to the centre of its cluster and away from other classes.

    .. math::
        \frac{1}{n} \sum_j \max\Bigl(0, \frac{\lVert z_j - \mu_{m(j)} \rVert^2}{2 v} + \alpha
            + \log \sum_{m : y_m \ne y_j} e^{-\lVert z_j - \mu_m \rVert^2 / 2 v}\Bigr), \qquad
        v = \frac{1}{n - 1} \sum_j \lVert z_j - \mu_{m(j)} \rVert^2

    where :math:`\mu_m` is the mean of the features of cluster m in the batch.

    Args:
      key: this step's key.
      classify: the encoder, from `[n, *shape]` to features `[n, d]`.
      images: `[n, *shape]`, cluster after cluster, as `cluster_batches` chooses them.
      labels: int32 `[n]`, equal within a cluster.
      noise: added to each image; None for clean training.
      samples_per_cluster: images of each cluster, a divisor of n.
      gap: alpha, the least gap between the classes, in units of the log-likelihood.

    Returns:
      The loss and the metrics `accuracy`, the share of images whose nearest centre in the batch has
      their class, and `variance`, v.

    Raises:
      ValueError: if the batch does not consist of whole clusters.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> features = jnp.array([[0.0], [0.1], [9.0], [9.2]])
      >>> loss, metrics = training.magnet_loss(
      ...     jax.random.key(0), lambda x: x, features, jnp.array([0, 0, 1, 1]), noise=None,
      ...     samples_per_cluster=2)
      >>> float(loss), float(metrics["accuracy"])
      (0.0, 1.0)

    References:
      Rippel, Paluri, Dollar, Bourdev, "Metric Learning with Adaptive Density Discrimination", 2016,
      arXiv:1511.05939. Alfarra, Perez, Bibi, Thabet, Arbelaez, Ghanem, "Rethinking Clustering for
      Robustness", 2020, arXiv:2006.07682.
    """
    size = images.shape[0]
    samples_per_cluster = _checks.positive_integer("samples_per_cluster", samples_per_cluster)
    if size % samples_per_cluster or size < 2 * samples_per_cluster:
        raise ValueError(
            "images must be at least two whole clusters of samples_per_cluster = "
            f"{samples_per_cluster} images, got {size} images"
        )
    features = classify(add_noise(key, images, noise=noise))
    by_cluster = einops.rearrange(features, "(m s) d -> m s d", s=samples_per_cluster)
    classes = labels[::samples_per_cluster]
    centres = jnp.mean(by_cluster, axis=1)
    own = jnp.sum((by_cluster - centres[:, None]) ** 2, axis=2).reshape(-1)
    variance = jnp.sum(own) / (size - 1)
    squares = jnp.sum((features[:, None] - centres[None]) ** 2, axis=2)
    is_other = classes[None] != labels[:, None]
    hinges = _hinges(own, squares, is_other, variance, gap)
    nearest = classes[jnp.argmin(squares, axis=1)]
    metrics = {"accuracy": (nearest == labels).mean(), "variance": variance}
    return jnp.mean(hinges), metrics


def cluster_batches(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    batch_size: int,
    clusters_per_class: int = 2,
    samples_per_cluster: int = 20,
    gap: float = 12.5,
) -> np.ndarray:
    """Choose batches of clusters that compete: the arrangement that `magnet_loss` is made for.

    The features of all images are clustered class by class. A batch is a seed cluster, drawn with
    probability proportional to its mean loss, and the clusters of other classes whose centres are
    nearest to it; of each, images are drawn at random, without repeats where there are enough.

    Args:
      key: this epoch's key.
      classify: the encoder, from `[n, *shape]` to features `[n, d]`.
      images: `[n, *shape]`.
      labels: int `[n]`.
      num_classes: number of classes.
      batch_size: images a step, a multiple of `samples_per_cluster`.
      clusters_per_class: centres of each class.
      samples_per_cluster: images of each cluster of a batch.
      gap: alpha of the loss.

    Returns:
      Rows, int64 `[n // batch_size * batch_size]`; give `train` this function with its settings
      bound by `functools.partial`.

    Raises:
      ValueError: if the sizes do not fit together.

    Example:
      >>> import jax, numpy as np
      >>> from jaxcert import training
      >>> features = np.float32([[0], [1], [5], [6], [20], [21], [25], [26]])
      >>> rows = training.cluster_batches(
      ...     jax.random.key(0), lambda x: x, features, np.repeat([0, 1], 4), num_classes=2,
      ...     batch_size=4, samples_per_cluster=2)
      >>> np.repeat([0, 1], 4)[rows].reshape(2, 2, 2).min(axis=2).sum(axis=1)  # both classes
      array([1, 1])

    References:
      Rippel, Paluri, Dollar, Bourdev, "Metric Learning with Adaptive Density Discrimination", 2016,
      arXiv:1511.05939.
    """
    key = _checks.typed_key("key", key)
    clusters_per_batch = batch_size // samples_per_cluster
    rivals = (num_classes - 1) * clusters_per_class
    if batch_size % samples_per_cluster or not 2 <= clusters_per_batch <= rivals + 1:
        raise ValueError(
            f"batch_size must be samples_per_cluster = {samples_per_cluster} times a number of "
            f"clusters in [2, {rivals + 1}], got {batch_size}"
        )
    features = _features(classify, images)
    fit_key, draw_key = (jax.random.fold_in(key, stage) for stage in range(2))
    table = prototypes.fit_prototypes(
        fit_key, features, labels, num_classes=num_classes,
        clusters_per_class=clusters_per_class, num_steps=20, num_restarts=1,
    )  # fmt: skip
    squares = np.asarray(prototypes.centre_distances(features, table))
    classes = np.asarray(table.labels)
    is_other = classes[None] != np.asarray(labels)[:, None]
    cluster = np.where(is_other, np.inf, squares).argmin(axis=1)
    own = squares[np.arange(len(squares)), cluster]
    variance = own.sum() / max(1, len(own) - 1)
    hinges = np.asarray(_hinges(own, squares, is_other, variance, gap))
    weight = np.bincount(cluster, hinges, len(classes)) / np.maximum(
        1, np.bincount(cluster, minlength=len(classes))
    )
    # A cluster without loss is still seen now and then, as its neighbours move.
    weight = weight + 1e-3 * max(weight.max(), 1e-12)
    gaps = np.asarray(prototypes.centre_distances(table.centres, table))
    gaps = np.where(classes[:, None] == classes[None], np.inf, gaps)
    members = [np.flatnonzero(cluster == one) for one in range(len(classes))]
    generator = np.random.default_rng(np.asarray(jax.random.key_data(draw_key)))
    is_inhabited = np.array([len(own_rows) > 0 for own_rows in members])
    gaps[:, ~is_inhabited] = np.inf
    chances = np.where(is_inhabited, weight, 0)
    seeds = generator.choice(
        len(classes), size=len(images) // batch_size, p=chances / chances.sum()
    )
    rows = []
    for seed in seeds:
        candidates = np.argsort(gaps[seed], kind="stable")[: np.isfinite(gaps[seed]).sum()]
        impostors = np.resize(candidates, clusters_per_batch - 1)
        for one in (seed, *impostors):
            few = len(members[one]) < samples_per_cluster
            rows.append(generator.choice(members[one], samples_per_cluster, replace=few))
    return np.concatenate(rows)


def _hinges(
    own: jax.Array | np.ndarray,
    squares: jax.Array | np.ndarray,
    is_other: jax.Array | np.ndarray,
    variance: jax.Array | float,
    gap: float,
) -> jax.Array:
    """The terms of the loss, from squared distances to the own and to all centres."""
    scale = 2 * jnp.maximum(jnp.asarray(variance), 1e-12)
    rivals = jax.nn.logsumexp(jnp.where(is_other, -jnp.asarray(squares) / scale, -jnp.inf), axis=1)
    return jax.nn.relu(own / scale + gap + rivals)


def _features(classify: Callable[[jax.Array], jax.Array], images: np.ndarray) -> np.ndarray:
    """Features of all images, part by part in one shape."""
    # As a pytree, so that the weights of the next epoch compile nothing anew.
    encode = functools.partial(_encode, as_partial(classify))
    parts = []
    for start in range(0, len(images), _FEATURE_ROWS):
        part = images[start : start + _FEATURE_ROWS]
        padded = np.resize(part, (min(_FEATURE_ROWS, len(images)), *images.shape[1:]))
        parts.append(np.asarray(encode(padded))[: len(part)])
    return np.concatenate(parts)


@jax.jit
def _encode(classify: jax.tree_util.Partial, images: jax.Array) -> jax.Array:
    return classify(images)
