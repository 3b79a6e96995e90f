"""Our own TFDS builders; importing this module imports TensorFlow Datasets, not TensorFlow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from . import _raw

_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR10_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class ArrayBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes whole arrays as TFDS records, in their original order.

    Pixels are a `Tensor` of raw bytes because writing an `Image` feature needs TensorFlow. They are
    uint8 in 0 .. 255 or float32 in [0, 1].

    Subclasses name the `FILES` that they need, relative to the manual directory, and read them
    in `splits`.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the files named in FILES into the manual directory."
    # Nothing is downloaded, so there are no checksums to look for beside this file.
    url_infos = None
    DESCRIPTION: str
    SHAPE: tuple[int, int, int]
    CLASS_NAMES: tuple[str, ...]
    DTYPE: type[np.generic] = np.uint8
    FILES: tuple[str, ...] = ()
    HAS_POSITIONS = False

    def __init_subclass__(cls) -> None:
        """Keep our names out of the registry of TFDS, which a program shares."""
        super().__init_subclass__(skip_registration=True)

    def splits(self, folder: Path) -> dict[str, _raw.RawSplit]:
        """Read and check all splits from the manual directory."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=self.SHAPE, dtype=self.DTYPE, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=list(self.CLASS_NAMES)),
        }
        if self.HAS_POSITIONS:
            features["position"] = tfds.features.Scalar(np.int64)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir) if self.FILES else Path()
        splits = self.splits(folder)
        # All checks come before the first record is written.
        for split_name, split in splits.items():
            labels = split.labels
            if len(labels) == 0:
                raise ValueError(f"{self.name}: split {split_name} in {folder} holds no images")
            if split.images.shape[1:] != self.SHAPE:
                raise ValueError(
                    f"{self.name}: images of split {split_name} in {folder} must have shape "
                    f"{self.SHAPE}, got {split.images.shape[1:]}"
                )
            if labels.min() < 0 or labels.max() >= len(self.CLASS_NAMES):
                raise ValueError(
                    f"{self.name}: labels of split {split_name} in {folder} must lie in "
                    f"0 .. {len(self.CLASS_NAMES) - 1}, got {labels.min()} .. {labels.max()}"
                )
        return {name: self._generate_examples(split) for name, split in splits.items()}

    def _generate_examples(self, split: _raw.RawSplit) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            example = {"image": image, "label": int(label)}
            if self.HAS_POSITIONS:
                example["position"] = i if split.positions is None else int(split.positions[i])
            yield i, example


class Digits(ArrayBuilder):
    """The 1797 handwritten digits that scikit-learn bundles, as 8 x 8 images."""

    DESCRIPTION = (
        "UCI optical recognition of handwritten digits (test part), as bundled with scikit-learn. "
        "Pixels 0 .. 16 are divided by 16. Every fifth image of each class is for testing."
    )
    SHAPE = (8, 8, 1)
    CLASS_NAMES = _DIGIT_NAMES
    DTYPE = np.float32

    def splits(self, folder: Path) -> dict[str, _raw.RawSplit]:
        """Split each class four to one, by position, so that no generator can change it."""
        import sklearn.datasets

        bundle = sklearn.datasets.load_digits()
        images = (bundle.images / 16.0).astype(np.float32)[..., np.newaxis]
        labels = bundle.target
        for_testing = np.zeros(len(labels), bool)
        for label in range(10):
            for_testing[np.flatnonzero(labels == label)[4::5]] = True
        return {
            "train": _raw.RawSplit(images[~for_testing], labels[~for_testing]),
            "test": _raw.RawSplit(images[for_testing], labels[for_testing]),
        }


class MnistIdx(ArrayBuilder):
    """MNIST from its four official files."""

    DESCRIPTION = "MNIST handwritten digits, from the official IDX files, in their order."
    SHAPE = (28, 28, 1)
    CLASS_NAMES = _DIGIT_NAMES
    FILES: tuple[str, ...] = (
        "mnist/train-images-idx3-ubyte.gz",
        "mnist/train-labels-idx1-ubyte.gz",
        "mnist/t10k-images-idx3-ubyte.gz",
        "mnist/t10k-labels-idx1-ubyte.gz",
    )

    def splits(self, folder: Path) -> dict[str, _raw.RawSplit]:
        """Read the two pairs of IDX files."""
        paths = [folder / file for file in self.FILES]
        return {
            "train": _raw.read_idx_split(paths[0], paths[1]),
            "test": _raw.read_idx_split(paths[2], paths[3]),
        }


class FashionMnistIdx(MnistIdx):
    """Fashion-MNIST from its four official files."""

    DESCRIPTION = "Fashion-MNIST articles of clothing, from the official IDX files, in their order."
    CLASS_NAMES = _FASHION_NAMES
    FILES = tuple(file.replace("mnist/", "fashion_mnist/") for file in MnistIdx.FILES)


class Cifar10Batches(ArrayBuilder):
    """CIFAR-10 from the official Python batches."""

    DESCRIPTION = "CIFAR-10, from the official Python batches, in their order."
    SHAPE = (32, 32, 3)
    CLASS_NAMES = _CIFAR10_NAMES
    FILES = (
        *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
        "cifar-10-batches-py/test_batch",
    )

    def splits(self, folder: Path) -> dict[str, _raw.RawSplit]:
        """Read the six pickles, admitting arrays only."""
        batches = [_raw.read_cifar_batch(folder / file) for file in self.FILES]
        return {"train": _raw.concatenate(batches[:-1]), "test": batches[-1]}


class Cifar10Jpeg(ArrayBuilder):
    """All of CIFAR-10 after lossy JPEG compression: never the CIFAR-10 of a published number."""

    DESCRIPTION = (
        "CIFAR-10 after lossy JPEG compression (quality 75): all 60,000 images, not the original "
        "pixels. Networks trained on CIFAR-10 lose about 10 points on it. Test images are in the "
        "official order, training images are not."
    )
    SHAPE = (32, 32, 3)
    CLASS_NAMES = _CIFAR10_NAMES
    FILES = ("cifar10_jpeg/cifar10_train_jpeg.npz", "cifar10_jpeg/cifar10_test_jpeg.npz")

    def splits(self, folder: Path) -> dict[str, _raw.RawSplit]:
        """Decode both archives."""
        train, test = (_raw.read_jpeg_archive(folder / file) for file in self.FILES)
        return {"train": train, "test": test}


class Cifar10LosslessSubset(ArrayBuilder):
    """A part of CIFAR-10 with its exact pixels and the official place of each image."""

    DESCRIPTION = (
        "A part of CIFAR-10 with exact pixels: the first 4,000 training images and 300 test images."
    )
    SHAPE = (32, 32, 3)
    CLASS_NAMES = _CIFAR10_NAMES
    FILES = (
        *(f"cifar10_lossless_subset/cifar10_batch_{i}.png" for i in range(4)),
        "cifar10_lossless_subset/train_labels_0_3999.npy",
        "cifar10_lossless_subset/cifar10_test_lossless_subset.npz",
    )
    HAS_POSITIONS = True

    def splits(self, folder: Path) -> dict[str, _raw.RawSplit]:
        """Read the training sheets and the test archive."""
        *sheets, labels, test = (folder / file for file in self.FILES)
        return {
            "train": _raw.read_lossless_train(sheets, labels),
            "test": _raw.read_lossless_test(test),
        }


# By the name that a user loads. Where TFDS has a set of that name, ours carries another, so that
# both can lie in one data_dir.
BUILDERS: dict[str, type[ArrayBuilder]] = {
    "digits": Digits,
    "mnist": MnistIdx,
    "fashion_mnist": FashionMnistIdx,
    "cifar10": Cifar10Batches,
    "cifar10_jpeg": Cifar10Jpeg,
    "cifar10_lossless_subset": Cifar10LosslessSubset,
}
