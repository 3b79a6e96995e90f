"""The formulas of the samplings, times the batch size: most are linear in it then."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxcert.batching._norms import SquaredNorms

if TYPE_CHECKING:
    from jaxcert.batching._sampling import Sampling

# Halvings of an interval that reach the last bit of float64 from any sensible start.
_HALVINGS = 64
# Batch sizes at which a work that need not be convex is looked at: all of them up to here.
_GRID = 512


@jax.jit
def scaled_smoothness(sampling: "Sampling", tau: jax.Array) -> jax.Array:
    """The batch size times the expected smoothness that each part asks for: `[m]`."""
    sizes, largest = _sizes(sampling), sampling.largest_smoothness
    count, smoothness = sampling.num_examples, sampling.part_smoothness
    if sampling.family == "with_replacement":
        worst = sampling.largest_smoothness
        if sampling.importance != "uniform":
            probability = sampling.weights / jnp.sum(sampling.weights)
            worst = jnp.max(sampling.example_smoothness / (count * probability))
        return (tau - 1) * smoothness + worst
    share = count * sampling.part_probabilities
    if sampling.family == "nice":
        inside = sizes * (tau - 1) * smoothness + (sizes - tau) * largest
        inside = jnp.where(sizes == 1, tau * smoothness, inside)
        return sizes / (share * jnp.maximum(sizes - 1, 1)) * inside
    if sampling.importance == "uniform":
        return (tau * sizes * smoothness + (sizes - tau) * largest) / share
    probability = inclusion_probabilities(sampling, tau)
    spread = (1 - probability) / probability * sampling.example_smoothness
    return tau * (sizes * smoothness + _part_max(sampling, spread)) / share


@jax.jit
def scaled_noise(sampling: "Sampling", tau: jax.Array, norms: SquaredNorms) -> jax.Array:
    """The batch size times the second moment of the gradient estimate: a scalar."""
    sizes, count = _sizes(sampling), sampling.num_examples
    if sampling.family == "with_replacement":
        if sampling.importance == "uniform":
            return (tau - 1) * norms.total + part_sum(sampling, norms.examples)[0] / count
        probability = sampling.weights / jnp.sum(sampling.weights)
        return (tau - 1) * norms.total + jnp.sum(norms.examples / probability) / count**2
    share = count**2 * sampling.part_probabilities
    sums = part_sum(sampling, norms.examples)
    if sampling.family == "nice":
        inside = (tau - 1) * sizes * norms.parts + (sizes - tau) * sums / sizes
        # The only batch of a part with one example is that example.
        inside = jnp.where(sizes == 1, tau * sums, inside)
        return jnp.sum(sizes**2 / (share * jnp.maximum(sizes - 1, 1)) * inside)
    if sampling.importance == "uniform":
        return jnp.sum((tau * sizes**2 * norms.parts + (sizes - tau) * sums) / share)
    probability = inclusion_probabilities(sampling, tau)
    spread = part_sum(sampling, (1 - probability) / probability * norms.examples)
    return tau * jnp.sum((sizes**2 * norms.parts + spread) / share)


@jax.jit
def inclusion_probabilities(sampling: "Sampling", tau: jax.Array) -> jax.Array:
    """Probability of each example within its part, adding up to tau there: `[n]`."""
    sizes = _sizes(sampling)[sampling.part_of_example]
    if sampling.importance == "uniform":
        return tau / sizes
    if sampling.importance == "smoothness":
        smoothness = sampling.example_smoothness

        def probability(level: jax.Array) -> jax.Array:
            return smoothness / (smoothness + level[sampling.part_of_example])

        # L_i / (L_i + delta) < L_i / delta, so delta is below the sum of L_i over tau.
        top = part_sum(sampling, smoothness) / tau
        level = _root(lambda level: part_sum(sampling, probability(level)) > tau, 0 * top, top)
        return probability(level)
    weights = sampling.weights
    smallest = -_part_max(sampling, -weights)

    def clipped(level: jax.Array) -> jax.Array:
        return jnp.minimum(level[sampling.part_of_example] * weights, 1.0)

    level = _root(
        lambda level: part_sum(sampling, clipped(level)) < tau, 0 * smallest, 1.0 / smallest
    )
    return clipped(level)


def intersection(
    smooth: jax.Array,
    smooth_slope: jax.Array,
    noise: jax.Array,
    noise_slope: jax.Array,
    largest: jax.Array,
) -> jax.Array:
    """Minimise the largest of rising lines `[m]` and of one line of noise over [1, largest]."""
    falls = smooth_slope - noise_slope
    crossing = (noise - smooth) / jnp.where(falls > 0, falls, 1.0)
    # Lines that never part leave the end: the last batch if the noise is above, else the first.
    crossing = jnp.where(falls > 0, crossing, jnp.where(noise > smooth, largest, 1.0))
    best = jnp.clip(jnp.min(crossing), 1.0, largest)
    # Noise that rises with the batch: one example. Noise that stays, as with replacement: as many
    # as cost nothing.
    rises = noise_slope > 8 * jnp.finfo(best.dtype).eps * jnp.abs(noise)
    return jnp.where(rises, jnp.ones_like(best), best)


@functools.partial(jax.jit, static_argnames="centred")
def optimal_batch_size(
    sampling: "Sampling", norms: SquaredNorms, scale: jax.Array, *, centred: bool
) -> jax.Array:
    """The size of least work; `scale` makes the noise comparable with the smoothness."""
    largest = sampling.max_batch_size.astype(scale.dtype)
    shift = norms.total if centred else jnp.zeros_like(scale)
    if sampling.importance == "uniform" or sampling.family == "with_replacement":
        zero, one = jnp.zeros_like(scale), jnp.ones_like(scale)
        smooth, noise = scaled_smoothness(sampling, zero), scaled_noise(sampling, zero, norms)
        smooth_slope = scaled_smoothness(sampling, one) - smooth
        noise_slope = scaled_noise(sampling, one, norms) - noise - shift
        return intersection(smooth, smooth_slope, scale * noise, scale * noise_slope, largest)

    def work(tau: jax.Array) -> jax.Array:
        noise = scaled_noise(sampling, tau, norms) - tau * shift
        return jnp.maximum(jnp.max(scaled_smoothness(sampling, tau)), scale * noise)

    # Probabilities that are clipped at 1 can make several valleys: look everywhere, then nearby.
    count = min(sampling.num_examples, _GRID)
    grid = jnp.linspace(jnp.ones_like(largest), largest, count)
    best = jnp.argmin(jax.lax.map(work, grid))
    ends = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, count - 1)]
    found = _golden_section(work, *ends)
    return jnp.where(work(found) < work(grid[best]), found, grid[best])


def _golden_section(
    function: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array
) -> jax.Array:
    ratio = (5**0.5 - 1) / 2

    def shrink(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        lower = function(left) <= function(right)
        return jnp.where(lower, low, left), jnp.where(lower, right, high)

    low, high = jax.lax.fori_loop(0, _HALVINGS, shrink, (low, high))
    return (low + high) / 2


def _root(is_left: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """Bisect for the level `[m]` up to which `is_left` holds, for all parts at once."""

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        left = is_left(middle)
        return jnp.where(left, middle, low), jnp.where(left, high, middle)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return (low + high) / 2


def _sizes(sampling: "Sampling") -> jax.Array:
    return sampling.part_sizes.astype(sampling.part_smoothness.dtype)


def part_sum(sampling: "Sampling", values: jax.Array) -> jax.Array:
    """The sums over the parts `[m]` of values `[n]` or, where m < n, of their means `[m]`."""
    if values.shape == (sampling.num_parts,) != (sampling.num_examples,):
        return values * _sizes(sampling)
    if sampling.num_parts == 1:
        return jnp.sum(values)[None]
    return jax.ops.segment_sum(values, sampling.part_of_example, num_segments=sampling.num_parts)


def _part_max(sampling: "Sampling", values: jax.Array) -> jax.Array:
    if sampling.num_parts == 1:
        return jnp.max(values)[None]
    return jax.ops.segment_max(values, sampling.part_of_example, num_segments=sampling.num_parts)
