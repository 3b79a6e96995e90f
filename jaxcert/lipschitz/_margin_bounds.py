"""Lower bounds of margins between classes over sets of inputs, and the radii that they certify."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._balls import Ball
from jaxcert.lipschitz._interval import (
    Interval,
    affine_interval,
    interval_bounds,
    layer_interval,
    prepared,
)
from jaxcert.lipschitz._linear_relaxation import (
    Relaxation,
    Slopes,
    check_settings,
    linear_bounds,
    lower_bound,
    relaxations,
)
from jaxcert.lipschitz._sequential import Dense, Layer

Method = Literal["interval", "linear", "optimized"]


def margin_lower(
    layers: Sequence[Layer],
    region: Ball,
    labels: ArrayLike,
    *,
    method: Method = "linear",
    slopes: Slopes = "adaptive",
    refine: int | None = None,
    steps: int = 20,
) -> jax.Array:
    r"""Bound from below how far the score of each label stays above that of every other class.

    .. math::
        \min_{x \in B} f_y(x) - f_j(x)

    Args:
      layers: the network, which ends in a `Dense` layer with one output for each class.
      region: the inputs, of `ball`.
      labels: y, integers `[b]`.
      method: "interval" propagates intervals up to the last layer, which is merged with the
        difference of the classes; "linear" substitutes linear bounds backwards, and keeps the
        better of both everywhere; "optimized" also chooses the lower lines for each margin by
        gradient ascent.
      slopes: the lower lines, or where their optimisation starts; see `linear_bounds`.
      refine: neurons of a hidden layer that are bounded backwards; see `linear_bounds`.
      steps: of the optimisation.

    Returns:
      `[b, classes]`, plus infinity at the label itself. An input is certified where all are above
      0.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if the layers do not fit, a label is none of the classes, or a setting is unknown.

    Guarantee:
      Sound: lower bounds over the whole region in real arithmetic, for the network with exactly
      these weights; rounding is included.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, ball, margin_lower
      >>> layers = [Dense(jnp.eye(2), jnp.zeros(2))]
      >>> margin_lower(layers, ball(jnp.array([[0.9, 0.1]]), 0.25), jnp.array([0])).round(3)
      Array([[inf, 0.3]], dtype=float32)

    References:
      Xu et al., "Fast and Complete: Enabling Complete Neural Network Verification with Rapid and
      Massively Parallel Incomplete Verifiers", 2020, arXiv:2011.13824, for the optimised slopes.
    """
    layers, region = prepared(layers, region)
    check_settings(slopes, refine)
    steps = _checks.positive_integer("steps", steps)
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}")
    classes, labels = check_labels(layers, region, labels)
    others = other_classes(labels, classes)
    if method == "interval":
        bounds = _before_last(layers, region, None, refine)
        value = _interval_margins(layers, region, bounds, labels, others)
    else:
        value, bounds = margins_of_bounds(layers, region, labels, slopes=slopes, refine=refine)
    if method == "optimized":
        lines = relaxations(layers[:-1], bounds, slopes=slopes)
        value = jnp.maximum(value, _optimized(layers, region, bounds, labels, others, lines, steps))
    # What overflowed is no bound, and must not pass for one.
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    result = jnp.full((labels.shape[0], classes), jnp.inf, value.dtype)
    return result.at[jnp.arange(labels.shape[0])[:, None], others].set(value)


def margins_of_bounds(
    layers: Sequence[Layer],
    region: Ball,
    labels: jax.Array,
    *,
    slopes: Slopes,
    refine: int | None,
) -> tuple[jax.Array, tuple[Interval, ...]]:
    """Margins `[b, classes - 1]` by linear bounds, and the bounds of every layer but the last."""
    others = other_classes(labels, cast(Dense, layers[-1]).bias.shape[0])
    bounds = _before_last(layers, region, slopes, refine)
    lines = relaxations(layers[:-1], bounds, slopes=slopes)
    value = jnp.maximum(
        _interval_margins(layers, region, bounds, labels, others),
        _linear_margins(layers, region, bounds, labels, others, lines),
    )
    return value, bounds


def _before_last(
    layers: Sequence[Layer], region: Ball, slopes: Slopes | None, refine: int | None
) -> tuple[Interval, ...]:
    """Bounds of every layer but the last; by intervals alone if no slopes are given."""
    if len(layers) == 1:
        return ()
    if slopes is None:
        return interval_bounds(layers[:-1], region)
    return linear_bounds(layers[:-1], region, slopes=slopes, refine=refine)


def check_labels(layers: Sequence[Layer], region: Ball, labels: ArrayLike) -> tuple[int, jax.Array]:
    """The number of classes and the labels as an array, or raise."""
    last = cast(Dense, layers[-1])
    if not isinstance(last, Dense):
        raise ValueError(f"layers must end in a Dense layer of scores, got {type(last).__name__}")
    classes, batch = int(last.weight.shape[0]), region.center.shape[0]
    if classes < 2:
        raise ValueError(f"layers must end in at least 2 scores, got {classes}")
    array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {array.dtype}")
    if array.shape != (batch,):
        raise ValueError(f"labels must have shape ({batch},), got {array.shape}")
    if _checks.is_concrete(array):
        values = np.asarray(array)
        if values.min() < 0 or values.max() >= classes:
            raise ValueError(
                f"labels must lie in [0, {classes - 1}], got {values.min()} to {values.max()}"
            )
    return classes, array


def other_classes(labels: jax.Array, classes: int) -> jax.Array:
    """`[b, classes - 1]`: every class but the label."""
    row = jnp.arange(classes - 1, dtype=labels.dtype)
    return row + (row >= labels[:, None])


def _interval_margins(
    layers: Sequence[Layer],
    region: Ball,
    bounds: Sequence[Interval],
    labels: jax.Array,
    others: jax.Array,
) -> jax.Array:
    """Margins `[b, classes - 1]` of the last layer on the box of what it takes in."""
    last = cast(Dense, layers[-1])
    before = bounds[-1] if bounds else Interval(region.lower, region.upper)

    def one(low: jax.Array, high: jax.Array, label: jax.Array, other: jax.Array) -> jax.Array:
        # Each difference is rounded once, which the budget of the affine layer leaves room for.
        merged = Dense(last.weight[label] - last.weight[other], last.bias[label] - last.bias[other])
        return affine_interval(merged, Interval(low[None], high[None])).lower[0]

    return jax.vmap(one)(before.lower, before.upper, labels, others)


def _linear_margins(
    layers: Sequence[Layer],
    region: Ball,
    bounds: Sequence[Interval],
    labels: jax.Array,
    others: jax.Array,
    lines: dict[int, Relaxation],
) -> jax.Array:
    """Margins `[b, classes - 1]` by backward substitution."""
    last = cast(Dense, layers[-1])
    dtype = region.center.dtype
    classes = last.weight.shape[0]
    rows = jax.nn.one_hot(labels, classes, dtype=dtype)[:, None] - jax.nn.one_hot(
        others, classes, dtype=dtype
    )
    before = bounds[-1] if bounds else Interval(region.lower, region.upper)
    final = layer_interval(layers, len(layers) - 1, before, region)
    constant = jnp.zeros(rows.shape[:2], dtype)
    return lower_bound(layers, rows, constant, [*bounds, final], region, lines)


def _optimized(
    layers: Sequence[Layer],
    region: Ball,
    bounds: Sequence[Interval],
    labels: jax.Array,
    others: jax.Array,
    lines: dict[int, Relaxation],
    steps: int,
) -> jax.Array:
    """The best margins over the steps of an ascent in the slopes of the lower lines.

    Whatever slopes the ascent arrives at, they lie within [0, 1], so every step gives a bound.
    """
    rows = others.shape[1]
    start = {
        position: jnp.repeat(line.lower[:, None], rows, axis=1) for position, line in lines.items()
    }
    stable = {position: line.offset == 0 for position, line in lines.items()}

    def total(slopes: dict[int, jax.Array]) -> tuple[jax.Array, jax.Array]:
        chosen = {
            position: line._replace(
                lower=jnp.where(stable[position][:, None], line.lower[:, None], slopes[position])
            )
            for position, line in lines.items()
        }
        margins = _linear_margins(layers, region, bounds, labels, others, chosen)
        return jnp.sum(margins), margins

    gradient = jax.value_and_grad(total, has_aux=True)

    def step(
        carry: tuple[dict[int, jax.Array], dict[int, jax.Array], jax.Array], index: jax.Array
    ) -> tuple[tuple[dict[int, jax.Array], dict[int, jax.Array], jax.Array], None]:
        slopes, momentum, best = carry
        (_, margins), change = gradient(slopes)
        rate = 0.4 * (1 - index / steps)
        # Steps of the size of the gradient's sign suit slopes, which all lie within [0, 1].
        momentum = jax.tree.map(lambda m, g: 0.7 * m + 0.3 * jnp.sign(g), momentum, change)
        slopes = jax.tree.map(lambda s, m: jnp.clip(s + rate * m, 0, 1), slopes, momentum)
        return (slopes, momentum, jnp.maximum(best, margins)), None

    worst = jnp.full(others.shape, -jnp.inf, region.center.dtype)
    still = jax.tree.map(jnp.zeros_like, start)
    index = jnp.arange(steps, dtype=region.center.dtype)
    (slopes, _, best), _ = jax.lax.scan(step, (start, still, worst), index)
    return jnp.maximum(best, total(slopes)[1])
