"""Comparison of boundaries in the plane: cases by hand, support functions, and broken input."""

import numpy as np
import pytest
from scipy import spatial

from jaxcert import tropical

BOX = [[-2.0, -2.0], [2.0, 2.0]]


def random_network(seed, *, hidden=9, classes=2):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(hidden, 2)), generator.normal(size=hidden),
        generator.normal(size=(classes, hidden)), generator.normal(size=classes),
    )  # fmt: skip


def hull_support(network, u, classes=(0, 1)):
    """Support function of the dual polygon by its definition, in directions `[n, 2]`."""
    w1, _, w2, _ = network
    i, j = classes
    values = []
    for a, b in ((w2[i], w2[j]), (w2[j], w2[i])):
        scale = np.maximum(a, 0) + np.maximum(-b, 0)
        values.append(np.maximum(u @ (scale[:, None] * w1).T, 0).sum(axis=1))
    return np.maximum(*values)


def directions(number=2000):
    angle = np.linspace(0, 2 * np.pi, number, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_polygon_is_that_of_the_support_function(seed):
    network, u = random_network(seed, classes=3), directions()
    polygon = tropical.dual_polygon(*network, classes=(0, 2))
    np.testing.assert_allclose(
        (u @ polygon.T).max(axis=1), hull_support(network, u, (0, 2)), atol=1e-12
    )
    hull = spatial.ConvexHull(polygon)
    assert len(hull.vertices) == len(polygon)
    edges = np.roll(polygon, -1, axis=0) - polygon
    turns = edges[:, 0] * np.roll(edges, -1, axis=0)[:, 1]
    turns -= edges[:, 1] * np.roll(edges, -1, axis=0)[:, 0]
    assert np.all(turns > 0)


@pytest.mark.parametrize("seed", range(4))
def test_distances_and_areas_against_other_means(seed):
    network, other = random_network(seed), random_network(seed + 50)
    found = tropical.compare_boundaries(network, other, classes=(0, 1), box=BOX)
    u = directions(20000)
    # Hausdorff distance of convex sets: the largest difference of their support functions.
    distance = np.abs(hull_support(network, u) - hull_support(other, u)).max()
    np.testing.assert_allclose(found.hausdorff_distance, distance, rtol=1e-4)
    assert found.hausdorff_distance >= distance - 1e-12
    first, second = (tropical.dual_polygon(*net, classes=(0, 1)) for net in (network, other))
    spans = np.linalg.norm(first[:, None] - first[None], axis=2).max()
    np.testing.assert_allclose(found.relative_distance, found.hausdorff_distance / spans)
    areas = [spatial.ConvexHull(polygon).volume for polygon in (first, second)]
    np.testing.assert_allclose(found.area_ratio, areas[1] / areas[0], rtol=1e-12)
    both = np.concatenate([spatial.ConvexHull(p).equations for p in (first, second)])
    inside = shared_interior(both)
    common = (
        0.0 if inside is None
        else spatial.ConvexHull(spatial.HalfspaceIntersection(both, inside).intersections).volume
    )  # fmt: skip
    np.testing.assert_allclose(found.overlap, common / (sum(areas) - common), rtol=1e-9)


def shared_interior(equations):
    """A point well inside all half-planes, or None."""
    from scipy import optimize

    bounds = [(None, None), (None, None), (0, None)]
    rows = np.concatenate([equations[:, :2], np.ones((len(equations), 1))], axis=1)
    found = optimize.linprog([0, 0, -1], A_ub=rows, b_ub=-equations[:, 2], bounds=bounds)
    return found.x[:2] if found.status == 0 and found.x[2] > 1e-9 else None


def test_a_network_agrees_with_itself():
    network = random_network(2)
    found = tropical.compare_boundaries(network, network, classes=(0, 1), box=BOX)
    np.testing.assert_allclose(found, (0, 0, 0, 1, 1, 0), atol=1e-12)


def test_scaling_the_weights_scales_the_polygon_and_keeps_the_boundary():
    w1, b1, w2, b2 = random_network(2)
    found = tropical.compare_boundaries(
        (w1, b1, w2, b2), (w1, b1, 3 * w2, 3 * b2), classes=(0, 1), box=BOX
    )
    np.testing.assert_allclose(
        [found.area_ratio, found.overlap, found.normal_angle, found.generator_distance],
        [9, 1 / 9, 0, 2],
        atol=1e-9,
    )


@pytest.mark.parametrize("turn", [0.1, -0.7, 2.0, np.pi])
def test_turning_the_plane_turns_the_normals(turn):
    """A straight boundary through the middle: its normal turns by what the plane turns."""
    network = (
        np.array([[1.0, 0.2], [-1.0, -0.2]]), np.zeros(2),
        np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2),
    )  # fmt: skip
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = (network[0] @ rotation.T, *network[1:])
    found = tropical.compare_boundaries(network, turned, classes=(0, 1), box=BOX)
    np.testing.assert_allclose(found.normal_angle, abs(turn), atol=1e-9)
    exchanged = tropical.compare_boundaries(network, turned, classes=(1, 0), box=BOX)
    np.testing.assert_allclose(exchanged, found, atol=1e-12)


def test_flat_and_empty_pictures_are_reported_as_numbers_that_say_so():
    line = (np.array([[1.0, 0.0]]), np.zeros(1), np.array([[1.0], [-1.0]]), np.array([0.0, 9.0]))
    polygon = tropical.dual_polygon(*line, classes=(0, 1))
    np.testing.assert_allclose(polygon, [[0, 0], [2, 0]])
    found = tropical.compare_boundaries(line, line, classes=(0, 1), box=BOX)
    assert found.hausdorff_distance == 0
    assert np.isnan(found.area_ratio)
    assert np.isnan(found.overlap)
    # The boundary lies at 4.5, outside the box.
    assert np.isnan(found.normal_angle)
    nothing = (np.zeros((1, 2)), *line[1:])
    found = tropical.compare_boundaries(line, nothing, classes=(0, 1), box=BOX)
    np.testing.assert_allclose([found.hausdorff_distance, found.relative_distance], [2, 1])


SOLID = (np.ones((9, 3)), *random_network(0, classes=3)[1:])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": SOLID}, ValueError, r"w1 must have shape \[h, 2\]"),
        ({"classes": (0,)}, ValueError, "classes must name at least two"),
        ({"classes": (0, 1, 2)}, ValueError, "classes must be two"),
        ({"other": random_network(0, hidden=4, classes=3)}, ValueError, "other must have 9"),
        ({"box": [[1.0, 1.0], [0.0, 0.0]]}, ValueError, "box must have its lower"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {
        "network": random_network(0, classes=3), "other": random_network(1, classes=3),
        "classes": (0, 1), "box": BOX,
    } | change  # fmt: skip
    network, other = arguments.pop("network"), arguments.pop("other")
    with pytest.raises(error, match=message):
        tropical.compare_boundaries(network, other, **arguments)
