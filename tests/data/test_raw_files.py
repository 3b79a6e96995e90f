"""Raw files become the very pixels and labels they hold, and damaged ones are named."""

import gzip
import io
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from jaxcert import data

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    folder = tmp_path / "manual"
    folder.mkdir()
    monkeypatch.setenv("JAXCERT_DATA_DIR", str(folder))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    return folder


@pytest.fixture
def mnist_arrays(manual_dir):
    generator = np.random.default_rng(1)
    arrays = (
        generator.integers(0, 256, (7, 28, 28)),
        np.array([0, 9, 3, 3, 1, 2, 5]),
        generator.integers(0, 256, (4, 28, 28)),
        np.array([8, 8, 0, 4]),
    )
    for name in ("mnist", "fashion_mnist"):
        (manual_dir / name).mkdir()
        for file, array in zip(IDX_FILES, arrays, strict=True):
            (manual_dir / name / file).write_bytes(gzip.compress(idx_bytes(array)))
    return arrays


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_load_bit_for_bit_in_their_order(name, mnist_arrays):
    train, test = data.load(name, "train"), data.load(name, "test")
    for dataset, images, labels in (
        (train, *mnist_arrays[:2]),
        (test, *mnist_arrays[2:]),
    ):
        np.testing.assert_array_equal(
            dataset.images, images[..., None].astype(np.float32) / np.float32(255)
        )
        assert dataset.images.dtype == np.float32
        assert dataset.labels.dtype == np.int32
        np.testing.assert_array_equal(dataset.labels, labels)
        np.testing.assert_array_equal(dataset.ids, np.arange(len(labels)))
        assert dataset.num_classes == 10
    assert (test.name, test.split) == (name, "test")
    assert test.class_names[9] == {"mnist": "9", "fashion_mnist": "Ankle boot"}[name]


def test_prepared_copy_outlives_the_raw_files(mnist_arrays, manual_dir, monkeypatch):
    first = data.load("mnist", "test")
    monkeypatch.delenv("JAXCERT_DATA_DIR")
    for file in IDX_FILES:
        (manual_dir / "mnist" / file).unlink()
    assert data.fingerprint(data.load("mnist", "test")) == data.fingerprint(first)


def test_manual_directory_of_tfds_is_the_fallback(mnist_arrays, manual_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXCERT_DATA_DIR")
    root = tmp_path / "other"
    (root / "downloads").mkdir(parents=True)
    manual_dir.rename(root / "downloads" / "manual")
    assert data.load("mnist", "test", data_dir=root).labels.tolist() == [8, 8, 0, 4]


GOOD_IMAGES = idx_bytes(np.zeros((4, 28, 28)))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "t10k-images-idx3-ubyte.gz",
            b"\x00\x00\x0d\x03" + GOOD_IMAGES[4:],
            "starts with 00 00 0d",
        ),
        ("t10k-images-idx3-ubyte.gz", b"\x89PNG" + GOOD_IMAGES[4:], "starts with 89 50 4e 47"),
        ("t10k-images-idx3-ubyte.gz", b"", "not an IDX file"),
        ("t10k-images-idx3-ubyte.gz", GOOD_IMAGES[:10], "not an IDX file"),
        (
            "t10k-images-idx3-ubyte.gz",
            GOOD_IMAGES[:-1],
            r"declares \(4, 28, 28\), that is 3136 bytes, but holds 3135",
        ),
        ("t10k-images-idx3-ubyte.gz", GOOD_IMAGES + b"\x00", "3136 bytes, but holds 3137"),
        (
            "t10k-labels-idx1-ubyte.gz",
            idx_bytes(np.zeros(5)),
            r"t10k-images.*holds 4 images but .*t10k-labels.* 5 labels",
        ),
        ("t10k-labels-idx1-ubyte.gz", idx_bytes(np.array([0, 1, 10, 2])), r"0 .. 9, got 0 .. 10"),
        ("t10k-labels-idx1-ubyte.gz", GOOD_IMAGES, r"hold \[n\] labels, got \(4, 28, 28\)"),
        ("t10k-images-idx3-ubyte.gz", idx_bytes(np.zeros(4)), r"hold \[n, height, width\]"),
        (
            "t10k-images-idx3-ubyte.gz",
            idx_bytes(np.zeros((4, 27, 28))),
            r"shape \(28, 28, 1\), got \(27, 28, 1\)",
        ),
    ],
)
def test_corrupt_idx_file_is_a_clear_error_and_leaves_nothing(
    file, content, message, mnist_arrays, manual_dir, tmp_path
):
    path = manual_dir / "mnist" / file
    good = path.read_bytes()
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        data.load("mnist", "test")
    assert not list((tmp_path / "prepared").glob("mnist*/*"))
    path.write_bytes(good)
    assert data.load("mnist", "test").labels.tolist() == [8, 8, 0, 4]


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "flipped bit"])
def test_corrupt_gzip_is_a_clear_error(damage, mnist_arrays, manual_dir):
    path = manual_dir / "mnist" / IDX_FILES[0]
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "not gzip":
        content = bytearray(b"<html>404</html>")
    else:
        content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is truncated or not gzip"):
        data.load("mnist", "train")


def test_empty_split_is_refused(mnist_arrays, manual_dir):
    (manual_dir / "mnist" / IDX_FILES[2]).write_bytes(
        gzip.compress(idx_bytes(np.zeros((0, 28, 28))))
    )
    (manual_dir / "mnist" / IDX_FILES[3]).write_bytes(gzip.compress(idx_bytes(np.zeros(0))))
    with pytest.raises(ValueError, match="split test .* holds no images"):
        data.load("mnist", "test")


def test_missing_raw_files_are_named(mnist_arrays, manual_dir):
    (manual_dir / "mnist" / IDX_FILES[1]).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"files are missing: mnist/train-labels-idx1-ubyte.gz. Set JAXCERT_DATA_DIR",
    ):
        data.load("mnist", "train")


def python2_string(value):
    return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING, as Python 2 wrote its str


def python2_cifar_batch(rows, labels):
    """Assemble the pickle that Python 2 and its NumPy wrote, opcode by opcode."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85"
    array += python2_string(b"b") + b"tR(K\x01M" + struct.pack("<H", len(rows))
    array += b"M" + struct.pack("<H", 3072) + b"\x86cnumpy\ndtype\n("
    array += python2_string(b"u1") + b"K\x00K\x01tR(K\x03" + python2_string(b"|")
    array += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    array += b"T" + struct.pack("<I", rows.nbytes) + rows.tobytes() + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    items = python2_string(b"data") + array + python2_string(b"labels") + listed
    return b"\x80\x02}(" + items + python2_string(b"batch_label") + python2_string(b"x") + b"u."


@pytest.fixture
def cifar_folder(manual_dir):
    folder = manual_dir / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(2)
    for i, file in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = generator.integers(0, 256, (3, 3072), dtype=np.uint8)
        (folder / file).write_bytes(python2_cifar_batch(rows, [i, 9, 0]))
    return folder


def test_python2_batch_is_what_an_ordinary_unpickler_reads(cifar_folder):
    # Guards the hand-written opcodes above: NumPy itself must understand them.
    content = (cifar_folder / "test_batch").read_bytes()
    modern = content.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    batch = pickle.loads(modern, encoding="bytes")
    assert batch[b"data"].shape == (3, 3072)
    assert batch[b"labels"] == [5, 9, 0]


def test_cifar_batches_load_in_order_with_channels_last(cifar_folder):
    generator = np.random.default_rng(2)
    rows = generator.integers(0, 256, (18, 3072), dtype=np.uint8)
    train, test = data.load("cifar10", "train"), data.load("cifar10", "test")
    assert train.labels.tolist() == [0, 9, 0, 1, 9, 0, 2, 9, 0, 3, 9, 0, 4, 9, 0]
    assert test.labels.tolist() == [5, 9, 0]
    assert test.class_names[5] == "dog"
    images = np.concatenate([train.images, test.images])
    assert images.shape == (18, 32, 32, 3)
    for channel in range(3):  # a row holds the red, then the green, then the blue plane
        plane = rows[:, 1024 * channel : 1024 * (channel + 1)]
        expected = plane.reshape(18, 32, 32).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(images[..., channel], expected)


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches_pickled_again_by_python_3_load(protocol, cifar_folder):
    rows = np.arange(3072, dtype=np.uint8)[None]
    batch = {b"data": rows, b"labels": [7]}
    (cifar_folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=protocol))
    test = data.load("cifar10", "test")
    assert test.labels.tolist() == [7]
    assert test.images[0, 0, 1, 0] == np.float32(1 / 255)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickle_that_runs_code_is_refused(cifar_folder, tmp_path):
    witness = tmp_path / "witness"
    (cifar_folder / "test_batch").write_bytes(pickle.dumps({b"data": RunsCode(witness)}))
    with pytest.raises(ValueError, match=r"test_batch is not a CIFAR-10 batch: .*open"):
        data.load("cifar10", "test")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"labels": [1]}, "not a CIFAR-10 batch: KeyError"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}, r"uint8 \[n, 3072\], got uint8"),
        ({b"data": np.zeros((1, 3072)), b"labels": [1]}, r"got float64 \(1, 3072\)"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2]}, r"1 images but labels of"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, r"0 .. 9, got 10 .. 10"),
        ([1, 2], "not a CIFAR-10 batch: TypeError"),
    ],
)
def test_wrong_cifar_batch_is_a_clear_error(batch, message, cifar_folder):
    (cifar_folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", "test")


def test_truncated_cifar_batch_is_a_clear_error(cifar_folder):
    path = cifar_folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="data_batch_3 is not a CIFAR-10 batch"):
        data.load("cifar10", "test")


def encode(image, image_format):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format)
    return buffer.getvalue()


def write_jpeg_archive(path, images, labels):
    encoded = [encode(image, "JPEG") for image in images]
    offsets = np.cumsum([0, *map(len, encoded)])
    jpeg = np.frombuffer(b"".join(encoded), np.uint8)
    np.savez(path, jpeg=jpeg, offsets=offsets, labels=np.array(labels))


def test_jpeg_archive_is_close_to_the_images_and_never_called_cifar10(manual_dir):
    folder = manual_dir / "cifar10_jpeg"
    folder.mkdir()
    colours = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 32, 32, 3)).copy()
    write_jpeg_archive(folder / "cifar10_train_jpeg.npz", images, [2, 1, 0])
    write_jpeg_archive(folder / "cifar10_test_jpeg.npz", images[::-1].copy(), [4, 5, 6])
    test = data.load("cifar10_jpeg", "test")
    assert test.labels.tolist() == [4, 5, 6]
    np.testing.assert_allclose(test.images, images[::-1] / np.float32(255), atol=4 / 255)
    with pytest.raises(FileNotFoundError, match="cifar10 is neither in"):
        data.load("cifar10", "test")


def test_lossless_subset_keeps_the_official_places(manual_dir):
    folder = manual_dir / "cifar10_lossless_subset"
    folder.mkdir()
    generator = np.random.default_rng(3)
    train = generator.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for k in range(4):
        sheet = train[2 * k : 2 * k + 2].reshape(2, 1024, 3)
        (folder / f"cifar10_batch_{k}.png").write_bytes(encode(sheet, "PNG"))
    np.save(folder / "train_labels_0_3999.npy", np.arange(8))
    test = generator.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.savez(
        folder / "cifar10_test_lossless_subset.npz",
        images=test,
        labels=np.array([1, 2, 3]),
        test_index=np.array([0, 57, 9_999]),
    )
    loaded = data.load("cifar10_lossless_subset", "test")
    assert loaded.ids.tolist() == [0, 57, 9_999]
    assert loaded.take([1]).ids.tolist() == [57]
    np.testing.assert_array_equal(loaded.images, test.astype(np.float32) / np.float32(255))
    assert data.load("cifar10_lossless_subset", "test[1:]").ids.tolist() == [57, 9_999]
    loaded = data.load("cifar10_lossless_subset", "train")
    np.testing.assert_array_equal(loaded.images, train.astype(np.float32) / np.float32(255))
    assert loaded.labels.tolist() == loaded.ids.tolist() == list(range(8))
