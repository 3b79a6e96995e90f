"""What the schemes that draw several noisy copies of an image share."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from jaxcert import _checks, models
from jaxcert.smoothing import Noise


def draw_noise(
    key: jax.Array, images: jax.Array, *, noise: Noise | None, num_samples: int
) -> jax.Array:
    """Draw noise for each image: `[n, num_samples, *shape]`, draw i of row j with its own key."""
    if noise is None:
        raise ValueError("noise must be given: this loss is about predictions under noise")
    _checks.one_value_per_input("noise.scale", jnp.asarray(noise.scale), images.shape[0])
    return _draw(key, noise, (images.shape[0], num_samples), images.shape[1:])


# One program also where a loss is not compiled: noise is a hundred operations.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(
    key: jax.Array, noise: Noise, counts: tuple[int, int], shape: tuple[int, ...]
) -> jax.Array:
    rows, samples = (jnp.arange(count) for count in counts)
    keys = jax.vmap(
        lambda row: jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, row), samples)
    )(rows)
    return noise.sample(keys, shape)


def noisy_scores(
    classify: Callable[[jax.Array], jax.Array], images: jax.Array, draws: jax.Array
) -> jax.Array:
    """Scores of all noisy copies in one batch: `[n, m, classes]`."""
    copies = (images[:, None] + draws).reshape(-1, *images.shape[1:])
    scores = classify(copies)
    chex.assert_rank(scores, 2)
    chex.assert_axis_dimension(scores, 0, copies.shape[0])
    return scores.reshape(*draws.shape[:2], -1)


def mean_cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy averaged over images and copies, of scores `[n, m, classes]`."""
    logs = jax.nn.log_softmax(scores)
    return -jnp.take_along_axis(logs, labels[:, None, None], axis=2).mean()


def accuracy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of the noisy copies that are classified right, of scores `[n, m, classes]`."""
    return (scores.argmax(axis=-1) == labels[:, None]).mean()


def log_mean_softmax(scores: jax.Array) -> jax.Array:
    """Logarithm of the mean over copies of the softmax: `[n, classes]`."""
    return jax.nn.logsumexp(jax.nn.log_softmax(scores), axis=1) - jnp.log(scores.shape[1])


def frozen(classify: Any) -> Any:
    """The network in evaluation mode with constant weights, for what attacks or adapts to it.

    Batch statistics neither change nor are used, and no gradient of the weights goes through.
    """
    if isinstance(classify, nnx.Module):
        classify = models.from_nnx(classify)
    if isinstance(classify, jax.tree_util.Partial):
        return jax.tree.map(jax.lax.stop_gradient, classify)
    return classify


def ascend(
    key: jax.Array,
    classify: Any,
    images: jax.Array,
    labels: jax.Array,
    draws: jax.Array,
    *,
    num_steps: int,
    step_size: jax.Array,
    radius: jax.Array | None,
) -> jax.Array:
    """Climb the cross-entropy of the soft smoothed classifier on fixed draws of noise.

    Args:
      key: for a direction where the gradient is zero.
      classify: the network, which is frozen here.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      draws: `[n, m, *shape]`.
      num_steps: steps, which are unrolled: XLA for CPUs rewrites the convolutions of gradients only
        outside loops.
      step_size: the l2 length of a step.
      radius: of the l2 ball, or None for none.

    Returns:
      `[n, *shape]` in [0, 1], a constant to gradients.
    """
    constant = frozen(classify)

    def objective(points: jax.Array) -> jax.Array:
        logs = log_mean_softmax(noisy_scores(constant, points, draws))
        return -jnp.sum(jnp.take_along_axis(logs, labels[:, None], axis=1))

    points = images
    for step in range(num_steps):
        gradients = jax.grad(objective)(points)
        other = jax.random.normal(jax.random.fold_in(key, step), images.shape, images.dtype)
        is_zero = _lengths(gradients) == 0
        directions = jnp.where(is_zero, other, gradients)
        moved = points + step_size * directions / _lengths(directions)
        points = jnp.clip(moved, 0, 1)
        if radius is not None:
            change = points - images
            lengths = _lengths(change)
            points = images + change * jnp.minimum(1, radius / jnp.where(lengths > 0, lengths, 1))
    return jax.lax.stop_gradient(points)


def _lengths(values: jax.Array) -> jax.Array:
    """l2 norms of the rows, with axes that broadcast against them; safe from underflow."""
    axes = tuple(range(1, values.ndim))
    largest = jnp.max(jnp.abs(values), axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale * jnp.sqrt(jnp.sum((values / scale) ** 2, axis=axes, keepdims=True))
