"""What is known about the squared gradient norms while training, from batches or full passes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcert.batching._draw import Batch
from jaxcert.batching._norms import SquaredNorms
from jaxcert.batching._sampling import Sampling

ESTIMATES = ("table", "batch", "exact")
NOISES = ("mean_square", "variance", "second_moment")


class NoiseEstimate(NamedTuple):
    """Squared gradient norms as far as they were seen.

    Attributes:
      examples: for `"table"` and `"exact"` `[n]`, the norm last seen of each example, -1 where none
        was; for `"batch"` `[m]`, a fading sum of the mean over each part.
      weight: `[m]`, for `"batch"` the fading sum of ones that the other is divided by.
      parts: `[m]`, estimates of the squared norms of the mean gradients of the parts.
      total: scalar, that of the mean gradient of all examples.
    """

    examples: jax.Array
    weight: jax.Array
    parts: jax.Array
    total: jax.Array


def start(sampling: Sampling, kind: str) -> NoiseEstimate:
    """Nothing seen yet."""
    dtype, parts = sampling.part_smoothness.dtype, sampling.num_parts
    nothing = jnp.zeros(parts, dtype)
    examples = nothing if kind == "batch" else jnp.full(sampling.num_examples, -1.0, dtype)
    return NoiseEstimate(examples, nothing, nothing, jnp.zeros((), dtype))


def known(sampling: Sampling, kind: str, estimate: NoiseEstimate) -> SquaredNorms:
    """The estimate as norms of all examples; one that was not seen takes the mean of its part."""
    if kind == "batch":
        mean = estimate.examples / jnp.where(estimate.weight > 0, estimate.weight, 1.0)
        return SquaredNorms(mean[sampling.part_of_example], estimate.parts, estimate.total)
    seen = estimate.examples >= 0
    values = jnp.where(seen, estimate.examples, 0.0)
    if sampling.num_parts == 1:
        mean = jnp.sum(values) / jnp.maximum(jnp.sum(seen), 1).astype(values.dtype)
        filled = jnp.where(seen, values, mean)
    else:
        sums, counts = (
            jax.ops.segment_sum(column, sampling.part_of_example, num_segments=sampling.num_parts)
            for column in (values, seen.astype(values.dtype))
        )
        mean = sums / jnp.maximum(counts, 1.0)
        filled = jnp.where(seen, values, mean[sampling.part_of_example])
    return SquaredNorms(filled, estimate.parts, estimate.total)


def exact(sampling: Sampling, kind: str, norms: SquaredNorms) -> NoiseEstimate:
    """The estimate after a full pass over all gradients."""
    dtype = sampling.part_smoothness.dtype
    examples = jnp.asarray(norms.examples).astype(dtype)
    parts = jnp.broadcast_to(jnp.asarray(norms.parts).astype(dtype), (sampling.num_parts,))
    weight = jnp.ones_like(parts)
    if kind == "batch":
        examples = jax.ops.segment_sum(
            examples, sampling.part_of_example, num_segments=sampling.num_parts
        ) / sampling.part_sizes.astype(dtype)
    return NoiseEstimate(examples, weight, parts, jnp.asarray(norms.total).astype(dtype))


def observe(
    sampling: Sampling,
    kind: str,
    estimate: NoiseEstimate,
    gradient: Any,
    batch: Batch,
    squared_norms: jax.Array,
    decay: float,
) -> NoiseEstimate:
    """Fold what one batch showed into the estimate."""
    if kind == "exact":
        return estimate
    dtype = sampling.part_smoothness.dtype
    squared_norms = squared_norms.astype(dtype)
    drawn = jnp.arange(batch.indices.shape[0]) < batch.size
    part = batch.part
    size = sampling.part_sizes[part].astype(dtype)
    # Weights of the mean over the part, given that it was drawn.
    weights = batch.weights * sampling.part_probabilities[part]
    examples, weight = estimate.examples, estimate.weight
    if kind == "table":
        # Padding is written beyond the end, that is nowhere.
        where = jnp.where(drawn, batch.indices, sampling.num_examples)
        examples = examples.at[where].set(squared_norms, mode="drop")
    else:
        mean = jnp.sum(jnp.where(drawn, weights * squared_norms, 0.0)) / size
        examples = examples.at[part].set(decay * examples[part] + (1 - decay) * mean)
        weight = weight.at[part].set(decay * weight[part] + (1 - decay))
    found, usable = _mean_gradient_sq(sampling, gradient, batch, squared_norms, weights, drawn)
    before = estimate.parts[part]
    faded = decay * before + (1 - decay) * found
    parts = estimate.parts.at[part].set(jnp.where(usable, faded, before))
    total = jnp.maximum(parts[0], 0.0) if sampling.num_parts == 1 else estimate.total
    return NoiseEstimate(examples, weight, parts, total)


def _mean_gradient_sq(
    sampling: Sampling,
    gradient: Any,
    batch: Batch,
    squared_norms: jax.Array,
    weights: jax.Array,
    drawn: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Unbiased estimate of the squared norm of the mean gradient of a part, where there is one.

    The squared norm of the batch's own mean is too large by its variance, which is taken off.
    """
    dtype = sampling.part_smoothness.dtype
    size = sampling.part_sizes[batch.part].astype(dtype)
    tau = batch.size.astype(dtype)
    scale = sampling.num_examples * sampling.part_probabilities[batch.part] / size
    whole = scale**2 * tree_squared_norm(gradient).astype(dtype)
    masked = jnp.where(drawn, squared_norms, 0.0)
    if sampling.family == "independent":
        inclusion = jnp.where(weights > 0, 1.0 / jnp.where(weights > 0, weights, 1.0), 1.0)
        excess = jnp.sum((1 - inclusion) * weights**2 * masked) / size**2
        return whole - excess, batch.size > 0
    several = jnp.maximum(tau - 1, 1.0)
    if sampling.family == "with_replacement":
        repeated = jnp.sum(weights**2 * masked) / size**2
        return (whole - repeated) * tau / several, batch.size > 1
    spread = (jnp.sum(masked) - tau * whole) / several
    return whole - (size - tau) / (size * jnp.maximum(tau, 1.0)) * spread, batch.size > 1


def tree_squared_norm(tree: Any) -> jax.Array:
    """Sum of the squares of all leaves."""
    leaves = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(leaves))
