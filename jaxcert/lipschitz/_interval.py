"""Interval bound propagation, with the rounding of every step included."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcert.lipschitz._balls import Ball, check_precision
from jaxcert.lipschitz._outward import epsilon, round_down, round_up, smallest
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._sequential import (
    Conv,
    Dense,
    Flatten,
    Layer,
    Relu,
    check_layers,
    fan_in,
    linear_part,
    weight_of,
)


class Interval(NamedTuple):
    """Bounds of an array, entry by entry.

    Attributes:
      lower: `[b, *shape]`.
      upper: `[b, *shape]`.
    """

    lower: jax.Array
    upper: jax.Array


def interval_bounds(layers: Sequence[Layer], region: Ball) -> tuple[Interval, ...]:
    r"""Bound what every layer puts out by interval arithmetic.

    .. math::
        W m + b \pm |W| r, \quad m = \tfrac{1}{2}(l + u), \; r = \tfrac{1}{2}(u - l)

    for an affine layer on [l, u], and the ends of the interval for a ReLU. The first affine layer
    of an l2 or l1 ball takes the dual norm of its rows instead, where that is smaller.

    Args:
      layers: the network.
      region: the inputs, of `ball`.

    Returns:
      An `Interval` for the output of each layer, in order.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if the layers do not fit each other or the inputs.

    Guarantee:
      Sound: the intervals enclose what the network with exactly these weights gives, in real
      arithmetic, on every point of the region. Rounding is added to the radius of every step.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, Relu, ball, interval_bounds
      >>> layers = [Dense(jnp.array([[1.0, -2.0]]), jnp.zeros(1)), Relu()]
      >>> bounds = interval_bounds(layers, ball(jnp.zeros((1, 2)), 0.5))
      >>> [float(end.round(4)[0, 0]) for end in bounds[-1]]
      [0.0, 1.5]

    References:
      Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably
      Robust Models", 2018, arXiv:1810.12715.
    """
    layers, region = prepared(layers, region)
    bounds: list[Interval] = []
    value = Interval(region.lower, region.upper)
    for position in range(len(layers)):
        value = layer_interval(layers, position, value, region)
        bounds.append(value)
    return tuple(bounds)


def prepared(layers: Sequence[Layer], region: Ball) -> tuple[list[Layer], Ball]:
    """Check both, and bring their numbers to one floating type."""
    if not isinstance(region, Ball):
        raise TypeError(f"region must be a Ball, as ball(...) makes, got {type(region).__name__}")
    layers = list(layers) if isinstance(layers, tuple) else layers
    check_layers(layers, region.center.shape[1:])
    leaves = jax.tree.leaves(layers)
    for leaf in leaves:
        check_precision("layers", leaf)
    dtype = jnp.result_type(region.center, *leaves)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (layers, region))


def layer_interval(
    layers: Sequence[Layer], position: int, value: Interval, region: Ball
) -> Interval:
    """Bounds of what one layer puts out, from those of what it takes in."""
    layer = layers[position]
    if isinstance(layer, Relu):
        return Interval(jnp.maximum(value.lower, 0), jnp.maximum(value.upper, 0))
    if isinstance(layer, Flatten):
        return Interval(*(end.reshape(end.shape[0], -1) for end in value))
    interval = affine_interval(layer, value)
    first = all(isinstance(earlier, Flatten) for earlier in layers[:position])
    if first and region.norm != "linf":
        interval = intersection(interval, _dual_norm_interval(layer, value, region))
    return interval


def intersection(one: Interval, other: Interval) -> Interval:
    """What lies in both."""
    return Interval(jnp.maximum(one.lower, other.lower), jnp.minimum(one.upper, other.upper))


def affine_interval(layer: Dense | Conv, value: Interval) -> Interval:
    """Bounds of an affine layer on a box."""
    middle = (value.lower + value.upper) / 2
    # From the rounded middle to the farther end, so that rounding cannot lose an end.
    radius = jnp.maximum(round_up(value.upper - middle), round_up(middle - value.lower))
    return around(layer, middle, radius)


def around(layer: Dense | Conv, middle: jax.Array, radius: jax.Array) -> Interval:
    """Bounds of an affine layer on the box of a middle and radii, rounding included."""
    dtype = middle.dtype
    share = gamma(fan_in(layer) + 4, dtype)
    weight = weight_of(layer)
    center = linear_part(layer, middle) + layer.bias
    spread = linear_part(layer, radius + share * (jnp.abs(middle) + radius), weight=jnp.abs(weight))
    spread = spread * (1 + share) + share * jnp.abs(layer.bias)
    axes = tuple(range(1, middle.ndim))
    largest = jnp.max(jnp.abs(middle) + radius, axis=axes).reshape(-1, *(1,) * (center.ndim - 1))
    spread += fan_in(layer) * smallest(dtype) * (2 + largest + jnp.max(jnp.abs(weight)))
    spread += 2 * epsilon(dtype) * (jnp.abs(center) + spread)
    return Interval(center - spread, center + spread)


def _dual_norm_interval(layer: Dense | Conv, value: Interval, region: Ball) -> Interval:
    """Bounds of the first affine layer on an l2 or l1 ball: the radius times its rows' norms."""
    dtype = value.lower.dtype
    center = region.center.reshape(value.lower.shape)
    share = gamma(fan_in(layer) + 8, dtype)
    exact = around(layer, center, jnp.zeros_like(center))
    weight: Any = weight_of(layer)
    if region.norm == "l2":
        # A scale of its own for the whole layer, so that no square underflows where it matters.
        scale = jnp.maximum(jnp.max(jnp.abs(weight)), smallest(dtype))
        squares = linear_part(layer, jnp.ones_like(center[:1]), weight=(weight / scale) ** 2)
        norms = scale * jnp.sqrt(squares)
        norms += scale * fan_in(layer) ** 0.5 * smallest(dtype) ** 0.5
    elif isinstance(layer, Dense):
        norms = jnp.max(jnp.abs(weight), axis=1)[None]
    else:
        norms = jnp.max(jnp.abs(weight), axis=tuple(range(weight.ndim - 1)))
        norms = jnp.broadcast_to(norms, exact.lower[:1].shape)
    radius = region.radius.reshape(-1, *(1,) * (exact.lower.ndim - 1))
    reach = radius * norms * (1 + share) + smallest(dtype)
    return Interval(round_down(exact.lower - reach), round_up(exact.upper + reach))
