"""k-means with k-means++ starts, for the points of one class or of every class."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.prototypes._prototypes import Prototypes, squared_distances


class Clusters(NamedTuple):
    """The result of `cluster`.

    Attributes:
      centres: `[k, d]`.
      assignments: int32 `[n]`, the nearest centre of each point.
      inertia: the sum of squared distances to the nearest centres.
    """

    centres: jax.Array
    assignments: jax.Array
    inertia: jax.Array


def cluster(
    key: jax.Array,
    points: ArrayLike,
    *,
    num_clusters: int,
    num_steps: int = 40,
    num_restarts: int = 10,
    weights: ArrayLike | None = None,
) -> Clusters:
    r"""Find centres by Lloyd's k-means from k-means++ starts, the best of several.

    .. math::
        \min_\mu \sum_n w_n \min_i \lVert x_n - \mu_i \rVert^2

    A cluster that loses all its points moves to the point that is farthest from its centre.

    Args:
      key: a typed key; the result is a function of it.
      points: `[n, d]`.
      num_clusters: k.
      num_steps: steps of Lloyd's iteration.
      num_restarts: starts, of which the one of least inertia is kept.
      weights: `[n]`, at least 0; points of weight 0 are not there. Equal by default.

    Returns:
      The `Clusters`.

    Raises:
      ValueError: if there are fewer distinct points of positive weight than clusters, or a value
        does not fit.
      TypeError: if a type does not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import prototypes
      >>> points = jnp.array([[0.0], [0.2], [5.0], [5.2], [9.0]])
      >>> found = prototypes.cluster(jax.random.key(0), points, num_clusters=3)
      >>> sorted(found.centres[:, 0].round(1).tolist())
      [0.1, 5.1, 9.0]

    References:
      Arthur, Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007.
    """
    key = _checks.typed_key("key", key)
    points = _checks.batch_of_inputs("points", points)
    if points.ndim != 2:
        raise ValueError(f"points must have shape [n, d], got {points.shape}")
    num_clusters = _checks.positive_integer("num_clusters", num_clusters)
    num_steps = _checks.positive_integer("num_steps", num_steps)
    num_restarts = _checks.positive_integer("num_restarts", num_restarts)
    weights = jnp.ones(points.shape[0], points.dtype) if weights is None else jnp.asarray(weights)
    if weights.shape != points.shape[:1]:
        raise ValueError(f"weights must have shape ({points.shape[0]},), got {weights.shape}")
    if _checks.is_concrete(weights) and _checks.is_concrete(points):
        values = np.asarray(weights)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("weights must be finite and at least 0")
        distinct = _count_distinct(np.asarray(points)[values > 0], num_clusters)
        if distinct < num_clusters:
            raise ValueError(
                f"points must hold at least num_clusters = {num_clusters} distinct points of "
                f"positive weight, got {distinct}"
            )
    return _best_of(
        key, points, weights.astype(points.dtype),
        num_clusters=num_clusters, num_steps=num_steps, num_restarts=num_restarts,
    )  # fmt: skip


def fit_prototypes(
    key: jax.Array,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    clusters_per_class: int,
    num_steps: int = 40,
    num_restarts: int = 10,
) -> Prototypes:
    """Cluster the features of each class: `clusters_per_class` prototypes a class.

    Args:
      key: a typed key; class c uses `fold_in(key, c)`.
      features: `[n, d]`.
      labels: int `[n]`.
      num_classes: number of classes.
      clusters_per_class: centres of each class.
      num_steps: steps of Lloyd's iteration.
      num_restarts: starts for each class.

    Returns:
      `Prototypes`: centres `[num_classes * clusters_per_class, d]`, sorted by class.

    Raises:
      ValueError: if a class has fewer distinct features than clusters, or a value does not fit.
      TypeError: if a type does not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import prototypes
      >>> features = jnp.array([[0.0], [1.0], [7.0], [9.0]])
      >>> found = prototypes.fit_prototypes(
      ...     jax.random.key(0), features, jnp.array([0, 0, 1, 1]),
      ...     num_classes=2, clusters_per_class=1)
      >>> found.centres[:, 0], found.labels
      (Array([0.5, 8. ], dtype=float32), Array([0, 1], dtype=int32))
    """
    key = _checks.typed_key("key", key)
    points = np.asarray(_checks.batch_of_inputs("features", features))
    classes = np.asarray(labels)
    num_classes = _checks.positive_integer("num_classes", num_classes, minimum=2)
    clusters_per_class = _checks.positive_integer("clusters_per_class", clusters_per_class)
    if points.ndim != 2:
        raise ValueError(f"features must have shape [n, d], got {points.shape}")
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {classes.dtype}")
    if classes.shape != points.shape[:1]:
        raise ValueError(f"labels must have shape ({len(points)},), got {classes.shape}")
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes - 1}], "
            f"got values from {classes.min()} to {classes.max()}"
        )
    members = [np.flatnonzero(classes == one) for one in range(num_classes)]
    for one, own in enumerate(members):
        distinct = _count_distinct(points[own], clusters_per_class)
        if distinct < clusters_per_class:
            raise ValueError(
                f"features must hold at least clusters_per_class = {clusters_per_class} distinct "
                f"points of each class, got {distinct} of class {one}"
            )
    # Classes padded to the largest by points of weight 0, so that one program serves them all.
    longest = max(len(own) for own in members)
    rows = np.stack([np.resize(own, longest) for own in members])
    weights = np.stack([np.arange(longest) < len(own) for own in members]).astype(points.dtype)
    keys = jax.vmap(lambda one: jax.random.fold_in(key, one))(jnp.arange(num_classes))
    found = _best_of_each(
        keys, jnp.asarray(points), jnp.asarray(rows), jnp.asarray(weights),
        num_clusters=clusters_per_class, num_steps=num_steps, num_restarts=num_restarts,
    )  # fmt: skip
    names = jnp.repeat(jnp.arange(num_classes, dtype=jnp.int32), clusters_per_class)
    return Prototypes(found.reshape(-1, points.shape[1]), names)


def _count_distinct(points: np.ndarray, enough: int) -> int:
    """The number of distinct rows, or any number from `enough` on; sorting all rows is slow."""
    few = len(np.unique(points[: 4 * enough], axis=0))
    return few if few >= enough else len(np.unique(points, axis=0))


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_steps", "num_restarts"))
def _best_of_each(
    keys: jax.Array, points: jax.Array, rows: jax.Array, weights: jax.Array, **settings: int
) -> jax.Array:
    """Centres of every class, one after the other, so that memory is that of one class."""
    return jax.lax.map(
        lambda one: _best_of(one[0], points[one[1]], one[2], **settings).centres,
        (keys, rows, weights),
    )


@functools.partial(jax.jit, static_argnames=("num_clusters", "num_steps", "num_restarts"))
def _best_of(
    key: jax.Array,
    points: jax.Array,
    weights: jax.Array,
    *,
    num_clusters: int,
    num_steps: int,
    num_restarts: int,
) -> Clusters:
    """The start of least inertia."""
    # About their mean, where squared distances lose the least to rounding.
    middle = weights @ points / jnp.sum(weights)
    points = points - middle

    def attempt(number: jax.Array) -> Clusters:
        start = _plus_plus(jax.random.fold_in(key, number), points, weights, num_clusters)
        return _lloyd(points, weights, start, num_steps)

    attempts = jax.lax.map(attempt, jnp.arange(num_restarts))
    best = jax.tree.map(lambda leaf: leaf[jnp.argmin(attempts.inertia)], attempts)
    return best._replace(centres=best.centres + middle)


def _plus_plus(
    key: jax.Array, points: jax.Array, weights: jax.Array, num_clusters: int
) -> jax.Array:
    """Draw each start with probability proportional to the squared distance to those before."""

    def draw(number: jax.Array, mass: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, number), jnp.log(mass))

    def add(number: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        centres, nearest = carry
        chosen = points[draw(number, weights * nearest)]
        away = jnp.sum((points - chosen) ** 2, axis=1)
        return centres.at[number].set(chosen), jnp.minimum(nearest, away)

    first = points[draw(jnp.zeros((), jnp.int32), weights)]
    centres = jnp.zeros((num_clusters, points.shape[1]), points.dtype).at[0].set(first)
    nearest = jnp.sum((points - first) ** 2, axis=1)
    return jax.lax.fori_loop(1, num_clusters, add, (centres, nearest))[0]


def _lloyd(points: jax.Array, weights: jax.Array, centres: jax.Array, num_steps: int) -> Clusters:
    """Alternate between assigning points and moving centres."""

    def assign(centres: jax.Array) -> tuple[jax.Array, jax.Array]:
        distances = squared_distances(points, centres)
        return jnp.argmin(distances, axis=1), jnp.min(distances, axis=1)

    def step(_: int, centres: jax.Array) -> jax.Array:
        nearest, distances = assign(centres)
        shares = weights[:, None] * jax.nn.one_hot(nearest, len(centres), dtype=points.dtype)
        mass = jnp.sum(shares, axis=0)
        sums = jnp.matmul(shares.T, points, precision=jax.lax.Precision.HIGHEST)
        farthest = points[jnp.argmax(jnp.where(weights > 0, distances, -1))]
        return jnp.where(mass[:, None] > 0, sums / jnp.where(mass > 0, mass, 1)[:, None], farthest)

    centres = jax.lax.fori_loop(0, num_steps, step, centres)
    nearest, distances = assign(centres)
    return Clusters(centres, nearest.astype(jnp.int32), jnp.sum(weights * distances))
