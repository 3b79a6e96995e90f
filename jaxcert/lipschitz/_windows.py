"""Backward bounds of a convolution's neurons, each on the window of the input that it sees.

A neuron of an early convolution depends on a small window of every layer before it. Cut to that
window the network is a small dense one, the same for every place but for the bounds; so places
join the batch, and all neurons of the layer cost what a few whole rows would.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcert.lipschitz._balls import Ball
from jaxcert.lipschitz._interval import Interval
from jaxcert.lipschitz._sequential import Conv, Dense, Layer, Relu, linear_part

# Windows pay while they hold at most this share of the input.
_LARGEST_SHARE = 0.5


class Windowed(NamedTuple):
    """The part of a network that a neuron sees, for each place of a convolution.

    Attributes:
      layers: dense layers and ReLUs, the same for each place.
      coefficients: `[1, channels, window]`, the rows of the convolution.
      bounds: of what each of `layers` puts out, `[b * places, window]`.
      region: the windows of the input, `[b * places, window]`.
      places: how many places the convolution has.
    """

    layers: list[Layer]
    coefficients: jax.Array
    bounds: list[Interval]
    region: Ball
    places: int


def windowed(
    layers: Sequence[Layer], position: int, bounds: Sequence[Interval], region: Ball
) -> Windowed | None:
    """Cut the network before the convolution at `position` to windows; None if that is no use."""
    if not _alternates(layers[: position + 1]):
        return None
    shapes = [region.center.shape[1:], *(value.lower.shape[1:] for value in bounds[:position])]
    layer = layers[position]
    assert isinstance(layer, Conv)
    spatial = layer.kernel.ndim - 2
    window = layer.kernel.shape[:spatial]
    strides, pads = _geometry(layer, shapes[position])
    output = _output_shape(layer, shapes[position])
    starts = [
        np.arange(size) * step - before
        for size, step, (before, _) in zip(output, strides, pads, strict=True)
    ]
    cut_layers: list[Layer] = []
    cut_bounds: list[Interval] = []
    for index in reversed(range(position)):
        before = layers[index]
        value = bounds[index]
        # Outside the layer there is nothing to bound: zeros of the padding, and neurons that the
        # lines of an inactive ReLU cut off.
        outside = -1.0 if isinstance(before, Conv) else 0.0
        cut_bounds.insert(0, Interval(*(_cut(end, starts, window, outside) for end in value)))
        if isinstance(before, Relu):
            cut_layers.insert(0, before)
            continue
        assert isinstance(before, Conv)
        strides, pads = _geometry(before, shapes[index])
        wider = tuple(
            (size - 1) * step + reach
            for size, step, reach in zip(window, strides, before.kernel.shape, strict=False)
        )
        starts = [
            start * step - first
            for start, step, (first, _) in zip(starts, strides, pads, strict=True)
        ]
        cut_layers.insert(0, _as_dense(before, wider, window))
        window = wider
    if math.prod(window) > _LARGEST_SHARE * math.prod(shapes[0][:spatial]):
        return None
    places = math.prod(output)
    cut_region = Ball(
        _cut(region.center, starts, window, 0.0),
        jnp.repeat(region.radius, places),
        _cut(region.lower, starts, window, 0.0),
        _cut(region.upper, starts, window, 0.0),
        region.norm,
        region.clipped,
    )
    rows = jnp.moveaxis(layer.kernel, -1, 0).reshape(1, layer.kernel.shape[-1], -1)
    return Windowed(cut_layers, rows, cut_bounds, cut_region, places)


def _alternates(layers: Sequence[Layer]) -> bool:
    """Whether these are two convolutions or more with a ReLU after each but the last."""
    return len(layers) > 2 and all(
        isinstance(layer, Relu)
        if index % 2
        else isinstance(layer, Conv)
        and layer.groups == 1
        and (layer.dilation is None or set(layer.dilation) == {1})
        for index, layer in enumerate(layers)
    )


def _geometry(
    layer: Conv, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], Sequence[tuple[int, int]]]:
    """The strides, and the padding of each axis."""
    spatial = layer.kernel.ndim - 2
    strides = layer.strides or (1,) * spatial
    if isinstance(layer.padding, str):
        window = layer.kernel.shape[:spatial]
        return strides, lax.padtype_to_pads(shape[:spatial], window, strides, layer.padding)
    return strides, layer.padding


def _output_shape(layer: Conv, shape: tuple[int, ...]) -> tuple[int, ...]:
    inputs = jax.ShapeDtypeStruct((1, *shape), layer.kernel.dtype)
    return jax.eval_shape(lambda value: linear_part(layer, value), inputs).shape[1:-1]


def _cut(
    values: jax.Array, starts: Sequence[np.ndarray], window: tuple[int, ...], outside: float
) -> jax.Array:
    """The window at every combination of starts: `[b, *shape]` to `[b * places, window]`."""
    for axis, (start, size) in enumerate(zip(starts, window, strict=True)):
        # Axes 1, 3, ... hold the places that were cut before, each followed by its window.
        current = 1 + 2 * axis
        length = values.shape[current]
        index = start[:, None] + np.arange(size)
        inside = (index >= 0) & (index < length)
        values = jnp.take(values, np.clip(index, 0, length - 1), axis=current)
        mask = inside.reshape(*(1,) * current, *inside.shape, *(1,) * (values.ndim - current - 2))
        values = jnp.where(mask, values, jnp.asarray(outside, values.dtype))
    spatial = len(starts)
    order = [0, *(1 + 2 * i for i in range(spatial)), *(2 + 2 * i for i in range(spatial))]
    values = jnp.transpose(values, (*order, values.ndim - 1))
    batch = values.shape[0] * math.prod(len(start) for start in starts)
    return values.reshape(batch, -1)


def _as_dense(layer: Conv, wider: tuple[int, ...], window: tuple[int, ...]) -> Dense:
    """The layer from a window of its input to one of its output, as a matrix."""
    channels = layer.kernel.shape[-2]
    size = math.prod(wider) * channels
    units = jnp.eye(size, dtype=layer.kernel.dtype).reshape(size, *wider, channels)
    valid = Conv(layer.kernel, layer.bias, layer.strides, "VALID")
    matrix = linear_part(valid, units).reshape(size, -1)
    return Dense(matrix.T, jnp.tile(layer.bias, math.prod(window)))
