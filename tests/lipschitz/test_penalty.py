"""The bound that trains: sound for every parameter, differentiable, compiled once."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import lipschitz
from jaxcert.lipschitz import LipsdpParameters

WIDTHS = (3, 5, 5, 2)
SLOPES = jax.jit(jax.value_and_grad(lipschitz.lipsdp_upper, argnums=(0, 1)))
ONES = np.ones((2, 2), np.float32)


def network(rng):
    return [rng.standard_normal((b, a)).astype(np.float32) for a, b in itertools.pairwise(WIDTHS)]


def exact_over_patterns(weights):
    first, second, third = (weight.astype(np.float64) for weight in weights)
    bits = np.array(list(itertools.product((0.0, 1.0), repeat=5)))
    left = np.einsum("oj,pj->poj", third, bits)
    right = np.einsum("pj,ji->pji", bits, first)
    products = np.einsum("poj,jk,qki->pqoi", left, second, right)
    return float(np.linalg.norm(products, 2, axis=(2, 3)).max())


def random_parameters(rng):
    return LipsdpParameters(
        tuple(jnp.asarray(rng.standard_normal(5) * 2, jnp.float32) for _ in range(2)),
        tuple(jnp.asarray(rng.standard_normal() * 3, jnp.float32) for _ in range(2)),
    )


def test_every_parameter_gives_a_bound_in_float32():
    bound = jax.jit(chex.assert_max_traces(lipschitz.lipsdp_upper, n=1))
    rng = np.random.default_rng(0)
    tight = []
    for _ in range(30):
        weights = network(rng)
        exact = exact_over_patterns(weights)
        start = float(bound(weights, lipschitz.lipsdp_parameters(weights)))
        fast = lipschitz.network_lipschitz_upper(weights, method="eclipse_fast")
        assert exact <= fast <= start <= fast * 1.02
        for _ in range(10):
            found = float(bound(weights, random_parameters(rng)))
            assert exact <= found
            tight.append(found < 3 * exact)
    assert any(tight)


def test_descent_on_the_parameters_approaches_the_host_bound():
    weights = network(np.random.default_rng(1))
    parameters = lipschitz.lipsdp_parameters(weights)
    first, _ = SLOPES(weights, parameters)
    for _ in range(300):
        value, (_, slope) = SLOPES(weights, parameters)
        parameters = jax.tree.map(
            lambda p, g, v=value: np.asarray(p) - 0.5 * np.asarray(g) / np.asarray(v),
            parameters,
            slope,
        )
    best = lipschitz.network_lipschitz_upper(weights, method="lipsdp", steps=60)
    assert value < first * 0.98
    assert best * 0.99 <= value <= best * 1.05


def test_penalty_on_the_weights_lowers_the_bound_and_batches():
    weights = network(np.random.default_rng(2))
    parameters = lipschitz.lipsdp_parameters(weights)
    before, (slopes, _) = SLOPES(weights, parameters)
    moved = [weight - 0.01 * np.asarray(g) for weight, g in zip(weights, slopes, strict=True)]
    after, _ = SLOPES(moved, parameters)
    assert after < before
    # Euler: the bound is homogeneous of degree one in each matrix.
    for weight, slope in zip(weights, slopes, strict=True):
        assert float(jnp.vdot(weight, slope)) == pytest.approx(float(before), rel=1e-2)
    batch = [np.stack([a, b]) for a, b in zip(weights, moved, strict=True)]
    values = jax.jit(jax.vmap(lipschitz.lipsdp_upper, (0, None)))(batch, parameters)
    np.testing.assert_allclose(values, [before, after], rtol=1e-3)


def test_float64_keeps_a_small_budget():
    weights = network(np.random.default_rng(3))
    with jax.enable_x64(True):
        doubled = [jnp.asarray(weight, jnp.float64) for weight in weights]
        parameters = lipschitz.lipsdp_parameters(doubled)
        value = jax.jit(lipschitz.lipsdp_upper)(doubled, parameters)
        assert value.dtype == jnp.float64
    fast = lipschitz.network_lipschitz_upper(weights, method="eclipse_fast")
    # The Gram iterations of ten squarings, not the budget, are what is left.
    assert fast * (1 - 1e-8) <= float(value) <= fast * 1.01


def test_one_matrix_is_its_norm():
    weight = np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)
    found = lipschitz.lipsdp_upper([weight], lipschitz.lipsdp_parameters([weight]))
    exact = np.linalg.norm(weight.astype(np.float64), 2)
    assert exact <= float(found) <= exact * 1.01


@pytest.mark.parametrize(
    ("weights", "parameters", "activation", "error", "message"),
    [
        ("w", None, "relu", TypeError, "weights must be a list"),
        ([ONES], "p", "relu", TypeError, "parameters must be LipsdpParameters"),
        ([ONES], LipsdpParameters((np.ones(2),), ()), "relu", ValueError,
         "parameters must hold scales"),
        ([ONES, ONES[:1]], None, "gelu", ValueError, "activation must have 0"),
        ([ONES, np.ones((1, 3), np.float32)], None, "relu", ValueError, "must take the 2 outputs"),
        ([ONES * np.nan], None, "relu", ValueError, "must be finite"),
        ([np.ones((2, 2), np.float16)], None, "relu", TypeError, "float32 or float64"),
        ([np.ones((2, 2))], None, "relu", TypeError, "float32 where 64 bits are off"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(weights, parameters, activation, error, message):
    if parameters is None:
        parameters = LipsdpParameters((np.zeros(2),), (np.zeros(()),))
    with pytest.raises(error, match=message):
        lipschitz.lipsdp_upper(weights, parameters, activation=activation)
