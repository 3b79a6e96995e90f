import numpy as np
import pytest

from jaxcert import tropical
from tests.tropical.networks import arguments, random_network

BOX = np.array([[-3.0, -2.5], [2.5, 3.0]])


def extract(layers, cancel, classes=None):
    return tropical.hypersurface_segments(
        *arguments(layers), classes=classes, box=BOX, cancel=cancel
    )


def winners(polynomial, points):
    values = polynomial.coefficients + points @ polynomial.exponents.T
    return values.argmax(axis=-1)


def gaps(polynomial, points):
    """How far the best monomial is above the best one of another exponent."""
    values = polynomial.coefficients + points @ polynomial.exponents.T
    best = values.argmax(axis=1)
    apart = np.abs(polynomial.exponents[best][:, None] - polynomial.exponents).max(axis=2) > 1e-9
    return values.max(axis=1) - np.where(apart, values, -np.inf).max(axis=1)


def hits(found, start, end):
    """Where a segment meets the extracted ones."""
    step, along = end - start, found.end - found.start
    offset = found.start - start
    determinant = step[0] * along[:, 1] - step[1] * along[:, 0]
    t = (offset[:, 0] * along[:, 1] - offset[:, 1] * along[:, 0]) / determinant
    u = (offset[:, 0] * step[1] - offset[:, 1] * step[0]) / determinant
    return np.sort(t[(t >= 0.0) & (t <= 1.0) & (u >= 0.0) & (u < 1.0)])


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("sizes", [(2, 8, 2), (2, 9, 3)])
def test_a_walk_meets_it_where_another_monomial_wins(sizes, cancel):
    rng = np.random.default_rng(0)
    total = 0
    for seed in range(3):
        layers = random_network(seed, sizes)
        polynomial, _ = tropical.decision_polynomial(
            *arguments(layers), classes=None, cancel=cancel
        )
        found = extract(layers, cancel)
        gap = gaps(polynomial, (found.start + found.end) / 2.0)
        np.testing.assert_allclose(gap, 0.0, atol=1e-9)
        for start, end in rng.uniform(BOX[0], BOX[1], size=(4, 2, 2)):
            place = np.linspace(0.0, 1.0, 20_001)
            best = winners(polynomial, start + place[:, None] * (end - start))
            steps = np.flatnonzero(np.diff(best))
            met = hits(found, start, end)
            assert met.size == steps.size
            np.testing.assert_allclose(met, (place[steps] + place[steps + 1]) / 2.0, atol=1e-4)
            total += steps.size
    assert total > 20


def test_the_boundary_is_the_part_where_two_classes_tie():
    layers = random_network(1, (2, 9, 3))
    polynomial, owner = tropical.decision_polynomial(*arguments(layers), classes=None)
    found = extract(layers, True)
    assert 5 < found.boundary.sum() < found.boundary.size
    np.testing.assert_array_equal(found.unit < 0, found.boundary)
    step = found.end - found.start
    length = np.linalg.norm(step, axis=1)
    long = length > 1e-3
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / length[:, None] * 1e-7
    middle = (found.start + found.end) / 2.0
    sides = [owner[winners(polynomial, (middle + sign * normal)[long])] for sign in (1, -1)]
    np.testing.assert_array_equal(sides[0] != sides[1], found.boundary[long])


def test_cancelling_leaves_less_of_the_hypersurface_and_the_same_boundary():
    layers = random_network(0, (2, 9, 2))
    less, more = extract(layers, True), extract(layers, False)

    def length(found, kept):
        return np.linalg.norm((found.end - found.start)[kept], axis=1).sum()

    assert length(less, less.boundary) == pytest.approx(length(more, more.boundary))
    assert length(less, ~less.boundary) < 0.9 * length(more, ~more.boundary)
    # In the paper's hypersurface every unit shows all along.
    (w1, b1), _ = layers
    for unit in range(9):
        mine = more.unit == unit
        assert not np.any(mine) or np.abs(more.start[mine] @ w1[unit] + b1[unit]).max() < 1e-9


def test_the_outline_of_a_tied_cone_is_hypersurface_but_not_boundary():
    found = tropical.hypersurface_segments(
        np.eye(2), None, np.eye(2), None, classes=(0, 1), box=[[-1, -1], [1, 1]]
    )
    rest = ~found.boundary
    assert rest.sum() == 2
    assert np.all(np.maximum(found.start[rest], found.end[rest]) <= 1e-12)
    assert found.boundary.sum() == 1
