"""The axioms of the max-plus semiring, and products of matrices as heaviest paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import tropical
from jaxcert.tropical import ONE, ZERO

NUMBERS = np.array([ZERO, -2.5, ONE, 1.0, 7.25], np.float32)


def test_axioms():
    x, y, z = (jnp.asarray(v) for v in np.meshgrid(NUMBERS, NUMBERS, NUMBERS, indexing="ij"))
    add, multiply = tropical.add, tropical.multiply
    for one, other in (
        (add(x, y), add(y, x)),
        (add(x, add(y, z)), add(add(x, y), z)),
        (add(x, x), x),
        (add(x, ZERO), x),
        (multiply(x, y), multiply(y, x)),
        (multiply(x, multiply(y, z)), multiply(multiply(x, y), z)),
        (multiply(x, ONE), x),
        (multiply(x, ZERO), jnp.full_like(x, ZERO)),
        (multiply(x, add(y, z)), add(multiply(x, y), multiply(x, z))),
    ):
        np.testing.assert_array_equal(one, other)


def test_quotients_and_powers():
    finite = NUMBERS[1:]
    quotient = tropical.divide(finite[:, None], finite[None, :])
    np.testing.assert_array_equal(
        tropical.multiply(quotient, finite[None, :]) + 0 * quotient, finite[:, None] + 0 * quotient
    )
    assert tropical.divide(ZERO, 3.0) == ZERO
    assert np.isnan(tropical.divide(ZERO, ZERO))
    np.testing.assert_array_equal(tropical.power(finite, 2.0), tropical.multiply(finite, finite))
    np.testing.assert_array_equal(tropical.power(NUMBERS, 0.0), np.zeros(5))
    assert tropical.power(ZERO, 0.5) == ZERO
    assert np.isnan(tropical.power(ZERO, -1.0))


def test_gradients_stay_finite_beside_the_tropical_zero():
    slope = jax.grad(lambda x: jnp.sum(jnp.where(jnp.isfinite(x), tropical.power(x, 3.0), 0)))
    np.testing.assert_array_equal(slope(jnp.asarray([ZERO, 2.0])), [0.0, 3.0])
    weights = jnp.array([[0.0, ZERO], [1.0, 2.0]])
    slope = jax.grad(lambda w: tropical.matmul(w, jnp.array([[5.0], [1.0]]))[1, 0])(weights)
    np.testing.assert_array_equal(slope, [[0.0, 0.0], [1.0, 0.0]])


def test_matrix_powers_are_the_heaviest_paths():
    generator = np.random.default_rng(0)
    weights = np.where(generator.random((4, 4)) < 0.3, -np.inf, generator.integers(-5, 6, (4, 4)))
    for steps in range(5):
        heaviest = np.full((4, 4), -np.inf)
        for path in itertools.product(range(4), repeat=steps + 1):
            total = sum(weights[i, j] for i, j in itertools.pairwise(path))
            heaviest[path[0], path[-1]] = max(heaviest[path[0], path[-1]], total)
        found = tropical.matrix_power(jnp.asarray(weights, jnp.float32), steps)
        np.testing.assert_array_equal(found, heaviest)


def test_products_are_associative_and_have_a_unit():
    generator = np.random.default_rng(1)
    a, b, c = (
        jnp.asarray(generator.integers(-9, 9, s), jnp.float32) for s in ((3, 4), (4, 5), (5, 2))
    )
    left = tropical.matmul(tropical.matmul(a, b), c)
    np.testing.assert_array_equal(left, tropical.matmul(a, tropical.matmul(b, c)))
    np.testing.assert_array_equal(tropical.matmul(tropical.identity(3), a), a)
    np.testing.assert_array_equal(tropical.matmul(a, tropical.identity(4)), a)
    batch = jnp.stack([a, a + 1])
    np.testing.assert_array_equal(
        jax.vmap(lambda x: tropical.matmul(x, b))(batch), tropical.matmul(batch, b)
    )
    empty = tropical.matmul(jnp.zeros((2, 0)), jnp.zeros((0, 3)))
    np.testing.assert_array_equal(empty, np.full((2, 3), ZERO))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tropical.matmul(np.zeros((2, 3)), np.zeros((2, 3))), "x and y must have shapes"),
        (lambda: tropical.matmul(np.zeros(3), np.zeros((3, 3))), "x and y must have shapes"),
        (lambda: tropical.matrix_power(np.zeros((2, 3)), 2), "square"),
        (lambda: tropical.matrix_power(np.zeros((2, 2)), -1), "exponent must be at least 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
