"""Find a data set, prepare it if it is one of ours, and read a split through TFDS."""

import contextlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcert._checks import positive_integer

from ._dataset import Dataset, evenly_spaced

if TYPE_CHECKING:
    from ._builders import ArrayBuilder

_STANDARD = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped", "imagenet2012")
_CHUNK = 1024
_RESIZED_SHORT_SIDE = 256
_CROP = 224


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    num_images: int | None = None,
) -> Dataset:
    """Load a split of a data set of labelled images by name.

    The first of these that is there is used, and written to `data_dir` where it was not yet:

    1. `<data_dir>/<name>`, prepared by TFDS as `array_record` (any TFDS set with `image` and
       `label`: `mnist`, `fashion_mnist`, `cifar10`, `svhn_cropped`, `imagenet2012`, ...);
    2. for `digits`, the images bundled with scikit-learn;
    3. for the names below, the raw files in the manual directory, which is the environment variable
       `JAXCERT_DATA_DIR`, or else `<data_dir>/downloads/manual`.

       - `mnist`, `fashion_mnist`: `<name>/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz`;
       - `cifar10`: `cifar-10-batches-py/{data_batch_1..5,test_batch}`;
       - `cifar10_jpeg`: `cifar10_jpeg/*.npz`, CIFAR-10 after *lossy* compression;
       - `cifar10_lossless_subset`: `cifar10_lossless_subset/*`, 4,300 images, exact pixels.

    A set that was written to `data_dir` is used from there ever after; delete its folder
    (`mnist_idx`, `fashion_mnist_idx`, `cifar10_batches`, or the name itself) to read changed raw
    files again. Writing is safe against interruption and against other processes: a set appears
    under its name only when it is whole.

    Sets written from raw files keep the official order. TFDS shuffles the sets that it prepares:
    its `cifar10` still records the official places, which become the ids, but the ids of its
    `mnist` are places in the TFDS order. Images whose size varies (`imagenet2012`) are resized to
    256 pixels on the short side and cropped to the central 224 x 224, the field's usual view.

    Args:
      name: the data set.
      split: a TFDS split, such as `"test"`, `"test[:100]"` or `"train[5000:]"`.
      data_dir: where prepared sets are; default the environment variable `TFDS_DATA_DIR`, or else
        `~/tensorflow_datasets`.
      num_images: read only so many images, spread over the split as `evenly_spaced` does.

    Returns:
      The images as float32 `[n, height, width, channels]` in [0, 1], with labels.

    Raises:
      FileNotFoundError: if the set is not there; the message says what to do.
      TypeError: if `split` is not a string or `num_images` not an integer.
      ValueError: if `name` or `split` is unknown, `num_images` exceeds the split, or files are
        damaged.

    Example:
      >>> from jaxcert import data
      >>> test = data.load("digits", "test")
      >>> test.images.shape, test.num_classes
      ((355, 8, 8, 1), 10)
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared_folder(name, root)
    builder = _open(folder)
    positions = _positions(builder, name, split)
    places = np.arange(len(positions))
    if num_images is not None:
        places = evenly_spaced(len(positions), positive_integer("num_images", num_images))
    try:
        images, labels, stored_positions = _read(builder, split, places)
    except NotImplementedError as error:
        raise ValueError(
            f"{folder} must hold array_record files. {_how_to_prepare(name, root)}"
        ) from error
    except RuntimeError as error:  # array_record checks every block that it reads
        raise ValueError(f"{folder} is damaged; delete it and prepare it again: {error}") from error
    label = builder.info.features["label"]
    if labels.min() < 0 or labels.max() >= label.num_classes:
        raise ValueError(
            f"{name} split {split!r} must have labels in 0 .. {label.num_classes - 1}, "
            f"got {labels.min()} .. {labels.max()}"
        )
    return Dataset(
        images=images,
        labels=labels,
        name=name,
        split=split,
        num_classes=label.num_classes,
        class_names=tuple(label.names),
        positions=positions[places] if stored_positions is None else stored_positions,
    )


def _prepared_folder(name: str, root: Path) -> Path:
    """Find the prepared set in `root`, preparing it first if it is one of ours."""
    from ._builders import BUILDERS

    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ValueError(f"name must be one word such as 'digits', got {name!r}")
    ours = BUILDERS.get(name)
    for stored_name in dict.fromkeys((name, ours.name if ours else name)):
        if folder := _latest_version(root / stored_name):
            return folder
    if ours is None:
        if name not in _STANDARD:
            known = ", ".join(dict.fromkeys((*BUILDERS, *_STANDARD)))
            raise ValueError(f"name must be one of {known}, or a TFDS set in {root}, got {name!r}")
        raise FileNotFoundError(f"{name} is not in {root}. {_how_to_prepare(name, root)}")
    manual_dir = Path(os.environ.get("JAXCERT_DATA_DIR") or root / "downloads" / "manual")
    manual_dir = manual_dir.expanduser()
    missing = [file for file in ours.FILES if not (manual_dir / file).is_file()]
    if missing:
        hint = _how_to_prepare(name, root) if name in _STANDARD else ""
        raise FileNotFoundError(
            f"{name} is neither in {root} nor complete in {manual_dir}, where these files are "
            f"missing: {', '.join(missing)}. Set JAXCERT_DATA_DIR to the directory that holds "
            f"them. {hint}"
        )
    return _prepare(ours, root, manual_dir)


def _latest_version(folder: Path) -> Path | None:
    """Return the newest prepared version in the folder of a set; unfinished ones do not count."""
    versions = {
        tuple(map(int, path.name.split("."))): path
        for path in folder.glob("*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / "dataset_info.json").is_file()
    }
    return versions[max(versions)] if versions else None


def _open(folder: Path) -> Any:
    """Open a prepared set for reading, or say what is wrong with it."""
    import tensorflow_datasets as tfds

    try:
        json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        with _quiet():
            builder = tfds.builder_from_directory(folder)
    except ValueError as error:
        raise ValueError(f"{folder} is damaged; delete it and prepare it again: {error}") from error
    features = dict(builder.info.features.items())
    if "image" not in features or not isinstance(features.get("label"), tfds.features.ClassLabel):
        raise ValueError(f"{folder} must have features image and label (a class), got {features}")
    return builder


def _how_to_prepare(name: str, root: Path) -> str:
    return (
        f"On a machine with TensorFlow, run "
        f'tfds.builder("{name}", file_format="array_record", data_dir=...).download_and_prepare() '
        f"and copy the folder {name} to {root}, or name its parent with data_dir."
    )


def _prepare(builder_class: "type[ArrayBuilder]", root: Path, manual_dir: Path) -> Path:
    """Write one of our sets; TFDS fills a folder of a random name and renames it at the end."""
    import tensorflow_datasets as tfds

    builder = builder_class(data_dir=root)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        with _silent():
            builder.download_and_prepare(file_format="array_record", download_config=config)
    except OSError:
        # Another process may have finished first; then the rename fails and its set is as good.
        if _latest_version(builder.data_path.parent) is None:
            raise
    folder = _latest_version(root / builder.name)
    if folder is None:
        raise ValueError(f"{builder.data_dir} is not a whole TFDS set; delete it and load again")
    return folder


def _positions(builder: Any, name: str, split: str) -> np.ndarray:
    """Return the places in the whole split that a TFDS slice selects, in order."""
    import tensorflow_datasets as tfds

    if not isinstance(split, str):
        raise TypeError(f"split must be a string such as 'test', got {split!r}")
    available = dict(builder.info.splits)
    try:
        slices = tfds.core.ReadInstruction.from_spec(split).to_absolute(available)
    except (ValueError, NotImplementedError) as error:
        sizes = ", ".join(f"{key} ({info.num_examples})" for key, info in available.items())
        raise ValueError(
            f"split must select from one of {sizes} of {name}, got {split!r}: {error}"
        ) from error
    positions = np.concatenate(
        [
            np.arange(available[part.splitname].num_examples)[slice(part.from_, part.to)]
            for part in slices
        ]
    )
    if len({part.splitname for part in slices}) > 1 or len(np.unique(positions)) < len(positions):
        raise ValueError(f"split must not join splits or repeat images, got {split!r}")
    if len(positions) == 0:
        raise ValueError(f"split {split!r} of {name} selects no image")
    return positions


def _read(
    builder: Any, split: str, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read images, labels and, where stored, positions at `places` of a split."""
    labels = np.empty(len(places), np.int32)
    position_of = _stored_position(builder)
    positions = np.empty(len(places), np.int64) if position_of else None
    images = np.empty(0, np.float32)
    with _quiet():
        source = builder.as_data_source(split)
        for start in range(0, len(places), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            examples = source.__getitems__([int(place) for place in places[chunk]])
            pixels = np.stack([_fixed_size(example["image"], builder) for example in examples])
            if start == 0:
                images = np.empty((len(places), *pixels.shape[1:]), np.float32)
            if pixels.dtype == np.uint8:
                np.divide(pixels, np.float32(255.0), out=images[chunk], dtype=np.float32)
            else:
                images[chunk] = pixels
            labels[chunk] = [example["label"] for example in examples]
            if positions is not None and position_of is not None:
                positions[chunk] = [position_of(example) for example in examples]
    return images, labels, positions


def _stored_position(builder: Any) -> Callable[[dict[str, Any]], int] | None:
    """Return how to get the official place of an example, if the set records it."""
    if "position" in builder.info.features:
        return lambda example: example["position"]
    if builder.name == "cifar10" and "id" in builder.info.features:
        # TFDS shuffles, but names each example after its official place, as in test_00042.
        return lambda example: int(example["id"].rsplit(b"_", 1)[1])
    return None


def _fixed_size(image: np.ndarray, builder: Any) -> np.ndarray:
    """Resize and crop an image centrally if the images of this set vary in size."""
    if None not in builder.info.features["image"].shape[:2]:
        return image
    from PIL import Image

    height, width = image.shape[:2]
    scale = _RESIZED_SHORT_SIDE / min(height, width)
    size = (
        max(_RESIZED_SHORT_SIDE, round(width * scale)),
        max(_RESIZED_SHORT_SIDE, round(height * scale)),
    )
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (resized.shape[0] - _CROP) // 2, (resized.shape[1] - _CROP) // 2
    return resized[top : top + _CROP, left : left + _CROP]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what TFDS logs below an error, for a while."""
    logger = logging.getLogger("absl")
    level, handlers = logger.level, list(logging.root.handlers)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        # The first message through absl configures the root logger, which is the program's to do.
        for handler in set(logging.root.handlers).difference(handlers):
            logging.root.removeHandler(handler)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hold back the progress bars and prints of TFDS as well."""
    with (
        _quiet(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
