"""What is known about the squared gradient norms while training, from batches or full passes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcert.batching._draw import Batch
from jaxcert.batching._norms import SquaredNorms
from jaxcert.batching._sampling import Sampling

# Entries of a table that are written at once: many, and then few for a small batch.
_BLOCKS = (256, 8)
# The sums over a table are taken anew whenever an eighth of it was written, which costs little
# beside those gradients, and keeps the rounding of what was added and taken off small.
_SHARE = 8

ESTIMATES = ("table", "batch", "exact")
NOISES = ("mean_square", "variance", "second_moment")


class NoiseEstimate(NamedTuple):
    """Squared gradient norms as far as they were seen.

    Attributes:
      examples: for `"table"` and `"exact"` `[n]`, the norm last seen of each example, -1 where none
        was; for `"batch"` `[m]`, a fading sum of the mean over each part.
      weight: `[m]`, what a sum of norms is divided by: for `"batch"` the fading sum of ones, else
        the number of examples seen.
      sums: `[m]`, for `"table"` the sum of the norms seen in each part.
      unsummed: int32 scalar, entries written since the sums were taken over the whole table.
      parts: `[m]`, estimates of the squared norms of the mean gradients of the parts.
      total: scalar, that of the mean gradient of all examples.
    """

    examples: jax.Array
    weight: jax.Array
    sums: jax.Array
    unsummed: jax.Array
    parts: jax.Array
    total: jax.Array


def start(sampling: Sampling, kind: str) -> NoiseEstimate:
    """Nothing seen yet."""
    dtype, parts = sampling.part_smoothness.dtype, sampling.num_parts
    nothing = jnp.zeros(parts, dtype)
    examples = nothing if kind == "batch" else jnp.full(sampling.num_examples, -1.0, dtype)
    none = jnp.zeros((), jnp.int32)
    return NoiseEstimate(examples, nothing, nothing, none, nothing, jnp.zeros((), dtype))


def known(sampling: Sampling, kind: str, estimate: NoiseEstimate) -> SquaredNorms:
    """The estimate as norms of all examples; one that was not seen takes the mean of its part.

    For uniform probabilities the means of the parts alone, which are at hand.
    """
    if kind == "batch":
        mean = estimate.examples / jnp.where(estimate.weight > 0, estimate.weight, 1.0)
    else:
        mean = estimate.sums / jnp.maximum(estimate.weight, 1.0)
    if sampling.importance == "uniform" and sampling.num_parts != sampling.num_examples:
        return SquaredNorms(mean, estimate.parts, estimate.total)
    filled = mean[sampling.part_of_example]
    if kind != "batch":
        filled = jnp.where(estimate.examples >= 0, estimate.examples, filled)
    return SquaredNorms(filled, estimate.parts, estimate.total)


def exact(sampling: Sampling, kind: str, norms: SquaredNorms) -> NoiseEstimate:
    """The estimate after a full pass over all gradients."""
    dtype = sampling.part_smoothness.dtype
    examples = jnp.asarray(norms.examples).astype(dtype)
    parts = jnp.broadcast_to(jnp.asarray(norms.parts).astype(dtype), (sampling.num_parts,))
    sums, weight = _summed(sampling, examples)
    if kind == "batch":
        examples, weight = sums / weight, jnp.ones_like(weight)
    none = jnp.zeros((), jnp.int32)
    return NoiseEstimate(
        examples, weight, sums, none, parts, jnp.asarray(norms.total).astype(dtype)
    )


def observe(
    sampling: Sampling,
    kind: str,
    estimate: NoiseEstimate,
    gradient: Any,
    batch: Batch,
    squared_norms: jax.Array,
    decay: float,
    *,
    with_mean: bool,
) -> NoiseEstimate:
    """Fold what one batch showed into the estimate, that of the mean gradient if it is wanted."""
    if kind == "exact":
        return estimate
    dtype = sampling.part_smoothness.dtype
    squared_norms = jnp.asarray(squared_norms).astype(dtype)
    part = batch.part
    if kind == "table":
        estimate = _written(sampling, estimate, batch, squared_norms)
        if not with_mean:
            return estimate
    drawn = jnp.arange(batch.indices.shape[0]) < batch.size
    size = sampling.part_sizes[part].astype(dtype)
    # Weights of the mean over the part, given that it was drawn.
    weights = batch.weights * sampling.part_probabilities[part]
    if kind == "batch":
        mean = jnp.sum(jnp.where(drawn, weights * squared_norms, 0.0)) / size
        examples, weight = (
            column.at[part].set(decay * column[part] + (1 - decay) * value)
            for column, value in ((estimate.examples, mean), (estimate.weight, 1.0))
        )
        estimate = estimate._replace(examples=examples, weight=weight)
        if not with_mean:
            return estimate
    found, usable = _mean_gradient_sq(sampling, gradient, batch, squared_norms, weights, drawn)
    before = estimate.parts[part]
    faded = decay * before + (1 - decay) * found
    parts = estimate.parts.at[part].set(jnp.where(usable, faded, before))
    total = jnp.maximum(parts[0], 0.0) if sampling.num_parts == 1 else estimate.total
    return estimate._replace(parts=parts, total=total)


def _summed(sampling: Sampling, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums over the entries seen in each part `[m]`, and their numbers `[m]`."""
    seen = table >= 0
    columns = jnp.where(seen, table, 0.0), seen.astype(table.dtype)
    if sampling.num_parts == 1:
        return jnp.sum(columns[0])[None], jnp.sum(columns[1])[None]
    sums, counts = (
        jax.ops.segment_sum(column, sampling.part_of_example, num_segments=sampling.num_parts)
        for column in columns
    )
    return sums, counts


def _written(
    sampling: Sampling, estimate: NoiseEstimate, batch: Batch, values: jax.Array
) -> NoiseEstimate:
    """The table with the values of a batch, at a cost that follows the batch, and its sums."""
    capacity, count = batch.indices.shape[0], sampling.num_examples
    dtype = estimate.examples.dtype

    def write(size: int, done: jax.Array, number: jax.Array, carry: Any) -> Any:
        table, sums, counts = carry
        wanted = done + number * size
        # The last block starts early enough to end with the arrays, and skips what was written.
        first = jnp.minimum(wanted, capacity - size)
        indices = jax.lax.dynamic_slice_in_dim(batch.indices, first, size)
        new = jax.lax.dynamic_slice_in_dim(values, first, size)
        place = first + jnp.arange(size)
        drawn = (place >= wanted) & (place < batch.size)
        before = table[indices]
        change = jnp.sum(jnp.where(drawn, new - jnp.maximum(before, 0.0), 0.0))
        sums = sums.at[batch.part].add(change)
        more = jnp.sum(drawn & (before < 0), dtype=dtype)
        # Padding is written beyond the end, that is nowhere.
        table = table.at[jnp.where(drawn, indices, count)].set(new, mode="drop")
        return table, sums, counts.at[batch.part].add(more)

    sizes = [size for size in _BLOCKS if size <= capacity] or [capacity]
    carry: Any = (estimate.examples, estimate.sums, estimate.weight)
    done = jnp.zeros_like(batch.size)
    for size in sizes:
        left = batch.size - done
        blocks = left // size if size != sizes[-1] else (left + size - 1) // size
        carry = jax.lax.fori_loop(0, blocks, functools.partial(write, size, done), carry)
        done = done + blocks * size
    table, sums, counts = carry
    unsummed = estimate.unsummed + batch.size
    # A batch with replacement may hold an example twice, which the changes would count twice.
    due = (unsummed * _SHARE >= count) | (sampling.family == "with_replacement")
    sums, counts = jax.lax.cond(due, lambda: _summed(sampling, table), lambda: (sums, counts))
    return estimate._replace(
        examples=table, weight=counts, sums=sums, unsummed=jnp.where(due, 0, unsummed)
    )


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
