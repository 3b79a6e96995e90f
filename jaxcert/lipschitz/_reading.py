"""Networks as users hand them over, in the two forms that the bounds take."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import _checks
from jaxcert.lipschitz._activations import SlopeRange, slope_range
from jaxcert.lipschitz._layers import (
    Activation,
    AveragePool,
    Opaque,
    Scale,
    folded,
    output_shape,
)
from jaxcert.lipschitz._sequential import Conv, Dense, Flatten, Relu, linear_part
from jaxcert.lipschitz._spectral import finite, floating

# Largest number of entries of a convolution that is written out as a matrix.
_MATRIX_ENTRIES = 2**25

Network = tuple[Callable[[], list[np.ndarray]], SlopeRange, list[Any] | None, tuple[int, ...]]


def read_network(network: Any, activation: Any, input_shape: Sequence[int] | None) -> Network:
    """Check a network; give its matrices when called for, their slopes, its layers and its input.

    There are no layers where matrices were given.
    """
    shape = None
    if input_shape is not None:
        shape = tuple(_checks.positive_integer("input_shape", size) for size in input_shape)
    if _is_module(network):
        from jaxcert.lipschitz._modules import layers_of_module

        layers, shape = layers_of_module(network, shape)
    elif not isinstance(network, (list, tuple)) or not network:
        raise TypeError(
            "network must be a list of matrices, a list of layers or a Flax NNX module, got "
            f"{type(network).__name__}"
        )
    elif all(hasattr(entry, "ndim") or isinstance(entry, list) for entry in network):
        matrices = _matrices(network)
        if shape is not None and shape != (matrices[0].shape[1],):
            raise ValueError(f"input_shape must be {(matrices[0].shape[1],)}, got {shape}")
        return lambda: matrices, slope_range(activation), None, (matrices[0].shape[1],)
    else:
        layers = list(network)
    if shape is None:
        shape = _first_shape(layers)
    _check_layers(layers, shape)
    return (lambda: _chain(layers, shape)[0]), _slopes(layers), layers, shape


def _is_module(network: Any) -> bool:
    """Whether this is a Flax module; nothing is one where Flax was never imported."""
    return any(base.__module__.startswith("flax.nnx") for base in type(network).__mro__)


def _matrices(weights: Sequence[Any]) -> list[np.ndarray]:
    matrices: list[np.ndarray] = []
    for index, weight in enumerate(weights):
        name = f"weights[{index}]"
        value = floating(name, weight)
        if not _checks.is_concrete(value):
            raise TypeError(
                f"{name} must be an array at hand, got a traced one; lipsdp_upper works under "
                "transformations"
            )
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(f"{name} must have shape [out, in], got shape {value.shape}")
        finite(name, value)
        if matrices and value.shape[1] != matrices[-1].shape[0]:
            raise ValueError(
                f"{name} must take the {matrices[-1].shape[0]} outputs of the matrix before it, "
                f"[out, in], got shape {value.shape}"
            )
        matrices.append(np.asarray(value).astype(np.float64))
    return matrices


def _first_shape(layers: Sequence[Any]) -> tuple[int, ...]:
    for layer in layers:
        if isinstance(layer, Dense):
            return (int(np.shape(layer.weight)[1]),)
        if not isinstance(layer, (Relu, Activation)):
            break
    raise ValueError("input_shape must be given for a network that does not start with a matrix")


def _check_layers(layers: Sequence[Any], shape: tuple[int, ...]) -> None:
    for index, layer in enumerate(layers):
        for field in ("weight", "kernel", "factor"):
            value = getattr(layer, field, None)
            if value is not None:
                finite(f"layers[{index}].{field}", floating(f"layers[{index}].{field}", value))
        if isinstance(layer, Activation):
            # An unknown activation is an error here; sorting ones are known.
            from jaxcert.lipschitz._activations import activation_lipschitz

            activation_lipschitz(layer.name, negative_slope=layer.negative_slope)
        try:
            shape = output_shape(layer, shape)
        except ValueError as error:
            raise ValueError(f"layers[{index}]: {error}") from None


def _slopes(layers: Sequence[Any]) -> SlopeRange:
    """The slopes of the activations of a chain; those of the identity if there are none."""
    ranges = {
        slope_range("relu")
        if isinstance(layer, Relu)
        else slope_range(layer.name, negative_slope=layer.negative_slope)
        for layer in layers
        if isinstance(layer, Relu) or (isinstance(layer, Activation) and _has_slopes(layer))
    }
    return ranges.pop() if len(ranges) == 1 else slope_range("identity")


def _has_slopes(layer: Activation) -> bool:
    try:
        slope_range(layer.name, negative_slope=layer.negative_slope)
    except ValueError:
        return False
    return True


def _chain(layers: Sequence[Any], shape: tuple[int, ...]) -> tuple[list[np.ndarray], SlopeRange]:
    """The layers as matrices with one kind of activation between them."""
    matrices: list[np.ndarray] = []
    joined = False  # Whether the next linear layer multiplies the last matrix.
    kinds: set[Any] = set()
    for layer in folded(layers, shape):
        if isinstance(layer, (Relu, Activation)):
            if isinstance(layer, Activation) and not _has_slopes(layer):
                _refuse(layer.name)
            if not joined:
                raise ValueError(
                    "method must be 'product' for networks whose activations do not alternate with "
                    "linear layers"
                )
            kinds.add(
                ("relu", 0.0)
                if isinstance(layer, Relu)
                else (layer.name, layer.negative_slope if layer.name == "leaky_relu" else 0.0)
            )
            joined = False
        elif isinstance(layer, (Dense, Conv, Scale, AveragePool)):
            if joined:
                raise ValueError(
                    "method must be 'product' for networks with linear layers in a row; multiply "
                    "them, or leave them to the product"
                )
            matrices.append(_written_out(layer, shape))
            joined = True
        elif not isinstance(layer, Flatten):
            _refuse(layer.name if isinstance(layer, Opaque) else type(layer).__name__)
        shape = output_shape(layer, shape)
    if not joined:
        raise ValueError("method must be 'product' for networks that do not end in a linear layer")
    if len(kinds) > 1:
        raise ValueError(f"method must be 'product' for networks with activations {sorted(kinds)}")
    return matrices, _slopes(layers)


def _refuse(what: Any) -> None:
    raise ValueError(f"method must be 'product' for networks with a {what}")


def _written_out(layer: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix `[out, in]` of a linear layer; every entry is an exact weight."""
    if isinstance(layer, Dense):
        return np.asarray(layer.weight).astype(np.float64)
    size = math.prod(shape)
    if isinstance(layer, Scale):
        return np.diag(np.broadcast_to(np.asarray(layer.factor, np.float64), shape).reshape(-1))
    if isinstance(layer, AveragePool) or layer.padding == "CIRCULAR":
        _refuse(f"{type(layer).__name__} of this kind")
    outputs = math.prod(output_shape(layer, shape))
    if size * outputs > _MATRIX_ENTRIES:
        raise ValueError(
            f"method must be 'product' for convolutions as large as {outputs} by {size}, whose "
            "matrices would not fit"
        )
    with jax.enable_x64(True):
        kernel = jnp.asarray(np.asarray(layer.kernel).astype(np.float64))
        images = jnp.eye(size).reshape(size, *shape)
        apply = jax.jit(functools.partial(linear_part, layer, weight=kernel))
        return np.asarray(apply(images)).reshape(size, outputs).T.copy()
