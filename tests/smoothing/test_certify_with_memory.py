"""Data-dependent noise: a false radius without a memory, none with it, and attacks on both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxcert import attacks, models, smoothing
from jaxcert.smoothing import ABSTAIN, RegionMemory


def inside_unit(inputs):
    """Class 1 on (0, 1), class 0 elsewhere: steep enough to be hard under any noise here."""
    margin = 400.0 * (0.5 - jnp.abs(inputs[:, 0] - 0.5))
    return jnp.stack([-margin, margin], axis=1)


POINTS = np.array([[-1.0], [0.5]], np.float32)


def certify_stream(key, order):
    """Choose sigma for each point and certify them in an order: plain and with a memory."""
    points = POINTS[order]
    sigma = smoothing.optimize_sigma(
        key, inside_unit, points, initial_sigma=0.5, num_steps=200, num_samples=256,
        bounds=(0.05, 64.0), ids=order,
    )  # fmt: skip
    memory = RegionMemory.init((1,), fingerprint="interval")
    certificate, memory = smoothing.certify_with_memory(
        key, inside_unit, points, noise=smoothing.gaussian(sigma), memory=memory, num_classes=2,
        num_samples=10_000, model_fingerprint="interval", ids=order,
    )  # fmt: skip
    return sigma, certificate, memory


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_plain_certificate_is_false_and_that_of_the_memory_is_not(key, order):
    order = np.array(order)
    sigma, certificate, memory = certify_stream(key, order)
    far, near = np.argsort(order)
    # Plain: at -1 sigma runs away, and a radius is claimed that holds 0.5, which answers otherwise.
    plain = certificate.smoothed
    assert sigma[far] > 20
    assert plain.radius[far] > 1.5 == abs(POINTS[0, 0] - POINTS[1, 0])
    assert [plain.label[far], plain.label[near]] == [0, 1]
    # The certificate at the noise of the point is right for that noise: the claim about the
    # neighbour, which has other noise, is what is wrong.
    p = 1 - np.diff(stats.norm.cdf(np.array([0.0, 1.0]) + 1.0, scale=float(sigma[far])))[0]
    assert plain.p_lower[far] <= p
    # With the memory whoever comes first decides, and the claims fit together.
    distance = 1.5
    for row in range(2):
        for other in range(2):
            if certificate.radius[row] > distance:
                assert certificate.label[row] == certificate.label[other]
    if order[0] == 0:
        assert certificate.label.tolist() == [0, 0]
        assert certificate.answer.overridden.tolist() == [False, True]
        assert len(memory) == 1
    else:
        assert certificate.label.tolist() == [1, 0]
        assert certificate.answer.shrunk.tolist() == [False, True]
        assert certificate.radius.sum() <= distance
    again = smoothing.predict_with_memory(
        key, inside_unit, POINTS, noise=smoothing.gaussian(np.asarray(sigma)[[far, near]]),
        memory=memory, num_classes=2, model_fingerprint="interval",
    )  # fmt: skip
    np.testing.assert_array_equal(again.label[order], certificate.label)


def test_joint_inputs_divide_alpha(key):
    memory = RegionMemory.init((1,), fingerprint="interval")
    settings = {
        "noise": smoothing.gaussian([0.5, 0.1]), "memory": memory, "num_classes": 2,
        "num_samples": 10_000, "model_fingerprint": "interval",
    }  # fmt: skip
    joint, after = smoothing.certify_with_memory(
        key, inside_unit, POINTS, alpha=0.01, joint_inputs=20, **settings
    )
    alone, _ = smoothing.certify_with_memory(key, inside_unit, POINTS, alpha=0.0005, **settings)
    np.testing.assert_array_equal(joint.smoothed.radius, alone.smoothed.radius)
    assert joint.alpha == pytest.approx(0.0005)
    assert after.spent == pytest.approx(0.001)


WEIGHTS = np.random.default_rng(8).normal(size=(2, 6)).astype(np.float32)
OFFSETS = np.random.default_rng(9).uniform(0, 2 * np.pi, 6).astype(np.float32)


def waves(inputs):
    """Three classes of the plane with curved borders, softly."""
    heights = jnp.sin(2.0 * inputs @ WEIGHTS + OFFSETS[None])
    return 12.0 * (heights[:, :3] + heights[:, 3:])


def search_sigma(key, points):
    return smoothing.optimize_sigma(
        key, waves, points, initial_sigma=0.1, num_steps=20, num_samples=32, bounds=(0.02, 0.5)
    )


def test_attack_on_the_memory_classifier(key):
    """PGD over noise, with restarts, within the certified radii and within 1.5 times them.

    Every region was certified at alpha = 0.001 / 30, so one false region in a thousand such tests.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(8))
    points = np.asarray(jax.random.uniform(keys[0], (30, 2), minval=-1.0))
    sigma = search_sigma(keys[1], points)
    memory = RegionMemory.init((2,), fingerprint="waves")
    certificate, memory = smoothing.certify_with_memory(
        keys[2], waves, points, noise=smoothing.gaussian(sigma), memory=memory, num_classes=3,
        num_samples=10_000, joint_inputs=30, model_fingerprint="waves",
    )  # fmt: skip
    certified = certificate.label != ABSTAIN
    assert certified.sum() >= 25
    labels = np.where(certified, certificate.label, 0)
    soft = attacks.smoothed_scores(
        keys[3], waves, noise=smoothing.gaussian(0.1), num_samples=64, shape=(2,)
    )
    broken = {}
    for factor in (1.0, 1.5):
        found = attacks.pgd(
            keys[4], soft, points, labels, radius=factor * certificate.radius.astype(np.float32),
            num_steps=20, num_restarts=5,
        )  # fmt: skip
        # What answers at the point that the attack chose is the memory, else a search of its own.
        noise = smoothing.gaussian(search_sigma(keys[6], found.inputs))
        answers = smoothing.predict_with_memory(
            keys[5], waves, found.inputs, noise=noise, memory=memory, num_classes=3,
            model_fingerprint="waves",
        )  # fmt: skip
        moved = (answers.label != labels) & (answers.label != ABSTAIN) & certified
        broken[factor] = int(moved.sum())
        if factor == 1.0:
            assert (answers.p_value[certified] == 0).all(), "all of them lie in stored regions"
            # Nor do the regions deserve another label: at the noise of their own point, the
            # smoothed classifier answers theirs where the attack went.
            own = smoothing.class_counts(
                keys[7], waves, found.inputs, noise=smoothing.gaussian(sigma), num_samples=10_000,
                num_classes=3,
            )  # fmt: skip
            stored = certified & ~certificate.answer.inside
            np.testing.assert_array_equal(
                np.asarray(own).argmax(axis=1)[stored], certificate.label[stored]
            )
    assert broken[1.0] == 0
    assert broken[1.5] >= 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_fingerprint": "other"}, ValueError, "memory belongs to another model"),
        ({"model_fingerprint": None}, TypeError, "classify must be a jax.tree_util.Partial, or"),
        ({"noise": smoothing.uniform(0.5)}, ValueError, "memory belongs to another norm"),
        ({"inputs": np.zeros((2, 3), np.float32)}, ValueError, "memory belongs to another shape"),
        ({"memory": None}, TypeError, "memory must be a RegionMemory, got NoneType"),
        ({"joint_inputs": 0}, ValueError, "joint_inputs must lie in"),
        ({"alpha": 2.0}, ValueError, "alpha must lie strictly between 0 and 1"),
        (
            {"noise": smoothing.AnisotropicNoise("gaussian", np.ones((2, 1), np.float32))},
            ValueError, "memory must be made with anisotropic=True just for",
        ),
    ],
)  # fmt: skip
def test_bad_input(key, change, error, message):
    settings = {
        "noise": smoothing.gaussian(0.5), "num_classes": 2, "model_fingerprint": "interval",
        "memory": RegionMemory.init((1,), fingerprint="interval"),
    } | change  # fmt: skip
    with pytest.raises(error, match=message):
        smoothing.certify_with_memory(key, inside_unit, settings.pop("inputs", POINTS), **settings)


def scaled(weight, inputs):
    return weight * inside_unit(inputs)


def test_fingerprint_is_that_of_the_weights(key):
    one, other = (jax.tree_util.Partial(scaled, jnp.float32(weight)) for weight in (1.0, 2.0))
    memory = RegionMemory.init((1,), fingerprint=models.fingerprint(one))
    settings = {"noise": smoothing.gaussian(0.5), "num_classes": 2, "num_samples": 100}
    _, memory = smoothing.certify_with_memory(key, one, POINTS, memory=memory, **settings)
    with pytest.raises(ValueError, match="memory belongs to another model"):
        smoothing.certify_with_memory(key, other, POINTS, memory=memory, **settings)


def linear(inputs):
    return jnp.stack([-inputs[:, 0], inputs[:, 0]], axis=1)


def steps(inputs):
    """Which of two sigmas: the second one beyond 1."""
    return jnp.stack([jnp.ones(len(inputs)), jnp.abs(inputs[:, 0])], axis=1)


def test_selector_gives_the_smaller_radius_and_both_failure_probabilities(key):
    points = jnp.array([[0.4], [1.0], [1.2], [3.0], [0.001]])
    sigmas, settings = [0.25, 1.0], {"num_classes": 2, "num_samples": 10_000}
    found = smoothing.certify_with_selector(
        key, steps, linear, points, sigmas=sigmas, selector_sigma=0.3, alpha=0.002, **settings
    )
    certified = found.label != ABSTAIN
    # On the line radii are known: to the step of the selector at 1, to the boundary at 0.
    x = np.asarray(points[:, 0], np.float64)
    to_step, to_boundary = np.abs(x - 1), x
    assert certified.tolist() == [True, False, True, True, False]
    # On its step the selector abstains, and nothing is claimed though the classifier is certified.
    assert found.selection.label[1] == ABSTAIN != found.smoothed.label[1]
    assert found.radius[1] == 0
    assert np.isnan(found.sigma[1])
    assert (found.radius[certified] <= np.minimum(to_step, to_boundary)[certified] + 1e-6).all()
    assert found.radius[0] > 0.9 * 0.4
    assert found.radius[2] > 0.7 * 0.2
    np.testing.assert_array_equal(
        found.radius[certified],
        np.minimum(found.selection.radius, found.smoothed.radius)[certified],
    )
    np.testing.assert_array_equal(found.sigma[[0, 2, 3]], [0.25, 1.0, 1.0])
    assert found.alpha == 0.002
    # Each part was certified at half of alpha.
    for part in (found.selection, found.smoothed):
        expected = smoothing.clopper_pearson_lower(part.counts.max(axis=1), 10_000, alpha=0.001)
        np.testing.assert_array_equal(part.p_lower[certified], expected[certified])
    # Without the selector's radius the claim would be false: neighbours choose another sigma.
    assert found.smoothed.radius[2] > to_step[2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sigmas": [0.25]}, ValueError, "sigmas must have shape"),
        ({"sigmas": [0.25, -1.0]}, ValueError, "sigmas must be finite and above 0"),
        ({"sigmas": [0.25, 0.5, 1.0]}, ValueError, "classify must return scores"),
        ({"selector_sigma": 0.0}, ValueError, "selector_sigma must be finite and above 0"),
    ],
)
def test_bad_selectors(key, change, error, message):
    settings = {"sigmas": [0.25, 0.5], "selector_sigma": 0.3, "num_classes": 2} | change
    with pytest.raises(error, match=message):
        smoothing.certify_with_selector(key, steps, linear, POINTS, **settings)
