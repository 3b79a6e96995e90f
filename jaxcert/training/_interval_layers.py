"""Networks of `jaxcert.models` as layers that the bounds understand, within a traced step."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxcert import models
from jaxcert.lipschitz import Conv, Dense, Flatten, Layer, Relu


def interval_layers(network: Any) -> Sequence[Layer]:
    """Read the layers of a ReLU network, its weights traced or not.

    The standardisation of the inputs becomes a convolution by one pixel, so that a radius stays in
    pixel units.

    Args:
      network: a `models.MLP` or `models.LeNet`; or a list of layers, which is given back.

    Returns:
      The layers, for `ibp_loss` and for the bounds of `jaxcert.lipschitz`.

    Raises:
      TypeError: if the network is of another kind.

    Example:
      >>> from flax import nnx
      >>> from jaxcert import models, training
      >>> network = models.MLP(input_shape=(8, 8, 1), num_classes=10, mean=0.3, std=0.4,
      ...                      hidden=(32,), rngs=nnx.Rngs(0))
      >>> [type(layer).__name__ for layer in training.interval_layers(network)]
      ['Conv', 'Flatten', 'Dense', 'Relu', 'Dense']
    """
    if isinstance(network, (list, tuple)):
        return network
    if isinstance(network, models.MLP):
        body: list[Layer] = [Flatten()]
        for linear in network.layers:
            body += [_dense(linear), Relu()]
    elif isinstance(network, models.LeNet):
        body = []
        for convolution in network.convolutions:
            body += [_conv(convolution), Relu()]
        body += [Flatten(), _dense(network.dense), Relu()]
    else:
        raise TypeError(
            "network must be a models.MLP, a models.LeNet or a list of layers, got "
            f"{type(network).__name__}; pass layers_of for others"
        )
    return [_standardisation(network), *body, _dense(network.head)]


def _standardisation(network: Any) -> Layer:
    """`(x - mean) / std` for each channel."""
    spatial, channels = len(network.input_shape) - 1, network.input_shape[-1]
    inverse = jnp.broadcast_to(network.normalisation.inverse_std[...], (channels,))
    shift = -jnp.broadcast_to(network.normalisation.mean[...], (channels,)) * inverse
    if spatial == 0:
        return Dense(jnp.diag(inverse), shift)
    return Conv(jnp.diag(inverse).reshape(*(1,) * spatial, channels, channels), shift)


def _dense(layer: Any) -> Dense:
    kernel = layer.kernel[...]
    bias = jnp.zeros(kernel.shape[1], kernel.dtype) if layer.bias is None else layer.bias[...]
    return Dense(kernel.T, bias)


def _conv(layer: nnx.Conv) -> Conv:
    kernel = layer.kernel[...]
    bias = jnp.zeros(kernel.shape[-1], kernel.dtype) if layer.bias is None else layer.bias[...]
    spatial = kernel.ndim - 2
    padding: Any = layer.padding
    if not isinstance(padding, str):
        sizes = (padding,) * spatial if isinstance(padding, int) else tuple(padding)
        padding = tuple((size, size) if isinstance(size, int) else tuple(size) for size in sizes)
    strides = layer.strides
    steps = (strides,) * spatial if isinstance(strides, int) else tuple(strides or (1,) * spatial)
    return Conv(kernel, bias, steps, padding)
