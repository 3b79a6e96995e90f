"""Loading through TFDS: the bundled digits, standard sets, slices, faults and rivals."""

import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxcert import data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    data.load("digits", "test", data_dir=root)
    return root


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
    copy_tree(prepared / "digits", tmp_path / "mnist_idx")  # read by its folder, not its name
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


# Faults.


def copy_tree(source, target):
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_bits(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 5] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage", "message"),
    [
        ("*-test.array_record*", truncate, "is damaged; delete it"),
        ("*-test.array_record*", flip_bits, "is damaged; delete it"),
        ("*-test.array_record*", Path.unlink, "is damaged; delete it"),
        ("dataset_info.json", truncate, "is damaged; delete it"),
        ("features.json", Path.unlink, "is damaged; delete it"),
        ("dataset_info.json", Path.unlink, "is not a whole TFDS set; delete it"),
    ],
)
def test_damaged_prepared_set_is_a_clear_error(prepared, tmp_path, pattern, damage, message):
    copy_tree(prepared / "digits", tmp_path / "digits")
    (path,) = (tmp_path / "digits" / "1.0.0").glob(pattern)
    damage(path)
    with pytest.raises(ValueError, match=message):
        data.load("digits", "test", data_dir=tmp_path)


def test_set_prepared_in_another_format_says_how_to_prepare(prepared, tmp_path):
    copy_tree(prepared / "digits", tmp_path / "mnist")
    info = tmp_path / "mnist" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"must hold array_record files.*tfds.builder\(\"mnist\""):
        data.load("mnist", "test", data_dir=tmp_path)


def run_python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_preparation_leaves_nothing_that_is_used(tmp_path, prepared):
    # A preparation that has written some records and then stands still, to be killed there.
    process = run_python(
        """
        import sys, time
        from jaxcert import data
        from jaxcert.data import _builders

        generate = _builders.ArrayBuilder._generate_examples

        def stall(self, split):
            for i, example in enumerate(generate(self, split)):
                if i == 200:
                    sys.__stdout__.write("stalled\\n")
                    sys.__stdout__.flush()
                    time.sleep(600)
                yield example

        _builders.ArrayBuilder._generate_examples = stall
        data.load("digits", "test")
        """,
        TFDS_DATA_DIR=str(tmp_path),
    )
    try:
        assert process.stdout.readline() == "stalled\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(list((tmp_path / "digits").glob("incomplete.*"))) == 1
    test = data.load("digits", "test", data_dir=tmp_path)
    assert data.fingerprint(test) == data.fingerprint(
        data.load("digits", "test", data_dir=prepared)
    )


def load_at(barrier, root, results):
    import tensorflow_datasets  # noqa: F401  # so that the processes meet at the preparation

    from jaxcert import data
    from jaxcert.data import _builders  # noqa: F401

    barrier.wait(120)
    results.put(data.fingerprint(data.load("digits", "test", data_dir=root)))


@pytest.mark.slow
def test_processes_may_prepare_at_once(tmp_path, prepared):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    rivals = [context.Process(target=load_at, args=(barrier, tmp_path, results)) for _ in range(3)]
    for rival in rivals:
        rival.start()
    fingerprints = {results.get(timeout=120) for _ in rivals}
    for rival in rivals:
        rival.join(60)
        assert rival.exitcode == 0
    expected = data.load("digits", "test", data_dir=prepared)
    assert fingerprints == {data.fingerprint(expected)}
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_losing_the_race_to_prepare_is_no_error(tmp_path, prepared, monkeypatch):
    from jaxcert.data import _builders

    generate = _builders.ArrayBuilder._generate_examples

    def overtaken(self, split):
        yield from generate(self, split)
        if not (tmp_path / "digits" / "1.0.0").exists():
            copy_tree(prepared / "digits", tmp_path / "digits")

    monkeypatch.setattr(_builders.ArrayBuilder, "_generate_examples", overtaken)
    assert data.load("digits", "test", data_dir=tmp_path).num_images == 355
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_failed_write_is_an_error_and_the_next_load_works(tmp_path, monkeypatch):
    from jaxcert.data import _builders

    def full_disk(self, split):
        raise OSError(28, "No space left on device")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(_builders.ArrayBuilder, "_generate_examples", full_disk)
        with pytest.raises(OSError, match="No space left"):
            data.load("digits", "test", data_dir=tmp_path)
    assert data.load("digits", "test", data_dir=tmp_path).num_images == 355


# Manners.


def test_nothing_is_said_and_all_is_left_as_it_was(tmp_path, capfd, caplog, monkeypatch):
    from jaxcert.data import _builders

    generate = _builders.ArrayBuilder._generate_examples
    logger = logging.getLogger("absl")
    level, out, err = logger.level, sys.stdout, sys.stderr

    def talkative(self, split):
        print("said by TFDS")
        print("said by TFDS", file=sys.stderr)
        logger.warning("said by TFDS")
        yield from generate(self, split)

    monkeypatch.setattr(_builders.ArrayBuilder, "_generate_examples", talkative)
    data.load("digits", "test", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
    assert (logger.level, sys.stdout, sys.stderr) == (level, out, err)


def test_later_log_messages_of_the_program_are_seen(tmp_path):
    process = run_python(
        """
        import logging
        from jaxcert import data
        data.load("digits", "test")
        assert logging.root.handlers == []
        logging.getLogger("program").warning("seen")
        """,
        TFDS_DATA_DIR=str(tmp_path),
    )
    assert process.communicate(timeout=120) == ("", "seen\n")


def test_no_tensorflow_is_imported_even_if_it_is_installed(tmp_path):
    # A decoy that leaves a trace when it is imported stands in for an installed TensorFlow.
    decoy = tmp_path / "site" / "tensorflow"
    decoy.mkdir(parents=True)
    witness = tmp_path / "imported"
    (decoy / "__init__.py").write_text(
        f"open({str(witness)!r}, 'w').close()\nraise ImportError('decoy')\n"
    )
    process = run_python(
        """
        import sys
        import jaxcert.data
        assert "tensorflow_datasets" not in sys.modules, "imported before it is needed"
        print(jaxcert.data.load("digits", "test").images.shape)
        """,
        PYTHONPATH=os.pathsep.join([str(decoy.parent), *sys.path]),
        TFDS_DATA_DIR=str(tmp_path / "prepared"),
    )
    out, err = process.communicate(timeout=120)
    assert (out, err, process.returncode) == ("(355, 8, 8, 1)\n", "", 0)
    assert not witness.exists()


# Real files, where there are any.


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
