"""The value that everything else works on: images, labels and where they came from."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Dataset(NamedTuple):
    """Images with labels, as plain NumPy arrays.

    Attributes:
      images: float32 `[n, height, width, channels]`, pixels in [0, 1].
      labels: int32 `[n]`, each in `0 .. num_classes - 1`.
      name: the name given to `load`.
      split: the split given to `load`, such as `"test[:100]"`.
      num_classes: the number of classes.
      class_names: one name a class, or empty where they are not known.
      positions: int64 `[n]`, the place of each image in its whole split; None says that they
        are in order. Read them as `ids`.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int32]
    name: str
    split: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    positions: NDArray[np.int64] | None = None

    @property
    def num_images(self) -> int:
        """The number of images (`len` counts the fields of the tuple)."""
        return len(self.labels)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The place of each image in its whole split, int64 `[n]`, which a log calls `idx`.

        A subset keeps the ids of the whole, so the same image gets the same noise and the same
        row name however it was selected.
        """
        if self.positions is None:
            return np.arange(self.num_images, dtype=np.int64)
        return self.positions

    def take(self, indices: ArrayLike) -> "Dataset":
        """Select some images, in the order given, keeping their ids.

        Args:
          indices: integers `[m]`, places in this dataset; negative ones count from the end.

        Returns:
          A dataset of those m images.

        Raises:
          TypeError: if `indices` are not integers.
          ValueError: if `indices` is not one-dimensional, or leaves the dataset.

        Example:
          >>> from jaxcert import data
          >>> test = data.load("digits", "test")
          >>> test.take([5, 300]).ids
          array([  5, 300])
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1:
            raise ValueError(f"indices must have shape [m], got shape {chosen.shape}")
        if chosen.size and not np.issubdtype(chosen.dtype, np.integer):
            raise TypeError(f"indices must be integers, got dtype {chosen.dtype}")
        chosen = chosen.astype(np.int64)
        size = self.num_images
        if chosen.size and (chosen.min() < -size or chosen.max() >= size):
            raise ValueError(
                f"indices must lie in [{-size}, {size}), got {chosen.min()} .. {chosen.max()}"
            )
        return self._replace(
            images=self.images[chosen], labels=self.labels[chosen], positions=self.ids[chosen]
        )


def evenly_spaced(num_images: int, count: int) -> NDArray[np.int64]:
    r"""Choose indices spread over a dataset, from the first on.

    .. math::
        i_k = \lfloor k\,n / m \rfloor, \qquad k = 0, \dots, m - 1,

    so 500 of 10,000 images are every 20th, the field's usual choice.

    Args:
      num_images: n, the size of the dataset.
      count: m, how many to choose, at most n.

    Returns:
      int64 `[count]`, increasing and distinct.

    Raises:
      ValueError: if `count` is not in `1 .. num_images`.

    Example:
      >>> from jaxcert import data
      >>> data.evenly_spaced(10_000, 500)[:3]
      array([ 0, 20, 40])
    """
    if not 1 <= count <= num_images:
        raise ValueError(f"count must lie in [1, num_images = {num_images}], got {count}")
    return np.arange(count, dtype=np.int64) * num_images // count


def fingerprint(dataset: Dataset) -> str:
    """Identify the content of a dataset: its pixels, labels and ids, in order.

    The name and the split do not count, so two ways to the same images agree.

    Args:
      dataset: the images and labels.

    Returns:
      The SHA-256 digest as 64 hexadecimal digits, the same on every machine.

    Example:
      >>> from jaxcert import data
      >>> test = data.load("digits", "test")
      >>> data.fingerprint(test) == data.fingerprint(test.take(range(test.num_images)))
      True
      >>> data.fingerprint(test) == data.fingerprint(test.take([0, 1]))
      False
    """
    digest = hashlib.sha256()
    for array, dtype in ((dataset.images, "<f4"), (dataset.labels, "<i4"), (dataset.ids, "<i8")):
        # The shape first: [2, 3] and [3, 2] may hold the same bytes.
        digest.update(f"{dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype=dtype).data)
    return digest.hexdigest()
