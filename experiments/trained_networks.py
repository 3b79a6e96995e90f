"""Networks that others trained and published, read from the folder `JAXCERT_DATA_DIR`.

kw_convex_adversarial   Wong and Kolter, "Provable defenses against adversarial examples via the
convex outer adversarial polytope", 2018, arXiv:1711.00851
mipverify_nets          WK17a and RSL18a, as in Tjeng, Xiao, Tedrake, "Evaluating Robustness of
Neural Networks with Mixed Integer Programming", 2019, arXiv:1711.07356
lipsdp                  Fazlyab et al., "Efficient and Accurate Estimation of Lipschitz Constants
for Deep Neural Networks", 2019, arXiv:1906.04893
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io

from jaxcert.data import _raw
from jaxcert.lipschitz import Conv, Dense, Flatten, Layer, Relu

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
}


class _Storage(NamedTuple):
    """A block of numbers that follows the pickle; tensors are views of it."""

    dtype: Any
    key: str


class _View(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> _View:
    return _View(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(view: _View, *_: Any) -> _View:
    return view


class _Unpickler(pickle.Unpickler):
    """Rebuilds the tensors of a state dictionary and nothing else: a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"a state dictionary holds no {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key = pid[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"a state dictionary refers to no {kind!r}")
        return _Storage(dtype, key)


def read_state_dicts(path: Path) -> Any:
    """Read a file of the format that torch wrote before version 1.6, with NumPy arrays in it."""
    with path.open("rb") as file:
        if _Unpickler(file).load() != _TORCH_MAGIC:
            raise ValueError(f"{path} is no torch file of the format before 1.6")
        _Unpickler(file).load()  # the version of the protocol
        _Unpickler(file).load()  # what the system was like
        content = _Unpickler(file).load()
        dtypes: dict[str, Any] = {}
        _visit(content, lambda view: dtypes.setdefault(view.storage.key, view.storage.dtype))
        blocks = {}
        for key in _Unpickler(file).load():
            count = int(np.frombuffer(file.read(8), np.int64)[0])
            if key not in dtypes:
                raise ValueError(f"{path} holds numbers that no tensor uses")
            width = np.dtype(dtypes[key]).itemsize
            block = np.frombuffer(file.read(count * width), dtypes[key])
            if block.size != count:
                raise ValueError(f"{path} is truncated")
            blocks[key] = block

    def array(view: _View) -> np.ndarray:
        block = blocks[view.storage.key][view.offset :]
        strides = tuple(step * block.itemsize for step in view.stride)
        return np.lib.stride_tricks.as_strided(block, view.size, strides).copy()

    return _visit(content, array)


def _visit(content: Any, function: Any) -> Any:
    """Apply a function to every tensor of nested dictionaries and lists."""
    if isinstance(content, _View):
        return function(content)
    if isinstance(content, dict):
        return {key: _visit(value, function) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_visit(value, function) for value in content]
    return content


def wong_kolter_layers(state: dict[str, np.ndarray], *, side: int) -> list[Layer]:
    """The network of two convolutions and two dense layers that both papers use.

    Args:
      state: with the keys 0, 2, 5 and 7 of the layers.
      side: height and width of the images.
    """
    side = side // 4
    channels = state["2.weight"].shape[0]
    # torch flattens [channels, height, width], we [height, width, channels].
    first = state["5.weight"].reshape(-1, channels, side, side).transpose(0, 2, 3, 1)

    def conv(name: str) -> Conv:
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        return Conv(kernel, state[f"{name}.bias"], (2, 2), ((1, 1), (1, 1)))

    return [
        conv("0"), Relu(), conv("2"), Relu(), Flatten(),
        Dense(first.reshape(len(first), -1), state["5.bias"]), Relu(),
        Dense(state["7.weight"], state["7.bias"]),
    ]  # fmt: skip


def wk17a(folder: Path) -> list[Layer]:
    """WK17a: trained for linf 0.1 on MNIST."""
    state = read_state_dicts(folder / "mipverify_nets" / "WK17a_linf0.1.pth")
    return wong_kolter_layers(_single(state), side=28)


def wong_kolter(folder: Path, name: str = "mnist_eps0.1") -> list[Layer]:
    """A network of Wong and Kolter for MNIST or Fashion-MNIST; of a cascade, its first stage."""
    state = read_state_dicts(folder / "kw_convex_adversarial" / f"{name}.pth")
    return wong_kolter_layers(_single(state), side=28)


def _single(content: Any) -> dict[str, np.ndarray]:
    state = content.get("state_dict", content)
    return state[0] if isinstance(state, list) else state


def rsl18a(folder: Path) -> list[Layer]:
    """RSL18a: 784-500-10, trained for linf 0.1 on MNIST by a semidefinite relaxation."""

    def read(name: str) -> np.ndarray:
        array = np.load(folder / "mipverify_nets" / f"RSL18a_linf0.1_{name}.npy")
        return array.astype(np.float32)

    return [
        Flatten(), Dense(read("W1").T, read("B1").reshape(-1)), Relu(),
        Dense(read("W2").T, read("B2").reshape(-1)),
    ]  # fmt: skip


def lipsdp_weights(folder: Path, name: str) -> list[np.ndarray]:
    """The weight matrices, without biases, of "mnist" or "random"."""
    content = scipy.io.loadmat(folder / "lipsdp" / f"{name}_weights.mat")
    return [np.asarray(weight, np.float64) for weight in content["weights"][0]]


def read_test_set(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All test images, float32 `[n, 28, 28, 1]` in [0, 1], and their labels."""
    split = _raw.read_idx_split(
        folder / name / "t10k-images-idx3-ubyte.gz", folder / name / "t10k-labels-idx1-ubyte.gz"
    )
    return split.images.astype(np.float32) / np.float32(255), split.labels.astype(np.int32)
