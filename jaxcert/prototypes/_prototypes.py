"""Labelled centres, and the two rules that classify by them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import as_partial


class Prototypes(NamedTuple):
    """Labelled centres in feature space.

    Attributes:
      centres: `[k, d]`.
      labels: int `[k]`, the class of each centre; a class may have several.
    """

    centres: jax.Array
    labels: jax.Array


def centre_distances(features: ArrayLike, prototypes: Prototypes) -> jax.Array:
    r"""Squared distances of features to centres.

    .. math::
        D_{ni} = \lVert z_n - \mu_i \rVert_2^2

    Args:
      features: `[n, d]`.
      prototypes: k centres `[k, d]`.

    Returns:
      `[n, k]`, at least 0.

    Raises:
      ValueError: if the dimensions disagree.
      TypeError: if the features are not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import prototypes
      >>> corners = prototypes.Prototypes(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([0, 1]))
      >>> prototypes.centre_distances(jnp.zeros((1, 2)), corners)
      Array([[ 0., 25.]], dtype=float32)
    """
    features = _checks.batch_of_inputs("features", check_features(features, prototypes))
    centres = jnp.asarray(prototypes.centres)
    # Moved to the middle of the centres, so that the three terms cancel as little as possible.
    middle = jnp.mean(centres, axis=0)
    return squared_distances(features - middle, centres - middle)


def squared_distances(points: jax.Array, centres: jax.Array) -> jax.Array:
    """`[n, k]` by products, accurate where points and centres lie around the origin."""
    products = jnp.matmul(points, centres.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(points**2, axis=1)[:, None] + jnp.sum(centres**2, axis=1)[None]
    return jnp.maximum(squares - 2 * products, 0)


def nearest_scores(features: ArrayLike, prototypes: Prototypes, *, num_classes: int) -> jax.Array:
    r"""Scores whose highest is the class of the nearest centre.

    .. math::
        s_c(z) = -\min_{i : y_i = c} \lVert z - \mu_i \rVert_2^2

    Args:
      features: `[n, d]`.
      prototypes: the centres.
      num_classes: number of classes; one without a centre scores minus infinity.

    Returns:
      Scores `[n, num_classes]`.

    Raises:
      ValueError: if the dimensions disagree or a label is no class.
      TypeError: if the features are not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import prototypes
      >>> corners = prototypes.Prototypes(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([0, 1]))
      >>> prototypes.nearest_scores(jnp.ones((1, 2)), corners, num_classes=2).argmax(axis=1)
      Array([0], dtype=int32)

    References:
      Alfarra, Perez, Bibi, Thabet, Arbelaez, Ghanem, "Rethinking Clustering for Robustness", 2020,
      arXiv:2006.07682.
    """
    labels = check_labels(prototypes, num_classes)
    distances = centre_distances(features, prototypes)
    return jax.ops.segment_max(-distances.T, labels, num_segments=num_classes).T


def soft_scores(
    features: ArrayLike, prototypes: Prototypes, *, num_classes: int, variance: ArrayLike
) -> jax.Array:
    r"""Log-likelihoods of the classes when each centre is a Gaussian of the same variance.

    .. math::
        s_c(z) = \log \sum_{i : y_i = c} \exp\Bigl(-\frac{\lVert z - \mu_i \rVert_2^2}{2 v}\Bigr)

    Every centre takes part. A rule that sums over the nearest few centres only jumps where the
    choice changes, so that no Lipschitz constant and no certificate covers it.

    Args:
      features: `[n, d]`.
      prototypes: the centres.
      num_classes: number of classes; one without a centre scores minus infinity.
      variance: v, a positive scalar in squared units of the features.

    Returns:
      Scores `[n, num_classes]`.

    Raises:
      ValueError: if the dimensions disagree, a label is no class or the variance is not positive.
      TypeError: if the features are not floating point.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import prototypes
      >>> corners = prototypes.Prototypes(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([0, 1]))
      >>> prototypes.soft_scores(jnp.zeros((1, 2)), corners, num_classes=2, variance=2.5)
      Array([[ 0., -5.]], dtype=float32)

    References:
      Alfarra, Perez, Bibi, Thabet, Arbelaez, Ghanem, "Rethinking Clustering for Robustness", 2020,
      arXiv:2006.07682, whose rule sums over the nearest centres.
    """
    if _checks.is_concrete(variance):
        _checks.positive_number("variance", np.asarray(variance).item())
    labels = check_labels(prototypes, num_classes)
    exponents = -centre_distances(features, prototypes).T / (2 * jnp.asarray(variance))
    largest = jax.ops.segment_max(exponents, labels, num_segments=num_classes)
    terms = jnp.exp(exponents - largest[labels])
    sums = jax.ops.segment_sum(terms, labels, num_segments=num_classes)
    return jnp.where(sums > 0, jnp.log(jnp.where(sums > 0, sums, 1)) + largest, -jnp.inf).T


def classifier(
    encode: Callable[[jax.Array], jax.Array],
    prototypes: Prototypes,
    *,
    num_classes: int,
    variance: float | None = None,
) -> jax.tree_util.Partial:
    """Put an encoder before the centres: a classifier, for smoothing and for attacks.

    Args:
      encode: from a batch `[n, *shape]` to features `[n, d]`.
      prototypes: the centres; each class of `num_classes` has at least one, so that every score
        is finite.
      num_classes: number of classes.
      variance: of `soft_scores`, or None for `nearest_scores`.

    Returns:
      A pytree and a function from `[n, *shape]` to scores `[n, num_classes]`; other weights and
      centres of the same shapes compile nothing anew.

    Raises:
      ValueError: if a class has no centre or the variance is not positive.
      TypeError: if `encode` is not callable.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import prototypes
      >>> corners = prototypes.Prototypes(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([0, 1]))
      >>> classify = prototypes.classifier(lambda x: 2 * x, corners, num_classes=2)
      >>> classify(jnp.ones((5, 2))).argmax(axis=1)
      Array([1, 1, 1, 1, 1], dtype=int32)
    """
    labels = check_labels(prototypes, num_classes)
    if _checks.is_concrete(labels):
        missing = sorted(set(range(num_classes)) - set(np.asarray(labels).tolist()))
        if missing:
            raise ValueError(
                f"prototypes must have a centre for each class, got none for {missing}"
            )
    # Static settings ride in the function, arrays in the pytree.
    rule = _Nearest(num_classes) if variance is None else _Soft(num_classes)
    scale = None if variance is None else _checks.positive_number("variance", variance)
    return jax.tree_util.Partial(rule, as_partial(encode), prototypes, scale)


class _Nearest(NamedTuple):
    """The rule of `nearest_scores`; equal settings are equal functions, and share a trace."""

    num_classes: int

    def __call__(
        self, encode: jax.tree_util.Partial, prototypes: Prototypes, _: None, inputs: jax.Array
    ) -> jax.Array:
        return nearest_scores(encode(inputs), prototypes, num_classes=self.num_classes)


class _Soft(NamedTuple):
    """The rule of `soft_scores`."""

    num_classes: int

    def __call__(
        self,
        encode: jax.tree_util.Partial,
        prototypes: Prototypes,
        variance: jax.Array,
        inputs: jax.Array,
    ) -> jax.Array:
        return soft_scores(
            encode(inputs), prototypes, num_classes=self.num_classes, variance=variance
        )


def check_features(features: ArrayLike, prototypes: Prototypes) -> jax.Array | np.ndarray:
    """Return features as an array of any kind, or raise unless they fit the centres by shape."""
    array = _checks.floating_batch("features", features)
    centres, labels = np.shape(prototypes.centres), np.shape(prototypes.labels)
    if len(centres) != 2 or 0 in centres:
        raise ValueError(f"prototypes.centres must have shape [k, d], got {centres}")
    if labels != centres[:1]:
        raise ValueError(
            f"prototypes.labels must have shape ({centres[0]},), one a centre, got {labels}"
        )
    if array.ndim != 2 or array.shape[1] != centres[1]:
        raise ValueError(
            f"features must have shape [n, {centres[1]}] as the centres have, got {array.shape}"
        )
    return array


def check_labels(prototypes: Prototypes, num_classes: int) -> jax.Array:
    """Return the labels of the centres, or raise unless they are classes."""
    num_classes = _checks.positive_integer("num_classes", num_classes, minimum=2)
    labels = jnp.asarray(prototypes.labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"prototypes.labels must be integers, got {labels.dtype}")
    if _checks.is_concrete(labels) and labels.size:
        found = np.asarray(labels)
        if found.min() < 0 or found.max() >= num_classes:
            raise ValueError(
                f"prototypes.labels must lie in [0, {num_classes - 1}], "
                f"got values from {found.min()} to {found.max()}"
            )
    return labels
