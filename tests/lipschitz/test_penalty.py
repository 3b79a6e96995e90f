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
ONES = np.ones((2, 2), np.float32)
# As many networks as all tests need at a time, so that one program serves them.
COUNT = 30
TRACED = chex.assert_max_traces(lipschitz.lipsdp_upper, n=1)
# Values, and slopes in weights and parameters, of a batch of networks.
SLOPES = jax.jit(jax.vmap(jax.value_and_grad(TRACED, argnums=(0, 1))))


def networks(seed):
    """Weights of many networks, `[COUNT, out, in]` for each layer."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((COUNT, b, a)).astype(np.float32) for a, b in itertools.pairwise(WIDTHS)
    ]


def exact_over_patterns(weights):
    first, second, third = (weight.astype(np.float64) for weight in weights)
    bits = np.array(list(itertools.product((0.0, 1.0), repeat=5)))
    left = np.einsum("oj,pj->poj", third, bits)
    right = np.einsum("pj,ji->pji", bits, first)
    products = np.einsum("poj,jk,qki->pqoi", left, second, right)
    return float(np.linalg.norm(products, 2, axis=(2, 3)).max())


def each(weights):
    """The networks one by one."""
    return [[weight[index] for weight in weights] for index in range(COUNT)]


def start_of(weights):
    """The parameters to start from, for each network."""
    alone = lipschitz.lipsdp_parameters([weight[0] for weight in weights])
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], COUNT, axis=0), alone)


def random_parameters(rng):
    return LipsdpParameters(
        tuple(rng.standard_normal((COUNT, 5)).astype(np.float32) * 2 for _ in range(2)),
        tuple(rng.standard_normal(COUNT).astype(np.float32) * 3 for _ in range(2)),
    )


def test_every_parameter_gives_a_bound_in_float32():
    weights, rng = networks(0), np.random.default_rng(0)
    exact = np.array([exact_over_patterns(network) for network in each(weights)])
    start, _ = SLOPES(weights, start_of(weights))
    for network, least, value in zip(each(weights), exact, start, strict=True):
        fast = lipschitz.network_lipschitz_upper(network, method="eclipse_fast")
        assert least <= fast <= float(value) <= fast * 1.02
    tight = []
    for _ in range(10):
        found = np.asarray(SLOPES(weights, random_parameters(rng))[0], np.float64)
        assert np.all(exact <= found)
        tight.append(np.any(found < 3 * exact))
    assert any(tight)


def test_descent_on_the_parameters_approaches_the_host_bound():
    weights = networks(1)
    parameters = start_of(weights)
    first, _ = SLOPES(weights, parameters)
    for _ in range(300):
        value, (_, slope) = SLOPES(weights, parameters)

        def step(p, g, value=value):
            scale = np.asarray(value).reshape(COUNT, *(1,) * (p.ndim - 1))
            return p - 0.5 * np.asarray(g) / scale

        parameters = jax.tree.map(step, parameters, slope)
    assert np.all(value < first)
    assert np.median(value / first) < 0.98
    for network, found in zip(each(weights)[:3], value, strict=False):
        best = lipschitz.network_lipschitz_upper(network, method="lipsdp", steps=60)
        assert best * 0.99 <= found <= best * 1.05


def test_penalty_on_the_weights_lowers_the_bound():
    weights = networks(2)
    parameters = start_of(weights)
    before, (slopes, _) = SLOPES(weights, parameters)
    moved = [weight - 0.01 * np.asarray(g) for weight, g in zip(weights, slopes, strict=True)]
    after, _ = SLOPES(moved, parameters)
    assert np.all(after < before)
    # Euler: the bound is homogeneous of degree one in each matrix.
    for weight, slope in zip(weights, slopes, strict=True):
        np.testing.assert_allclose(np.einsum("nij,nij->n", weight, slope), before, rtol=1e-2)


def test_float64_keeps_a_small_budget():
    weights = [weight[0] for weight in networks(3)[1:]]
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
    found = jax.jit(lipschitz.lipsdp_upper)([weight], lipschitz.lipsdp_parameters([weight]))
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
