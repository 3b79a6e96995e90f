"""The memory keeps regions of different classes apart, exactly, in any order."""

import copy
import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest

from jaxcert.smoothing import ABSTAIN, RegionMemory, _region_geometry, _region_index

ALPHA = 0.001


def memory_of(shape, **settings):
    return RegionMemory.init(shape, **({"fingerprint": "a model"} | settings))


def stream(seed, *, count=40, size=2, classes=3, grid=True):
    """Points on a coarse grid, so that duplicates and exact contacts happen; some abstain."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(-8, 9, (count, size)).astype(np.float32) / 2
    labels = rng.integers(-1, classes, count)
    radii = rng.integers(0, 5, count) / 2
    if not grid:  # No contacts, but still duplicates.
        values = rng.normal(scale=0.1, size=(17, 2)).astype(np.float32)
        inputs += np.take(values, (2 * inputs[:, 0]).astype(int), axis=0)
        radii *= rng.uniform(0.5, 1, count)
    return inputs, labels, radii


def exact(values):
    return [Fraction(float(value)) for value in values]


def gap_sign(one, other, radii, norm):
    """Whether distance exceeds the sum of radii, in rational arithmetic."""
    differences = [abs(a - b) for a, b in zip(exact(one), exact(other), strict=True)]
    if norm == "l1":
        return sum(differences) > radii
    return sum(difference**2 for difference in differences) > radii**2


def violations(memory):
    """Pairs of regions of different classes that meet; exact."""
    found = []
    radii = exact(memory.radii)
    for i, j in itertools.combinations(range(len(memory)), 2):
        if memory.labels[i] == memory.labels[j]:
            continue
        if not gap_sign(memory.inputs[i], memory.inputs[j], radii[i] + radii[j], memory.norm):
            found.append((i, j))
    return found


def reference(inputs, labels, radii, norm):
    """The algorithm, by one loop over everything, in float64; abstentions are never stored."""
    stored, answers = [], []
    for x, label, radius in zip(inputs.astype(np.float64), labels, radii, strict=True):
        distances = [
            np.abs(x - y).sum() if norm == "l1" else np.linalg.norm(x - y) for y, _, _ in stored
        ]
        holding = [(c, r - d) for (_, c, r), d in zip(stored, distances, strict=True) if d <= r]
        kept = max((room for _, room in holding), default=0.0)
        if holding and holding[0][0] != label:
            answers.append((holding[0][0], kept))
            continue
        if label == ABSTAIN:
            answers.append((ABSTAIN, 0.0))
            continue
        gaps = [d - r for (_, c, r), d in zip(stored, distances, strict=True) if c != label]
        disjoint = max(0.0, min([radius, *gaps]))
        answers.append((label, max(disjoint, kept)))
        if not holding or disjoint > kept:
            stored.append((x, label, disjoint))
    return answers, stored


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_random_streams_keep_classes_apart_in_any_order(norm, grid, seed):
    inputs, labels, radii = stream(seed, grid=grid)
    order = np.random.default_rng(seed + 100).permutation(len(inputs))
    answers = set()
    for rows in (np.arange(len(inputs)), order):
        memory, answer = memory_of((2,), norm=norm).insert(
            inputs[rows], labels[rows], radii[rows], alpha=ALPHA
        )
        assert violations(memory) == []
        assert ABSTAIN not in memory.labels
        assert answer.overridden.any()
        assert answer.shrunk.any()
        assert len(memory) == answer.stored.sum()
        np.testing.assert_array_equal(memory.inputs, inputs[rows][answer.stored])
        if not grid:
            expected, stored = reference(inputs[rows], labels[rows], radii[rows], norm)
            np.testing.assert_array_equal(answer.label, [label for label, _ in expected])
            np.testing.assert_allclose(answer.radius, [r for _, r in expected], atol=1e-12)
            assert len(memory) == len(stored)
        # What was answered is what will be answered.
        again = memory.query(inputs[rows][answer.label != ABSTAIN])
        np.testing.assert_array_equal(again.label, answer.label[answer.label != ABSTAIN])
        answers.add(tuple(answer.label[np.argsort(rows)]))
    assert len(answers) == 2, "the order decides, which these streams should show"


def test_answer_is_constant_within_each_answered_radius():
    rng = np.random.default_rng(3)
    inputs, labels, radii = stream(7)
    memory, answer = memory_of((2,)).insert(inputs, labels, radii, alpha=ALPHA)
    for x, label, radius in zip(inputs, answer.label, answer.radius, strict=True):
        if radius > 0:
            turn = rng.uniform(0, 2 * np.pi, 50)
            length = radius * np.append(np.sqrt(rng.random(49)), 1 - 1e-5)
            around = x + np.stack([length * np.cos(turn), length * np.sin(turn)], axis=1)
            assert set(memory.query(around.astype(np.float32)).label) == {label}


def test_checks_find_a_memory_that_forgets_to_shrink(monkeypatch):
    def never(offsets, *_):
        return np.full(len(offsets), np.inf)

    monkeypatch.setattr(_region_geometry, "disjoint_radii", never)
    memory, _ = memory_of((2,)).insert(*stream(0), alpha=ALPHA)
    assert violations(memory)


@pytest.mark.parametrize("anisotropic", [False, True])
def test_save_load_and_merge_keep_classes_apart(tmp_path, anisotropic):
    inputs, labels, radii = stream(11, count=50)
    scales = np.ones_like(inputs) if anisotropic else None
    half = [slice(0, 25), slice(25, 50)]
    memories = []
    for rows in half:
        memory, _ = memory_of((2,), anisotropic=anisotropic).insert(
            inputs[rows], labels[rows], radii[rows], alpha=ALPHA,
            scales=None if scales is None else scales[rows],
        )  # fmt: skip
        memory.save(tmp_path / str(len(memories)))
        memories.append(RegionMemory.load(tmp_path / str(len(memories))))
        for name in ("inputs", "labels", "radii", "scales", "spent"):
            np.testing.assert_array_equal(getattr(memories[-1], name), getattr(memory, name))
    first, second = memories
    merged, answer = first.merge(second)
    assert violations(merged) == []
    assert answer.overridden.any()
    assert answer.shrunk.any()
    assert len(answer.label) == len(second)
    assert merged.spent == pytest.approx(50 * ALPHA)
    # What the first one promised holds on.
    np.testing.assert_array_equal(merged.labels[: len(first)], first.labels)
    np.testing.assert_array_equal(merged.radii[: len(first)], first.radii)
    assert len(first.merge(memory_of((2,), anisotropic=anisotropic))[0]) == len(first)


def test_empty_memory_survives_a_file(tmp_path):
    memory_of((2, 3), norm="l1", dtype=np.float64).save(tmp_path / "m")
    memory = RegionMemory.load(tmp_path / "m")
    assert (len(memory), memory.shape, memory.norm) == (0, (2, 3), "l1")
    assert memory.query(np.zeros((1, 2, 3))).label == [ABSTAIN]
    with pytest.raises(FileExistsError):
        memory.save(tmp_path / "m")


def test_other_settings_are_not_a_memory(tmp_path):
    from jaxcert import _storage

    _storage.write(tmp_path / "m", {"a": np.zeros(1)}, {"kind": "weights"})
    with pytest.raises(ValueError, match="must hold regions of a smoothed classifier"):
        RegionMemory.load(tmp_path / "m")


def test_a_memory_is_a_value():
    """Two continuations of one memory share its rows and do not see each other's."""
    inputs, labels, radii = stream(5)
    start, _ = memory_of((2,)).insert(inputs[:10], labels[:10], radii[:10], alpha=ALPHA)
    before = copy.deepcopy([start.inputs, start.labels, start.radii])
    one, _ = start.insert(inputs[10:25], labels[10:25], radii[10:25], alpha=ALPHA)
    other, answer = start.insert(inputs[25:], labels[25:], radii[25:], alpha=ALPHA)
    one_more, _ = one.insert(inputs[25:], labels[25:], radii[25:], alpha=ALPHA)
    for array, old in zip([start.inputs, start.labels, start.radii], before, strict=True):
        np.testing.assert_array_equal(array, old)
    fresh, _ = memory_of((2,)).insert(inputs[:10], labels[:10], radii[:10], alpha=ALPHA)
    again, expected = fresh.insert(inputs[25:], labels[25:], radii[25:], alpha=ALPHA)
    np.testing.assert_array_equal(answer.label, expected.label)
    np.testing.assert_array_equal(other.radii, again.radii)
    assert len(one_more) > len(one) > len(start)
    assert violations(one_more) == violations(other) == []
    with pytest.raises(ValueError, match="read-only"):
        start.radii[0] = 1e9


def test_a_memory_is_a_pytree():
    inputs, labels, radii = stream(2)
    memory, _ = memory_of((2,)).insert(inputs, labels, radii, alpha=ALPHA)
    leaves, treedef = jax.tree.flatten(memory)
    assert all(isinstance(leaf, np.ndarray | np.float64) for leaf in leaves)
    again = jax.tree.unflatten(treedef, leaves)
    np.testing.assert_array_equal(again.query(inputs).label, memory.query(inputs).label)
    more, _ = copy.deepcopy(again).insert(inputs + 0.25, labels, radii, alpha=ALPHA)
    assert violations(more) == []
    narrowed = jax.tree.map(jax.numpy.asarray, memory)
    with pytest.raises(TypeError, match="radii of a RegionMemory must be float64, got float32"):
        narrowed.query(inputs)
    with pytest.raises(TypeError, match="cannot be used while tracing"):
        jax.jit(lambda memory: memory.query(inputs).label)(memory)


def test_abstentions_and_duplicates():
    memory = memory_of((1,))
    x = np.zeros((1, 1), np.float32)
    memory, answer = memory.insert(x, [ABSTAIN], [3.0], alpha=ALPHA)
    assert (len(memory), answer.label[0], answer.radius[0]) == (0, ABSTAIN, 0.0)
    memory, _ = memory.insert(x, [2], [0.5], alpha=ALPHA)
    same, answer = memory.insert(np.repeat(x, 3, axis=0), [2, 1, ABSTAIN], [0.25, 9, 0], alpha=0.1)
    assert len(same) == 1
    np.testing.assert_array_equal(answer.label, [2, 2, 2])
    np.testing.assert_allclose(answer.radius, 0.5)
    np.testing.assert_array_equal(answer.overridden, [False, True, False])
    assert answer.inside.all()
    larger, answer = memory.insert(x, [2], [0.75], alpha=ALPHA)
    assert (len(larger), answer.radius[0]) == (2, 0.75)
    # A region of radius 0 is its centre, and holds it.
    point, _ = memory_of((1,)).insert(x, [1], [0.0], alpha=ALPHA)
    assert point.query(np.array([[0.0], [1e-30]], np.float32)).label.tolist() == [1, ABSTAIN]
    point, answer = point.insert(x + np.float32(1e-30), [2], [1.0], alpha=ALPHA)
    assert 0 < answer.radius[0] < float(np.float32(1e-30))
    assert violations(point) == []


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30])
def test_extreme_units_lose_no_region(norm, scale):
    """Squares and products of float32 values vanish or overflow; the answers stay."""
    rng = np.random.default_rng(0)
    inputs = (scale * rng.integers(1, 50, (20, 3))).astype(np.float32)
    radii = np.zeros(20)
    labels = np.arange(20) % 2
    memory, answer = memory_of((3,), norm=norm).insert(inputs, labels, radii, alpha=ALPHA)
    np.testing.assert_array_equal(memory.query(inputs).label, answer.label)
    again, repeated = memory.insert(inputs, 1 - labels, radii + scale, alpha=ALPHA)
    np.testing.assert_array_equal(repeated.label, answer.label)
    assert len(again) == len(memory)


def test_failure_probabilities_add_up_over_all_that_was_offered():
    memory, answer = memory_of((2,)).insert(*stream(0), alpha=0.001)
    assert answer.stored.sum() < 40
    assert memory.spent == pytest.approx(0.04, rel=1e-12)
    memory, _ = memory.insert(*stream(1, count=10), alpha=0.002)
    assert memory.spent == pytest.approx(0.06, rel=1e-12)


def brute_force(memory, point, reach):
    """The regions that meet a ball, by float64 distances to all of them."""
    differences = memory.inputs.astype(np.float64) - point.astype(np.float64)
    distances = (
        np.abs(differences).sum(axis=1)
        if memory.norm == "l1"
        else np.linalg.norm(differences, axis=1)
    )
    return np.flatnonzero(distances <= memory._search().column("reach", len(memory)) + reach)


def images(rng, count, shape, offset):
    """Clusters of near duplicates, at any offset: where a search in float32 is at its worst."""
    centres = rng.random((8, *shape))
    noise = rng.normal(size=(count, *shape)) * 10.0 ** rng.uniform(-6, -1, (count, 1, 1, 1))
    return (centres[rng.integers(0, 8, count)] + noise + offset).astype(np.float32)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("offset", [0.0, 300.0, 1e25])
def test_coarse_search_loses_no_region(norm, offset):
    rng = np.random.default_rng(0)
    shape = (12, 12, 3)
    index = _region_index.RegionIndex(shape, norm, np.dtype(np.float32), False)
    inputs = images(rng, 400, shape, offset).reshape(400, -1)
    # Radii that touch the distance to the next one, from below and above.
    differences = inputs[:-1].astype(np.float64) - inputs[1:].astype(np.float64)
    touching = np.linalg.norm(differences, ord=1 if norm == "l1" else 2, axis=1)
    radii = np.append(touching * rng.choice([1 - 1e-9, 1, 1 + 1e-9], 399), 0.1)
    index.extend(0, inputs, np.zeros(400, np.int64), radii, None)
    memory = RegionMemory._of(index, 400, np.float64(0), "a model")
    for row in range(1, 400, 4):
        for reach in (0.0, 1e-3, 0.5):
            found = index.candidates(400, inputs[row], reach)
            assert set(brute_force(memory, inputs[row], reach)) <= set(found)


def test_coarse_search_leaves_most_regions_out():
    rng = np.random.default_rng(0)
    inputs = rng.random((1000, 12, 12, 3), np.float32)
    memory, _ = memory_of((12, 12, 3)).insert(
        inputs, np.zeros(1000, int), np.full(1000, 0.5), alpha=ALPHA
    )
    found = memory._search().candidates(1000, inputs[7].reshape(-1), 0.5)
    assert 7 in found
    assert len(found) < 20


def test_a_search_without_room_for_rounding_loses_regions(monkeypatch):
    monkeypatch.setattr(_region_index, "_UNIT", 0.0)
    with pytest.raises(AssertionError):
        test_coarse_search_loses_no_region("l2", 300.0)


def test_blocks_of_coordinates():
    blocks = _region_index.block_of_coordinates((28, 28, 1)).reshape(28, 28)
    assert len(np.unique(blocks)) == 64
    assert len(np.unique(blocks[:4, :4])) <= 4
    assert _region_index.block_of_coordinates((10,)).tolist() == list(range(10))
    assert np.bincount(_region_index.block_of_coordinates((32, 32, 3))).tolist() == [48] * 64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": np.zeros((2, 3), np.float32)}, ValueError, "inputs must have shape"),
        ({"inputs": np.zeros((2, 2))}, TypeError, "inputs must be float32 as those of the memory"),
        ({"inputs": np.full((2, 2), np.nan, np.float32)}, ValueError, "inputs must be finite"),
        ({"labels": [0.0, 1.0]}, TypeError, "labels must be integers, got float64"),
        ({"labels": [0, -2]}, ValueError, "labels must be classes or -1, got -2"),
        ({"labels": [0]}, ValueError, r"labels must have shape \(2,\)"),
        ({"radii": [1.0, -1.0]}, ValueError, "radii must be finite and at least 0"),
        ({"radii": [np.inf, 1.0]}, ValueError, "radii must be finite and at least 0"),
        ({"alpha": 0.0}, ValueError, "alpha must lie strictly between 0 and 1"),
        ({"scales": np.ones((2, 2), np.float32)}, ValueError, "scales must be given just where"),
    ],
)
def test_bad_claims(change, error, message):
    claims = {
        "inputs": np.zeros((2, 2), np.float32), "labels": [0, 1], "radii": [1.0, 1.0],
        "alpha": ALPHA,
    } | change  # fmt: skip
    with pytest.raises(error, match=message):
        memory_of((2,)).insert(
            claims.pop("inputs"), claims.pop("labels"), claims.pop("radii"), **claims
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "another model: its fingerprint is 'a model', expected 'other'"),
        ({"norm": "l1"}, "another norm: its norm is 'l2', expected 'l1'"),
        ({"shape": (3,)}, "another shape"),
        ({"anisotropic": True}, "cannot be merged"),
    ],
)
def test_memories_that_do_not_belong_together(change, message):
    settings = {"shape": (2,)} | change
    with pytest.raises(ValueError, match=message):
        memory_of((2,)).merge(memory_of(settings.pop("shape"), **settings))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shape": ()}, ValueError, "shape must have at least one axis"),
        ({"shape": (0,)}, ValueError, "shape must lie in"),
        ({"norm": "linf"}, ValueError, "norm must be one of l2, l1, got 'linf'"),
        ({"fingerprint": ""}, TypeError, "fingerprint must be text"),
        ({"dtype": np.int32}, TypeError, "dtype must be floating point"),
    ],
)
def test_bad_settings(change, error, message):
    settings = {"shape": (2,)} | change
    with pytest.raises(error, match=message):
        memory_of(settings.pop("shape"), **settings)
