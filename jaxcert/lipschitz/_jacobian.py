"""Intervals of the Jacobian of a network over a set of inputs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert.lipschitz._balls import Ball
from jaxcert.lipschitz._interval import Interval, prepared
from jaxcert.lipschitz._linear_relaxation import linear_bounds
from jaxcert.lipschitz._outward import epsilon, round_up, smallest
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._sequential import (
    Conv,
    Dense,
    Flatten,
    Layer,
    Relu,
    fan_out,
    layer_shapes,
    weight_of,
)
from jaxcert.lipschitz._transposed import transposed

# Slopes of each ReLU by its position: the least and the greatest, `[b, *shape]`.
SlopeRanges = dict[int, Interval]


def jacobian_bounds(
    layers: Sequence[Layer],
    region: Ball,
    *,
    functionals: ArrayLike | None = None,
    bounds: Sequence[Interval] | None = None,
) -> Interval:
    r"""Bound every entry of the Jacobian over a set of inputs.

    .. math::
        J = W_N D_{N-1} W_{N-1} \cdots D_1 W_1, \quad D_i = \mathrm{diag}(d), \; d \in \{0, 1\}

    where the slope of a neuron is known if its sign is, and is within [0, 1] otherwise; the
    products are taken from the output in interval arithmetic.

    Args:
      layers: the network.
      region: the inputs, of `ball`.
      functionals: linear functions of the output, `[k, out]` or `[b, k, out]`, whose gradients are
        bounded; the outputs themselves by default.
      bounds: of the output of each layer over the region, such as `interval_bounds` gives;
        those of `linear_bounds` by default.

    Returns:
      An `Interval` with ends `[b, k, *shape]`, with k = out by default.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if shapes do not fit.

    Guarantee:
      Sound: encloses the Jacobian of the network with exactly these weights at every point of the
      region where it is differentiable; rounding is included.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, Relu, ball, jacobian_bounds
      >>> layers = [Dense(jnp.array([[1.0], [-2.0]]), jnp.zeros(2)), Relu(),
      ...           Dense(jnp.ones((1, 2)), jnp.zeros(1))]
      >>> near, far = ball(jnp.array([[0.5], [3.0]]), 1.0), None
      >>> jacobian = jacobian_bounds(layers, near)  # relu(x) + relu(-2 x)
      >>> jacobian.lower[:, 0, 0].round(3), jacobian.upper[:, 0, 0].round(3)
      (Array([-2.,  1.], dtype=float32), Array([1., 1.], dtype=float32))

    References:
      Weng et al., "Towards Fast Computation of Certified Robustness for ReLU Networks", 2018,
      arXiv:1804.09699. Zhang, Zhang, Hsieh, "RecurJac: An Efficient Recursive Algorithm for
      Bounding Jacobian Matrix of Neural Networks and Its Applications", 2019, arXiv:1810.11783.
    """
    layers, region = prepared(layers, region)
    rows = functional_rows(layers, region, functionals)
    if bounds is None:
        bounds = linear_bounds(layers, region)
    return jacobian_interval(layers, rows, slope_ranges(layers, bounds, region), region)


def functional_rows(
    layers: Sequence[Layer], region: Ball, functionals: ArrayLike | None
) -> jax.Array:
    """The functionals as `[b, k, *output_shape]`."""
    dtype, batch = region.center.dtype, region.center.shape[0]
    (output,) = layer_shapes(layers, region.center.shape[1:])[-1:]
    size = 1
    for axis in output:
        size *= axis
    if functionals is None:
        rows = jnp.eye(size, dtype=dtype)
    else:
        rows = jnp.asarray(functionals, dtype)
    if rows.ndim not in (2, 3) or rows.shape[-1] != size or rows.shape[:-2] not in ((), (batch,)):
        raise ValueError(
            f"functionals must have shape [k, {size}] or [{batch}, k, {size}], got {rows.shape}"
        )
    rows = jnp.broadcast_to(rows, (batch, *rows.shape[-2:]))
    return rows.reshape(batch, rows.shape[1], *output)


def slope_ranges(layers: Sequence[Layer], bounds: Sequence[Interval], region: Ball) -> SlopeRanges:
    """The slopes that each ReLU can have where its inputs lie within their bounds."""
    ranges = {}
    for position, layer in enumerate(layers):
        if isinstance(layer, Relu):
            before = bounds[position - 1] if position else Interval(region.lower, region.upper)
            dtype = before.lower.dtype
            # Where a neuron cannot fall below 0 the ReLU is the identity, at 0 too.
            ranges[position] = Interval(
                (before.lower >= 0).astype(dtype), (before.upper > 0).astype(dtype)
            )
    return ranges


def jacobian_interval(
    layers: Sequence[Layer], rows: jax.Array, ranges: SlopeRanges, region: Ball
) -> Interval:
    """Intervals of `rows @ J`, `[b, k, *shape]`, from exact rows `[b, k, *output_shape]`."""
    shapes = [region.center.shape[1:], *layer_shapes(layers, region.center.shape[1:])]
    value = Interval(rows, rows)
    for position in reversed(range(len(layers))):
        layer, shape = layers[position], shapes[position]
        if isinstance(layer, Flatten):
            value = Interval(*(end.reshape(*end.shape[:2], *shape) for end in value))
        elif isinstance(layer, Relu):
            value = times_slopes(value, ranges[position])
        else:
            value = _times_matrix(layer, value, shape)
    return value


def times_slopes(value: Interval, slopes: Interval) -> Interval:
    """Products with slopes whose ranges have the ends 0 and 1; nothing is rounded."""
    least, greatest = slopes.lower[:, None], slopes.upper[:, None]
    return Interval(
        jnp.where(value.lower >= 0, least, greatest) * value.lower,
        jnp.where(value.upper >= 0, greatest, least) * value.upper,
    )


def _times_matrix(layer: Dense | Conv, value: Interval, shape: tuple[int, ...]) -> Interval:
    """Products with the matrix of an affine layer, from the left, rounding included."""
    dtype = value.lower.dtype
    share = gamma(fan_out(layer) + 4, dtype)
    middle = (value.lower + value.upper) / 2
    radius = jnp.maximum(round_up(value.upper - middle), round_up(middle - value.lower))
    magnitude = jnp.abs(weight_of(layer))
    center = transposed(layer, middle, shape)
    spread = transposed(
        layer, radius + share * (jnp.abs(middle) + radius), shape, weight=magnitude
    ) * (1 + share)
    largest = jnp.max(jnp.abs(middle) + radius)
    spread += fan_out(layer) * smallest(dtype) * (2 + largest + jnp.max(magnitude))
    spread += 2 * epsilon(dtype) * (jnp.abs(center) + spread)
    return Interval(center - spread, center + spread)
