"""Margins over balls, and the radii that they certify."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import attacks
from jaxcert.lipschitz import (
    Dense,
    Relu,
    _certified_radius,
    apply_layers,
    ball,
    certified_radius_lower,
    margin_lower,
)
from tests.lipschitz.relu_networks import dense_network, points_of_ball, scores_of

LAYERS = dense_network(seed=7)
CENTER = np.random.default_rng(2).uniform(0.1, 0.9, size=(5, 6)).astype(np.float32)
LABELS = scores_of(LAYERS, CENTER).argmax(axis=1)


def margins_of(points):
    """The least margin to each class over points `[count, b, d]`, infinity at the label."""
    scores = scores_of(LAYERS, points.reshape(-1, 6)).reshape(*points.shape[:2], 3)
    of_label = np.take_along_axis(scores, np.broadcast_to(LABELS, scores.shape[:2])[..., None], -1)
    margins = (of_label - scores).min(axis=0)
    return np.where(np.arange(3) == LABELS[:, None], np.inf, margins)


def test_methods_are_below_the_samples_and_in_order():
    region = ball(CENTER, 0.08, box=(0.0, 1.0))
    found = {
        method: np.asarray(
            jax.jit(functools.partial(margin_lower, LAYERS, method=method))(region, LABELS), float
        )
        for method in ("interval", "linear", "optimized")
    }
    points = points_of_ball(np.random.default_rng(0), CENTER, 0.08, "linf", (0.0, 1.0), 3000)
    sampled = margins_of(points)
    for margins in found.values():
        assert np.all(margins <= sampled)
        np.testing.assert_array_equal(np.isinf(margins), np.arange(3) == LABELS[:, None])
    finite = np.isfinite(sampled)
    assert np.all(found["interval"][finite] <= found["linear"][finite])
    assert np.all(found["linear"][finite] <= found["optimized"][finite])
    assert np.any(found["optimized"][finite] > found["linear"][finite] + 1e-3)
    assert np.any(found["linear"][finite] > found["interval"][finite] + 0.1)


def linear_classifier():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    inputs = rng.normal(size=(8, 6)).astype(np.float32)
    return [Dense(jnp.asarray(weight), jnp.asarray(rng.normal(size=4), jnp.float32))], inputs


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1), ("l1", np.inf)])
def test_radius_of_a_linear_classifier_is_its_distance(norm, dual):
    layers, inputs = linear_classifier()
    scores = scores_of(layers, inputs)
    labels = scores.argmax(axis=1)
    weight = np.asarray(layers[0].weight, float)
    exact = np.min([
        np.where(
            labels == j, np.inf,
            (scores.max(axis=1) - scores[:, j])
            / np.maximum(np.linalg.norm(weight[labels] - weight[j], dual, axis=1), 1e-9),
        ) for j in range(4)
    ], axis=0)  # fmt: skip
    radius = np.asarray(
        certified_radius_lower(layers, inputs, labels, max_radius=8.0, norm=norm, steps=20), float
    )
    assert np.all(radius <= exact)
    np.testing.assert_allclose(radius, exact, rtol=1e-3, atol=1e-4)


@functools.cache
def radii(norm):
    return np.asarray(
        certified_radius_lower(
            LAYERS, CENTER, LABELS, max_radius=2.0, norm=norm, steps=12, patterns=3
        ),
        float,
    )


def first_success(norm, key):
    """The least radius, of a grid, at which an attack or a sampled point changes the answer."""
    least = np.full(len(CENTER), np.inf)
    rng = np.random.default_rng(0)
    for radius in np.geomspace(0.01, 2.0, 40):
        points = points_of_ball(rng, CENTER, radius, norm, None, 300)
        broken = margins_of(points).min(axis=1) <= 0
        if norm != "l1":
            attack = attacks.pgd(
                key, jax.tree_util.Partial(apply_layers, LAYERS), CENTER, LABELS,
                radius=np.float32(radius), norm=norm, num_steps=15,
            )  # fmt: skip
            broken |= np.asarray(attack.success)
        least = np.where(broken, np.minimum(least, radius), least)
    return least


@pytest.mark.parametrize("norm", ["l2", pytest.param("linf", marks=pytest.mark.slow)])
def test_no_attack_gets_below_the_radius(norm, key):
    least = first_success(norm, key)
    assert np.all(radii(norm) < least)
    assert np.all(radii(norm) > 0)
    # The certificates are of use: within a factor of 10 of what attacks reach.
    reached = np.isfinite(least)
    assert reached.sum() >= 2
    assert np.all(10 * radii(norm)[reached] > least[reached])


def test_wrong_labels_get_no_radius_and_far_inputs_the_whole():
    wrong = (LABELS + 1) % 3
    np.testing.assert_array_equal(
        certified_radius_lower(
            LAYERS, CENTER, wrong, max_radius=2.0, norm="l2", steps=12, patterns=3
        ),
        0.0,
    )
    layers = [Dense(jnp.array([[1.0], [-1.0]]), jnp.zeros(2))]
    radius = certified_radius_lower(layers, jnp.array([[9.0]]), jnp.array([0]), max_radius=0.5)
    assert float(radius[0]) == 0.5


@pytest.mark.parametrize(
    ("layers", "labels", "settings", "error", "message"),
    [
        (LAYERS[:-1], LABELS, {}, ValueError, "must end in a Dense layer"),
        (LAYERS, LABELS + 3, {}, ValueError, r"labels must lie in \[0, 2\]"),
        (LAYERS, LABELS[:2], {}, ValueError, r"labels must have shape \(5,\)"),
        (LAYERS, LABELS * 1.0, {}, TypeError, "labels must be integers"),
        (LAYERS, LABELS, {"method": "exact"}, ValueError, "method must be one of"),
        (LAYERS, LABELS, {"steps": 0}, ValueError, "steps must lie in"),
        ([*LAYERS[:-1], Dense(jnp.ones((1, 8)), jnp.ones(1))], LABELS * 0, {}, ValueError, "2 sco"),
        ([Relu()], LABELS, {}, ValueError, "must end in a Dense layer"),
    ],
)
def test_bad_margins_are_named(layers, labels, settings, error, message):
    with pytest.raises(error, match=message):
        margin_lower(layers, ball(CENTER, 0.1), labels, **settings)


def test_bad_radii_are_named():
    for value in (0.0, np.inf, [1.0, 2.0]):
        with pytest.raises(ValueError, match="max_radius must be"):
            certified_radius_lower(LAYERS, CENTER, LABELS, max_radius=value)


def test_a_radius_from_a_fraction_of_the_lipschitz_constant_is_broken(monkeypatch, key):
    sound = _certified_radius.local_lipschitz_upper
    monkeypatch.setattr(
        _certified_radius, "local_lipschitz_upper",
        lambda *arguments, **settings: 0.02 * sound(*arguments, **settings),
    )  # fmt: skip
    # The last test here: others may use what they compiled.
    jax.clear_caches()
    radius = certified_radius_lower(LAYERS, CENTER, LABELS, max_radius=2.0, norm="l2", steps=12)
    jax.clear_caches()
    assert np.any(np.asarray(radius, float) > first_success("l2", key))
