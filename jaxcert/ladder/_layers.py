"""A saved network as layers whose weights and biases are all there, standardisation included."""

import dataclasses
from typing import Any

import numpy as np

from jaxcert.lipschitz import Conv, Dense, Flatten, Layer


def layers_of(module: Any) -> list[Layer]:
    r"""Write a network of `jaxcert.models` as a list of layers that bounds can be computed from.

    What it does to pixels before its first layer becomes part of it: of the first matrix, or a
    convolution of one pixel by itself,

    .. math::
        W \frac{x - m}{s} + b = (W / s) \, x + (b - W m / s)

    Args:
      module: an `MLP` or a `LeNet`.

    Returns:
      Layers for inputs in pixel units, float32. They are a network of their own: what rounding the
      folded weights changes makes its scores differ from the module's in the last digits.

    Raises:
      TypeError: if the module is of another kind.

    Example:
      >>> from jaxcert import models
      >>> from jaxcert.ladder import layers_of
      >>> network = models.create(
      ...     "mlp", input_shape=(4, 4, 1), num_classes=3, mean=0.3, std=0.4, seed=0)
      >>> [type(layer).__name__ for layer in layers_of(network)][:3]
      ['Flatten', 'Dense', 'Relu']
    """
    from jaxcert import models
    from jaxcert.lipschitz._modules import layers_of_module

    if not isinstance(module, models.MLP | models.LeNet):
        raise TypeError(f"module must be an MLP or a LeNet, got {type(module).__name__}")
    # What `jaxcert.lipschitz` reads lacks the mean, which no Lipschitz constant depends on.
    (_, *body), shape = layers_of_module(module, None)
    assert shape is not None
    mean = np.asarray(module.normalisation.mean[...], np.float64)
    inverse = np.asarray(module.normalisation.inverse_std[...], np.float64)
    if isinstance(module, models.MLP):
        mean, inverse = (np.broadcast_to(v, shape).reshape(-1) for v in (mean, inverse))
        first = body[1]
        weight = np.asarray(first.weight, np.float64) * inverse
        start = [Flatten(), Dense(weight, np.asarray(first.bias, np.float64) - weight @ mean)]
        body = body[2:]
    else:
        # Zeros are padded after standardising, so it cannot be folded into a convolution.
        mean, inverse = (np.broadcast_to(v, shape[-1:]) for v in (mean, inverse))
        start = [Conv(np.diag(inverse)[None, None], -mean * inverse)]
    return [in_single_precision(layer) for layer in (*start, *body)]


def in_single_precision(layer: Any) -> Layer:
    """A layer with float32 numbers."""
    return cast_layer(layer, np.float32)


def cast_layer(layer: Any, dtype: Any) -> Layer:
    """A layer with its numbers in another dtype."""
    fields = {
        field.name: np.asarray(getattr(layer, field.name)).astype(dtype)
        for field in dataclasses.fields(layer)
        if field.name in ("weight", "kernel", "bias")
    }
    return dataclasses.replace(layer, **fields)
