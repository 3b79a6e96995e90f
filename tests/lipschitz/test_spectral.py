"""Operator norms of matrices, against singular value decompositions in float64."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxcert import lipschitz
from jaxcert.lipschitz import _gram, _verified

SHAPES = [(1, 1), (1, 7), (6, 1), (3, 3), (8, 5), (5, 8), (20, 20), (40, 13)]


def random_matrices(seed, count):
    """Random matrices of many kinds: rank-deficient, ill-conditioned, scaled, sparse, repeated."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        rows, columns = SHAPES[index % len(SHAPES)]
        matrix = rng.standard_normal((rows, columns))
        kind = index // len(SHAPES) % 6
        if kind == 1:  # rank one
            matrix = np.outer(matrix[:, 0], rng.standard_normal(columns))
        elif kind == 2:  # singular values over ten decades
            matrix = matrix * np.logspace(0, -10, columns)
        elif kind == 3:  # all singular values equal
            matrix = np.linalg.qr(rng.standard_normal((max(rows, columns), columns)))[0][:rows]
        elif kind == 4:
            matrix = matrix * 10.0 ** rng.integers(-150, 150)
        elif kind == 5:
            matrix = matrix * (rng.random((rows, columns)) < 0.2)
        yield matrix


def exact_norm(matrix):
    return float(np.linalg.norm(matrix, 2))


def test_bound_is_above_the_exact_norm_and_tight_on_thousands_of_matrices():
    excess = []
    for matrix in random_matrices(0, 2400):
        exact = exact_norm(matrix)
        bound = float(lipschitz.spectral_norm_upper(matrix))
        # The exact value is itself good to a few units in the last place.
        assert bound >= exact
        if exact:
            excess.append(bound / exact - 1.0)
    assert max(excess) < 1e-6
    assert float(lipschitz.spectral_norm_upper(np.zeros((4, 3)))) == 0.0


def test_bound_on_float32_matrices_is_above_the_norm_of_exactly_those_entries():
    matrices = [m for m in random_matrices(1, 600) if np.abs(m).max(initial=0) < 1e30]
    for matrix in matrices:
        single = jnp.asarray(matrix, jnp.float32)
        bound = lipschitz.spectral_norm_upper(single)
        assert bound.dtype == jnp.float32
        exact = exact_norm(np.asarray(single, np.float64))
        assert exact <= float(bound) <= exact * (1 + 3e-7) + 2e-45


def test_float32_decompositions_fall_below_the_norm_where_the_bound_does_not():
    rng = np.random.default_rng(2)
    below = {"svd": 0, "eigvalsh": 0, "gram without budget": 0}
    for _ in range(60):
        matrix = rng.standard_normal((40, 30)).astype(np.float32)
        exact = exact_norm(matrix.astype(np.float64))
        below["svd"] += float(np.linalg.svd(matrix, compute_uv=False)[0]) < exact
        below["eigvalsh"] += math.sqrt(np.linalg.eigvalsh(matrix.T @ matrix)[-1]) < exact
        gram, scale = matrix, 0.0
        for _ in range(12):
            norm = np.linalg.norm(gram)
            gram, scale = (gram / norm).T @ (gram / norm), 2 * (scale + np.log(norm))
        plain = np.exp((np.log(np.linalg.norm(gram)) + scale) / 2**12)
        below["gram without budget"] += float(plain) < exact
        assert float(lipschitz.spectral_norm_upper(matrix)) >= exact
        assert float(lipschitz.spectral_norm_upper(jnp.asarray(matrix))) >= exact
    assert all(count > 10 for count in below.values()), below


@pytest.mark.parametrize("shape", [(700, 300), (300, 500)])
def test_lanczos_path_is_tight_and_above(shape):
    matrix = np.random.default_rng(3).standard_normal(shape)
    exact = float(scipy.linalg.svdvals(matrix)[0])
    assert exact <= float(lipschitz.spectral_norm_upper(matrix)) <= exact * (1 + 1e-6)


def test_a_proposal_below_the_norm_is_not_accepted(monkeypatch):
    # Whatever the iteration proposes, the factorisation decides.
    matrix = np.random.default_rng(4).standard_normal((50, 30))
    exact = exact_norm(matrix)
    for wrong in (0.0, 0.5, 0.99, 1 - 1e-6):

        def propose(gram, factor=wrong):
            return factor * float(np.linalg.eigvalsh(gram)[-1])

        monkeypatch.setattr(_verified, "largest_eigenvalue_estimate", propose)
        assert float(lipschitz.spectral_norm_upper(matrix)) >= exact
    # Without the factorisation the same proposal passes for a bound.
    monkeypatch.setattr(_verified, "_is_below", lambda gram, shift: True)
    assert float(lipschitz.spectral_norm_upper(matrix)) < exact


def test_hadamard_matrix_has_norm_sixteen():
    hadamard = scipy.linalg.hadamard(256).astype(np.float64)
    assert 16.0 <= float(lipschitz.spectral_norm_upper(hadamard)) <= 16.0 * (1 + 1e-6)


def test_gram_iteration_under_jit_is_sound_in_its_dtype():
    bound = jax.jit(chex.assert_max_traces(lipschitz.spectral_norm_upper, n=1))
    rng = np.random.default_rng(5)
    kinds = [rng.standard_normal((24, 16)) for _ in range(40)]
    kinds += [np.outer(rng.standard_normal(24), rng.standard_normal(16)) for _ in range(10)]
    kinds += [np.linalg.qr(rng.standard_normal((24, 16)))[0] for _ in range(10)]
    kinds += [rng.standard_normal((24, 16)) * scale for scale in (1e-18, 1e18, 1e-30, 1e30)]
    for matrix in kinds:
        single = matrix.astype(np.float32)
        exact = exact_norm(single.astype(np.float64))
        assert exact <= float(bound(single)) <= exact * (1 + 1e-3)
    assert float(bound(np.zeros((24, 16), np.float32))) <= 1e-30


def test_gram_iteration_in_float64_agrees_with_the_host():
    matrix = np.random.default_rng(6).standard_normal((24, 16))
    with jax.enable_x64(True):
        traced = float(jax.jit(lipschitz.spectral_norm_upper)(jnp.asarray(matrix)))
    exact = exact_norm(matrix)
    assert exact <= traced <= exact * (1 + 1e-9)


def test_gram_budget_is_what_keeps_the_bound_above(monkeypatch):
    rng = np.random.default_rng(7)
    # On a matrix of rank one the iteration is exact but for rounding.
    outer = rng.standard_normal((50, 16, 1)) * rng.standard_normal((50, 1, 16))
    matrices = jnp.asarray(outer, jnp.float32)
    exact = np.linalg.norm(np.asarray(matrices, np.float64), 2, axis=(1, 2))
    assert np.all(np.asarray(_gram.gram_upper(matrices, iterations=12)) >= exact)
    monkeypatch.setattr(_gram, "gamma", lambda terms, dtype: 0.0)
    assert np.sum(np.asarray(_gram.gram_upper(matrices, iterations=12)) < exact) > 5


def test_bound_batches_and_differentiates():
    matrices = np.random.default_rng(8).standard_normal((4, 5, 4)).astype(np.float32)
    matrices[3] = 0.0
    exact = np.linalg.norm(matrices.astype(np.float64), 2, axis=(1, 2))
    both = jax.jit(jax.vmap(jax.value_and_grad(lipschitz.spectral_norm_upper)))
    values, gradients = both(matrices)
    np.testing.assert_allclose(values, exact, rtol=1e-4, atol=1e-30)
    np.testing.assert_allclose(lipschitz.spectral_norm_upper(matrices), exact, rtol=1e-6)
    left, _, right = np.linalg.svd(matrices[0])
    np.testing.assert_allclose(gradients[0], np.outer(left[:, 0], right[0]), atol=1e-4)
    assert np.all(np.isfinite(gradients))


def test_bfloat16_bound_rounds_up():
    matrix = jnp.asarray(np.random.default_rng(9).standard_normal((6, 5)), jnp.bfloat16)
    exact = exact_norm(np.asarray(matrix.astype(jnp.float32), np.float64))
    for bound in (lipschitz.spectral_norm_upper, jax.jit(lipschitz.spectral_norm_upper)):
        value = bound(matrix)
        assert value.dtype == jnp.bfloat16
        assert exact <= float(value.astype(jnp.float32)) <= exact * 1.02


def test_power_iteration_stays_below_the_norm_and_so_is_no_bound(key):
    matrices = np.random.default_rng(10).standard_normal((60, 40, 40)).astype(np.float32)
    exact = np.linalg.norm(matrices.astype(np.float64), 2, axis=(1, 2))
    estimate = np.asarray(lipschitz.spectral_norm_estimate(key, matrices, iterations=20))
    assert np.all(estimate <= exact * (1 + 1e-5))
    assert np.sum(estimate < exact * (1 - 1e-5)) > 50
    assert np.all(np.asarray(lipschitz.spectral_norm_upper(matrices)) >= exact)
    many = np.asarray(lipschitz.spectral_norm_estimate(key, matrices, iterations=2000))
    np.testing.assert_allclose(many, exact, rtol=1e-3)


@pytest.mark.parametrize("order", [1, math.inf])
def test_sums_of_absolute_values(order):
    for matrix in random_matrices(11, 200):
        exact = np.linalg.norm(matrix, order)
        bound = float(lipschitz.operator_norm_upper(matrix, order=order))
        assert exact <= bound <= exact * (1 + 1e-12)
    single = matrix.astype(np.float32)
    traced = jax.jit(lambda m: lipschitz.operator_norm_upper(m, order=order))(single)
    assert np.linalg.norm(single.astype(np.float64), order) <= float(traced)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (np.array([[1.0, np.nan]]), ValueError, "matrix must be finite"),
        (np.array([[1.0, np.inf]]), ValueError, "matrix must be finite"),
        (np.ones(3), ValueError, r"matrix must have shape \[..., m, n\], got shape \(3,\)"),
        (np.ones((0, 3)), ValueError, "matrix must not be empty"),
        (np.ones((2, 2), int), TypeError, "matrix must be floating point, got int64"),
    ],
)
def test_bad_matrices_are_refused(argument, error, message, key):
    for bound in (
        lipschitz.spectral_norm_upper,
        lambda m: lipschitz.operator_norm_upper(m, order=1),
        lambda m: lipschitz.spectral_norm_estimate(key, m),
    ):
        with pytest.raises(error, match=message):
            bound(argument)


@pytest.mark.parametrize("order", [0, 3, "fro", True, None])
def test_other_orders_are_refused(order):
    with pytest.raises(ValueError, match="order must be 1, 2 or math.inf"):
        lipschitz.operator_norm_upper(np.ones((2, 2)), order=order)
