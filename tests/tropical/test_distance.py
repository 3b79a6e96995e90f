import fractions
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import attacks, tropical
from jaxcert.tropical import _distance, _half_spaces
from tests.tropical.networks import (
    affine_piece,
    arguments,
    forward,
    inside_pattern,
    patterns,
    random_network,
)


def exhaustive_distance(layers, center):
    """Nearest point with another class: all activation patterns, all sets of active constraints."""
    dimension, num_units = center.size, layers[0][0].shape[0]
    label = forward(layers, center[None])[0].argmax()
    best = np.inf
    for rival in range(layers[1][0].shape[0]):
        if rival == label:
            continue
        normals, offsets = [], []
        for pattern in patterns(num_units):
            matrix, bound = inside_pattern(layers, pattern)
            slope, offset = affine_piece(layers, pattern)
            rows = np.concatenate([-matrix, (slope[rival] - slope[label])[None]])
            limits = np.append(-bound, offset[label] - offset[rival])
            normals.append(rows)
            offsets.append(limits - rows @ center)
        normals, offsets = np.array(normals), np.array(offsets)
        for size in range(dimension + 1):
            for subset in itertools.combinations(range(num_units + 1), size):
                chosen = normals[:, subset]
                step = np.einsum("pdm,pm->pd", np.linalg.pinv(chosen), offsets[:, subset])
                slack = np.einsum("pcd,pd->pc", normals, step) - offsets
                feasible = np.all(slack >= -1e-9, axis=1)
                lengths = np.linalg.norm(step, axis=1)
                best = min(best, lengths[feasible].min(initial=np.inf))
    return best


def cases(count):
    shapes = [(2, 5, 2), (2, 6, 3), (3, 5, 2)]
    for seed in range(count):
        sizes = shapes[seed % 3]
        center = np.random.default_rng(seed).normal(size=sizes[0])
        yield random_network(seed, sizes), center


def apply(w1, b1, w2, b2, x):
    return jax.nn.relu(x @ w1.T + b1) @ w2.T + b2


def solve(layers, points, **settings):
    return tropical.boundary_distance(points, *arguments(layers), classes=None, **settings)


def test_exact_on_a_hundred_networks():
    for layers, center in cases(100):
        found = solve(layers, center[None])
        expected = exhaustive_distance(layers, center)
        assert found.lower[0] <= expected * (1 + 1e-9)
        assert found.upper[0] >= expected * (1 - 1e-9)
        assert found.upper[0] - found.lower[0] <= 1e-9 * found.upper[0]


def test_between_every_certificate_and_every_attack():
    rng = np.random.default_rng(0)
    for seed in range(4):
        layers = random_network(seed, (4, 10, 3))
        points = rng.normal(size=(5, 4))
        (w1, b1), (w2, b2) = layers
        found = solve(layers, points)
        scores = np.sort(forward(layers, points), axis=1)
        margin = scores[:, -1] - scores[:, -2]
        norms = np.linalg.norm(w1, 2) * np.linalg.norm(w2, 2)
        assert np.all(margin / (np.sqrt(2) * norms) <= found.lower)
        with jax.enable_x64(True):
            # A pytree with its weights as leaves: all networks share the compiled attacks.
            classify = jax.tree_util.Partial(apply, *map(jnp.asarray, (w1, b1, w2, b2)))
            inputs, labels = jnp.asarray(points), jnp.asarray(found.label)
            fool = attacks.deepfool(classify, inputs, labels)
            ascent = attacks.pgd(
                jax.random.key(seed), classify, inputs, labels,
                radius=jnp.asarray(1.05 * found.upper + 1e-3), num_steps=60, num_restarts=4,
            )  # fmt: skip
            inside = attacks.pgd(
                jax.random.key(seed), classify, inputs, labels,
                radius=jnp.asarray(found.lower), num_steps=60, num_restarts=4,
            )  # fmt: skip
        for attack in (fool, ascent):
            reached = np.linalg.norm(np.asarray(attack.inputs) - points, axis=1)
            success = np.asarray(attack.success)
            assert success.sum() >= 3
            assert np.all(reached[success] >= found.lower[success])
        assert not np.any(inside.success)


def test_in_the_plane_as_far_as_the_segments():
    """The nearest point of the extracted boundary, an algorithm that shares nothing."""
    layers = random_network(3, (2, 60, 3))
    points = np.random.default_rng(1).uniform(-2, 2, size=(8, 2))
    found = solve(layers, points)
    segments = tropical.boundary_segments(
        *arguments(layers), classes=None, box=[[-50, -50], [50, 50]]
    )
    step = segments.end - segments.start
    offset = points[:, None] - segments.start
    share = np.clip(np.sum(offset * step, axis=2) / np.sum(step**2, axis=1), 0.0, 1.0)
    gap = np.linalg.norm(offset - share[:, :, None] * step, axis=2).min(axis=1)
    np.testing.assert_allclose(found.upper, gap, rtol=1e-9)
    np.testing.assert_allclose(found.lower, gap, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(5, 20, 2), (30, 20, 4)])
def test_the_witness_has_another_class_and_no_nearer_point_has(sizes):
    layers = random_network(0, sizes)
    points = np.random.default_rng(5).normal(size=(4, sizes[0]))
    found = solve(layers, points)
    assert np.all(found.upper - found.lower <= 1e-9 * found.upper)
    witness = forward(layers, found.point)
    rows = np.arange(4)
    assert np.all(witness[rows, found.rival] >= witness[rows, found.label])
    assert np.all(np.linalg.norm(found.point - points, axis=1) <= found.upper)
    # Directions towards the witness are where a nearer change would be.
    rng = np.random.default_rng(6)
    ways = found.point - points + 0.3 * found.upper[:, None] * rng.normal(size=(500, *points.shape))
    ways /= np.linalg.norm(ways, axis=2, keepdims=True)
    inside = points + ways * (found.lower * (1 - 1e-9))[:, None]
    labels = forward(layers, inside.reshape(-1, sizes[0])).argmax(axis=1).reshape(500, 4)
    assert np.all(labels == found.label)


def test_bounds_hold_when_the_search_is_cut_short():
    layers = random_network(0, (5, 40, 2))
    points = np.random.default_rng(0).normal(size=(3, 5))
    exact = solve(layers, points)
    assert exact.num_nodes.max() > 20
    for max_nodes in (1, 5, 20):
        short = solve(layers, points, max_nodes=max_nodes)
        assert np.all(short.lower <= exact.upper)
        assert np.all(short.upper >= exact.lower)
        assert np.all(short.num_nodes <= max_nodes + 1)
    near = solve(layers, points, max_distance=0.2)
    assert np.all(near.lower <= 0.2)
    far = exact.lower > 0.2
    np.testing.assert_array_equal(near.lower[far], 0.2)


def test_no_boundary_at_all():
    found = tropical.boundary_distance(
        np.zeros((1, 2)), np.eye(2), None, [[1.0, 1.0], [0.0, 0.0]], [1.0, 0.0], classes=None
    )
    assert found.upper[0] == np.inf
    assert found.rival[0] == -1
    assert found.lower[0] > 1e10
    assert np.all(np.isnan(found.point))


def test_a_tie_has_distance_zero():
    """All units are off, where both scores are 0."""
    found = tropical.boundary_distance(
        np.full((1, 2), -1.0), np.eye(2), None, np.eye(2), None, classes=(0, 1)
    )
    assert found.lower[0] == 0.0


def exact_bound(spaces, multipliers):
    """The half-space that multipliers add up to, as its squared distance in rational numbers."""
    rational = np.vectorize(fractions.Fraction, otypes=[object])
    weight, normal = rational(multipliers), rational(spaces.normal)
    total = (weight[:, None] * normal).sum(axis=0)
    offset = (weight * rational(spaces.offset)).sum()
    return offset, (total**2).sum()


def test_the_bound_of_multipliers_rounds_down():
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(200):
        count, dimension = rng.integers(1, 6), rng.integers(1, 5)
        spaces = _half_spaces.HalfSpaces(
            rng.normal(size=(count, dimension)), rng.normal(size=count) + 1.0,
            np.zeros(count), np.zeros(count),
        )  # fmt: skip
        multipliers = rng.exponential(size=count)
        bound = _half_spaces.distance_lower(spaces, multipliers)
        offset, square = exact_bound(spaces, multipliers)
        if offset > 0:
            assert fractions.Fraction(bound) ** 2 * square <= offset**2
            gaps.append(1.0 - bound / (float(offset) / float(square) ** 0.5))
        else:
            assert bound == 0.0
    assert 0.0 < max(gaps) < 1e-12


def test_a_relaxation_on_the_wrong_side_is_noticed(monkeypatch):
    """Chords for the units that need a line below them cut true boundary points off."""
    right = _distance._lead_not_positive

    def wrong(lead, on, loose, guess, low, high):
        return right(lead._replace(factor=np.abs(lead.factor)), on, loose, guess, low, high)

    monkeypatch.setattr(_distance, "_lead_not_positive", wrong)
    broken = [
        solve(layers, center[None]).lower[0] > exhaustive_distance(layers, center) * (1 + 1e-6)
        for layers, center in cases(9)
    ]
    assert any(broken)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"points": np.zeros(2)}, ValueError, r"points must have shape \[n, 2\]"),
        ({"points": np.full((1, 2), np.nan)}, ValueError, "points must be finite"),
        ({"w2": np.ones((2, 4))}, ValueError, "w2 must have one column"),
        ({"classes": (0,)}, ValueError, "at least two different"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"max_distance": -1.0}, ValueError, "max_distance"),
        ({"max_nodes": 0}, ValueError, "max_nodes"),
    ],
)
def test_bad_input(change, error, words):
    good = {
        "points": np.zeros((1, 2)), "w1": np.ones((3, 2)), "b1": None, "w2": np.ones((2, 3)),
        "b2": None,
    }  # fmt: skip
    settings = {"classes": None} | {n: v for n, v in change.items() if n not in good}
    good |= {name: value for name, value in change.items() if name in good}
    with pytest.raises(error, match=words):
        tropical.boundary_distance(*good.values(), **settings)
