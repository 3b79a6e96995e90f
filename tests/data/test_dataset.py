"""Subsets keep their ids; fingerprints see every change that matters and nothing else."""

import numpy as np
import pytest

from jaxcert import data


def make_dataset(n=6, *, seed=0):
    generator = np.random.default_rng(seed)
    return data.Dataset(
        images=generator.random((n, 2, 3, 1), dtype=np.float32),
        labels=generator.integers(0, 4, n).astype(np.int32),
        name="made_up",
        split="test",
        num_classes=4,
    )


def test_ids_count_up_where_no_positions_are_given():
    ids = make_dataset().ids
    assert ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert ids.dtype == np.int64


def test_take_keeps_images_labels_and_ids_together():
    whole = make_dataset()
    part = whole.take([4, 0, -1])
    assert part.ids.tolist() == [4, 0, 5]
    assert part.num_images == 3
    np.testing.assert_array_equal(part.images, whole.images[[4, 0, 5]])
    np.testing.assert_array_equal(part.labels, whole.labels[[4, 0, 5]])
    assert (part.name, part.split, part.num_classes) == ("made_up", "test", 4)
    # Ids go back to the whole split, not to the subset that was taken from.
    assert part.take([2, 0]).ids.tolist() == [5, 4]


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([6], ValueError, r"\[-6, 6\), got 6 .. 6"),
        ([0, -7], ValueError, r"\[-6, 6\), got -7 .. 0"),
        ([[0, 1]], ValueError, r"shape \[m\], got shape \(1, 2\)"),
        ([0.5], TypeError, "integers, got dtype float64"),
        ([True, False], TypeError, "integers, got dtype bool"),
    ],
)
def test_take_refuses_bad_indices(indices, error, message):
    with pytest.raises(error, match=message):
        make_dataset().take(indices)


@pytest.mark.parametrize(("size", "count"), [(10, 10), (10, 1), (10, 3), (355, 100), (10_000, 499)])
def test_evenly_spaced_indices_are_distinct_and_spread(size, count):
    indices = data.evenly_spaced(size, count)
    assert len(indices) == count
    assert indices[0] == 0
    assert indices[-1] < size
    gaps = np.diff(np.append(indices, size))
    assert gaps.min() >= size // count
    assert gaps.max() <= -(-size // count)


def test_five_hundred_of_the_usual_test_sets_are_every_twentieth():
    np.testing.assert_array_equal(data.evenly_spaced(10_000, 500), np.arange(0, 10_000, 20))


@pytest.mark.parametrize("count", [0, -1, 11])
def test_evenly_spaced_refuses_bad_counts(count):
    with pytest.raises(ValueError, match=rf"count must lie in \[1, num_images = 10\], got {count}"):
        data.evenly_spaced(10, count)


def test_fingerprint_is_pinned():
    # SHA-256 over "<f4(1, 1, 2, 1)", the pixels, "<i4(1,)", the label, "<i8(1,)", the id, written
    # out by hand, so that recorded fingerprints stay valid from version to version.
    import hashlib
    import struct

    dataset = data.Dataset(
        np.array([0.25, 1.0], np.float32).reshape(1, 1, 2, 1), np.array([3], np.int32), "a", "b", 4
    )
    content = b"<f4(1, 1, 2, 1)" + struct.pack("<2f", 0.25, 1.0)
    content += b"<i4(1,)" + struct.pack("<i", 3) + b"<i8(1,)" + struct.pack("<q", 0)
    assert data.fingerprint(dataset) == hashlib.sha256(content).hexdigest()


def test_fingerprint_changes_with_the_content_only():
    dataset = make_dataset()
    reference = data.fingerprint(dataset)
    assert data.fingerprint(dataset._replace(name="other", split="train")) == reference
    assert data.fingerprint(dataset._replace(positions=np.arange(6))) == reference
    strided = dataset._replace(images=np.repeat(dataset.images, 2, axis=0)[::2])
    assert data.fingerprint(strided) == reference

    pixel = dataset.images.copy()
    pixel[3, 1, 2, 0] = np.nextafter(pixel[3, 1, 2, 0], np.float32(2.0))
    changed = [
        dataset._replace(images=pixel),
        dataset._replace(images=dataset.images.reshape(6, 3, 2, 1)),
        dataset._replace(labels=(dataset.labels + 1) % 4),
        dataset._replace(positions=np.arange(1, 7)),
        dataset.take([1, 0, 2, 3, 4, 5]),
        dataset.take(range(5)),
    ]
    assert len({reference, *map(data.fingerprint, changed)}) == 1 + len(changed)
