"""Random batches: exact draws with a traced size, whose cost grows with the batch."""

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcert import _checks

if TYPE_CHECKING:
    from jaxcert.batching._sampling import Sampling

# Random integers are drawn in blocks of this many, so that a small batch costs little.
_BLOCK = 64


class Batch(NamedTuple):
    r"""The examples of one step, padded to a static length, and their weights in the estimate.

    .. math::
        \nabla f_v(x) = \frac{1}{n} \sum_{s < size} weight_s \nabla f_{index_s}(x)

    Attributes:
      indices: int32 `[capacity]`; entries from `size` on are padding, and valid indices.
      weights: floating `[capacity]`, :math:`v_i` of the drawn example; 0 in the padding.
      size: int32 scalar, the number of examples drawn, each with a gradient to evaluate.
      part: int32 scalar, the part that was drawn; 0 where there is only one.
    """

    indices: jax.Array
    weights: jax.Array
    size: jax.Array
    part: jax.Array


def shuffled_prefix(
    key: jax.Array, population: jax.Array, count: jax.Array, capacity: int
) -> jax.Array:
    """Fill an array so that its first `count` are a uniform draw without replacement.

    They are drawn from 0..population-1, with `population` at most `capacity`, by the swaps of
    Fisher and Yates: as many as the smaller of the batch and what it leaves out, so the cost is
    linear in that number. Exact but for the 2**-32 of the random integers.
    """
    return _shuffled(capacity)(
        jax.random.key_data(key), jnp.asarray(population), jnp.asarray(count)
    )


@functools.cache
def _shuffled(capacity: int) -> Any:
    @jax.custom_batching.custom_vmap
    def shuffled(key_data: jax.Array, population: jax.Array, count: jax.Array) -> jax.Array:
        return _shuffle_rows(key_data[None], population[None], count[None], capacity)[0]

    @shuffled.def_vmap
    def _rows(
        axis_size: int, in_batched: Any, key_data: Any, population: Any, count: Any
    ) -> tuple[jax.Array, bool]:
        # The rule of `while_loop` would copy every permutation at every swap.
        rows = [
            value if batched else jnp.broadcast_to(value, (axis_size, *jnp.shape(value)))
            for value, batched in zip((key_data, population, count), in_batched, strict=True)
        ]
        if rows[1].ndim == 1:
            return _shuffle_rows(rows[0], rows[1], rows[2], capacity), True
        return jax.vmap(shuffled)(*rows), True

    return shuffled


def _shuffle_rows(
    key_data: jax.Array, population: jax.Array, count: jax.Array, capacity: int
) -> jax.Array:
    """The draws of several keys at once: key data `[b, 2]`, sizes `[b]`, result `[b, capacity]`."""
    keys = jax.random.wrap_key_data(key_data)
    rows = jnp.arange(keys.shape[0])
    left_out = population - count
    swaps = jnp.maximum(jnp.minimum(count, left_out), 0)
    start = jnp.broadcast_to(jnp.arange(capacity, dtype=jnp.int32), (keys.shape[0], capacity))

    def block(number: jax.Array, order: jax.Array) -> jax.Array:
        first = number * _BLOCK
        here = first + jnp.arange(_BLOCK, dtype=jnp.int32)
        other = jax.vmap(
            lambda key, size: jax.random.randint(
                jax.random.fold_in(key, number), (_BLOCK,), jnp.minimum(here, size - 1), size
            )
        )(keys, population)

        def swap(step: jax.Array, order: jax.Array) -> jax.Array:
            # A finished row swaps a position with itself.
            position = jnp.minimum(first + step, capacity - 1)
            partner = jnp.where(position < swaps, other[:, step], position)
            pair = jnp.stack([jnp.broadcast_to(position, partner.shape), partner], axis=1)
            # One gather and one scatter, so that the permutation is changed in place.
            values = order[rows[:, None], pair[:, ::-1]]
            return order.at[rows[:, None], pair].set(values, mode="promise_in_bounds")

        return jax.lax.fori_loop(0, jnp.minimum(_BLOCK, jnp.max(swaps) - first), swap, order)

    order = jax.lax.fori_loop(0, (jnp.max(swaps) + _BLOCK - 1) // _BLOCK, block, start)
    # Where fewer are left out than drawn, the swaps chose those: the batch follows them.
    offset = jnp.where(count > left_out, swaps, 0)

    def turn(order: jax.Array) -> jax.Array:
        places = (jnp.arange(capacity)[None] + offset[:, None]) % population[:, None]
        return jnp.take_along_axis(order, places.astype(jnp.int32), axis=1)

    return jax.lax.cond(jnp.any(offset > 0), turn, lambda order: order, order)


def draw_batch(
    sampling: "Sampling", key: jax.Array, batch_size: jax.Array, capacity: int | None
) -> Batch:
    """Draw a batch of a sampling; see `Sampling.draw`."""
    key = _checks.typed_key("key", key)
    count = sampling.num_examples
    with_replacement = sampling.family == "with_replacement"
    capacity = _checks.positive_integer(
        "capacity",
        count if capacity is None else capacity,
        maximum=2**30 if with_replacement else count,
    )
    if _checks.is_concrete(batch_size) and int(batch_size) > capacity:
        raise ValueError(f"batch_size must be at most the capacity {capacity}, got {batch_size}")
    return _draw(sampling, key, batch_size.astype(jnp.int32), capacity)


@functools.partial(jax.jit, static_argnums=3)
def _draw(sampling: "Sampling", key: jax.Array, tau: jax.Array, capacity: int) -> Batch:
    part_key, size_key, example_key = (jax.random.fold_in(key, branch) for branch in range(3))
    dtype, count = sampling.part_smoothness.dtype, sampling.num_examples
    part, size = jnp.zeros((), jnp.int32), tau
    if sampling.num_parts > 1:
        part = jax.random.categorical(part_key, jnp.log(sampling.part_probabilities))
        part = part.astype(jnp.int32)
    share = sampling.part_probabilities[part]
    if sampling.family == "with_replacement":
        cumulative = jnp.cumsum(sampling.weights)
        uniform = jax.random.uniform(example_key, (capacity,), dtype) * cumulative[-1]
        indices = jnp.searchsorted(cumulative, uniform, side="right")
        indices = jnp.clip(indices, 0, count - 1)
        probability = sampling.weights[indices] / jnp.sum(sampling.weights)
        weights = 1.0 / (tau.astype(dtype) * probability)
    elif sampling.family == "independent" and sampling.importance != "uniform":
        probability = sampling.inclusion_probabilities(tau)
        inside = jax.random.uniform(example_key, (count,), dtype) < probability
        inside &= sampling.part_of_example == part
        (indices,) = jnp.nonzero(inside, size=capacity, fill_value=0)
        size = jnp.sum(inside, dtype=jnp.int32)
        weights = 1.0 / (share * probability[indices])
    else:
        population = sampling.part_sizes[part]
        inclusion = tau.astype(dtype) / population.astype(dtype)
        if sampling.family == "independent":
            # A uniform subset of binomial size has independent members.
            size = jax.random.binomial(size_key, population.astype(dtype), inclusion, dtype=dtype)
            size = size.astype(jnp.int32)
        starts = jnp.cumsum(sampling.part_sizes) - sampling.part_sizes
        order = shuffled_prefix(example_key, population, size, count)[:capacity]
        indices = order
        if sampling.num_parts > 1:
            indices = sampling.members[starts[part] + jnp.minimum(order, population - 1)]
        weights = jnp.broadcast_to(1.0 / (share * inclusion), (capacity,))
    drawn = jnp.arange(capacity) < size
    weights = jnp.where(drawn, weights, 0.0).astype(dtype)
    return Batch(indices.astype(jnp.int32), weights, size, part)
