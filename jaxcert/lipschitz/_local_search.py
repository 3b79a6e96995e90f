"""Lower bounds of the Lipschitz constant over a set of inputs, by searching for steep points."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._balls import Ball
from jaxcert.lipschitz._interval import Interval, interval_bounds, prepared
from jaxcert.lipschitz._jacobian import functional_rows, jacobian_interval, slope_ranges
from jaxcert.lipschitz._local import dual_norm
from jaxcert.lipschitz._outward import epsilon, round_down
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._sequential import Layer, Relu, apply_layer

# How much smaller the searched set is at least, so that rounding cannot leave the ball.
_SHRINK = 1e-4
# Sharpness of the softplus whose Jacobian is climbed, times the spread of a layer's inputs.
_SHARPNESS = 20.0


class _Met(NamedTuple):
    """The steepest point so far of each input and functional."""

    value: jax.Array
    point: jax.Array


def local_lipschitz_lower(
    key: jax.Array,
    layers: Sequence[Layer],
    region: Ball,
    *,
    functionals: ArrayLike | None = None,
    starts: int = 8,
    steps: int = 20,
) -> jax.Array:
    r"""Bound the Lipschitz constant over a set from below, by the Jacobian at points of the set.

    .. math::
        L \ge \max_t \|J(x_t)\|, \qquad x_t \in B

    The points are the centre, random points, and where those arrive that climb the norm of the
    Jacobian of the network with softplus in the place of ReLU; after every other step they try a
    random move instead and keep it if it is steeper.

    Args:
      key: a typed key.
      layers: the network.
      region: the inputs, of `ball`; its norm is that of the inputs.
      functionals: as in `local_lipschitz_upper`.
      starts: random points for each input.
      steps: of each.

    Returns:
      `[b, k]` for functionals, `[b]` otherwise; 0 where no point had a Jacobian of known pattern.
      At radius 0 it is about all neighbourhoods of the input.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if shapes do not fit or a setting is out of range.

    Guarantee:
      Sound: never above the Lipschitz constant on the region. A point counts only if the sign of
      every neuron there is certain in spite of rounding, so that its Jacobian is that of a whole
      neighbourhood, and the rounding of the norm is taken off.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, Relu, ball, local_lipschitz_lower
      >>> layers = [Dense(jnp.array([[1.0], [-2.0]]), jnp.zeros(2)), Relu(),
      ...           Dense(jnp.ones((1, 2)), jnp.zeros(1))]
      >>> inputs = jnp.array([[0.5], [3.0]])  # relu(x) + relu(-2 x)
      >>> local_lipschitz_lower(jax.random.key(0), layers, ball(inputs, 1.0, norm="l2")).round(3)
      Array([2., 1.], dtype=float32)
    """
    key = _checks.typed_key("key", key)
    layers, region = prepared(layers, region)
    starts = _checks.positive_integer("starts", starts)
    steps = _checks.positive_integer("steps", steps, minimum=0)
    rows = functional_rows(layers, region, functionals)
    whole = functionals is None
    shape = region.center.shape[1:]
    batch = region.center.shape[0]

    def steepness(points: jax.Array) -> jax.Array:
        """Lower bounds at points `[b, *shape]`: `[b, k]`, with k = 1 for the whole output."""
        here = Ball(points, jnp.zeros(batch, points.dtype), points, points, region.norm)
        ranges = slope_ranges(layers, interval_bounds(layers, here), here)
        certain = jnp.ones(batch, bool)
        for interval in ranges.values():
            same = interval.lower == interval.upper
            certain &= jnp.all(same.reshape(batch, -1), axis=1)
        jacobian = jacobian_interval(layers, rows, ranges, here)
        return jnp.where(certain[:, None], _norm_lower(jacobian, region.norm, whole), 0)

    def smooth(point: jax.Array, weights: jax.Array) -> jax.Array:
        """The squared norm of the gradients at one point of the network with softplus."""

        def scores(value: jax.Array) -> jax.Array:
            value = value[None]
            for layer in layers:
                if isinstance(layer, Relu):
                    spread = jax.lax.stop_gradient(jnp.mean(jnp.abs(value)) + 1e-6)
                    sharp = _SHARPNESS / spread
                    value = jax.nn.softplus(sharp * value) / sharp
                else:
                    value = apply_layer(layer, value)
            return jnp.sum(weights.reshape(value.shape[1:]) * value[0])

        return jnp.sum(jax.grad(scores)(point) ** 2)

    climb = jax.vmap(jax.grad(smooth))

    def run(best: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        own = jax.random.fold_in(key, number)
        offset = _random_offsets(jax.random.fold_in(own, 0), region)
        # The first start is the centre itself.
        first = _project(region.center + jnp.where(number == 0, 0, 1) * offset, region)
        drawn = jax.random.normal(jax.random.fold_in(own, 1), rows.shape[:2], rows.dtype)
        chosen = jax.nn.one_hot(number % rows.shape[1], rows.shape[1], dtype=rows.dtype)
        # Gradients of one functional after another, or of random mixtures of all outputs.
        weights = (
            jnp.einsum("bk,bk...->b...", drawn, rows)
            if whole
            else jnp.einsum("k,bk...->b...", chosen, rows)
        )

        def step(index: jax.Array, carry: tuple[_Met, jax.Array]) -> tuple[_Met, jax.Array]:
            met, best = carry
            share = 1 - (index - 1) / max(steps, 1)
            reach = region.radius.reshape(-1, *(1,) * len(shape)) * share
            direction = climb(met.point, weights)
            uphill = met.point + reach * _unit(direction, region.norm)
            random = _random_offsets(jax.random.fold_in(own, 2 + index), region)
            candidate = jnp.where(index % 2 == 1, uphill, met.point + random * 0.3)
            # The first is the start itself, so that there is one program for all.
            candidate = _project(jnp.where(index == 0, met.point, candidate), region)
            found = steepness(candidate)
            total = jnp.max(found, axis=1)
            better = (total > met.value) | (index % 2 == 1)
            point = jnp.where(better.reshape(-1, *(1,) * len(shape)), candidate, met.point)
            return _Met(jnp.where(better, total, met.value), point), jnp.maximum(best, found)

        start = (_Met(jnp.full(batch, -1, best.dtype), first), best)
        _, best = jax.lax.fori_loop(0, steps + 1, step, start)
        return best, None

    columns = 1 if whole else rows.shape[1]
    nothing = jnp.zeros((batch, columns), rows.dtype)
    best, _ = jax.lax.scan(run, nothing, jnp.arange(starts + 1))
    return best[:, 0] if whole else best


def _norm_lower(interval: Interval, norm: str, whole: bool) -> jax.Array:
    """A lower bound of the norm of any matrix within the intervals: `[b, k]`, or `[b, 1]`."""
    batch, count = interval.lower.shape[:2]
    low, high = (end.reshape(batch, count, -1) for end in interval)
    least = jnp.maximum(jnp.maximum(low, -high), 0)
    size = least.shape[-1]
    slack = 1 - gamma(max(size, count) + 8, least.dtype)
    if not whole:
        return dual_norm(least, norm) * slack
    if norm == "linf":
        return jnp.max(jnp.sum(least, axis=2), axis=1, keepdims=True) * slack
    if norm == "l1":
        return jnp.max(jnp.sum(least, axis=1), axis=1, keepdims=True) * slack
    middle = (low + high) / 2
    precision = jax.lax.Precision.HIGHEST
    vectors = jnp.sum(middle, axis=2, keepdims=True) + 1e-3 * jnp.max(jnp.abs(middle))

    def multiply(_: int, vectors: jax.Array) -> jax.Array:
        image = jnp.einsum("bkd,bkj->bdj", middle, vectors, precision=precision)
        vectors = jnp.einsum("bkd,bdj->bkj", middle, image, precision=precision)
        length = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / jnp.where(length > 0, length, 1)

    vectors = jax.lax.fori_loop(0, 30, multiply, vectors)
    # u J for some u of length at most 1 + gamma, whatever u is, is no longer than the norm.
    image = jnp.einsum("bkd,bkj->bd", middle, vectors, precision=precision)
    length = dual_norm(image, "l2")
    magnitude = jnp.einsum("bkd,bkj->bd", jnp.abs(middle), jnp.abs(vectors), precision=precision)
    error = gamma(count + 8, least.dtype) * dual_norm(magnitude, "l2")
    error += dual_norm(jnp.sum((high - low), axis=1), "l2")
    return (round_down(length * slack - error) * slack)[:, None]


def _unit(vectors: jax.Array, norm: str) -> jax.Array:
    """The direction of steepest ascent for a norm, of unit length in it."""
    flat = vectors.reshape(vectors.shape[0], -1)
    if norm == "linf":
        flat = jnp.sign(flat)
    elif norm == "l2":
        length = jnp.linalg.norm(flat, axis=1, keepdims=True)
        flat = flat / jnp.where(length > 0, length, 1)
    else:
        place = jnp.argmax(jnp.abs(flat), axis=1)
        flat = jnp.sign(flat) * jax.nn.one_hot(place, flat.shape[1], dtype=flat.dtype)
    return flat.reshape(vectors.shape)


def _random_offsets(key: jax.Array, region: Ball) -> jax.Array:
    """A random offset within the ball of each input."""
    shape, dtype = region.center.shape, region.center.dtype
    radius = region.radius.reshape(-1, *(1,) * (len(shape) - 1))
    if region.norm == "linf":
        return jax.random.uniform(key, shape, dtype, -1, 1) * radius
    draw = jax.random.normal if region.norm == "l2" else jax.random.laplace
    drawn = draw(jax.random.fold_in(key, 0), shape, dtype)
    length = _length(drawn, region.norm)
    share = jax.random.uniform(jax.random.fold_in(key, 1), radius.shape, dtype)
    return drawn / jnp.where(length > 0, length, 1) * radius * share


def _length(vectors: jax.Array, norm: str) -> jax.Array:
    flat = jnp.abs(vectors.reshape(vectors.shape[0], -1))
    if norm == "linf":
        length = jnp.max(flat, axis=1)
    elif norm == "l2":
        length = jnp.sqrt(jnp.sum(flat**2, axis=1))
    else:
        length = jnp.sum(flat, axis=1)
    return length.reshape(-1, *(1,) * (vectors.ndim - 1))


def _project(points: jax.Array, region: Ball) -> jax.Array:
    """Into the ball by scaling, made a little smaller, and into the box."""
    offsets = points - region.center
    size = points[0].size
    radius = region.radius.reshape(-1, *(1,) * (points.ndim - 1))
    # Less what rounding could add to the norm of an offset, and to the point itself.
    share = _SHRINK + gamma(size, points.dtype)
    radius = radius * (1 - share) - 4 * epsilon(points.dtype) * _length(region.center, region.norm)
    radius = jnp.maximum(radius, 0)
    if region.norm == "linf":
        offsets = jnp.clip(offsets, -radius, radius)
    else:
        length = _length(offsets, region.norm)
        offsets = offsets * jnp.minimum(1, radius / jnp.where(length > 0, length, 1))
    return jnp.clip(region.center + offsets, region.lower, region.upper)
