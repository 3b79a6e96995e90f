import itertools

import jax
import numpy as np
import pytest

from jaxcert import tropical
from tests.tropical.networks import (
    affine_piece,
    arguments,
    forward,
    inner_radius,
    inside_pattern,
    linear_range,
    patterns,
    random_network,
)

BOX = np.array([[-3.0, -2.5], [2.5, 3.0]])
SHAPES = [(2, 7, 2), (2, 9, 4), (2, 8, 8, 3), (2, 6, 6, 6, 2)]


def extract(layers, classes=None, box=BOX):
    return tropical.network_boundary_segments(layers, classes=classes, box=box)


def label_changes(layers, start, end, classes):
    """Where a dense walk along a segment sees the class change, and between which classes."""
    place = np.linspace(0.0, 1.0, 40_001)
    labels = forward(layers, start + place[:, None] * (end - start))[:, classes].argmax(axis=1)
    steps = np.flatnonzero(np.diff(labels))
    return (place[steps] + place[steps + 1]) / 2.0, len(steps)


def hits(found, start, end):
    """Where a segment meets the extracted ones, by solving 2 x 2 systems."""
    step = end - start
    along = found.end - found.start
    offset = found.start - start
    determinant = step[0] * along[:, 1] - step[1] * along[:, 0]
    t = (offset[:, 0] * along[:, 1] - offset[:, 1] * along[:, 0]) / determinant
    u = (offset[:, 0] * step[1] - offset[:, 1] * step[0]) / determinant
    return np.sort(t[(t >= 0.0) & (t <= 1.0) & (u >= 0.0) & (u < 1.0)])


@pytest.mark.parametrize("sizes", SHAPES)
def test_points_of_the_boundary_tie_ahead_of_all_others(sizes):
    total = 0
    for seed in range(5):
        layers = random_network(seed, sizes)
        found = extract(layers)
        share = np.linspace(0.0, 1.0, 5)[:, None, None]
        points = (found.start + share * (found.end - found.start)).reshape(-1, 2)
        scores = forward(layers, points)
        pair = np.tile(found.classes, (5, 1))
        tie = np.take_along_axis(scores, pair, axis=1)
        np.testing.assert_allclose(tie[:, 0], tie[:, 1], rtol=0, atol=1e-9)
        assert np.all(tie[:, 0] >= scores.max(axis=1) - 1e-9)
        total += len(found.start)
    assert total > 20


@pytest.mark.parametrize("sizes", SHAPES)
def test_a_walk_meets_the_boundary_where_its_class_changes(sizes):
    rng = np.random.default_rng(3)
    total = 0
    for seed in range(4):
        layers = random_network(seed, sizes)
        classes = tuple(range(sizes[-1]))
        found = extract(layers, classes)
        for start, end in rng.uniform(BOX[0], BOX[1], size=(5, 2, 2)):
            expected, count = label_changes(layers, start, end, classes)
            met = hits(found, start, end)
            assert len(met) == count
            np.testing.assert_allclose(met, expected, atol=5e-5)
            total += count
    assert total > 10


@pytest.mark.parametrize("sizes", SHAPES)
def test_the_first_class_is_to_the_left(sizes):
    layers = random_network(1, sizes)
    found = extract(layers)
    long = np.linalg.norm(found.end - found.start, axis=1) > 1e-3
    step = (found.end - found.start)[long]
    left = np.stack([-step[:, 1], step[:, 0]], axis=1) * 1e-6
    middle = (found.start + found.end)[long] / 2.0
    np.testing.assert_array_equal(
        forward(layers, middle + left).argmax(axis=1), found.classes[long, 0]
    )
    np.testing.assert_array_equal(
        forward(layers, middle - left).argmax(axis=1), found.classes[long, 1]
    )


@pytest.mark.parametrize("seed", range(6))
def test_one_segment_for_each_crossed_cell_of_a_linear_program(seed):
    layers = random_network(seed, (2, 6, 2))
    found = tropical.boundary_segments(*arguments(layers), classes=(0, 1), box=[[-9, -9], [9, 9]])
    crossed = 0
    for pattern in patterns(6):
        slope, offset = affine_piece(layers, pattern)
        matrix, bound = inside_pattern(layers, pattern)
        if inner_radius(matrix, bound, box=9.0) < 1e-9:
            continue
        low, high = linear_range(slope[0] - slope[1], matrix, bound, box=9.0)
        crossed += low < offset[1] - offset[0] < high
    assert len(found.start) == crossed
    assert not found.tied_polygons
    assert not found.bias_free


def test_a_large_box_costs_no_accuracy():
    layers = random_network(0, (2, 9, 4))
    near = extract(layers)
    far = extract(layers, box=[[-1e6, -1e6], [1e6, 1e6]])
    inside = np.all((far.start > BOX[0]) & (far.start < BOX[1]), axis=1)
    assert inside.sum() > 10
    scores = np.take_along_axis(forward(layers, far.start[inside]), far.classes[inside], axis=1)
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], rtol=0, atol=1e-9)
    within = np.all((near.start > BOX[0]) & (near.start < BOX[1]), axis=1)
    assert inside.sum() == within.sum()


def test_crossing_edges_on_one_bounding_box_are_two():
    """|x + y| against |x - y|: the axes, found along no unit; against 0, both diagonals."""
    w1 = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    rows = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    box = [[-1.0, -1.0], [1.0, 1.0]]
    axes = tropical.boundary_segments(w1, None, rows, None, classes=None, box=box)
    assert axes.length == pytest.approx(4.0)
    product = np.array([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
    np.testing.assert_allclose(
        np.abs(tropical.boundary_segments(w1, None, product, None, classes=None, box=box).start),
        np.abs(axes.start),
    )
    sides = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    diagonal = tropical.boundary_segments(w1, None, sides, None, classes=None, box=box)
    assert diagonal.length == pytest.approx(2.0 * np.sqrt(2.0))


def test_some_classes_only():
    layers = random_network(2, (2, 9, 4))
    found = extract(layers, classes=(3, 1))
    (w1, b1), (w2, b2) = layers
    alone = extract([(w1, b1), (w2[[3, 1]], b2[[3, 1]])])
    assert len(found.start) > 0
    assert {tuple(pair) for pair in found.classes} == {(3, 1)}
    np.testing.assert_allclose(found.length, alone.length)


def test_a_cone_where_all_units_are_off_is_reported_and_has_no_edges():
    """The scores agree on the open quadrant where both units are off: no curve runs there."""
    w1 = w2 = np.eye(2)
    found = tropical.boundary_segments(w1, None, w2, None, classes=None, box=[[-2, -2], [1, 1]])
    assert found.bias_free
    assert found.tied_area == pytest.approx(4.0)
    (polygon,) = found.tied_polygons
    assert polygon.max() == 0.0
    np.testing.assert_array_equal(found.tied_classes, [[0, 1]])
    np.testing.assert_allclose(np.sort(np.concatenate([found.start, found.end]), axis=0),
                               [[0, 0], [1, 1]], atol=1e-12)  # fmt: skip


def test_three_classes_that_tie_are_reported_once():
    w1 = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = tropical.boundary_segments(
        w1[:2], None, np.eye(3)[:, :2], None, classes=None, box=[[-2, -1], [1, 1]]
    )
    assert found.tied_area == pytest.approx(2.0)
    np.testing.assert_array_equal(found.tied_classes, [[0, 1]])
    # Classes 0 and 1 tie where x and y are below 0; class 2 is ahead of them up to x = -1/2.
    half = tropical.boundary_segments(
        w1, None, np.eye(3), [0.0, 0.0, -0.5], classes=None, box=[[-2, -1], [1, 1]]
    )
    assert half.tied_area == pytest.approx(0.5)
    (polygon,) = half.tied_polygons
    assert polygon[:, 0].min() == pytest.approx(-0.5, abs=1e-9)


def test_one_unit_alone_ties_on_a_half_plane():
    found = tropical.boundary_segments(
        [[1.0, 2.0]], [0.5], [[1.0], [0.0]], None, classes=(0, 1), box=BOX
    )
    assert found.start.shape == (0, 2)
    assert found.tied_area > 10.0
    assert not found.bias_free


@pytest.mark.parametrize("seed", range(4))
def test_without_biases_the_boundary_is_a_cone(seed):
    layers = random_network(seed, (2, 8, 2), bias=0.0)
    found = extract(layers, box=[[-1, -1], [1, 1]])
    larger = extract(layers, box=[[-3, -3], [3, 3]])
    assert found.bias_free
    assert larger.length == pytest.approx(3.0 * found.length)
    # Every piece lies on a ray from the origin.
    cross = found.start[:, 0] * found.end[:, 1] - found.start[:, 1] * found.end[:, 0]
    np.testing.assert_allclose(cross, 0.0, atol=1e-12)


def test_a_boundary_along_a_unit_is_found_once():
    """|x| against 0 touches class 1 along x = 0; relu(x) - relu(-x) crosses there."""
    w1 = np.array([[1.0, 0.0], [-1.0, 0.0]])
    for second in ([1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]):
        found = tropical.boundary_segments(
            w1, None, np.array([second, [0.0, 0.0]]), None, classes=(0, 1), box=BOX
        )
        assert found.length == pytest.approx(5.5)
        np.testing.assert_allclose(found.start[:, 0], 0.0, atol=1e-12)
        assert not found.tied_polygons


def test_repeated_and_dead_units_change_nothing():
    layers = random_network(5, (2, 7, 2))
    w1, b1, w2, b2 = arguments(layers)
    plain = extract(layers)
    twice = [
        (np.concatenate([w1, 2.0 * w1, np.zeros((2, 2))]), np.concatenate([b1, 2.0 * b1, [-1, 0]])),
        (np.concatenate([w2 / 3.0, w2 / 3.0, np.ones((2, 2))], axis=1), b2),
    ]
    doubled = extract(twice)
    assert len(doubled.start) == len(plain.start) > 0
    assert doubled.length == pytest.approx(plain.length, abs=1e-9)


def test_the_check_notices_a_missing_segment():
    layers = random_network(0, (2, 9, 4))
    found = extract(layers)
    probes = [
        (start, end)
        for start, end in itertools.product(BOX, BOX[:, ::-1])
        if len(hits(found, start, end)) > 0
    ]
    assert probes
    start, end = probes[0]
    broken = found._replace(start=found.start[:0], end=found.end[:0])
    assert len(hits(broken, start, end)) != label_changes(layers, start, end, (0, 1, 2, 3))[1]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"w1": np.ones((3, 3))}, ValueError, "w1 must have two columns"),
        ({"w2": np.ones((2, 4))}, ValueError, "w2 must have one column a hidden unit"),
        ({"b1": np.ones(2)}, ValueError, r"b1 must have shape \(3,\)"),
        ({"b2": [np.nan, 0.0]}, ValueError, "b2 must be finite"),
        ({"w1": np.ones((3, 2), complex)}, TypeError, "w1 must hold real numbers"),
        ({"classes": (0, 0)}, ValueError, "two different classes"),
        ({"classes": (0, 2)}, ValueError, r"classes must lie in \[0, 1\]"),
        ({"classes": 2}, TypeError, "classes must be a sequence"),
        ({"box": [[0, 0], [1, 0]]}, ValueError, "lower corner below"),
        ({"box": [0, 1]}, ValueError, "box must hold"),
    ],
)
def test_bad_input(change, error, words):
    good = {"w1": np.ones((3, 2)), "b1": np.ones(3), "w2": np.ones((2, 3)), "b2": np.ones(2)}
    settings = {"classes": (0, 1), "box": BOX}
    settings |= {name: value for name, value in change.items() if name in settings}
    good |= {name: value for name, value in change.items() if name in good}
    with pytest.raises(error, match=words):
        tropical.boundary_segments(*good.values(), **settings)


def test_bad_layers():
    with pytest.raises(TypeError, match="sequence of"):
        extract(np.ones((2, 2)))
    with pytest.raises(ValueError, match="at least two layers"):
        extract([(np.ones((2, 2)), None)])
    with pytest.raises(ValueError, match="one for each output of the layer"):
        extract([(np.ones((3, 2)), None), (np.ones((2, 4)), None)])
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda w: extract([(w, None), (np.ones((2, 2)), None)]).start)(np.ones((2, 2)))
