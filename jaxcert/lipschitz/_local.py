"""Upper bounds of the Lipschitz constant over a set of inputs."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._balls import Ball
from jaxcert.lipschitz._convolution import conv_operator_norm_upper
from jaxcert.lipschitz._gram import gram_upper
from jaxcert.lipschitz._interval import Interval, prepared
from jaxcert.lipschitz._jacobian import (
    SlopeRanges,
    functional_rows,
    jacobian_interval,
    slope_ranges,
)
from jaxcert.lipschitz._linear_relaxation import Slopes, check_settings, linear_bounds
from jaxcert.lipschitz._outward import round_up, smallest
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._sequential import Conv, Dense, Layer, Relu, layer_shapes
from jaxcert.lipschitz._spectral import operator_norm_upper

_ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
_SQUARINGS = 8


def local_lipschitz_upper(
    layers: Sequence[Layer],
    region: Ball,
    *,
    functionals: ArrayLike | None = None,
    bounds: Sequence[Interval] | None = None,
    patterns: int = 0,
    global_upper: ArrayLike | None = None,
    slopes: Slopes = "adaptive",
    refine: int | None = None,
) -> jax.Array:
    r"""Bound the Lipschitz constant of a network over a set of inputs.

    .. math::
        L \le \min\Bigl(\max_{s} \|J_s\|, \; \prod_i \|W_i\|\Bigr)

    The Jacobian lies within intervals, of which the norm is bounded. With `patterns` = k the k
    neurons of open sign that matter most are set to both of their slopes, in all 2^k patterns s,
    and the intervals are those of each pattern; where no other neuron is open, J_s is exact. The
    product over all layers bounds it for every input.

    Args:
      layers: the network.
      region: the inputs, of `ball`; its norm is that of the inputs.
      functionals: linear functions of the output, `[k, out]` or `[b, k, out]`, such as differences
        of classes: the constant of each from the norm of the region to absolute values. By
        default, of the whole output from that norm to the same norm.
      bounds: of the output of each layer over the region; those of `linear_bounds` by default.
      patterns: how many neurons are enumerated, at most 20; the cost grows as 2^patterns.
      global_upper: a bound for all inputs that the caller has, such as `network_lipschitz_upper`
        gives: a scalar, or one for each functional.
      slopes: of `linear_bounds`, where that is called.
      refine: of `linear_bounds`, where that is called.

    Returns:
      `[b, k]` for functionals, `[b]` otherwise, in units of the output per unit of the input.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if shapes do not fit or a setting is out of range.

    Guarantee:
      Sound: an upper bound for the network with exactly these weights, on the region (and no
      farther); rounding is included. Never above the product of the norms of the layers, nor above
      `global_upper`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, Relu, ball, local_lipschitz_upper
      >>> layers = [Dense(jnp.array([[1.0], [-2.0]]), jnp.zeros(2)), Relu(),
      ...           Dense(jnp.ones((1, 2)), jnp.zeros(1))]
      >>> inputs = jnp.array([[0.5], [3.0], [-3.0]])  # relu(x) + relu(-2 x)
      >>> local_lipschitz_upper(layers, ball(inputs, 1.0, norm="l2")).round(3)
      Array([2., 1., 2.], dtype=float32)

    References:
      Weng et al., "Towards Fast Computation of Certified Robustness for ReLU Networks", 2018,
      arXiv:1804.09699 (Fast-Lip).
    """
    layers, region = prepared(layers, region)
    check_settings(slopes, refine)
    patterns = _checks.positive_integer("patterns", patterns, minimum=0, maximum=20)
    rows = functional_rows(layers, region, functionals)
    if bounds is None:
        bounds = linear_bounds(layers, region, slopes=slopes, refine=refine)
    ranges = slope_ranges(layers, bounds, region)
    whole = functionals is None
    interval = jacobian_interval(layers, rows, ranges, region)
    value = _norm(interval, region.norm, whole)
    if patterns and ranges:
        value = jnp.minimum(
            value, _over_patterns(layers, rows, ranges, bounds, region, whole, patterns)
        )
    value = jnp.minimum(value, product_upper(layers, rows, region, whole))
    if global_upper is not None:
        given = round_up(jnp.asarray(global_upper, value.dtype))
        value = jnp.minimum(value, given)
    return value


def _norm(interval: Interval, norm: str, whole: bool) -> jax.Array:
    """The largest norm of the gradients, or of the whole matrix, within the intervals."""
    batch, count = interval.lower.shape[:2]
    low, high = (end.reshape(batch, count, -1) for end in interval)
    dtype, size = low.dtype, low.shape[-1]
    largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
    slack = 1 + gamma(max(size, count) + 4, dtype)
    if not whole:
        return dual_norm(largest, norm) * slack
    if norm == "linf":
        return jnp.max(jnp.sum(largest, axis=2), axis=1) * slack
    if norm == "l1":
        return jnp.max(jnp.sum(largest, axis=1), axis=1) * slack
    middle = (low + high) / 2
    radius = jnp.maximum(round_up(high - middle), round_up(middle - low))
    # One program for all three.
    spread, center, whole_norm = gram_upper(
        jnp.stack([radius, middle, largest]), iterations=_SQUARINGS
    )
    return jnp.minimum(round_up(center + spread), whole_norm)


def dual_norm(vectors: jax.Array, norm: str) -> jax.Array:
    """The norm of gradients `[..., d]` that is dual to that of the inputs; rounded to nearest."""
    if norm == "linf":
        return jnp.sum(jnp.abs(vectors), axis=-1)
    if norm == "l1":
        return jnp.max(jnp.abs(vectors), axis=-1)
    scale = jnp.maximum(jnp.max(jnp.abs(vectors), axis=-1), smallest(vectors.dtype))
    return scale * jnp.sqrt(jnp.sum((vectors / scale[..., None]) ** 2, axis=-1))


def product_upper(layers: Sequence[Layer], rows: jax.Array, region: Ball, whole: bool) -> jax.Array:
    """The product of the norms of the layers, for every input: `[b, k]` or `[b]`."""
    shapes = [region.center.shape[1:], *layer_shapes(layers, region.center.shape[1:])]
    affine = [index for index, layer in enumerate(layers) if isinstance(layer, (Dense, Conv))]
    value = jnp.ones(rows.shape[:1] if whole else rows.shape[:2], rows.dtype)
    if not whole:
        # The functionals go through the last affine layer exactly, and then have a dual norm.
        last = affine.pop() if affine else 0
        tail = list(layers[last:])
        batch = rows.shape[0]
        free = {
            index - last: Interval(zeros, zeros + 1)
            for index in range(last, len(layers))
            if isinstance(layers[index], Relu)
            for zeros in [jnp.zeros((batch, *shapes[index]), rows.dtype)]
        }
        zeros = jnp.zeros((batch, *shapes[last]), rows.dtype)
        start = Ball(zeros, region.radius, zeros, zeros, region.norm)
        value = _norm(jacobian_interval(tail, rows, free, start), region.norm, whole)
    for index in affine:
        norm = _layer_norm(layers[index], shapes[index], _ORDERS[region.norm])
        value = round_up(value * round_up(jnp.asarray(norm, rows.dtype)))
    return value


def _layer_norm(layer: Layer, shape: tuple[int, ...], order: Any) -> Any:
    if isinstance(layer, Dense):
        return operator_norm_upper(layer.weight, order=order)
    assert isinstance(layer, Conv)
    spatial = layer.kernel.ndim - 2
    return conv_operator_norm_upper(
        layer.kernel, input_shape=shape, order=order, strides=layer.strides or (1,) * spatial,
        padding=layer.padding, groups=layer.groups, dilation=layer.dilation or (1,) * spatial,
    )  # fmt: skip


def _over_patterns(
    layers: Sequence[Layer],
    rows: jax.Array,
    ranges: SlopeRanges,
    bounds: Sequence[Interval],
    region: Ball,
    whole: bool,
    patterns: int,
) -> jax.Array:
    """The largest norm over all patterns of the open neurons that matter most."""
    batch = rows.shape[0]
    importance = jnp.concatenate(
        [
            score.reshape(batch, -1)
            for _, score in sorted(_importance(layers, rows, ranges, bounds, region).items())
        ],
        axis=1,
    )
    count = min(patterns, importance.shape[1])
    _, chosen = jax.lax.top_k(importance, count)
    least = _flat(ranges, 0)
    greatest = _flat(ranges, 1)
    where = jnp.arange(batch)[:, None], chosen

    def norm_of(pattern: jax.Array) -> jax.Array:
        bits = (pattern >> jnp.arange(count)) & 1
        bits = jnp.broadcast_to(bits.astype(least.dtype), (batch, count))
        # A neuron whose sign is known keeps its slope.
        known = least[where] == greatest[where]
        value = jnp.where(known, least[where], bits)
        fixed = _unflat(ranges, least.at[where].set(value), greatest.at[where].set(value))
        return _norm(jacobian_interval(layers, rows, fixed, region), region.norm, whole)

    def step(index: jax.Array, best: jax.Array) -> jax.Array:
        return jnp.maximum(best, norm_of(index))

    nothing = jnp.zeros(rows.shape[:1] if whole else rows.shape[:2], rows.dtype)
    return jax.lax.fori_loop(0, 2**count, step, nothing)


def _importance(
    layers: Sequence[Layer],
    rows: jax.Array,
    ranges: SlopeRanges,
    bounds: Sequence[Interval],
    region: Ball,
) -> dict[int, jax.Array]:
    """For each neuron of open sign, how far its slope may move the gradients; -1 for others."""
    scores = {}
    for position in ranges:
        after = {index - position - 1: value for index, value in ranges.items() if index > position}
        low, high = bounds[position]
        seen = Ball(low, region.radius, low, high, region.norm)
        rest = layers[position + 1 :]
        interval = jacobian_interval(rest, rows, after, seen) if rest else Interval(rows, rows)
        reach = jnp.max(jnp.maximum(jnp.abs(interval.lower), jnp.abs(interval.upper)), axis=1)
        before = bounds[position - 1] if position else Interval(region.lower, region.upper)
        open_sign = ranges[position].lower != ranges[position].upper
        scores[position] = jnp.where(open_sign, reach * (before.upper - before.lower), -1)
    return scores


def _flat(ranges: SlopeRanges, end: int) -> jax.Array:
    """One end of the slopes of all neurons, `[b, neurons]`."""
    ends = [interval[end] for _, interval in sorted(ranges.items())]
    return jnp.concatenate([value.reshape(value.shape[0], -1) for value in ends], axis=1)


def _unflat(ranges: SlopeRanges, least: jax.Array, greatest: jax.Array) -> SlopeRanges:
    """The inverse of `_flat`."""
    result, start = {}, 0
    for position, interval in sorted(ranges.items()):
        size = interval.lower[0].size
        part = slice(start, start + size)
        result[position] = Interval(
            least[:, part].reshape(interval.lower.shape),
            greatest[:, part].reshape(interval.lower.shape),
        )
        start += size
    return result
