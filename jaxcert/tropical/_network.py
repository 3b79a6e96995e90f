"""A network as a list of affine layers with a ReLU between them, and its checks."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks

Layers = Sequence[tuple[ArrayLike, ArrayLike | None]]
HostLayers = list[tuple[np.ndarray, np.ndarray]]


def device_layers(name: str, layers: Layers) -> list[tuple[jax.Array, jax.Array]]:
    """Return the layers as floating arrays `[out, in]` and `[out]`, or raise; works under jit."""
    checked = []
    for place, (weight, bias) in enumerate(_pairs(name, layers)):
        matrix = floating_array(f"{name}[{place}][0]", weight)
        vector = None if bias is None else floating_array(f"{name}[{place}][1]", bias)
        shift = jnp.zeros(matrix.shape[:1], matrix.dtype) if vector is None else vector
        checked.append((matrix, shift))
    _check_shapes(name, checked)
    return checked


def host_layers(name: str, layers: Layers) -> HostLayers:
    """Return the layers as finite float64 arrays on the host, or raise."""
    checked = []
    for place, (weight, bias) in enumerate(_pairs(name, layers)):
        matrix = _host(f"{name}[{place}][0]", weight)
        shift = np.zeros(matrix.shape[:1]) if bias is None else _host(f"{name}[{place}][1]", bias)
        checked.append((matrix, shift))
    _check_shapes(name, checked)
    return checked


def one_hidden_layer(
    w1: ArrayLike, b1: ArrayLike | None, w2: ArrayLike, b2: ArrayLike | None
) -> HostLayers:
    """Return `w2 @ relu(w1 @ x + b1) + b2` as two float64 layers on the host, or raise."""
    arrays = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    host = {name: None if value is None else _host(name, value) for name, value in arrays.items()}
    check_one_hidden_layer(*host.values())
    first, second = host["w1"], host["w2"]
    assert first is not None
    assert second is not None
    shift_1 = np.zeros(first.shape[0]) if host["b1"] is None else host["b1"]
    shift_2 = np.zeros(second.shape[0]) if host["b2"] is None else host["b2"]
    return [(first, shift_1), (second, shift_2)]


def check_one_hidden_layer(w1: Any, b1: Any, w2: Any, b2: Any) -> None:
    """Raise unless the shapes fit `w1 [h, d]`, `b1 [h]`, `w2 [classes, h]`, `b2 [classes]`."""
    for name, matrix in (("w1", w1), ("w2", w2)):
        if matrix is None or matrix.ndim != 2 or 0 in matrix.shape:
            got = "None" if matrix is None else f"shape {matrix.shape}"
            raise ValueError(f"{name} must be a matrix [out, in] without an empty axis, got {got}")
    if w2.shape[1] != w1.shape[0]:
        raise ValueError(
            f"w2 must have one column a hidden unit, {w1.shape[0]}, got shape {w2.shape}"
        )
    for name, vector, matrix in (("b1", b1, w1), ("b2", b2, w2)):
        if vector is not None and vector.shape != matrix.shape[:1]:
            raise ValueError(f"{name} must have shape {matrix.shape[:1]}, got {vector.shape}")


def floating_array(name: str, value: Any) -> jax.Array:
    """Return `value` as a floating array of its own dtype, or raise; works under jit."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {array.dtype}")
    if _checks.is_concrete(array) and not np.all(np.isfinite(np.asarray(array, np.float64))):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def class_indices(classes: Any, num_classes: int) -> tuple[int, ...]:
    """Return the classes that compete, at least two different ones; None stands for all."""
    if classes is None:
        chosen = tuple(range(num_classes))
    else:
        if isinstance(classes, (str, numbers.Number)) or not hasattr(classes, "__iter__"):
            raise TypeError(f"classes must be a sequence of class numbers or None, got {classes!r}")
        chosen = tuple(
            _checks.positive_integer("classes", entry, minimum=0, maximum=num_classes - 1)
            for entry in classes
        )
    if len(chosen) < 2 or len(set(chosen)) != len(chosen):
        raise ValueError(f"classes must name at least two different classes, got {chosen}")
    return chosen


def host_box(box: Any) -> np.ndarray:
    """Return `box` as its lower and upper corner, float64 `[2, 2]`, or raise."""
    corners = _host("box", box)
    if corners.shape != (2, 2):
        raise ValueError(
            f"box must hold the lower and the upper corner, shape (2, 2), got {corners.shape}"
        )
    if not np.all(corners[0] < corners[1]):
        raise ValueError(f"box must have its lower corner below its upper one, got {box}")
    return corners


def host_points(name: str, points: Any, size: int) -> np.ndarray:
    """Return `points` as finite float64 `[n, size]`, or raise."""
    array = _host(name, points)
    if array.ndim != 2 or array.shape[1] != size:
        raise ValueError(f"{name} must have shape [n, {size}], got {array.shape}")
    return array


def scores(layers: HostLayers, points: np.ndarray) -> np.ndarray:
    """Scores `[n, classes]` of the network at points `[n, d]`, in float64 on the host."""
    values = points
    for weight, bias in layers[:-1]:
        values = np.maximum(values @ weight.T + bias, 0.0)
    weight, bias = layers[-1]
    return values @ weight.T + bias


def _pairs(name: str, layers: Layers) -> list[tuple[Any, Any]]:
    if isinstance(layers, (np.ndarray, jax.Array)) or not isinstance(layers, Sequence):
        raise TypeError(
            f"{name} must be a sequence of (weight, bias) pairs, got {type(layers).__name__}"
        )
    if len(layers) < 2:
        raise ValueError(f"{name} must hold at least two layers, got {len(layers)}")
    for place, layer in enumerate(layers):
        if not isinstance(layer, (tuple, list)) or len(layer) != 2:
            raise TypeError(f"{name}[{place}] must be a pair (weight, bias)")
    return [(weight, bias) for weight, bias in layers]


def _check_shapes(name: str, layers: Sequence[tuple[Any, Any]]) -> None:
    width = None
    for place, (weight, bias) in enumerate(layers):
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(f"{name}[{place}][0] must be a matrix [out, in], got {weight.shape}")
        if width is not None and weight.shape[1] != width:
            raise ValueError(
                f"{name}[{place}][0] must have {width} columns, one for each output of the layer "
                f"before, got shape {weight.shape}"
            )
        width = weight.shape[0]
        if bias.shape != (width,):
            raise ValueError(f"{name}[{place}][1] must have shape ({width},), got {bias.shape}")


def _host(name: str, value: Any) -> np.ndarray:
    """Return `value` as a finite float64 array, or raise."""
    if not _checks.is_concrete(value):
        raise TypeError(f"{name} must hold numbers, got a traced array: this runs on the host")
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    array = array.astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array
