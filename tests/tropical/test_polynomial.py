"""Tropical polynomials: their algebra, their hypersurface, and which monomials count."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxcert import tropical
from jaxcert.tropical import RationalMap, TropicalPolynomial, _active


def polynomial(seed, count=6, variables=2):
    generator = np.random.default_rng(seed)
    return TropicalPolynomial(
        generator.normal(size=count), generator.normal(size=(count, variables))
    )


def points(seed, number=50, variables=2):
    return np.random.default_rng(seed).normal(size=(number, variables)) * 3


def by_hand(one, x):
    return np.max(np.asarray(one.coefficients) + x @ np.asarray(one.exponents).T, axis=-1)


def test_algebra_is_that_of_the_functions():
    f, g, x = polynomial(0), polynomial(1, 4), points(2)
    with jax.enable_x64(True):
        for found, expected in (
            (tropical.evaluate(f, x), by_hand(f, x)),
            (
                tropical.evaluate(tropical.polynomial_sum(f, g), x),
                np.maximum(by_hand(f, x), by_hand(g, x)),
            ),
            (
                tropical.evaluate(tropical.polynomial_product(f, g), x),
                by_hand(f, x) + by_hand(g, x),
            ),
            (tropical.evaluate(tropical.polynomial_power(f, 2.5), x), 2.5 * by_hand(f, x)),
            (tropical.evaluate(tropical.polynomial_power(f, 0.0), x), np.zeros(50)),
            (
                tropical.evaluate(RationalMap((f, g), (g, f)), x),
                np.stack([by_hand(f, x) - by_hand(g, x), by_hand(g, x) - by_hand(f, x)], axis=1),
            ),
        ):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_missing_monomials_stay_away():
    f = TropicalPolynomial([-np.inf, 1.0], [[5.0], [0.0]])
    assert tropical.evaluate(f, [100.0]) == 1.0
    assert tropical.evaluate(tropical.polynomial_product(f, f), [100.0]) == 2.0
    assert tropical.evaluate(tropical.polynomial_power(f, 3.0), [100.0]) == 3.0
    assert tropical.active_monomials(f).indices.tolist() == [1]


@chex.assert_max_traces(n=1)
def traced(f, x):
    return tropical.evaluate(f, x), tropical.monomial_gap(f, x)


def test_transformations():
    compiled = jax.jit(traced)
    for seed in range(3):
        f = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), polynomial(seed))
        value, gap = compiled(f, points(3).astype(np.float32))
        np.testing.assert_allclose(
            value, by_hand(polynomial(seed), points(3)), rtol=1e-4, atol=1e-4
        )
        assert value.dtype == jnp.float32
        assert np.all(gap >= 0)
    # The gradient is the exponent of the largest monomial.
    slope = jax.grad(tropical.evaluate, argnums=1)(f, jnp.asarray(points(3)[0], jnp.float32))
    largest = np.argmax(tropical.monomial_values(f, points(3)[0]))
    np.testing.assert_array_equal(slope, f.exponents[largest])
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(polynomial(s) for s in range(3)))
    assert jax.vmap(tropical.evaluate, (0, None))(batch, points(3)).shape == (3, 50)


def test_hypersurface_of_a_tropical_line():
    line = TropicalPolynomial([0.0, 0.0, 0.0], [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    on = [[0.0, 0.0], [2.0, 2.0], [-3.0, 0.0], [0.0, -1.0]]
    off = [[1.0, 2.0], [-1.0, -1.0], [0.5, 0.0], [-2.0, -2.0]]
    np.testing.assert_array_equal(tropical.on_hypersurface(line, on), True)
    np.testing.assert_array_equal(tropical.on_hypersurface(line, off), False)
    # The diagonal below the corner ties two monomials that are not the largest.
    assert tropical.on_hypersurface(line, [0.0, 1e-3], tolerance=1e-2)


def test_a_repeated_exponent_is_no_tie():
    twice = TropicalPolynomial([0.0, 0.0, -5.0], [[1.0], [1.0], [0.0]])
    np.testing.assert_array_equal(tropical.monomial_gap(twice, [[0.0], [-5.0]]), [5.0, 0.0])
    assert tropical.monomial_gap(TropicalPolynomial([0.0], [[1.0]]), [3.0]) == np.inf


def by_linear_programs(f):
    """Which monomials are the largest somewhere by a clear amount: one program each."""
    c, a = np.asarray(f.coefficients), np.asarray(f.exponents)
    found = []
    for i in range(len(c)):
        others = np.arange(len(c)) != i
        solved = optimize.linprog(
            np.append(np.zeros(a.shape[1]), -1.0),
            A_ub=np.column_stack([a[others] - a[i], np.ones(others.sum())]),
            b_ub=c[i] - c[others],
            bounds=[(None, None)] * a.shape[1] + [(None, 1.0)],
        )
        if solved.status == 0 and solved.x[-1] > 1e-7:
            found.append(i)
    return found


@pytest.mark.parametrize(
    ("seed", "count", "variables"),
    [(0, 12, 1), (1, 25, 2), (2, 25, 3), (3, 15, 5), (4, 20, 8), (5, 3, 4)],
)
def test_active_monomials_are_those_of_linear_programs(seed, count, variables):
    f = polynomial(seed, count, variables)
    found = tropical.active_monomials(f)
    assert found.indices.tolist() == by_linear_programs(f)
    assert found.gap.min() > 0
    values = np.asarray(f.coefficients) + found.points @ np.asarray(f.exponents).T
    np.testing.assert_array_equal(values.argmax(axis=1), found.indices)
    ordered = np.sort(values, axis=1)
    np.testing.assert_allclose(ordered[:, -1] - ordered[:, -2], found.gap, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_pruning_keeps_the_function(seed):
    """A product of three has many monomials that are below, on, or twice on the upper hull."""
    generator = np.random.default_rng(seed)
    f = TropicalPolynomial(np.zeros(1), np.zeros((1, 2)))
    for _ in range(4):
        factor = TropicalPolynomial(
            generator.integers(-2, 3, 3).astype(float),
            generator.integers(0, 2, (3, 2)).astype(float),
        )
        f = tropical.polynomial_product(f, factor)
    pruned = tropical.prune_monomials(f)
    x = points(seed, 2000)
    np.testing.assert_allclose(by_hand(pruned, x), by_hand(f, x), atol=1e-5)
    assert len(pruned.coefficients) == len(set(map(tuple, pruned.exponents.tolist())))
    assert len(pruned.coefficients) <= 16
    assert pruned.coefficients.dtype == np.float64
    again = tropical.prune_monomials(pruned)
    np.testing.assert_array_equal(again.exponents, pruned.exponents)


def test_monomials_on_a_face_of_the_hull_are_not_needed():
    square = TropicalPolynomial(np.zeros(9), np.indices((3, 3)).reshape(2, 9).T.astype(float))
    assert tropical.active_monomials(square).indices.tolist() == [0, 2, 6, 8]


def test_without_the_hull_linear_programs_decide(monkeypatch):
    """Qhull is a guess: the answer is the same when it gives nothing, or nonsense."""
    f = polynomial(7, 30, 2)
    expected = tropical.active_monomials(f).indices
    empty = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    monkeypatch.setattr(_active, "upper_hull", lambda *_: empty)
    np.testing.assert_array_equal(tropical.active_monomials(f).indices, expected)
    generator = np.random.default_rng(0)
    nonsense = generator.normal(size=(20, 3)), generator.integers(0, 30, (20, 3))
    monkeypatch.setattr(_active, "upper_hull", lambda *_: nonsense)
    np.testing.assert_array_equal(tropical.active_monomials(f).indices, expected)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scales_do_not_matter(scale):
    f = polynomial(8, 20, 2)
    expected = tropical.active_monomials(f).indices
    for c, a in ((scale, 1.0), (1.0, scale), (scale, scale)):
        scaled = TropicalPolynomial(c * f.coefficients + 7.0 * c, a * f.exponents - 3.0 * a)
        np.testing.assert_array_equal(tropical.active_monomials(scaled).indices, expected)


def test_one_exponent_needs_one_monomial():
    f = TropicalPolynomial([1.0, 3.0, 2.0], [[1.0, 2.0]] * 3)
    found = tropical.active_monomials(f)
    assert found.indices.tolist() == [1]
    assert found.gap.tolist() == [np.inf]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tropical.evaluate(3, [1.0]), TypeError, "must be a TropicalPolynomial"),
        (lambda: tropical.evaluate(polynomial(0), [1.0]), ValueError, "points must have shape"),
        (lambda: tropical.evaluate(TropicalPolynomial([1.0], [[1.0], [2.0]]), [1.0]), ValueError,
         "exponents must have shape \\[1, n\\]"),
        (lambda: tropical.evaluate(TropicalPolynomial([], np.zeros((0, 1))), [1.0]), ValueError,
         "coefficients must have shape"),
        (lambda: tropical.evaluate(RationalMap((polynomial(0),), ()), [1.0, 1.0]), ValueError,
         "as many numerators"),
        (lambda: tropical.polynomial_power(polynomial(0), -1.0), ValueError, "at least 0"),
        (lambda: tropical.polynomial_power(polynomial(0), [1.0]), ValueError, "a scalar"),
        (lambda: tropical.polynomial_sum(polynomial(0), polynomial(0, 3, 3)), ValueError,
         "same variables"),
        (lambda: tropical.on_hypersurface(polynomial(0), [0.0, 0.0], tolerance=-1.0), ValueError,
         "tolerance"),
        (lambda: tropical.active_monomials(TropicalPolynomial([np.nan], [[1.0]])), ValueError,
         "finite or -inf"),
        (lambda: tropical.active_monomials(TropicalPolynomial([-np.inf], [[1.0]])), ValueError,
         "not all be -inf"),
        (lambda: tropical.active_monomials(TropicalPolynomial([0.0], [[np.inf]])), ValueError,
         "exponents must be finite"),
        (lambda: tropical.prune_monomials("f"), TypeError, "must be a TropicalPolynomial"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_program_that_claims_too_much_ends_and_keeps_the_function(monkeypatch):
    """Broken on purpose: a gap that is not there never drops a monomial, nor runs for ever."""
    largest_gap = _active._largest_gap

    def claiming(one, others, heights, positions):
        return 1e-3, largest_gap(one, others, heights, positions)[1]

    f = polynomial(9, 15, 2)
    empty = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    monkeypatch.setattr(_active, "upper_hull", lambda *_: empty)
    monkeypatch.setattr(_active, "_largest_gap", claiming)
    pruned = tropical.prune_monomials(f)
    np.testing.assert_allclose(by_hand(pruned, points(9, 500)), by_hand(f, points(9, 500)))
