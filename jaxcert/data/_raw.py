"""Readers of the raw files that people keep: IDX, CIFAR-10 pickles and two CIFAR-10 variants."""

import gzip
import io
import math
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# What pickle and NumPy raise on a damaged file; a missing or unreadable one stays an OSError.
_DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
)


class RawSplit(NamedTuple):
    """One split as it goes into a builder; `positions` only where some images are missing."""

    images: NDArray[Any]
    labels: NDArray[Any]
    positions: NDArray[Any] | None = None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes: magic 0 0 8 ndim, big-endian sizes, data."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or not gzip: {error}") from error
    num_dimensions = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * num_dimensions
    if content[:3] != b"\x00\x00\x08" or num_dimensions == 0 or len(content) < start:
        raise ValueError(
            f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ')}"
        )
    shape = struct.unpack(f">{num_dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} declares {shape}, that is {math.prod(shape)} bytes, "
            f"but holds {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_split(images_path: Path, labels_path: Path) -> RawSplit:
    """Read a pair of IDX files; images become `[n, height, width, 1]`."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3:
        raise ValueError(f"{images_path} must hold [n, height, width], got {images.shape}")
    if labels.ndim != 1:
        raise ValueError(f"{labels_path} must hold [n] labels, got {labels.shape}")
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels"
        )
    return RawSplit(images[..., np.newaxis], labels)


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and nothing else, because a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        # Old pickles say numpy.core, which today's NumPy only keeps as a deprecated alias.
        if module in _MULTIARRAY and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_cifar_batch(path: Path) -> RawSplit:
    """Read one batch of `cifar-10-batches-py`; rows are red, green, blue planes of 32 x 32."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except _DAMAGED as error:
        raise ValueError(f"{path} is not a CIFAR-10 batch: {error!r}") from error
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise ValueError(f"{path} must hold uint8 [n, 3072], got {rows.dtype} {rows.shape}")
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"{path} holds {len(rows)} images but labels of shape {labels.shape}")
    return RawSplit(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)


def concatenate(splits: list[RawSplit]) -> RawSplit:
    """Join batches into one split."""
    return RawSplit(
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
    )


def _read_npz(path: Path, names: tuple[str, ...]) -> list[NDArray[Any]]:
    """Read named arrays, never pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except _DAMAGED as error:
        raise ValueError(f"{path} does not hold the arrays {names}: {error!r}") from error


def _decode_image(encoded: bytes, path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} holds an image that does not decode: {error}") from error


def read_jpeg_archive(path: Path) -> RawSplit:
    """Read concatenated JPEG images (`jpeg`, `offsets`, `labels`) of 32 x 32 pixels."""
    encoded, offsets, labels = _read_npz(path, ("jpeg", "offsets", "labels"))
    if len(offsets) != len(labels) + 1 or len(labels) == 0 or offsets[-1] != len(encoded):
        raise ValueError(f"{path} holds {len(labels)} labels but offsets that do not match")
    decoded = [
        _decode_image(encoded[start:end].tobytes(), path)
        for start, end in zip(offsets[:-1], offsets[1:], strict=True)
    ]
    shapes = {image.shape for image in decoded}
    if shapes != {(32, 32, 3)}:
        raise ValueError(f"{path} must hold images of 32 x 32 x 3, got {sorted(shapes)}")
    return RawSplit(np.stack(decoded), labels)


def read_lossless_train(sheets: list[Path], labels_path: Path) -> RawSplit:
    """Read PNG sheets whose row i is image i flattened row by row, and their labels."""
    images = []
    for path in sheets:
        sheet = _decode_image(path.read_bytes(), path)
        if sheet.shape[1] != 32 * 32:
            raise ValueError(f"{path} must be 1024 pixels wide, got shape {sheet.shape}")
        images.append(sheet.reshape(-1, 32, 32, 3))
    try:
        labels = np.load(labels_path, allow_pickle=False)
    except _DAMAGED as error:
        raise ValueError(f"{labels_path} is not an array of labels: {error}") from error
    joined = np.concatenate(images)
    if labels.shape != (len(joined),):
        raise ValueError(f"{labels_path} must have {len(joined)} labels, got {labels.shape}")
    return RawSplit(joined, labels)


def read_lossless_test(path: Path) -> RawSplit:
    """Read the exact test images with their places in the official test set."""
    images, labels, positions = _read_npz(path, ("images", "labels", "test_index"))
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
        raise ValueError(f"{path} must hold uint8 [n, 32, 32, 3], got {images.shape}")
    if not len(images) == len(labels) == len(positions):
        raise ValueError(
            f"{path} holds {len(images)} images, {len(labels)} labels, {len(positions)} places"
        )
    return RawSplit(images, labels, positions)
