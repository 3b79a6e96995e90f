"""Seeded ReLU networks, points of balls, and an evaluation in NumPy alone, as an oracle."""

import itertools

import jax.numpy as jnp
import numpy as np

from jaxcert.lipschitz import Conv, Dense, Flatten, Relu


def draw(rng, *shape, fan_in):
    return jnp.asarray(rng.normal(size=shape) * np.sqrt(2.0 / fan_in), jnp.float32)


def dense_network(seed=0, widths=(6, 12, 8, 3)):
    """A network of dense layers with ReLU between them."""
    rng = np.random.default_rng(seed)
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [Dense(draw(rng, after, before, fan_in=before), draw(rng, after, fan_in=8))]
        layers += [Relu()]
    return layers[:-1]


def conv_network(seed=0):
    """Two strided convolutions, one padded unevenly, and two dense layers, for 8 x 8 images."""
    rng = np.random.default_rng(seed)
    return [
        Conv(draw(rng, 3, 3, 1, 4, fan_in=9), draw(rng, 4, fan_in=20), (2, 2), "SAME"), Relu(),
        Conv(draw(rng, 2, 3, 4, 5, fan_in=24), draw(rng, 5, fan_in=20), (1, 2), ((1, 0), (0, 1))),
        Relu(), Flatten(), Dense(draw(rng, 7, 40, fan_in=40), draw(rng, 7, fan_in=20)), Relu(),
        Dense(draw(rng, 3, 7, fan_in=7), draw(rng, 3, fan_in=7)),
    ]  # fmt: skip


def values_of_layers(layers, inputs):
    """What every layer puts out for inputs `[n, *shape]`, in float64."""
    value = np.asarray(inputs, np.float64)
    values = []
    for layer in layers:
        if isinstance(layer, Relu):
            value = np.maximum(value, 0.0)
        elif isinstance(layer, Flatten):
            value = value.reshape(len(value), -1)
        elif isinstance(layer, Dense):
            value = value @ np.asarray(layer.weight, np.float64).T + np.asarray(layer.bias)
        else:
            value = convolve(layer, value) + np.asarray(layer.bias, np.float64)
        values.append(value)
    return values


def scores_of(layers, inputs):
    return values_of_layers(layers, inputs)[-1]


def convolve(layer, value):
    """A two-dimensional convolution by its definition."""
    kernel = np.asarray(layer.kernel, np.float64)
    high, wide, depth, channels = kernel.shape
    strides, dilation = layer.strides or (1, 1), layer.dilation or (1, 1)
    reach = [(size - 1) * step + 1 for size, step in zip((high, wide), dilation, strict=True)]
    pads = layer.padding
    if pads == "VALID":
        pads = ((0, 0), (0, 0))
    if pads == "SAME":
        pads = []
        for size, step, length in zip(value.shape[1:3], strides, reach, strict=True):
            total = max((-(-size // step) - 1) * step + length - size, 0)
            pads.append((total // 2, total - total // 2))
    value = np.pad(value, ((0, 0), *pads, (0, 0)))
    rows = (value.shape[1] - reach[0]) // strides[0] + 1
    columns = (value.shape[2] - reach[1]) // strides[1] + 1
    result = np.zeros((len(value), rows, columns, channels))
    for row, column, i, j, out in itertools.product(
        range(rows), range(columns), range(high), range(wide), range(channels)
    ):
        first = out // (channels // layer.groups) * depth
        y, x = row * strides[0] + i * dilation[0], column * strides[1] + j * dilation[1]
        part = value[:, y, x, first : first + depth]
        result[:, row, column, out] += part @ kernel[i, j, :, out]
    return result


def jacobian_of(layers, point):
    """The Jacobian of a dense network at one point, float64 `[out, in]`."""
    value, jacobian = np.asarray(point, np.float64), np.eye(np.size(point))
    for layer in layers:
        if isinstance(layer, Relu):
            jacobian = (value > 0)[:, None] * jacobian
            value = np.maximum(value, 0.0)
        else:
            weight = np.asarray(layer.weight, np.float64)
            value, jacobian = weight @ value + np.asarray(layer.bias), weight @ jacobian
    return jacobian


def points_of_ball(rng, center, radius, norm, box, count):
    """Points of each ball, half of them as far out as they go: float64 `[count, b, *shape]`."""
    center = np.asarray(center, np.float64)
    flat = center.reshape(len(center), -1)
    shape = (count, *flat.shape)
    if norm == "linf":
        offsets = rng.uniform(-1, 1, size=shape)
        offsets[count // 2 :] = np.sign(offsets[count // 2 :])
    elif norm == "l2":
        offsets = rng.normal(size=shape)
        offsets /= np.linalg.norm(offsets, axis=-1, keepdims=True)
        offsets[: count // 2] *= rng.uniform(size=(count // 2, len(flat), 1))
    else:
        place = rng.integers(0, flat.shape[1], size=shape[:2])
        offsets = np.eye(flat.shape[1])[place] * rng.choice([-1.0, 1.0], size=(*shape[:2], 1))
        mixed = rng.laplace(size=(count // 2, *flat.shape))
        offsets[: count // 2] = mixed / np.abs(mixed).sum(axis=-1, keepdims=True)
    # Rounding of the points themselves must not take them out of the ball.
    points = center + (radius * (1 - 1e-9) * offsets).reshape(count, *center.shape)
    return points if box is None else np.clip(points, *box)
