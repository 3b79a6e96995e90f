"""Bounds on whole networks: closed forms, the ladder, and public peers' mistakes that must fail."""

import itertools
import math

import jax
import numpy as np
import pytest

from jaxcert import lipschitz
from jaxcert.lipschitz import _chain

CHEAP = ("product", "averaged", "eclipse_fast")
METHODS = (*CHEAP, "eclipse", "lipsdp_layer", "lipsdp")
# One shape, so that each method compiles once.
DIMS = (3, 4, 4, 2)


def random_network(rng, dims=DIMS):
    return [rng.standard_normal((b, a)) for a, b in itertools.pairwise(dims)]


def exact_over_patterns(weights, low=0.0, high=1.0):
    """The largest norm over all patterns of extreme slopes, by enumeration."""
    widths = [len(weight) for weight in weights[:-1]]
    best = 0.0
    for bits in itertools.product((low, high), repeat=sum(widths)):
        product, place = weights[0], 0
        for weight, width in zip(weights[1:], widths, strict=True):
            product = weight @ (np.array(bits[place : place + width])[:, None] * product)
            place += width
        best = max(best, np.linalg.norm(product, 2))
    return float(best)


def upper(weights, method, **settings):
    return lipschitz.network_lipschitz_upper(weights, method=method, **settings)


def test_ladder_on_random_networks(key):
    rng = np.random.default_rng(0)
    found = []
    for number in range(12):
        weights = random_network(rng)
        exact = exact_over_patterns(weights)
        values = {method: upper(weights, method, steps=60) for method in METHODS}
        lower = lipschitz.network_lipschitz_lower(
            jax.random.fold_in(key, number), weights, starts=32
        )
        assert lower <= exact * (1 + 1e-12)
        found.append(lower / exact)
        slack = 1 + 1e-8
        assert exact <= min(values.values()) * (1 + 1e-14)
        assert values["lipsdp"] <= values["eclipse"] * 1.02
        assert values["lipsdp"] <= values["lipsdp_layer"] * slack
        assert values["lipsdp_layer"] <= values["eclipse_fast"] * slack
        assert values["eclipse_fast"] <= values["product"] * slack
        assert values["averaged"] <= values["product"] * slack
    assert min(found) > 0.8
    assert np.mean(found) > 0.97


@pytest.mark.parametrize("activation", ["gelu", "silu", "leaky_relu", "abs", "tanh", "sigmoid"])
def test_bounds_hold_for_every_pattern_of_slopes(activation):
    slopes = lipschitz.slope_range(activation)
    rng = np.random.default_rng(1)
    methods = (*CHEAP, "lipsdp") if activation in ("gelu", "leaky_relu") else CHEAP
    for _ in range(5):
        weights = random_network(rng)
        exact = exact_over_patterns(weights, slopes.low, slopes.high)
        for method in methods:
            found = upper(weights, method, activation=activation, steps=60)
            assert exact <= found <= exact * 6.0


@pytest.mark.parametrize("activation", ["gelu", "silu", lipschitz.SlopeRange(-1.0, 1.2)])
def test_slopes_of_both_signs_need_their_product_in_the_inequality(activation):
    slopes = lipschitz.slope_range(activation)
    identity = [np.eye(1), np.eye(1)]
    # One neuron: leaving the term alpha beta W' Lambda W out, as one public package does, gives
    # the best multiplier 1 / (2 m^2) and the constant 2 m = alpha + beta, below beta.
    multiplier = 1.0 / (2.0 * slopes.middle**2)
    block = multiplier - slopes.middle**2 * multiplier**2
    assert 1.0 / math.sqrt(block) == pytest.approx(slopes.low + slopes.high)
    assert 1.0 / math.sqrt(block) < slopes.high
    for method in (*CHEAP, "lipsdp"):
        found = upper(identity, method, activation=activation, steps=60)
        assert slopes.high <= found
    assert found <= slopes.high * 1.01


def test_nonnegative_weights_are_bounded_exactly():
    rng = np.random.default_rng(3)
    weights = [np.abs(weight) for weight in random_network(rng)]
    exact = np.linalg.norm(weights[2] @ weights[1] @ weights[0], 2)
    found = upper(weights, "lipsdp", steps=60)
    assert exact <= found <= exact * 1.01
    assert upper(weights, "averaged") >= exact


def test_coupling_of_neurons_is_no_bound():
    # LipSDP-Network gives 1.000 here; the constant is 2 sqrt(2).
    weights = [np.array([[2.0, 2.0], [2.0, 1.0]]), np.array([[-1.0, 1.0]])]
    assert exact_over_patterns(weights) == pytest.approx(2 * math.sqrt(2))
    for method in METHODS:
        assert upper(weights, method, steps=60) >= 2 * math.sqrt(2)
    assert upper(weights, "lipsdp", steps=60) <= 2 * math.sqrt(2) * 1.01


@pytest.mark.parametrize("method", METHODS)
def test_every_layer_scales_the_bound(method):
    weights = random_network(np.random.default_rng(4))
    plain = upper(weights, method, steps=60)
    for index, factor in ((0, 1000.0), (1, 2.0**-60), (2, -1e-12)):
        changed = [w * factor if i == index else w for i, w in enumerate(weights)]
        assert upper(changed, method, steps=60) == pytest.approx(plain * abs(factor), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_rotations_of_inputs_and_outputs_and_permutations_change_nothing(method):
    rng = np.random.default_rng(5)
    weights = random_network(rng)
    plain = upper(weights, method, steps=60)
    left = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    right = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    order = rng.permutation(4)
    changed = [
        (weights[0] @ right)[order],
        weights[1][:, order][order],
        left @ weights[2][:, order],
    ]
    assert upper(changed, method, steps=60) == pytest.approx(plain, rel=1e-2)


def test_one_layer_and_no_hidden_zero_networks():
    matrix = np.random.default_rng(6).standard_normal((3, 5))
    for method in METHODS:
        assert upper([matrix], method) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)
        assert upper([matrix, np.zeros((2, 3))], method) == 0.0


def test_pairs_divide_margins_by_less_and_still_bound():
    rng = np.random.default_rng(7)
    for _ in range(10):
        weights = random_network(rng, (3, 4, 4, 3))
        for method in CHEAP:
            pairs = lipschitz.pairwise_lipschitz_upper(weights, method=method)
            assert np.all(pairs == pairs.T)
            assert np.all(np.diag(pairs) == 0.0)
            joint = upper(weights, method)
            assert np.all(pairs <= math.sqrt(2) * joint * (1 + 1e-9))
            for i, j in itertools.combinations(range(3), 2):
                exact = exact_over_patterns([*weights[:-1], weights[-1][[i]] - weights[-1][[j]]])
                assert pairs[i, j] >= exact * (1 - 1e-14)


@pytest.mark.parametrize("order", [1, math.inf])
def test_products_in_other_norms(order):
    weights = random_network(np.random.default_rng(8))
    exact = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=8):
        first, second = np.array(bits[:4]), np.array(bits[4:])
        jacobian = weights[2] @ (second[:, None] * weights[1] @ (first[:, None] * weights[0]))
        exact = max(exact, np.linalg.norm(jacobian, order))
    assert exact <= upper(weights, "product", order=order)
    with pytest.raises(ValueError, match="order must be 2"):
        upper(weights, "lipsdp", order=order)


def test_shrinking_of_the_diagonal_covers_parts_that_cancel(monkeypatch):
    weights = random_network(np.random.default_rng(12), (3, 5, 4, 2))
    multipliers = [np.full(5, 0.05), np.full(4, 0.001)]
    shrunk = []
    honest = _chain._cholesky
    monkeypatch.setattr(
        _chain, "_cholesky", lambda block, shift: shrunk.append(shift) or honest(block, shift)
    )
    assert _chain.factorise(weights, multipliers, lipschitz.slope_range("abs")) is not None
    shift = _chain.diagonal_shift((3, 5, 4, 2))
    # I - W' L W and its like: each part has rounding of its own, whatever is left of both.
    for found, own, weight, multiplier in zip(
        shrunk, [np.ones(3), *multipliers], weights, multipliers, strict=False
    ):
        parts = own + np.diag(weight.T @ (multiplier[:, None] * weight))
        np.testing.assert_allclose(found, shift * parts, rtol=1e-12)


def test_wrong_multipliers_are_refused_and_would_be_no_bound(monkeypatch):
    from jaxcert.lipschitz import _chain_bounds, _multipliers

    weights = random_network(np.random.default_rng(9))
    exact = exact_over_patterns(weights)
    honest = _multipliers.multipliers_of

    def too_large(*arguments):
        return [50.0 * multiplier for multiplier in honest(*arguments)]

    monkeypatch.setattr(_multipliers, "multipliers_of", too_large)
    with pytest.raises(FloatingPointError, match="no multipliers"):
        upper(weights, "eclipse_fast")

    # A factorisation that looks at the diagonal alone takes them, and the value is no bound.
    def careless(block, shift):
        return np.diag(np.sqrt(np.abs(np.diag(block)) + 1e-300))

    monkeypatch.setattr(_chain, "_cholesky", careless)
    assert (
        _chain_bounds.matrices_upper(
            weights, lipschitz.slope_range("relu"), method="eclipse_fast", steps=1
        )
        < exact
    )


@pytest.mark.parametrize(
    ("network", "settings", "error", "message"),
    [
        ([], {}, TypeError, "network must be a list"),
        ("net", {}, TypeError, "network must be a list"),
        (
            [np.ones((2, 2)), np.full((1, 2), np.nan)],
            {},
            ValueError,
            r"weights\[1\] must be finite",
        ),
        ([np.ones((2, 2)), np.ones((1, 3))], {}, ValueError, r"weights\[1\] must take the 2"),
        ([np.ones(3)], {}, ValueError, r"weights\[0\] must have shape \[out, in\]"),
        ([np.ones((2, 2), int)], {}, TypeError, "must be floating point"),
        ([np.ones((2, 2))], {"method": "network"}, ValueError, "method must be one of"),
        ([np.ones((2, 2))], {"activation": "swoosh"}, ValueError, "activation must be"),
        ([np.ones((2, 2))], {"activation": "max_min"}, ValueError, "activation must be"),
        ([np.ones((2, 2))], {"steps": 0}, ValueError, "steps must lie in"),
        ([np.ones((2, 2))], {"input_shape": (3,)}, ValueError, "input_shape must be"),
    ],
)
def test_bad_networks_are_refused(network, settings, error, message):
    with pytest.raises(error, match=message):
        lipschitz.network_lipschitz_upper(network, **settings)
