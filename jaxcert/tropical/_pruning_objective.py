"""What pruning minimises, and the penalty at which each neuron goes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks

from ._layers import Layers, checked_layers, floating, lifted_norms


def pruning_objective(
    w1: ArrayLike,
    b1: ArrayLike,
    w2: ArrayLike,
    b2: ArrayLike,
    pruned_w1: ArrayLike,
    pruned_b1: ArrayLike,
    pruned_w2: ArrayLike,
    *,
    penalty: ArrayLike,
) -> jax.Array:
    r"""Evaluate what `prune` minimises, for any network of the same shape.

    .. math::
        \sum_{i \ne j} \tfrac12 \|\tilde G_{ij} - G_{ij}\|_F^2 + \lambda \|\tilde G_{ij}\|_{2,1}

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.
      b2: `[classes]`, which the value does not depend on.
      pruned_w1: `[h, d]` of the other network.
      pruned_b1: its `[h]`.
      pruned_w2: its `[classes, h]`.
      penalty: as for `prune`.

    Returns:
      The value, a scalar.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, a number is not finite or the penalty is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> net = jnp.ones((1, 2)), jnp.zeros(1), jnp.array([[1.0], [0.0]]), jnp.zeros(2)
      >>> tropical.pruning_objective(*net, jnp.zeros((1, 2)), jnp.zeros(1), net[2], penalty=0.5)
      Array(1., dtype=float32)
    """
    layers = checked_layers(w1, b1, w2, b2)
    pruned_w2 = floating("pruned_w2", pruned_w2)
    no_bias = jnp.zeros(pruned_w2.shape[:1], pruned_w2.dtype)
    other = checked_layers(pruned_w1, pruned_b1, pruned_w2, no_bias)
    if other.w1.shape != layers.w1.shape or other.w2.shape != layers.w2.shape:
        raise ValueError(
            f"pruned_w1 and pruned_w2 must have shapes {layers.w1.shape} and {layers.w2.shape}, "
            f"got {other.w1.shape} and {other.w2.shape}"
        )
    return objective(layers, other, checked_penalty(penalty, layers))


def pruning_scores(w1: ArrayLike, b1: ArrayLike, w2: ArrayLike) -> jax.Array:
    r"""Compute the least penalty at which `prune` removes each neuron.

    .. math::
        |(A_r, c_r)| \max\Bigl( \max_i B^+_{ir} + \tfrac{1}{k - 1} \sum_j B^-_{jr},\;
        \max_j B^-_{jr} + \tfrac{1}{k - 1} \sum_i B^+_{ir} \Bigr)

    the maximum over i taken only if some weight is positive, that over j only if some is negative.
    For two classes it is the longer of the neuron's two generators.

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.

    Returns:
      `[h]`, in units of a generator's length.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit or a number is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> tropical.pruning_scores(jnp.array([[3.0, 4.0]]), jnp.zeros(1), jnp.array([[1.0], [-1.0]]))
      Array([10.], dtype=float32)
    """
    w2 = floating("w2", w2)
    layers = checked_layers(w1, b1, w2, jnp.zeros(w2.shape[:1], w2.dtype))
    return _scores(layers)


@jax.jit
def _scores(layers: Layers) -> jax.Array:
    positive, negative = jax.nn.relu(layers.w2), jax.nn.relu(-layers.w2)
    others = layers.w2.shape[0] - 1
    # A side without weights has a maximum of 0 and asks for less than the other side does.
    first = jnp.max(positive, axis=0) + jnp.sum(negative, axis=0) / others
    second = jnp.max(negative, axis=0) + jnp.sum(positive, axis=0) / others
    first = jnp.where(jnp.any(positive > 0, axis=0), first, 0)
    second = jnp.where(jnp.any(negative > 0, axis=0), second, 0)
    return lifted_norms(layers) * jnp.maximum(first, second)


def checked_penalty(penalty: ArrayLike, layers: Layers) -> jax.Array:
    """One penalty for each class that adds its positive part: `[classes]`."""
    classes = layers.w2.shape[0]
    array = floating("penalty", float(penalty) if isinstance(penalty, int) else penalty)
    shapes = ((), (2,)) if classes == 2 else ((),)
    if array.shape not in shapes:
        allowed = "a scalar or of shape (2,)" if classes == 2 else f"a scalar for {classes} classes"
        raise ValueError(f"penalty must be {allowed}, got shape {tuple(array.shape)}")
    if _checks.is_concrete(array) and np.any(np.asarray(array) < 0):
        raise ValueError(f"penalty must be at least 0, got {penalty}")
    return jnp.broadcast_to(array.astype(layers.w1.dtype), (classes,))


@jax.jit
def objective(layers: Layers, pruned: Layers, penalties: jax.Array) -> jax.Array:
    rows = jnp.concatenate([layers.w1, layers.b1[:, None]], axis=1)
    change = jnp.concatenate([pruned.w1, pruned.b1[:, None]], axis=1) - rows
    row_square, change_square = jnp.sum(rows**2, axis=1), jnp.sum(change**2, axis=1)
    product = jnp.sum(rows * change, axis=1)
    length = lifted_norms(pruned)
    different = 1 - jnp.eye(layers.w2.shape[0], dtype=rows.dtype)
    old_negative, new_negative = jax.nn.relu(-layers.w2), jax.nn.relu(-pruned.w2)

    def of_class(
        arguments: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    ) -> jax.Array:
        old_positive, new_positive, penalty, others = arguments
        old, new = old_positive[None] + old_negative, new_positive[None] + new_negative
        # |new (row + change) - old row|^2, without cancellation where only w2 changes.
        square = (
            new**2 * change_square[None]
            + 2 * new * (new - old) * product[None]
            + (new - old) ** 2 * row_square[None]
        )
        return jnp.sum((square / 2 + penalty * new * length[None]) * others[:, None])

    positive = jax.nn.relu(layers.w2), jax.nn.relu(pruned.w2)
    return jnp.sum(jax.lax.map(of_class, (*positive, penalties, different)))
