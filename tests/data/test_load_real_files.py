"""Loading real files, where there are any."""

import time

import numpy as np
import pytest

from jaxcert import data


@pytest.fixture(scope="module")
def real(real_data_dir, tmp_path_factory):
    return tmp_path_factory.mktemp("real")


def require(folder):
    if not folder.is_dir():
        pytest.skip(f"JAXCERT_DATA_DIR holds no folder {folder.name}")


def test_real_mnist_is_the_mnist_that_everybody_knows(real, real_data_dir):
    require(real_data_dir / "mnist")
    test = data.load("mnist", "test", data_dir=real)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    start = time.process_time()
    train = data.load("mnist", "train", data_dir=real)
    assert time.process_time() - start < 20, "reading 60,000 images should take about 3 s"
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    # The constants by which the field normalises MNIST.
    assert round(float(train.images.mean(dtype=np.float64)), 4) == 0.1307
    assert round(float(train.images.std(dtype=np.float64)), 4) == 0.3081


@pytest.mark.slow
def test_real_fashion_mnist_is_balanced_and_has_its_known_mean(real, real_data_dir):
    require(real_data_dir / "fashion_mnist")
    train = data.load("fashion_mnist", "train", data_dir=real)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert [train.class_names[label] for label in train.labels[:2]] == ["Ankle boot", "T-shirt/top"]
    assert round(float(train.images.mean(dtype=np.float64)), 4) == 0.2860
    assert round(float(train.images.std(dtype=np.float64)), 4) == 0.3530


def test_real_lossless_subset_is_the_head_of_cifar10(real, real_data_dir):
    require(real_data_dir / "cifar10_lossless_subset")
    test = data.load("cifar10_lossless_subset", "test", data_dir=real)
    assert test.images.shape == (300, 32, 32, 3)
    assert test.ids[:100].tolist() == list(range(100))
    assert [test.class_names[label] for label in test.labels[:4]] == [
        "cat", "ship", "ship", "airplane",
    ]  # fmt: skip
    train = data.load("cifar10_lossless_subset", "train", data_dir=real)
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert train.num_images == 4000


@pytest.mark.slow
def test_real_jpeg_variant_is_near_the_lossless_images_of_the_same_ids(real, real_data_dir):
    require(real_data_dir / "cifar10_lossless_subset")
    require(real_data_dir / "cifar10_jpeg")
    lossless = data.load("cifar10_lossless_subset", "test", data_dir=real)
    lossy = data.load("cifar10_jpeg", "test", data_dir=real)
    assert np.bincount(lossy.labels).tolist() == [1000] * 10
    same = lossy.take(lossless.ids)
    np.testing.assert_array_equal(same.labels, lossless.labels)
    distance = np.sqrt(np.mean((same.images - lossless.images) ** 2, axis=(1, 2, 3)))
    other = np.sqrt(np.mean((lossy.images[:300] - lossless.images[::-1]) ** 2, axis=(1, 2, 3)))
    # Compression moves pixels by about 8 / 255; another image is much farther away.
    assert 4 / 255 < np.median(distance) < 12 / 255
    assert distance.max() < 20 / 255 < np.quantile(other, 0.02)
