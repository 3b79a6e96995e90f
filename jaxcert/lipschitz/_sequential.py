"""Feed-forward ReLU networks as lists of layers, the form that the bounds understand."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxcert import _checks

Padding = str | tuple[tuple[int, int], ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Dense:
    """An affine map of vectors, `weight @ x + bias`.

    Attributes:
      weight: floating `[out, in]`.
      bias: `[out]`.
    """

    weight: Any
    bias: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernel", "bias"],
    meta_fields=["strides", "padding", "groups", "dilation"],
)
@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with zero padding of `[*spatial, channels]`, in one dimension or more.

    Attributes:
      kernel: floating `[*window, in // groups, out]`.
      bias: `[out]`.
      strides: one number for each spatial axis; None is 1 everywhere.
      padding: "SAME", "VALID", or a pair (before, after) for each spatial axis.
      groups: number of channel groups.
      dilation: of the kernel, one number for each spatial axis; None is 1 everywhere.
    """

    kernel: Any
    bias: Any
    strides: tuple[int, ...] | None = None
    padding: Padding = "VALID"
    groups: int = 1
    dilation: tuple[int, ...] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relu:
    """`max(x, 0)` in each coordinate."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flatten:
    """Every axis but the first into one, the last axis running fastest."""


Layer = Dense | Conv | Relu | Flatten


def linear_part(layer: Dense | Conv, inputs: jax.Array, *, weight: Any = None) -> jax.Array:
    """Apply the layer's linear map, or the same map with other weights, to `[b, *shape]`."""
    precision = lax.Precision.HIGHEST
    if isinstance(layer, Dense):
        weight = layer.weight if weight is None else weight
        return jnp.matmul(inputs, weight.T, precision=precision)
    weight = layer.kernel if weight is None else weight
    spatial = weight.ndim - 2
    letters = "DHW"[-spatial:]
    return lax.conv_general_dilated(
        inputs,
        weight,
        window_strides=layer.strides or (1,) * spatial,
        padding=layer.padding,
        rhs_dilation=layer.dilation or (1,) * spatial,
        feature_group_count=layer.groups,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        precision=precision,
    )


def weight_of(layer: Dense | Conv) -> Any:
    """The weight matrix or the kernel."""
    return layer.weight if isinstance(layer, Dense) else layer.kernel


def fan_in(layer: Dense | Conv) -> int:
    """How many products each output sums, at most."""
    if isinstance(layer, Dense):
        return int(layer.weight.shape[1])
    return int(np.prod(layer.kernel.shape[:-1]))


def fan_out(layer: Dense | Conv) -> int:
    """How many products each input of the transposed map sums, at most."""
    if isinstance(layer, Dense):
        return int(layer.weight.shape[0])
    return int(np.prod(layer.kernel.shape[:-2])) * int(layer.kernel.shape[-1]) // layer.groups


def apply_layers(layers: Sequence[Layer], inputs: ArrayLike) -> jax.Array:
    """Evaluate a network that is a list of layers.

    Args:
      layers: `Dense`, `Conv`, `Relu` and `Flatten`, in order.
      inputs: floating `[b, *shape]`.

    Returns:
      `[b, *output_shape]`.

    Raises:
      TypeError: if an entry of `layers` is no layer.
      ValueError: if the layers do not fit each other or the inputs, or hold NaN or infinity.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, Relu, apply_layers
      >>> layers = [Dense(jnp.array([[1.0], [-1.0]]), jnp.zeros(2)), Relu(),
      ...           Dense(jnp.ones((1, 2)), jnp.zeros(1))]
      >>> apply_layers(layers, jnp.array([[-3.0], [2.0]]))  # the absolute value
      Array([[3.], [2.]], dtype=float32)
    """
    value = jnp.asarray(inputs)
    check_layers(layers, value.shape[1:])
    dtype = jnp.result_type(value, *jax.tree.leaves(list(layers)))
    value, layers = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (value, list(layers)))
    for layer in layers:
        value = apply_layer(layer, value)
    return value


def apply_layer(layer: Layer, value: jax.Array) -> jax.Array:
    """Evaluate one layer, checked before, on `[b, *shape]`."""
    if isinstance(layer, Relu):
        return jnp.maximum(value, 0)
    if isinstance(layer, Flatten):
        return value.reshape(value.shape[0], -1)
    return linear_part(layer, value) + layer.bias


def layer_shapes(layers: Sequence[Layer], input_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The shape, without the batch axis, that each layer puts out."""
    shapes = []
    shape = tuple(int(size) for size in input_shape)
    for layer in layers:
        # What JAX makes of it: float64 may be switched off.
        dtype = jnp.result_type(weight_of(layer) if isinstance(layer, (Dense, Conv)) else "float32")
        inputs = jax.ShapeDtypeStruct((1, *shape), dtype)
        shape = tuple(jax.eval_shape(functools.partial(apply_layer, layer), inputs).shape[1:])
        shapes.append(shape)
    return shapes


def check_layers(
    layers: Any, input_shape: Sequence[int] | None = None, *, name: str = "layers"
) -> None:
    """Raise unless `layers` is a list of layers that fit each other and hold finite numbers."""
    if not isinstance(layers, (list, tuple)) or not layers:
        raise TypeError(f"{name} must be a non-empty list of layers, got {layers!r}")
    shape = None if input_shape is None else tuple(input_shape)
    for position, layer in enumerate(layers):
        where = f"{name}[{position}]"
        if not isinstance(layer, (Dense, Conv, Relu, Flatten)):
            raise TypeError(
                f"{where} must be a Dense, Conv, Relu or Flatten, got {type(layer).__name__}"
            )
        if isinstance(layer, (Dense, Conv)):
            _check_weights(where, layer)
            if shape is not None:
                _check_fit(where, layer, shape)
        if shape is not None:
            (shape,) = layer_shapes([layer], shape)


def _check_weights(where: str, layer: Dense | Conv) -> None:
    weight, bias = weight_of(layer), layer.bias
    kind = "weight" if isinstance(layer, Dense) else "kernel"
    for label, array in ((kind, weight), ("bias", bias)):
        dtype = getattr(array, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{where}.{label} must be a floating array, got {dtype or type(array)}")
        if _checks.is_concrete(array) and not np.all(np.isfinite(np.asarray(array))):
            raise ValueError(f"{where}.{label} must be finite, got NaN or infinity")
    if isinstance(layer, Dense):
        if weight.ndim != 2:
            raise ValueError(f"{where}.weight must have shape [out, in], got {weight.shape}")
        outputs = weight.shape[0]
    else:
        if weight.ndim not in (3, 4, 5):
            raise ValueError(
                f"{where}.kernel must have shape [*window, in, out], got {weight.shape}"
            )
        outputs = weight.shape[-1]
        if layer.groups < 1 or outputs % layer.groups:
            raise ValueError(
                f"{where}.groups must divide the {outputs} output channels, got {layer.groups}"
            )
        if isinstance(layer.padding, str) and layer.padding not in ("SAME", "VALID"):
            raise ValueError(
                f"{where}.padding must be 'SAME', 'VALID' or pairs, got {layer.padding!r}"
            )
        spatial = weight.ndim - 2
        for label, sizes in (
            ("strides", layer.strides),
            ("dilation", layer.dilation),
            ("padding", None if isinstance(layer.padding, str) else layer.padding),
        ):
            if sizes is not None and len(sizes) != spatial:
                raise ValueError(
                    f"{where}.{label} must have one entry for each of {spatial} spatial axes, "
                    f"got {sizes}"
                )
    if bias.shape != (outputs,):
        raise ValueError(f"{where}.bias must have shape ({outputs},), got {bias.shape}")


def _check_fit(where: str, layer: Dense | Conv, shape: tuple[int, ...]) -> None:
    if isinstance(layer, Dense):
        if shape != (layer.weight.shape[1],):
            raise ValueError(
                f"{where}.weight takes vectors of {layer.weight.shape[1]} values, got {shape}; "
                "put a Flatten before it if that is an image"
            )
        return
    kernel = layer.kernel
    wanted = kernel.shape[-2] * layer.groups
    if len(shape) != kernel.ndim - 1 or shape[-1] != wanted:
        raise ValueError(
            f"{where}.kernel of shape {kernel.shape} takes {wanted} channels in the last of "
            f"{kernel.ndim - 1} axes, got an input of shape {shape}; kernels are [*window, in, out]"
        )
