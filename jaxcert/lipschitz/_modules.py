"""Flax NNX modules as lists of layers; imported only when a module was handed over."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import _compiled_weights, models
from jaxcert.lipschitz._layers import (
    Activation,
    AveragePool,
    MaxPool,
    Opaque,
    Residual,
    Scale,
    Subsample,
)
from jaxcert.lipschitz._sequential import Conv, Dense, Flatten, Relu

_ACTIVATIONS: dict[Callable[..., Any], str] = {
    jax.nn.sigmoid: "sigmoid",
    jax.nn.softplus: "softplus",
    jax.nn.elu: "elu",
    jax.nn.soft_sign: "softsign",
    jax.nn.hard_tanh: "hard_tanh",
    jax.nn.relu6: "relu6",
    jax.nn.log_sigmoid: "log_sigmoid",
    jax.nn.silu: "silu",
    jax.nn.leaky_relu: "leaky_relu",
    # The default of jax.nn.gelu is the approximation with tanh.
    jax.nn.gelu: "gelu_tanh",
    jnp.tanh: "tanh",
    jnp.abs: "abs",
    jax.nn.identity: "identity",
}


_DENSE = (
    models.AOLLinear, models.BROLinear, models.CayleyLinear, models.CPLLinear,
    models.GershgorinStack, models.LDLTStack, models.LiResNetLinear, models.SandwichLinear,
    models.SLLLinear, models.SOCLinear,
)  # fmt: skip
_CONVOLUTIONS = (
    models.AOLConv, models.BROConv, models.CayleyConv, models.CPLConv, models.GaborConv,
    models.LiResNetConv, models.SandwichConv, models.SLLConv, models.SOCConv,
)  # fmt: skip


def layers_of_module(
    module: Any, shape: tuple[int, ...] | None
) -> tuple[list[Any], tuple[int, ...] | None]:
    """The layers of a module in evaluation mode, and the shape of its input where it knows it."""
    body: list[Any] | None = None
    match module:
        case models.MLP():
            body = _mlp(module)
        case models.LeNet():
            body = _lenet(module)
        case models.GaborLeNet():
            body = _gabor_lenet(module)
        case models.ResNet():
            body = _resnet(module)
        case models.LipschitzMLP() | models.LipschitzCNN():
            return _features(module), _own_shape(module, shape)
    if body is not None:
        shape = _own_shape(module, shape)
        inverse = np.asarray(module.normalisation.inverse_std[...])
        return [Scale(inverse), *body, *_linear(module.head)], shape
    if isinstance(module, nnx.Sequential):
        return [layer for entry in module.layers for layer in _entry(entry)], shape
    return _entry(module), shape


def _own_shape(module: Any, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if shape is not None and shape != module.input_shape:
        raise ValueError(f"input_shape must be {module.input_shape}, got {shape}")
    return module.input_shape


def _entry(entry: Any) -> list[Any]:
    """One member of an `nnx.Sequential`."""
    if isinstance(entry, nnx.Sequential):
        return [layer for inner in entry.layers for layer in _entry(inner)]
    if isinstance(entry, nnx.Linear):
        return _linear(entry)
    if isinstance(entry, nnx.Conv):
        return [_conv(entry)]
    if isinstance(entry, (*_DENSE, *_CONVOLUTIONS)):
        return [_opaque(entry)]
    if isinstance(entry, models.NormalizedLinear):
        return _normalised_linear(entry)
    if isinstance(entry, nnx.BatchNorm):
        return [_batch_norm(entry)]
    if isinstance(entry, nnx.Dropout):
        if not entry.deterministic:
            raise ValueError("network must be in evaluation mode: call network.eval() first")
        return []
    if entry is jax.nn.relu:
        return [Relu()]
    known = _ACTIVATIONS.get(_hashable(entry)) if callable(entry) else None
    if known:
        return [Activation(known)]
    if isinstance(entry, functools.partial):
        return _partial(entry)
    raise TypeError(
        f"network must hold layers whose Lipschitz constants are known, got {_name(entry)}; pass a "
        "list of the layers of jaxcert.lipschitz instead"
    )


def _hashable(entry: Any) -> Any:
    try:
        hash(entry)
    except TypeError:
        return None
    return entry


def _partial(entry: functools.partial[Any]) -> list[Any]:
    settings = dict(entry.keywords)
    if entry.args == () and entry.func in (nnx.max_pool, nnx.avg_pool):
        window = tuple(settings.pop("window_shape"))
        strides = tuple(settings.pop("strides", None) or (1,) * len(window))
        padding = settings.pop("padding", "VALID")
        included = settings.pop("count_include_pad", True)
        if not settings and (included or padding == "VALID"):
            kind = MaxPool if entry.func is nnx.max_pool else AveragePool
            return [kind(window, strides, padding)]
    if entry.args == () and entry.func is jax.nn.leaky_relu and set(settings) <= {"negative_slope"}:
        return [Activation("leaky_relu", float(settings.get("negative_slope", 0.01)))]
    if entry.args == () and entry.func is jax.nn.gelu and set(settings) <= {"approximate"}:
        return [Activation("gelu_tanh" if settings.get("approximate", True) else "gelu")]
    raise TypeError(f"network holds {_name(entry.func)} with settings that are not understood")


def _name(entry: Any) -> str:
    return getattr(entry, "__name__", None) or type(entry).__name__


def _bias(layer: Any, outputs: int) -> np.ndarray:
    return np.zeros(outputs) if layer.bias is None else np.asarray(layer.bias[...])


def _linear(layer: nnx.Linear) -> list[Any]:
    weight = np.asarray(layer.kernel[...]).T
    return [Dense(weight, _bias(layer, len(weight)))]


def _conv(layer: nnx.Conv) -> Conv:
    kernel = np.asarray(layer.kernel[...])
    dims = kernel.ndim - 2

    def each(value: Any) -> tuple[int, ...]:
        return (1,) * dims if value is None else tuple(np.broadcast_to(value, dims).tolist())

    if layer.mask is not None:
        kernel = kernel * np.asarray(layer.mask)
    if any(size != 1 for size in each(layer.input_dilation)):
        raise TypeError("network holds a convolution with input_dilation, which is not understood")
    padding: Any = layer.padding
    if isinstance(padding, int):
        padding = ((padding, padding),) * dims
    elif not isinstance(padding, str):
        padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)
        padding = padding * dims if len(padding) == 1 else padding
    elif padding == "CAUSAL":
        padding = ((each(layer.kernel_dilation)[0] * (kernel.shape[0] - 1), 0),)
    return Conv(
        kernel, _bias(layer, kernel.shape[-1]), each(layer.strides), padding,
        layer.feature_group_count, each(layer.kernel_dilation),
    )  # fmt: skip


def _batch_norm(layer: nnx.BatchNorm) -> Scale:
    if not layer.use_running_average:
        raise ValueError(
            "network must be in evaluation mode: call network.eval() first; batch normalisation by "
            "the statistics of a batch is no map of single inputs"
        )
    variance = np.asarray(layer.var[...]).astype(np.float64)
    factor = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale is not None:
        factor = factor * np.asarray(layer.scale[...]).astype(np.float64)
    # Three roundings of half a unit each.
    return Scale(factor * (1.0 + 4.0 * np.finfo(np.float64).eps))


def _opaque(layer: Any) -> Opaque:
    """A Gabor or 1-Lipschitz layer by the bound that it proves from the weights it computes."""
    name = type(layer).__name__

    def upper(shape: tuple[int, ...]) -> float:
        size = () if isinstance(layer, _DENSE) else (shape[:2],)
        return float(layer.lipschitz_upper(*size)) * (1.0 + _compiled_weights.ALLOWANCE)

    def outputs(shape: tuple[int, ...]) -> tuple[int, ...]:
        inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        try:
            return jax.eval_shape(lambda value: layer(value), inputs).shape[1:]
        except (TypeError, ValueError) as error:
            raise ValueError(f"a {name} takes no input of shape {shape}: {error}") from None

    return Opaque(name, upper, outputs)


def _normalised_linear(layer: models.NormalizedLinear) -> list[Any]:
    weight = np.asarray(layer.weight(), np.float64).T * (1.0 + _compiled_weights.ALLOWANCE)
    return [Dense(weight, np.asarray(layer.bias[...]))]


def _features(module: Any) -> list[Any]:
    """A 1-Lipschitz network: all before its last layer by one constant, input scaling included."""
    features = Opaque(
        type(module).__name__,
        lambda shape: module.features_lipschitz_upper(),
        lambda shape: (module.width,),
    )
    return [features] if module.head is None else [features, *_normalised_linear(module.head)]


def _mlp(module: models.MLP) -> list[Any]:
    hidden = [layer for linear in module.layers for layer in (*_linear(linear), Relu())]
    return [Flatten(), *hidden]


def _lenet(module: models.LeNet) -> list[Any]:
    convolutions = [x for conv in module.convolutions for x in (_conv(conv), Relu())]
    return [*convolutions, Flatten(), *_linear(module.dense), Relu()]


def _gabor_lenet(module: models.GaborLeNet) -> list[Any]:
    convolutions = [x for layer in module.layers for x in (*_entry(layer), Relu())]
    return [*convolutions, Flatten(), *_linear(module.dense), Relu()]


def _resnet(module: models.ResNet) -> list[Any]:
    layers: list[Any] = [*_entry(module.stem), _batch_norm(module.stem_norm), Relu()]
    for block in module.blocks:
        branch = (
            _conv(block.first), _batch_norm(block.first_norm), Relu(), _conv(block.second),
            _batch_norm(block.second_norm),
        )  # fmt: skip
        channels = np.shape(block.second.kernel[...])[-1]
        changes = block.stride != 1 or block.padding
        shortcut = (Subsample((block.stride,) * 2, channels),) if changes else ()
        layers += [Residual(branch, shortcut), Relu()]
    return [*layers, AveragePool(), Flatten()]
