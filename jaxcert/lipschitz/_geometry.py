"""What a convolution does along each axis: padding, outputs, and the torus that contains it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcert import _checks

Padding = str | int | Sequence[int | tuple[int, int]]


class Axis(NamedTuple):
    """One spatial axis of a convolution.

    Attributes:
      size: pixels of the input.
      taps: entries of the kernel.
      stride: pixels between outputs.
      dilation: pixels between taps.
      low: zeros before the input.
      high: zeros after it.
      circular: whether the input repeats itself instead.
    """

    size: int
    taps: int
    stride: int
    dilation: int
    low: int
    high: int
    circular: bool

    @property
    def reach(self) -> int:
        """Pixels that the dilated kernel covers."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        if self.circular:
            return -(-self.size // self.stride)
        return (self.size + self.low + self.high - self.reach) // self.stride + 1

    @property
    def torus(self) -> tuple[int, int]:
        """Period of a circular convolution that contains this one, and the stride on it.

        With zeros: let the input be zero on a torus beyond its pixels. Output j reads the pixels
        j * stride + i * dilation - low; all of them lie in [-low, last], and none that lies outside
        of the input meets a pixel of the input again if the period is at least size + low and
        last + 1. So the convolution is a part of the circular one, whose norm is at least as
        large. A period that the stride does not divide keeps every output of stride 1.
        """
        if self.circular:
            return self.size, self.stride if self.size % self.stride == 0 else 1
        last = (self.outputs - 1) * self.stride + self.reach - 1 - self.low
        period = max(self.size + self.low, last + 1, self.size, self.stride * self.outputs)
        return -(-period // self.stride) * self.stride, self.stride

    def inside(self) -> np.ndarray:
        """Pixel that each output reads through each tap, -1 for none: `[outputs, taps]`."""
        pixel = np.arange(self.outputs)[:, None] * self.stride - self.low
        pixel = pixel + np.arange(self.taps) * self.dilation
        if self.circular:
            return pixel % self.size
        return np.where((pixel >= 0) & (pixel < self.size), pixel, -1)


def axes_of(
    kernel_shape: Sequence[int],
    input_shape: Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    groups: int,
    dilation: int | Sequence[int],
) -> tuple[tuple[Axis, ...], int]:
    """Check the geometry of a convolution; give its axes and its number of groups."""
    if len(kernel_shape) not in (3, 4):
        raise ValueError(
            "kernel must have shape [h, w, in, out], or [w, in, out] in one dimension, got shape "
            f"{tuple(kernel_shape)}"
        )
    if 0 in kernel_shape:
        raise ValueError(f"kernel must not be empty, got shape {tuple(kernel_shape)}")
    dims = len(kernel_shape) - 2
    shape = tuple(_checks.positive_integer("input_shape", size) for size in input_shape)
    if len(shape) != dims + 1:
        wanted = "(height, width, channels)" if dims == 2 else "(width, channels)"
        raise ValueError(
            f"input_shape must be {wanted} for a kernel of shape {tuple(kernel_shape)}, got {shape}"
        )
    groups = _checks.positive_integer("groups", groups)
    if kernel_shape[-2] * groups != shape[-1]:
        raise ValueError(
            f"kernel must have the axes [..., in, out] with in = {shape[-1]} / {groups}, the "
            f"channels of input_shape divided by the groups, got shape {tuple(kernel_shape)}"
        )
    if kernel_shape[-1] % groups:
        raise ValueError(f"groups must divide the {kernel_shape[-1]} outputs, got {groups}")
    steps = _per_axis("strides", strides, dims)
    gaps = _per_axis("dilation", dilation, dims)
    pads = _pads(padding, dims)
    axes = []
    for index in range(dims):
        axis = Axis(shape[index], kernel_shape[index], steps[index], gaps[index], 0, 0, False)
        axes.append(_padded(axis, pads if isinstance(pads, str) else pads[index]))
        if axes[-1].outputs < 1:
            raise ValueError(
                f"kernel must fit into the padded input, got {axis.reach} taps on an axis of "
                f"{axis.size} pixels with padding {padding!r}"
            )
    return tuple(axes), groups


def _padded(axis: Axis, pads: str | tuple[int, int]) -> Axis:
    if pads == "VALID":
        return axis
    if pads == "CIRCULAR":
        # Where a circular convolution starts changes no norm unless a stride leaves pixels out.
        return axis._replace(low=(axis.reach - 1) // 2, circular=True)
    if isinstance(pads, str):
        outputs = -(-axis.size // axis.stride)
        total = max((outputs - 1) * axis.stride + axis.reach - axis.size, 0)
        low = total // 2 if pads == "SAME" else total - total // 2
        return axis._replace(low=low, high=total - low)
    return axis._replace(low=pads[0], high=pads[1])


def _pads(padding: Any, dims: int) -> str | list[tuple[int, int]]:
    """Padding by name, or pairs of zeros for each axis."""
    names = ("SAME", "SAME_LOWER", "VALID", "CIRCULAR")
    if isinstance(padding, str):
        if padding.upper() in names:
            return padding.upper()
        raise ValueError(
            f"padding must be one of {', '.join(names)} or numbers of zeros, got {padding!r}; "
            "reflecting and repeating paddings have a norm of their own above 1"
        )
    if isinstance(padding, (int, np.integer)) and not isinstance(padding, bool):
        padding = [padding] * dims
    try:
        pairs = [(pair, pair) if np.ndim(pair) == 0 else tuple(pair) for pair in padding]
    except TypeError:
        raise TypeError(f"padding must be a name or pairs of integers, got {padding!r}") from None
    if len(pairs) != dims or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"padding must hold {dims} pairs (before, after), got {padding!r}")
    return [
        (
            _checks.positive_integer("padding", low, minimum=0),
            _checks.positive_integer("padding", high, minimum=0),
        )
        for low, high in pairs
    ]


def _per_axis(name: str, value: Any, dims: int) -> tuple[int, ...]:
    values = (value,) * dims if np.ndim(value) == 0 else tuple(value)
    if len(values) != dims:
        raise ValueError(f"{name} must be one integer or {dims}, got {value!r}")
    return tuple(_checks.positive_integer(name, number) for number in values)


def size_after(axes: Sequence[Axis]) -> tuple[int, ...]:
    """Pixels of the output."""
    return tuple(axis.outputs for axis in axes)
