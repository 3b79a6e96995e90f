"""Loading through TFDS: the bundled digits, standard sets and slices."""

import io
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxcert import data


def test_digits_are_the_bundled_images(prepared):
    import sklearn.datasets

    bundle = sklearn.datasets.load_digits()
    train = data.load("digits", "train", data_dir=prepared)
    test = data.load("digits", "test", data_dir=prepared)
    # 178, 182, 177, ... images of the ten digits; every fifth of each is for testing.
    assert np.bincount(test.labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert np.bincount(train.labels).tolist() == [
        143, 146, 142, 147, 145, 146, 145, 144, 140, 144,
    ]  # fmt: skip
    assert train.images.shape == (1442, 8, 8, 1)
    assert test.images.dtype == np.float32

    def rows(pixels, labels):
        return sorted(map(tuple, np.column_stack([labels, pixels.reshape(len(labels), 64)])))

    images = np.concatenate([train.images, test.images]) * 16
    labels = np.concatenate([train.labels, test.labels])
    assert rows(images, labels) == rows(bundle.images, bundle.target)
    assert (test.num_classes, test.class_names) == (10, tuple("0123456789"))
    assert test.ids.tolist() == list(range(355))


def test_digits_are_pinned(prepared):
    # From a first run, so that a later version of scikit-learn or TFDS cannot change them unseen.
    test = data.load("digits", "test", data_dir=prepared)
    assert data.fingerprint(test) == (
        "15bf968e05e7c17d12954c4ec4fdf72b56dba89b0465636a4466d76bc2393a40"
    )


def test_slices_keep_the_ids_of_the_whole(prepared):
    whole = data.load("digits", "test", data_dir=prepared)
    for split, chosen in (
        ("test[:100]", range(100)),
        ("test[300:]", range(300, 355)),
        ("test[-5:]", range(350, 355)),
        ("test[50%:]", range(178, 355)),
        ("test[:2]+test[9:11]", [0, 1, 9, 10]),
    ):
        part = data.load("digits", split, data_dir=prepared)
        assert part.split == split
        assert part.ids.tolist() == list(chosen)
        assert data.fingerprint(part) == data.fingerprint(whole.take(list(chosen)))


def test_num_images_reads_what_evenly_spaced_takes(prepared):
    whole = data.load("digits", "test", data_dir=prepared)
    part = data.load("digits", "test", data_dir=prepared, num_images=50)
    assert part.ids[:3].tolist() == [0, 7, 14]
    assert data.fingerprint(part) == data.fingerprint(whole.take(data.evenly_spaced(355, 50)))
    inner = data.load("digits", "test[100:200]", data_dir=prepared, num_images=10)
    assert inner.ids.tolist() == list(range(100, 200, 10))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("validation", r"one of train \(1442\), test \(355\) of digits, got 'validation'"),
        ("Test", "Unknown split 'Test'"),
        ("", "got ''"),
        ("test[", "Unrecognized split format"),
        ("test[:356]", r"slice \[:356\] incompatible with 355"),
        ("test[5:5]", "selects no image"),
        ("train+test", "must not join splits"),
        ("test[:5]+test[4:6]", "repeat images"),
        (3, "split must be a string such as 'test', got 3"),
        (None, "split must be a string such as 'test', got None"),
    ],
)
def test_wrong_split_names_the_splits(prepared, split, message):
    with pytest.raises((TypeError, ValueError), match=message):
        data.load("digits", split, data_dir=prepared)


@pytest.mark.parametrize(
    ("num_images", "error"), [(0, ValueError), (356, ValueError), (2.5, TypeError)]
)
def test_bad_num_images_is_refused(prepared, num_images, error):
    with pytest.raises(error, match=r"num_images|count must lie in \[1, num_images = 355\]"):
        data.load("digits", "test", data_dir=prepared, num_images=num_images)


def test_missing_and_unknown_sets_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXCERT_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError) as caught:
        data.load("mnist", "test", data_dir=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "downloads" / "manual") in message
    assert "mnist/t10k-images-idx3-ubyte.gz" in message
    assert "Set JAXCERT_DATA_DIR" in message
    assert 'tfds.builder("mnist", file_format="array_record"' in message
    with pytest.raises(FileNotFoundError, match=r'imagenet2012 is not in .*tfds.builder\("imagen'):
        data.load("imagenet2012", "validation", data_dir=tmp_path)
    with pytest.raises(ValueError, match="one of digits, mnist, .* got 'mnits'"):
        data.load("mnits", "test", data_dir=tmp_path)
    for name in ("../digits", "digits/1.0.0", ""):
        with pytest.raises(ValueError, match="name must be one word"):
            data.load(name, "test", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# Standard sets, as TFDS itself prepares them: encoded images, shuffled, the standard name.


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


class StandardBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes PNG images that are encoded already, which needs no TensorFlow."""

    VERSION = tfds.core.Version("3.0.1")
    SHAPE: tuple[int | None, int | None, int] = (28, 28, 1)
    NUM_CLASSES = 10
    WITH_ID = False
    EXAMPLES: list[tuple[np.ndarray, int]] = []

    def __init_subclass__(cls):
        super().__init_subclass__(skip_registration=True)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(num_classes=self.NUM_CLASSES),
        }
        if self.WITH_ID:
            features["id"] = tfds.features.Text()
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for i, (pixels, label) in enumerate(self.EXAMPLES):
            example = {"image": png(pixels), "label": label}
            if self.WITH_ID:
                example["id"] = f"test_{i:05d}"
            yield i, example


def prepare_standard(name, root, *, file_format="array_record", **settings):
    settings = {"name": name, "url_infos": None, **settings}
    builder_class = type(name, (StandardBuilder,), settings)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder_class(data_dir=root).download_and_prepare(
        file_format=file_format, download_config=config
    )


def random_examples(shape, count=30):
    generator = np.random.default_rng(4)
    return [
        (generator.integers(0, 256, shape, dtype=np.uint8), int(generator.integers(10)))
        for _ in range(count)
    ]


def test_prepared_standard_set_is_read(tmp_path):
    examples = random_examples((28, 28, 1))
    prepare_standard("mnist", tmp_path, EXAMPLES=examples)
    test = data.load("mnist", "test", data_dir=tmp_path)
    assert test.images.shape == (30, 28, 28, 1)
    assert test.ids.tolist() == list(range(30))
    pixels = np.round(test.images * 255).astype(np.uint8)
    # TFDS shuffles, so that each pair of image and label is looked up.
    expected = {image.tobytes(): label for image, label in examples}
    assert [expected[image.tobytes()] for image in pixels] == test.labels.tolist()
    assert pixels.tobytes() != b"".join(image.tobytes() for image, _ in examples)


def test_standard_set_wins_over_a_copy_of_raw_files(prepared, tmp_path):
    shutil.copytree(prepared / "digits", tmp_path / "mnist_idx")  # read by its folder, not its name
    assert data.load("mnist", "test", data_dir=tmp_path).num_images == 355
    prepare_standard("mnist", tmp_path, EXAMPLES=random_examples((28, 28, 1)))
    assert data.load("mnist", "test", data_dir=tmp_path).num_images == 30


def test_names_of_the_folders_are_those_documented():
    from jaxcert.data import _builders

    for name, builder in _builders.BUILDERS.items():
        assert f"`{builder.name}`" in str(data.load.__doc__) or builder.name == name


def test_newest_version_is_read_and_unfinished_folders_are_not(tmp_path):
    for version, label in (("3.0.9", 1), ("3.0.10", 2)):
        prepare_standard(
            "mnist",
            tmp_path,
            VERSION=tfds.core.Version(version),
            EXAMPLES=[(np.zeros((28, 28, 1), np.uint8), label)],
        )
    (tmp_path / "mnist" / "incomplete.ABC123_9.0.0").mkdir()
    (tmp_path / "mnist" / "9.0.0").mkdir()
    assert data.load("mnist", "test", data_dir=tmp_path).labels.tolist() == [2]


def test_ids_of_a_prepared_cifar10_are_the_official_places(tmp_path):
    examples = random_examples((32, 32, 3))
    prepare_standard("cifar10", tmp_path, SHAPE=(32, 32, 3), WITH_ID=True, EXAMPLES=examples)
    test = data.load("cifar10", "test", data_dir=tmp_path)
    assert sorted(test.ids) == list(range(30))
    assert test.ids.tolist() != list(range(30))
    for image, label, i in zip(test.images, test.labels, test.ids, strict=True):
        np.testing.assert_array_equal(image, examples[i][0].astype(np.float32) / np.float32(255))
        assert label == examples[i][1]


def test_images_of_varying_size_are_resized_and_cropped(tmp_path):
    generator = np.random.default_rng(5)
    exact = generator.integers(0, 256, (256, 300, 3), dtype=np.uint8)
    # Brightness falls from left to right; 512 x 640 halves to 256 x 320.
    ramp = np.broadcast_to(np.linspace(255, 0, 640)[None, :, None], (512, 640, 3)).astype(np.uint8)
    tall = np.full((400, 100, 3), 77, np.uint8)
    tall[:150] = tall[250:] = 200  # outside of the central crop
    checkers = np.indices((512, 512)).sum(axis=0)[..., None] % 2 * np.full(3, 255)
    prepare_standard(
        "imagenet2012",
        tmp_path,
        SHAPE=(None, None, 3),
        NUM_CLASSES=1000,
        EXAMPLES=[(exact, 999), (ramp, 500), (tall, 0), (checkers.astype(np.uint8), 7)],
    )
    test = data.load("imagenet2012", "test", data_dir=tmp_path)
    assert test.images.shape == (4, 224, 224, 3)
    assert test.num_classes == 1000
    by_label = dict(zip(test.labels.tolist(), test.images, strict=True))
    # 256 x 300 keeps its pixels; the central window starts at row 16, column 38.
    np.testing.assert_array_equal(
        by_label[999], exact[16:240, 38:262].astype(np.float32) / np.float32(255)
    )
    # Column j of the crop is column 48 + j of 320, that is about 2 * (48 + j) + 0.5 of 640.
    expected = (1 - (2 * (48 + np.arange(224)) + 0.5) / 639)[None, :, None]
    np.testing.assert_allclose(
        by_label[500], np.broadcast_to(expected, (224, 224, 3)), atol=1.5 / 255
    )
    np.testing.assert_array_equal(by_label[0], np.float32(77 / 255))
    # Halving averages; it does not pick every other pixel.
    np.testing.assert_allclose(by_label[7], 0.5, atol=1 / 255)


def test_unlabelled_split_is_refused(tmp_path):
    black = np.zeros((28, 28, 1), np.uint8)
    prepare_standard("mnist", tmp_path, EXAMPLES=[(black, 1), (black, -1)])
    with pytest.raises(ValueError, match=r"labels in 0 .. 9, got -1 .. 1"):
        data.load("mnist", "test", data_dir=tmp_path)


def test_set_that_is_no_image_classification_is_refused(tmp_path):
    class Captions(StandardBuilder):
        url_infos = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
            )

        def _generate_examples(self):
            yield 0, {"text": "a cat"}

    Captions(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(ValueError, match="must have features image and label"):
        data.load("captions", "test", data_dir=tmp_path)
