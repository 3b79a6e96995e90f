import jax
import numpy as np
import pytest

from jaxcert import tropical
from tests.tropical.networks import arguments, forward, random_network


def values(function, points):
    with jax.enable_x64(True):
        return np.asarray(tropical.evaluate(function, points))


@pytest.mark.parametrize("sizes", [(2, 6, 3), (4, 4, 2), (2, 5, 4, 2), (2, 3, 3, 3, 1)])
def test_a_network_is_its_rational_map(sizes):
    layers = random_network(0, sizes)
    points = np.random.default_rng(0).normal(size=(300, sizes[0])) * 3.0
    found = tropical.rational_map(layers)
    np.testing.assert_allclose(values(found, points), forward(layers, points), atol=1e-8)


def test_every_monomial_of_one_hidden_layer_is_needed():
    """As many as upper vertices of the zonotopes with these generators: sums of binomials."""
    layers = random_network(1, (2, 7, 2))
    found = tropical.rational_map(layers)
    positive = np.sum(layers[1][0] > 0.0, axis=1)
    for output in range(2):
        top, bottom = found.numerators[output], found.denominators[output]
        assert top.coefficients.size == tropical.generic_num_regions(2, positive[output])
        assert bottom.coefficients.size == tropical.generic_num_regions(2, 7 - positive[output])


def test_the_zonotopes_of_the_paper_are_products_of_the_map():
    layers = random_network(2, (2, 5, 2))
    (h1, h2), (q1, q2) = (lambda r: (r.numerators, r.denominators))(tropical.rational_map(layers))
    points = np.random.default_rng(0).normal(size=(100, 2)) * 3.0
    with jax.enable_x64(True):
        zonotopes = tropical.decision_zonotopes(*arguments(layers), classes=(0, 1), cancel=False)
        ones = np.concatenate([points, np.ones((100, 1))], axis=1)
        supports = [np.asarray(tropical.support(z, ones)) for z in zonotopes]
    np.testing.assert_allclose(supports[0], values(h1, points) + values(q2, points), atol=1e-9)
    np.testing.assert_allclose(supports[1], values(h2, points) + values(q1, points), atol=1e-9)


def test_a_zonotope_is_the_polynomial_of_its_upper_vertices():
    rng = np.random.default_rng(0)
    generators = rng.normal(size=(7, 3))
    generators[1, :2] = 0.0
    generators[2] = 2.0 * generators[0]
    generators[3] = 0.0
    zonotope = tropical.Zonotope(rng.normal(size=3), generators)
    found = tropical.zonotope_polynomial(zonotope)
    points = rng.normal(size=(100, 2))
    with jax.enable_x64(True):
        ones = np.concatenate([points, np.ones((100, 1))], axis=1)
        expected = np.asarray(tropical.support(zonotope, ones))
    np.testing.assert_allclose(values(found, points), expected, atol=1e-12)
    # Four directions count: two are parallel, one vertical, one zero.
    assert found.coefficients.size == tropical.generic_num_regions(2, 4)
    assert tropical.prune_monomials(found).coefficients.size == found.coefficients.size
    point = tropical.zonotope_polynomial(tropical.Zonotope(np.ones(3), np.zeros((0, 3))))
    np.testing.assert_array_equal(point.exponents, [[1.0, 1.0]])


@pytest.mark.parametrize("cancel", [True, False])
def test_the_boundary_lies_in_the_hypersurface_and_is_less(cancel):
    layers = random_network(0, (2, 8, 3))
    polynomial, owner = tropical.decision_polynomial(
        *arguments(layers), classes=None, cancel=cancel
    )
    box = [[-3, -3], [3, 3]]
    segments = tropical.boundary_segments(*arguments(layers), classes=None, box=box)
    middle = (segments.start + segments.end) / 2.0
    with jax.enable_x64(True):
        gap = np.asarray(tropical.monomial_gap(polynomial, middle))
        np.testing.assert_allclose(gap, 0.0, atol=1e-9)
        points = np.random.default_rng(0).uniform(-3, 3, size=(500, 2))
        best = np.asarray(tropical.monomial_values(polynomial, points)).argmax(axis=1)
    np.testing.assert_array_equal(owner[best], forward(layers, points).argmax(axis=1))
    # The monomials of one class tie along bends that no boundary follows.
    division = tropical.dual_subdivision(polynomial)
    assert len(division.edges) > len(segments.start)


def test_bad_input():
    with pytest.raises(ValueError, match="max_monomials=10"):
        tropical.rational_map(random_network(0, (2, 8, 8, 1)), max_monomials=10)
    with pytest.raises(ValueError, match="must lie in R"):
        tropical.zonotope_polynomial(tropical.Zonotope(np.zeros(1), np.ones((1, 1))))
    with pytest.raises(ValueError, match="generators must be finite"):
        tropical.zonotope_polynomial(tropical.Zonotope(np.zeros(2), np.full((1, 2), np.nan)))
    with pytest.raises(ValueError, match="max_bytes=10"):
        tropical.decision_polynomial(
            *arguments(random_network(0, (2, 8, 2))), classes=None, max_bytes=10
        )
