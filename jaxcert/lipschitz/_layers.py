"""Layers beyond `Dense`, `Conv`, `Relu` and `Flatten`, and what all do to shapes and distances."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcert import _checks
from jaxcert.lipschitz._activations import activation_lipschitz
from jaxcert.lipschitz._convolution import conv_operator_norm_upper
from jaxcert.lipschitz._geometry import Axis, Padding, axes_of, size_after
from jaxcert.lipschitz._rounding import gamma, up
from jaxcert.lipschitz._sequential import Conv, Dense, Flatten, Relu
from jaxcert.lipschitz._spectral import Order, operator_norm_upper


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation by name, or by its range of slopes.

    Attributes:
      name: what `slope_range` takes, or max_min, group_sort or householder.
      negative_slope: slope of leaky_relu below 0.
    """

    name: Any
    negative_slope: float = 0.01


@dataclasses.dataclass(frozen=True)
class Scale:
    """`factor * x`, a factor for each channel: standardised inputs, or batch normalisation.

    Attributes:
      factor: floating `[channels]`, for the last axis.
    """

    factor: Any


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """The largest value of each window.

    Attributes:
      window: pixels of a window, one number for each spatial axis.
      strides: pixels between windows, likewise.
      padding: as in `conv_spectral_norm_upper`; what it adds is never the largest.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class AveragePool:
    """The mean of each window, zeros of the padding included.

    Attributes:
      window: pixels of a window, one number for each spatial axis; None is the whole image.
      strides: pixels between windows, likewise.
      padding: as in `conv_spectral_norm_upper`.
    """

    window: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    padding: Padding = "VALID"


@dataclasses.dataclass(frozen=True)
class Residual:
    """`shortcut(x) + branch(x)`.

    Attributes:
      branch: layers, in order.
      shortcut: layers, in order; none for the identity.
    """

    branch: tuple[Any, ...]
    shortcut: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Concatenate:
    """`[f(x), g(x), ...]` along the last axis.

    Attributes:
      branches: for each its layers, in order.
    """

    branches: tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True)
class Subsample:
    """Every other pixel, and channels of zeros: the shortcut without weights of residual networks.

    Attributes:
      strides: pixels between those that are kept, one number for each spatial axis.
      channels: of the output, at least those of the input.
    """

    strides: tuple[int, ...]
    channels: int


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A layer of which the l2 constant alone is known; the readers of modules make these.

    Attributes:
      name: for messages.
      upper: the bound, from the shape of one input.
      outputs: the shape of one output, from that of one input.
    """

    name: str
    upper: Callable[[tuple[int, ...]], float]
    outputs: Callable[[tuple[int, ...]], tuple[int, ...]]


def output_shape(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one output, without the batch axis, or an error that names the layer."""
    match layer:
        case Relu() | Activation():
            return shape
        case Flatten():
            return (math.prod(shape),)
        case Opaque():
            return layer.outputs(shape)
        case Dense():
            rows, columns = np.shape(layer.weight)
            if shape != (columns,):
                raise ValueError(
                    f"weight of shape {(rows, columns)} must be [out, in] with in = {shape}, the "
                    "shape before it; put a Flatten before it if that is an image"
                )
            return (rows,)
        case Conv():
            return (*size_after(_conv_axes(layer, shape)), np.shape(layer.kernel)[-1])
        case Scale():
            if np.shape(layer.factor) != shape[-1:]:
                raise ValueError(
                    f"factor must have shape {shape[-1:]}, one for each channel, "
                    f"got {np.shape(layer.factor)}"
                )
            return shape
        case MaxPool() | AveragePool():
            return (*size_after(_pool_axes(layer, shape)), shape[-1])
        case Subsample():
            sizes = (-(-n // s) for n, s in zip(shape, layer.strides, strict=False))
            return (*sizes, layer.channels)
        case Residual():
            branch = shape_after(layer.branch, shape)
            shortcut = shape_after(layer.shortcut, shape)
            if branch != shortcut:
                raise ValueError(
                    f"branch and shortcut must have outputs of one shape, got {branch}, {shortcut}"
                )
            return branch
        case Concatenate():
            shapes = [shape_after(branch, shape) for branch in layer.branches]
            if not shapes or any(other[:-1] != shapes[0][:-1] for other in shapes):
                raise ValueError(f"branches must differ in the last axis alone, got {shapes}")
            return (*shapes[0][:-1], sum(other[-1] for other in shapes))
    raise TypeError(
        f"layers must hold layers of jaxcert.lipschitz, got {type(layer).__name__}, "
        "whose Lipschitz constant is not known"
    )


def shape_after(layers: Sequence[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one output of some layers."""
    for layer in layers:
        shape = output_shape(layer, shape)
    return shape


def layers_upper(layers: Sequence[Any], shape: tuple[int, ...], *, order: Order) -> float:
    """The product of the constants of some layers; linear neighbours are folded first."""
    total = 1.0
    for layer in folded(layers, shape):
        total = up(total * _layer_upper(layer, shape, order))
        shape = output_shape(layer, shape)
    return total


def folded(layers: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
    """Merge each `Scale` into the linear layer after it or before it, through `Flatten`."""
    result: list[Any] = []
    shapes = [shape]
    for layer in layers:
        shapes.append(output_shape(layer, shapes[-1]))
    for layer, before in zip(layers, shapes, strict=False):
        previous = result[-1] if result else None
        match previous, layer:
            case Scale(), Dense():
                result[-1] = _with(layer, _array(layer.weight) * _array(previous.factor))
            case Scale(), Conv():
                factor = _array(previous.factor)
                # Input channel c of group g is channel g * (in / groups) + c.
                groups = np.repeat(
                    factor.reshape(layer.groups, -1), np.shape(layer.kernel)[-1] // layer.groups, 0
                )
                result[-1] = _with(layer, _array(layer.kernel) * groups.T)
            case ((Dense() | Conv()), Scale()):
                factor = _array(layer.factor)
                if isinstance(previous, Dense):
                    result[-1] = _with(previous, _array(previous.weight) * factor[:, None])
                else:
                    result[-1] = _with(previous, _array(previous.kernel) * factor)
            case Scale(), Scale():
                result[-1] = Scale(_array(previous.factor) * _array(layer.factor))
            case Scale(), Flatten():
                tiled = np.broadcast_to(_array(previous.factor), before).reshape(-1)
                result[-1:] = [layer, Scale(tiled)]
            case _:
                result.append(layer)
    return result


def _layer_upper(layer: Any, shape: tuple[int, ...], order: Order) -> float:
    match layer:
        case Relu() | Flatten() | Subsample():
            return 1.0
        case Activation():
            if layer.name == "householder" and order != 2:
                raise ValueError("order must be 2 for householder activations")
            return activation_lipschitz(layer.name, negative_slope=layer.negative_slope)
        case Opaque():
            if order != 2:
                raise ValueError(f"order must be 2 for a {layer.name}, got {order}")
            return float(layer.upper(shape))
        case Scale():
            return float(np.max(np.abs(_array(layer.factor))))
        case Dense():
            weight = _array(layer.weight)
            return _linear_upper(weight, float(operator_norm_upper(weight, order=order)))
        case Conv():
            return _conv_upper(layer, shape, order)
        case MaxPool():
            # A pixel lies in at most this many windows, and each window follows one pixel.
            covers = math.prod(-(-a.taps // a.stride) for a in _pool_axes(layer, shape))
            return {1: float(covers), 2: up(math.sqrt(covers)), math.inf: 1.0}[order]
        case AveragePool():
            axes = _pool_axes(layer, shape)
            window = tuple(axis.taps for axis in axes)
            kernel = np.full((*window, 1, 1), 1.0 / math.prod(window))
            pads = tuple((axis.low, axis.high) for axis in axes)
            pool = Conv(kernel, np.zeros(1), tuple(a.stride for a in axes), pads)
            return up(_conv_upper(pool, (*shape[:-1], 1), order), terms=2)
        case Residual():
            return _residual_upper(layer, shape, order)
        case Concatenate():
            parts = [layers_upper(branch, shape, order=order) for branch in layer.branches]
            # Outputs side by side: their l1, l2 or linf norms join in the same norm.
            return up(float(np.linalg.norm(parts, order)), terms=len(parts))
    raise TypeError(f"the Lipschitz constant of a {type(layer).__name__} is not known")


def _residual_upper(layer: Residual, shape: tuple[int, ...], order: Order) -> float:
    if not layer.shortcut and len(layer.branch) == 1:
        # A linear branch: the norm of I + K itself, below 1 + |K|.
        (branch,) = layer.branch
        output_shape(layer, shape)
        if isinstance(branch, Dense):
            merged = _array(branch.weight) + np.eye(shape[-1])
            return _linear_upper(merged, float(operator_norm_upper(merged, order=order)))
        axes = _conv_axes(branch, shape) if isinstance(branch, Conv) else ()
        centred = axes and all(
            a.stride == 1 and a.low % a.dilation == 0 and a.low < a.reach and not a.circular
            for a in axes
        )
        if centred:
            merged = _array(branch.kernel).copy()
            middle = tuple(axis.low // axis.dilation for axis in axes)
            # Output o of a group reads input o of the same group.
            outputs = np.arange(merged.shape[-1])
            merged[(*middle, outputs % merged.shape[-2], outputs)] += 1.0
            return _conv_upper(_with(branch, merged), shape, order)
    branch_upper = layers_upper(layer.branch, shape, order=order)
    return up(branch_upper + layers_upper(layer.shortcut, shape, order=order))


def _linear_upper(weight: np.ndarray, norm: float) -> float:
    """A norm with what folding may have rounded: a few units in each entry `[*taps, in, out]`."""
    taps = np.sqrt(np.sum(np.square(weight), axis=(-2, -1)))
    return up(norm + gamma(8) * float(np.sum(taps)), terms=8)


def _conv_upper(layer: Conv, shape: tuple[int, ...], order: Order) -> float:
    kernel = _array(layer.kernel)
    return _linear_upper(
        kernel,
        float(
            conv_operator_norm_upper(
                kernel,
                input_shape=shape,
                order=order,
                strides=layer.strides or 1,
                padding=layer.padding,
                groups=layer.groups,
                dilation=layer.dilation or 1,
            )
        ),
    )


def _conv_axes(layer: Conv, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    return axes_of(
        np.shape(layer.kernel), shape, layer.strides or 1, layer.padding, layer.groups,
        layer.dilation or 1,
    )[0]  # fmt: skip


def _pool_axes(layer: MaxPool | AveragePool, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    window = shape[:-1] if layer.window is None else layer.window
    if len(window) + 1 != len(shape):
        raise ValueError(f"window must have {len(shape) - 1} sizes for {shape}, got {window}")
    for size in window:
        _checks.positive_integer("window", size)
    strides = window if layer.strides is None else layer.strides
    return axes_of((*window, 1, 1), (*shape[:-1], 1), strides, layer.padding, 1, 1)[0]


def _with(layer: Any, weight: np.ndarray) -> Any:
    """The same layer with other weights."""
    if isinstance(layer, Dense):
        return dataclasses.replace(layer, weight=weight)
    return dataclasses.replace(layer, kernel=weight)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value).astype(np.float64)
