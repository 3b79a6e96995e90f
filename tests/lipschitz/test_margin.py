"""Certified radii from margins: tight where they can be, never beyond the decision boundary."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import lipschitz

LINEAR = np.random.default_rng(0).standard_normal((4, 6))
INPUTS = np.random.default_rng(1).standard_normal((50, 6))


def distances(weights, inputs, order=2):
    """Distance to the decision boundary of a linear classifier, in l2, l1 or linf."""
    scores = inputs @ weights.T
    label = scores.argmax(axis=1)
    dual = {1: math.inf, 2: 2, math.inf: 1}[order]
    gaps = scores.max(axis=1, keepdims=True) - scores
    norms = np.linalg.norm(weights[label][:, None] - weights[None], dual, axis=2)
    gaps[np.arange(len(label)), label] = math.inf
    norms[np.arange(len(label)), label] = 1.0
    return (gaps / norms).min(axis=1)


def test_pairwise_radius_of_a_linear_classifier_is_the_distance_to_its_boundary():
    scores = INPUTS @ LINEAR.T
    exact = distances(LINEAR, INPUTS)
    pairs = lipschitz.pairwise_lipschitz_upper([LINEAR])
    radii = lipschitz.margin_radius(scores, pairs)
    assert np.all(radii <= exact)
    np.testing.assert_allclose(radii, exact, rtol=1e-9)
    joint = lipschitz.margin_radius(scores, lipschitz.network_lipschitz_upper([LINEAR]))
    assert np.all(joint <= radii)
    assert np.all(joint > 0.0)


def test_root_of_two_is_attained():
    scores = np.array([[1.0, 0.0]])
    assert lipschitz.margin_radius(scores, 1.0)[0] == pytest.approx(1 / math.sqrt(2), rel=1e-12)
    assert lipschitz.margin_radius(scores, 1.0)[0] <= distances(np.eye(2), scores)[0]


def test_single_score_is_decided_by_its_sign():
    radii = lipschitz.margin_radius(np.array([[3.0], [-1.0], [0.0]]), 2.0)
    np.testing.assert_allclose(radii, [1.5, 0.5, 0.0], rtol=1e-12)


def test_unit_rows_need_their_pairs_and_not_the_root_of_two():
    # Two opposite unit rows: each score is 1-Lipschitz by itself, their difference has 2.
    weights = np.array([[1.0, 0.0], [-1.0, 0.0]])
    scores = np.array([[0.5, -0.5]])
    exact = distances(weights, scores)[0]
    assert exact == pytest.approx(0.5)
    wrong = lipschitz.margin_radius(scores, 1.0)[0]
    assert wrong > exact
    by_score = lipschitz.margin_radius(scores, 1.0, output_norm=math.inf)[0]
    by_pair = lipschitz.margin_radius(scores, lipschitz.pairwise_lipschitz_upper([weights]))[0]
    joint = lipschitz.margin_radius(scores, lipschitz.network_lipschitz_upper([weights]))[0]
    assert by_score == pytest.approx(exact)
    assert by_pair == pytest.approx(exact, rel=1e-6)
    assert joint == pytest.approx(exact, rel=1e-6)
    assert max(by_score, by_pair, joint) <= exact


@pytest.mark.parametrize("order", [1, math.inf])
def test_radii_in_other_norms(order):
    # l1 to l1 and linf to linf constants, with the factor of the output's norm.
    constant = lipschitz.network_lipschitz_upper([LINEAR], method="product", order=order)
    radii = lipschitz.margin_radius(INPUTS @ LINEAR.T, constant, output_norm=order)
    exact = distances(LINEAR, INPUTS, order)
    assert np.all(radii <= exact)
    assert np.all(radii > 0.1 * exact)


def test_standardised_inputs_count_in_the_constant():
    std = np.array([0.5, 0.25])
    weights = np.array([[1.0, -1.0], [0.0, 2.0]])
    layers = [lipschitz.Scale(1 / std), lipschitz.Dense(weights, np.zeros(2))]
    pixels = np.array([[0.3, 0.1]])
    scores = (pixels / std) @ weights.T
    exact = distances(weights / std, pixels)
    pairs = lipschitz.pairwise_lipschitz_upper(layers, method="product", input_shape=(2,))
    np.testing.assert_allclose(lipschitz.margin_radius(scores, pairs), exact, rtol=1e-9)
    forgotten = lipschitz.margin_radius(scores, lipschitz.pairwise_lipschitz_upper([weights]))
    assert np.all(forgotten > exact)


def test_ties_and_scores_that_are_not_finite_certify_nothing():
    scores = np.array([[1.0, 1.0], [np.nan, 0.0], [np.inf, 0.0], [0.0, -np.inf]])
    np.testing.assert_array_equal(lipschitz.margin_radius(scores, 1.0), np.zeros(4))
    assert lipschitz.margin_radius(np.array([[1.0, 0.0]]), 0.0)[0] == math.inf
    assert lipschitz.margin_radius(np.array([[1.0, 1.0]]), 0.0)[0] == 0.0


def test_radius_in_float32_rounds_down_and_compiles_once():
    radius = jax.jit(chex.assert_max_traces(lipschitz.margin_radius, n=1))
    rng = np.random.default_rng(2)
    for _ in range(3):
        scores = rng.standard_normal((400, 10)).astype(np.float32)
        found = radius(scores, jnp.float32(3.0))
        assert found.dtype == jnp.float32
        exact = np.sort(scores.astype(np.float64), axis=1)
        exact = (exact[:, -1] - exact[:, -2]) / (3.0 * math.sqrt(2))
        assert np.all(np.asarray(found, np.float64) <= exact)
        np.testing.assert_allclose(found, exact, rtol=1e-5)
    batched = jax.vmap(lipschitz.margin_radius, (None, 0))(
        jnp.asarray(scores[:3]), jnp.array([1.0, 2.0])
    )
    assert batched.shape == (2, 3)


@pytest.mark.parametrize(
    ("scores", "constant", "settings", "error", "message"),
    [
        (np.ones(3), 1.0, {}, ValueError, r"scores must have shape \[n, classes\]"),
        (np.ones((2, 3), int), 1.0, {}, TypeError, "scores must be floating point"),
        (np.ones((2, 3)), -1.0, {}, ValueError, "lipschitz must be at least 0"),
        (np.ones((2, 3)), np.nan, {}, ValueError, "lipschitz must be at least 0"),
        (np.ones((2, 3)), np.ones((2, 2)), {}, ValueError, "lipschitz must be a scalar or of"),
        (np.ones((2, 1)), np.ones((1, 1)), {}, ValueError, "lipschitz must be a scalar for a"),
        (np.ones((2, 3)), 1.0, {"output_norm": 3}, ValueError, "output_norm must be 1, 2"),
    ],
)
def test_bad_margins_are_refused(scores, constant, settings, error, message):
    with pytest.raises(error, match=message):
        lipschitz.margin_radius(scores, constant, **settings)
