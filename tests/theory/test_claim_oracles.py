"""The oracles of the claims about batches, regions and networks, against slower definitions."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special

from theory import (
    batch_convergence,
    batch_problems,
    law_of_robustness,
    margins,
    search,
    smoothed_lipschitz,
    tropical_regions,
    zonotopes,
)


def problem_and_draw(seed=3):
    rng = np.random.default_rng(seed)
    return batch_problems.random_problem(rng), rng.dirichlet(np.ones(5))


@pytest.mark.parametrize("family", batch_problems.FAMILIES)
@pytest.mark.parametrize("size", [1, 2])
def test_laws_are_probabilities_and_unbiased(family, size):
    problem, draw = problem_and_draw()
    law = batch_problems.law(problem, family, size, draw)
    assert law.probability.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(law.probability @ law.weights, np.ones(5), rtol=1e-12)
    if "independent" not in family:
        assert set((law.weights > 0).sum(axis=1)) <= set(range(1, size + 1))


def test_optimum_has_no_gradient():
    problem, _ = problem_and_draw()
    np.testing.assert_allclose(problem.gradients(problem.optimum).mean(axis=0), 0, atol=1e-12)


def test_moments_are_those_of_all_paths():
    problem, draw = problem_and_draw()
    law = batch_problems.law(problem, "nice", 2, draw)
    start, step = np.array([1.0, -2.0, 0.5]), 0.03
    expected = np.zeros(3)
    for path in itertools.product(range(len(law.probability)), repeat=2):
        point, probability = problem.optimum + start, 1.0
        distances = [start @ start]
        for batch in path:
            probability *= law.probability[batch]
            point = point - step * law.weights[batch] @ problem.gradients(point) / 5
            distances.append(float(((point - problem.optimum) ** 2).sum()))
        expected += probability * np.array(distances)
    found = batch_convergence.moments(problem, law, step, start, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_lines_and_programs_count_the_same_regions():
    rng = np.random.default_rng(5)
    w1, b1 = rng.normal(size=(5, 2)), rng.normal(size=5)
    w1[3], b1[4] = w1[2], 0.0
    assert tropical_regions.regions_of_lines(w1, b1) == tropical_regions.regions_by_programs(w1, b1)


def test_pieces_on_a_line_are_those_that_a_fine_grid_meets():
    rng = np.random.default_rng(1)
    layers = [
        (rng.normal(size=(b, a)), rng.normal(size=b)) for a, b in itertools.pairwise((1, 4, 3))
    ]
    inputs = np.linspace(-60, 60, 600_001)
    patterns = np.concatenate(
        [tropical_regions._before_relu(layers, inputs, depth) > 0 for depth in range(2)], axis=1
    )
    met = 1 + int(np.any(patterns[1:] != patterns[:-1], axis=1).sum())
    assert tropical_regions.pieces_on_a_line(layers) == met
    assert met > 5


def test_crossings_are_zeros():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 30, 2))
    points = tropical_regions.crossings(lambda x: x[:, 0] ** 3 - 0.1, start, end)
    assert 5 < len(points) < 30
    np.testing.assert_allclose(points[:, 0], 0.1 ** (1 / 3), rtol=1e-12)


@pytest.mark.parametrize(
    ("point", "depth"), [((0.5, 0.5), 0.5), ((0.1, 0.7), 0.1), ((1.2, 0.4), -0.2)]
)
def test_depth_in_a_square_is_the_least_coordinate(point, depth):
    found = zonotopes.depth(np.zeros(2), np.eye(2), np.array(point))
    assert found == pytest.approx(depth)


def test_distances_of_a_linear_map_are_met_and_not_undercut():
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(3, 2)), rng.normal(size=3)
    point = rng.normal(size=(1, 2))
    (distance,) = margins.distances(weight, bias, point)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def labels(radius):
        return ((point + radius * circle) @ weight.T + bias).argmax(axis=1)

    assert len(set(labels(0.999 * distance))) == 1
    assert len(set(labels(1.001 * distance))) > 1


@pytest.mark.parametrize(("norm", "constant"), [(2, 3.0), (math.inf, 3.0), (1, 4.0)])
def test_constants_of_a_diagonal_map(norm, constant):
    # |(3 u, v)|_1 on the unit circle is 3 u + v, at most the root of 10.
    expected = math.sqrt(10) if norm == 1 else constant
    assert margins.constant(np.diag([3.0, 1.0]), norm) == pytest.approx(expected)


def test_smoothed_step_function_is_the_integral():
    levels, edges = np.array([[0.2, 0.9, 0.1]]), np.array([[-0.3, 1.1]])

    def function(x):
        return float(levels[0][np.searchsorted(edges[0], x)])

    expected, _ = integrate.quad(
        lambda t: function(0.4 + t) * math.exp(-t * t / 2) / math.sqrt(2 * math.pi), -9, 9,
        points=[-0.7, 0.7], limit=200,
    )  # fmt: skip
    found = smoothed_lipschitz.smoothed(levels, edges, np.array([0.4]))
    assert found[0] == pytest.approx(expected, abs=1e-9)
    assert special.ndtr(0.0) == 0.5


def test_polygon_through_points_on_a_line_fits_them():
    points = np.array([[-0.9], [0.3], [-0.2], [0.8]])
    labels = np.array([1.0, -1.0, 1.0, 1.0])
    network = law_of_robustness.fitted(np.random.default_rng(0), points, labels)
    slope, misfit = law_of_robustness.steepest(network, points, labels)
    assert misfit < 1e-12
    assert slope == pytest.approx(2 / 0.5)


def test_worst_keeps_the_least_and_what_is_no_number():
    worst = search.Worst()
    worst.see(0.5, "first")
    worst.see(0.2, "second", count=3)
    worst.see(0.4, "third")
    assert (worst.slack, worst.witness, worst.trials) == (0.2, "second", 5)
    assert worst.verdict(1, tolerance=0.0).holds
    assert not worst.verdict(1, tolerance=0.0, tightness=0.9, least_tightness=0.99).holds
    worst.see(float("nan"), "no number")
    assert worst.slack == -math.inf
    assert not worst.verdict(1, tolerance=1e9).holds


def downhill(point, constants):
    return -((point - constants) ** 2).sum()


def test_ascent_reaches_the_top():
    starts = np.random.default_rng(0).normal(size=(4, 3))
    found = search.ascend(downhill, np.array([0.5, -0.5, 1.0]), starts, steps=300)
    np.testing.assert_allclose(found, np.tile([0.5, -0.5, 1.0], (4, 1)), atol=1e-3)
