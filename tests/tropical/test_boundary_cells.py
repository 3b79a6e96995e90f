import itertools

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

# The linear programs look at a box; cells that lie outside would be missing.
BOX = 1e4


def oracle(layers, classes):
    """Regions, and the (pattern, pair) that a piece of the boundary crosses, by linear programs."""
    regions, crossed = 0, set()
    num_units = layers[0][0].shape[0]
    for pattern in patterns(num_units):
        matrix, bound = inside_pattern(layers, pattern)
        if inner_radius(matrix, bound, box=BOX) < 1e-7:
            continue
        regions += 1
        slope, offset = affine_piece(layers, pattern)
        for i, j in itertools.combinations(classes, 2):
            others = [c for c in classes if c not in (i, j)]
            lead = slope[i] - slope[j], offset[j] - offset[i]
            # Where i is ahead of the others by a margin, and so is j on the boundary.
            ahead = [(slope[c] - slope[i], offset[i] - offset[c] - 1e-7) for c in others]
            ahead += [(slope[c] - slope[j], offset[j] - offset[c] - 1e-7) for c in others]
            rows = np.concatenate([matrix, *[row[None] for row, _ in ahead]])
            limits = np.concatenate([bound, [limit for _, limit in ahead]])
            values = linear_range(lead[0], rows, limits, box=BOX)
            if values is not None and values[0] < lead[1] - 1e-9 and values[1] > lead[1] + 1e-9:
                crossed.add((tuple(pattern), i, j))
    return regions, crossed


def listed(found):
    return {
        (*map(tuple, (active.astype(int),)), *map(int, pair))
        for active, pair in zip(found.active, found.classes, strict=True)
    }


CASES = [((2, 6, 2), range(5)), ((3, 6, 2), range(4)), ((2, 5, 4), range(3)), ((4, 5, 2), range(2))]


@pytest.mark.parametrize(
    ("sizes", "seed"), [(sizes, seed) for sizes, seeds in CASES for seed in seeds]
)
def test_pieces_are_those_of_linear_programs(sizes, seed):
    layers = random_network(seed, sizes)
    found = tropical.boundary_cells(*arguments(layers), classes=None)
    regions, crossed = oracle(layers, range(sizes[-1]))
    assert found.num_regions == regions
    assert listed(found) == crossed
    assert len(crossed) > 0
    assert not found.bias_free
    assert not np.any(found.walls)
    assert found.tied_active.shape == (0, sizes[1])


@pytest.mark.parametrize("sizes", [(2, 12, 2), (3, 9, 4), (4, 8, 2), (5, 7, 3)])
def test_points_lie_on_the_boundary_inside_their_cells(sizes):
    layers = random_network(1, sizes)
    found = tropical.boundary_cells(*arguments(layers), classes=None)
    assert len(found.point) > 10
    scores = forward(layers, found.point)
    pair = np.take_along_axis(scores, found.classes, axis=1)
    size = 1.0 + np.abs(scores).max(axis=1)
    np.testing.assert_array_less(np.abs(pair[:, 0] - pair[:, 1]), 1e-9 * size)
    assert np.all(pair[:, 0] >= scores.max(axis=1) - 1e-9 * size)
    (w1, b1), _ = layers
    np.testing.assert_array_equal(found.point @ w1.T + b1 > 0.0, found.active)
    plane = np.einsum("pd,pd->p", found.slope, found.point) + found.offset
    np.testing.assert_array_less(np.abs(plane), 1e-9 * size)


@pytest.mark.parametrize("seed", range(4))
def test_in_the_plane_the_cells_are_those_of_the_segments(seed):
    """Two algorithms that share nothing: an arrangement of rays, and cut polygons."""
    layers = random_network(seed, (2, 14, 3))
    found = tropical.boundary_cells(*arguments(layers), classes=None)
    segments = tropical.boundary_segments(
        *arguments(layers), classes=None, box=[[-1e5, -1e5], [1e5, 1e5]]
    )
    middle = (segments.start + segments.end) / 2.0
    (w1, b1), _ = layers
    of_segments = {
        (tuple((w1 @ x + b1 > 0.0).astype(int)), int(i), int(j))
        for x, (i, j) in zip(middle, segments.classes, strict=True)
    }
    assert listed(found) == of_segments
    assert len(found.classes) == len(segments.start)


def test_bichromatic_edges_of_the_dual():
    """A piece is normal to the edge between the vertices that its cell selects."""
    layers = random_network(2, (3, 8, 2))
    found = tropical.boundary_cells(*arguments(layers), classes=(0, 1))
    first, second = tropical.decision_zonotopes(*arguments(layers), classes=(0, 1))
    one = np.asarray(first.base) + found.active @ np.asarray(first.generators)
    two = np.asarray(second.base) + found.active @ np.asarray(second.generators)
    np.testing.assert_allclose(
        one - two, np.concatenate([found.slope, found.offset[:, None]], axis=1), atol=1e-5
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_bias_free_network_with_few_units_ties_on_a_cone(seed):
    """No more units than inputs: somewhere all are off, and all scores are 0 there."""
    layers = random_network(seed, (3, 3, 2), bias=0.0)
    w1, _, w2, _ = arguments(layers)
    found = tropical.boundary_cells(w1, None, w2, None, classes=(0, 1))
    assert found.bias_free
    np.testing.assert_array_equal(found.tied_active, np.zeros((1, 3), bool))
    np.testing.assert_array_equal(found.tied_classes, [[0, 1]])
    assert np.all(w1 @ found.tied_point[0] < 0.0)
    # No piece is a wall of the tied cone.
    assert not np.any(found.walls)
    scores = forward(layers, found.point)
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], atol=1e-12)


def test_three_classes_that_tie_are_reported():
    found = tropical.boundary_cells(np.eye(2), None, np.eye(3)[:, :2], None, classes=None)
    off = found.tied_classes[~found.tied_active.any(axis=1)]
    assert {tuple(pair) for pair in off.tolist()} == {(0, 1), (0, 2), (1, 2)}
    # Class 2 always has score 0 and wins nowhere.
    assert {tuple(pair) for pair in found.classes.tolist()} == {(0, 1)}
    np.testing.assert_array_equal(found.active, [[True, True]])


def test_one_unit_alone_ties_on_a_half_space():
    found = tropical.boundary_cells([[1.0, 2.0]], [0.5], [[1.0], [0.0]], None, classes=(0, 1))
    assert found.active.shape == (0, 1)
    np.testing.assert_array_equal(found.tied_active, [[False]])


@pytest.mark.parametrize("second", [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
def test_a_boundary_along_a_unit_is_a_wall_listed_once(second):
    w1 = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    found = tropical.boundary_cells(w1, None, np.array([second, [0.0, 0.0]]), None, classes=(0, 1))
    assert found.walls.tolist() == [True]
    np.testing.assert_allclose(found.point[:, 0], 0.0, atol=1e-12)
    assert found.num_regions == 2


def test_repeated_parallel_and_dead_units_change_nothing():
    layers = random_network(2, (3, 6, 2))
    w1, b1, w2, b2 = arguments(layers)
    plain = tropical.boundary_cells(*arguments(layers), classes=(0, 1))
    again = tropical.boundary_cells(
        np.concatenate([w1, 3.0 * w1, np.zeros((2, 3))]),
        np.concatenate([b1, 3.0 * b1, [0.0, -1.0]]),
        np.concatenate([w2 / 4.0, w2 / 4.0, np.ones((2, 2))], axis=1),
        b2,
        classes=(0, 1),
    )
    assert again.num_regions == plain.num_regions
    assert {row[:6] for row, _, _ in listed(again)} == {row for row, _, _ in listed(plain)}


def test_a_wrong_weight_would_be_noticed():
    layers = random_network(0, (2, 6, 2))
    (w1, b1), (w2, b2) = layers
    found = tropical.boundary_cells(w1, b1, w2 * [[-1.0], [1.0]], b2, classes=None)
    assert listed(found) != oracle(layers, range(2))[1]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"w1": np.ones((3, 6))}, ValueError, "at most 5 columns"),
        ({"w2": np.ones((2, 4))}, ValueError, "w2 must have one column"),
        ({"b1": np.full(3, np.inf)}, ValueError, "b1 must be finite"),
        ({"classes": (1, 1)}, ValueError, "two different classes"),
        ({"max_bytes": 100}, ValueError, "max_bytes=100"),
    ],
)
def test_bad_input(change, error, words):
    rng = np.random.default_rng(0)
    good = {"w1": rng.normal(size=(3, 2)), "b1": np.ones(3), "w2": np.ones((2, 3)), "b2": None}
    settings = {"classes": (0, 1)} | {n: v for n, v in change.items() if n not in good}
    good |= {name: value for name, value in change.items() if name in good}
    with pytest.raises(error, match=words):
        tropical.boundary_cells(*good.values(), **settings)
