"""The transposes of affine layers, and single rows of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcert.lipschitz._sequential import Conv, Dense, linear_part


def transposed(
    layer: Dense | Conv, rows: jax.Array, shape: tuple[int, ...], *, weight: Any = None
) -> jax.Array:
    """Multiply coefficients `[b, rows, *output]` by the layer's matrix, to `[b, rows, *shape]`."""
    if isinstance(layer, Dense):
        matrix = layer.weight if weight is None else weight
        return jnp.matmul(rows, matrix, precision=lax.Precision.HIGHEST)
    batch, count = rows.shape[:2]
    merged = rows.reshape(batch * count, *rows.shape[2:])
    inputs = jax.ShapeDtypeStruct((batch * count, *shape), rows.dtype)
    transpose = jax.linear_transpose(lambda value: linear_part(layer, value, weight=weight), inputs)
    (result,) = transpose(merged)
    return result.reshape(batch, count, *shape)


def rows_of(
    layer: Dense | Conv, index: jax.Array, shape: tuple[int, ...], output: tuple[int, ...]
) -> jax.Array:
    """Rows of the layer's matrix by index of its flattened output: `[b, rows]` to `[..., *shape]`.

    The rows of a convolution are its kernel at the place of the output, which is written there
    rather than computed.
    """
    if isinstance(layer, Dense):
        return layer.weight[index]
    kernel = layer.kernel
    spatial = kernel.ndim - 2
    if layer.groups != 1 or (layer.dilation is not None and set(layer.dilation) != {1}):
        units = jax.nn.one_hot(index, int(np.prod(output)), dtype=kernel.dtype)
        return transposed(layer, units.reshape(*index.shape, *output), shape)
    strides = layer.strides or (1,) * spatial
    window = kernel.shape[:spatial]
    if isinstance(layer.padding, str):
        pads = lax.padtype_to_pads(shape[:spatial], window, strides, layer.padding)
    else:
        pads = list(layer.padding)
    wide = [size + before + after for size, (before, after) in zip(shape, pads, strict=False)]
    places = jnp.unravel_index(index, output)
    starts = jnp.stack([place * step for place, step in zip(places, strides, strict=False)], -1)
    by_channel = jnp.moveaxis(kernel, -1, 0)

    def row(start: jax.Array, channel: jax.Array) -> jax.Array:
        empty = jnp.zeros((*wide, shape[-1]), kernel.dtype)
        corner = [*(start[axis] for axis in range(spatial)), jnp.zeros((), start.dtype)]
        filled = lax.dynamic_update_slice(empty, by_channel[channel], corner)
        keep = tuple(
            slice(before, before + size) for size, (before, _) in zip(shape, pads, strict=False)
        )
        return filled[keep]

    flat = jax.vmap(row)(starts.reshape(-1, spatial), places[-1].reshape(-1))
    return flat.reshape(*index.shape, *shape)
