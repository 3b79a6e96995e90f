"""Linear bounds by backward substitution (CROWN), with the rounding of every step included."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxcert import _checks
from jaxcert.lipschitz._balls import Ball, linear_minimum
from jaxcert.lipschitz._interval import (
    Interval,
    intersection,
    layer_interval,
    prepared,
)
from jaxcert.lipschitz._outward import epsilon, round_up, smallest
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._sequential import (
    Conv,
    Dense,
    Flatten,
    Layer,
    Relu,
    fan_in,
    fan_out,
    linear_part,
    weight_of,
)
from jaxcert.lipschitz._transposed import rows_of, transposed
from jaxcert.lipschitz._windows import Windowed, windowed

Slopes = Literal["adaptive", "parallel"]


class Relaxation(NamedTuple):
    """Two lines that enclose a ReLU on an interval: lower * z <= relu(z) <= upper * z + offset."""

    lower: jax.Array
    upper: jax.Array
    offset: jax.Array


def relax(interval: Interval, *, slopes: Slopes) -> Relaxation:
    """Enclose the ReLU between two lines on each interval."""
    low, high = interval
    unstable = (low < 0) & (high > 0)
    active = low >= 0
    width = jnp.where(unstable, high - low, 1)
    # Any slope within [0, 1] will do, if the offset then clears both ends of the interval.
    chord = jnp.clip(jnp.where(unstable, high / width, active), 0, 1)
    needed = jnp.maximum(-chord * low, high * (1 - chord))
    offset = jnp.where(unstable, round_up(round_up(needed)), 0)
    lower = chord if slopes == "parallel" else jnp.where(unstable, high >= -low, active)
    return Relaxation(lower.astype(low.dtype), chord, offset)


def linear_bounds(
    layers: Sequence[Layer],
    region: Ball,
    *,
    slopes: Slopes = "adaptive",
    refine: int | None = None,
) -> tuple[Interval, ...]:
    r"""Bound what every layer puts out by linear functions of the input.

    .. math::
        \underline{a} z \le \max(z, 0) \le \frac{u}{u - l} (z - l), \quad l < 0 < u

    Each bound is propagated backwards through the layers, taking one line or the other by the sign
    of its coefficient, and minimised over the region in closed form. Interval bounds are kept
    wherever they are better.

    Args:
      layers: the network.
      region: the inputs, of `ball`.
      slopes: the lower line: "adaptive" takes the slope 1 where u >= -l and 0 elsewhere (CROWN);
        "parallel" that of the upper line (Fast-Lin).
      refine: how many neurons of a hidden layer are bounded in this way, of each input: those whose
        sign intervals leave open, the widest first; the others keep their interval bounds. None
        refines every neuron, 0 none; a convolution whose neurons see small windows of the input
        is refined whole otherwise. The output of the network always is.

    Returns:
      An `Interval` for the output of each layer, in order.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if the layers do not fit each other or the inputs, or a setting is unknown.

    Guarantee:
      Sound: the intervals enclose what the network with exactly these weights gives, in real
      arithmetic, on every point of the region. The rounding of every step is bounded and added.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, Relu, ball, interval_bounds, linear_bounds
      >>> layers = [Dense(jnp.array([[1.0], [1.0]]), jnp.array([0.0, 1.0])), Relu(),
      ...           Dense(jnp.array([[-1.0, 1.0]]), jnp.zeros(1))]
      >>> region = ball(jnp.array([[2.0]]), 1.0)  # both neurons are active, so the output is 1
      >>> [float(end.round(3)[0, 0]) for end in linear_bounds(layers, region)[-1]]
      [1.000, 1.000]
      >>> [float(end.round(3)[0, 0]) for end in interval_bounds(layers, region)[-1]]
      [-1.000, 3.000]

    References:
      Zhang, Weng, Chen, Hsieh, Daniel, "Efficient Neural Network Robustness Certification with
      General Activation Functions", 2018, arXiv:1811.00866. Weng et al., "Towards Fast Computation
      of Certified Robustness for ReLU Networks", 2018, arXiv:1804.09699.
    """
    layers, region = prepared(layers, region)
    check_settings(slopes, refine)
    bounds: list[Interval] = []
    value = Interval(region.lower, region.upper)
    for position, layer in enumerate(layers):
        value = layer_interval(layers, position, value, region)
        last = position == len(layers) - 1
        if isinstance(layer, (Dense, Conv)) and (last or _feeds_relu(layers, position)):
            value = _refined(
                layers, position, value, bounds, region, slopes, None if last else refine
            )
        bounds.append(value)
    return tuple(bounds)


def check_settings(slopes: str, refine: int | None) -> None:
    """Raise unless the settings are known."""
    if slopes not in get_args(Slopes):
        raise ValueError(f"slopes must be one of {get_args(Slopes)}, got {slopes!r}")
    if refine is not None:
        _checks.positive_integer("refine", refine, minimum=0)


def _feeds_relu(layers: Sequence[Layer], position: int) -> bool:
    """Whether the next layer that is no reshaping is a ReLU."""
    for layer in layers[position + 1 :]:
        if not isinstance(layer, Flatten):
            return isinstance(layer, Relu)
    return False


def _follows_affine(layers: Sequence[Layer], position: int) -> bool:
    """Whether the layer before that is no reshaping is affine."""
    for layer in reversed(layers[:position]):
        if not isinstance(layer, Flatten):
            return isinstance(layer, (Dense, Conv))
    return False


def _refined(
    layers: Sequence[Layer],
    position: int,
    value: Interval,
    bounds: Sequence[Interval],
    region: Ball,
    slopes: Slopes,
    refine: int | None,
) -> Interval:
    """The interval of an affine layer, improved by backward substitution."""
    if all(isinstance(layer, Flatten) for layer in layers[:position]) and (
        region.norm == "linf" or not region.clipped
    ):
        return value  # The interval of a single affine map is exact already.
    batch, shape = value.lower.shape[0], value.lower.shape[1:]
    size = value.lower[0].size
    count = size if refine is None else min(refine, size)
    if count == 0:
        return value
    layer = layers[position]
    assert isinstance(layer, (Dense, Conv))
    cut = windowed(layers, position, bounds, region)
    if cut is not None:
        return intersection(value, _windowed_interval(cut, layer, shape, slopes))
    flat = Interval(*(end.reshape(batch, size) for end in value))
    if count == size:
        index = jnp.broadcast_to(jnp.arange(size), (batch, size))
    else:
        unstable = (flat.lower < 0) & (flat.upper > 0)
        _, index = jax.lax.top_k(jnp.where(unstable, flat.upper - flat.lower, -1), count)
    taken = bounds[position - 1].lower.shape[1:] if position else region.center.shape[1:]
    rows = rows_of(layer, index, taken, shape)
    signed = jnp.concatenate([rows, -rows], axis=1)
    bias = jnp.broadcast_to(layer.bias, shape).reshape(size)[index]
    lower = lower_bound(
        layers[:position], signed, jnp.concatenate([bias, -bias], axis=1), bounds, region,
        relaxations(layers[:position], bounds, slopes=slopes),
    )  # fmt: skip
    where = jnp.arange(batch)[:, None], index
    better = Interval(
        flat.lower.at[where].max(lower[:, :count]), flat.upper.at[where].min(-lower[:, count:])
    )
    return Interval(*(end.reshape(batch, *shape) for end in better))


def _windowed_interval(
    cut: Windowed, layer: Dense | Conv, shape: tuple[int, ...], slopes: Slopes
) -> Interval:
    """The interval of a convolution by backward substitution on windows."""
    channels = shape[-1]
    batch = cut.region.center.shape[0]
    signed = jnp.concatenate([cut.coefficients, -cut.coefficients], axis=1)
    constant = jnp.concatenate([layer.bias, -layer.bias])
    lower = lower_bound(
        cut.layers,
        jnp.broadcast_to(signed, (batch, *signed.shape[1:])),
        jnp.broadcast_to(constant, (batch, 2 * channels)),
        cut.bounds,
        cut.region,
        relaxations(cut.layers, cut.bounds, slopes=slopes),
    ).reshape(-1, *shape[:-1], 2 * channels)
    return Interval(lower[..., :channels], -lower[..., channels:])


def relaxations(
    layers: Sequence[Layer], bounds: Sequence[Interval], *, slopes: Slopes
) -> dict[int, Relaxation]:
    """The lines of every ReLU, by its position."""
    return {
        position: relax(bounds[position - 1], slopes=slopes)
        for position, layer in enumerate(layers)
        if isinstance(layer, Relu) and position > 0
    }


def lower_bound(
    layers: Sequence[Layer],
    coefficients: jax.Array,
    constant: jax.Array,
    bounds: Sequence[Interval],
    region: Ball,
    lines: dict[int, Relaxation],
) -> jax.Array:
    """A lower bound of linear functions of what the last of `layers` puts out.

    Args:
      layers: the layers up to that point.
      coefficients: `[b, rows, *shape]`, exact, or the rows of the next affine layer.
      constant: `[b, rows]`.
      bounds: of the output of each layer.
      region: the inputs.
      lines: of each ReLU; slopes may have an axis of rows after the batch.

    Returns:
      `[b, rows]`: the minimum over the region of the linear function that substitution arrives at,
      less a bound of all rounding errors.
    """
    dtype = coefficients.dtype
    box = Interval(region.lower, region.upper)
    error = epsilon(dtype) * jnp.abs(constant)
    for position in reversed(range(len(layers))):
        layer = layers[position]
        before = bounds[position - 1] if position else box
        if isinstance(layer, Flatten):
            coefficients = coefficients.reshape(*coefficients.shape[:2], *before.lower.shape[1:])
            continue
        if isinstance(layer, Relu):
            line = lines[position] if position in lines else relax(box, slopes="adaptive")
            coefficients, change = _through_relu(coefficients, line)
            constant = constant + change
            error = error + 2 * epsilon(dtype) * (jnp.abs(constant) + jnp.abs(change))
            if position and not _follows_affine(layers, position):
                # No affine layer comes next whose budget would cover the product with the slopes.
                farthest = jnp.maximum(jnp.abs(before.lower), jnp.abs(before.upper))
                axes = tuple(range(2, coefficients.ndim))
                lost = jnp.sum(jnp.abs(coefficients) * farthest[:, None], axis=axes)
                error = error + epsilon(dtype) * lost
            continue
        weights, lost = _error_weights(layer, before, bounds[position].lower.shape)
        axes = tuple(range(2, coefficients.ndim))
        moduli = jnp.abs(coefficients)
        error = error + jnp.sum(moduli * weights[:, None], axis=axes)
        error = error + lost[:, None] * (1 + jnp.max(moduli, axis=axes))
        bias = jnp.broadcast_to(layer.bias, coefficients.shape[2:])
        constant = constant + jnp.sum(coefficients * bias, axis=axes)
        error = error + 2 * epsilon(dtype) * jnp.abs(constant)
        coefficients = transposed(layer, coefficients, before.lower.shape[1:])
    least = linear_minimum(coefficients, region)
    value = least + constant
    return value - (1.1 * error + 2 * epsilon(dtype) * (jnp.abs(least) + jnp.abs(constant)))


def _through_relu(coefficients: jax.Array, line: Relaxation) -> tuple[jax.Array, jax.Array]:
    """Coefficients of the ReLU's input from those of its output, and the change of the constant."""

    def with_rows(values: jax.Array) -> jax.Array:
        return values if values.ndim == coefficients.ndim else values[:, None]

    negative = jnp.minimum(coefficients, 0)
    slope = jnp.where(coefficients > 0, with_rows(line.lower), with_rows(line.upper))
    axes = tuple(range(2, coefficients.ndim))
    change = jnp.sum(negative * with_rows(line.offset), axis=axes)
    # All terms have one sign, so the rounding is relative to the sum.
    count = int(coefficients[0, 0].size)
    return coefficients * slope, change * (1 + gamma(count + 4, coefficients.dtype))


def _error_weights(
    layer: Dense | Conv, before: Interval, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """What the modulus of a coefficient of this layer's output adds to the error, and underflow.

    Passing the layer computes `A W` and `A b`. The first errs by gamma |A||W|, which multiplies the
    layer's input; the second by gamma |A||b|. Both are linear in |A|.
    """
    dtype = before.lower.dtype
    farthest = jnp.maximum(jnp.abs(before.lower), jnp.abs(before.upper))
    magnitudes = linear_part(layer, farthest, weight=jnp.abs(weight_of(layer)))
    magnitudes = magnitudes * (1 + gamma(fan_in(layer) + 4, dtype))
    size = 1
    for axis in shape[1:]:
        size *= axis
    weights = gamma(fan_out(layer) + 8, dtype) * magnitudes
    weights += gamma(size + 4, dtype) * jnp.abs(layer.bias)
    total = jnp.sum(farthest, axis=tuple(range(1, farthest.ndim)))
    largest = 1 + jnp.max(jnp.abs(weight_of(layer)))
    lost = smallest(dtype) * (fan_out(layer) * (1 + total) + size) * largest
    return weights, lost
