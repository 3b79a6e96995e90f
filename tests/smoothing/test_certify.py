import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import smoothing
from jaxcert.smoothing import _certify, _recertify
from tests.smoothing.classifiers import NUM_HASH_CLASSES, half_space, hash_of_bits

NOISE = smoothing.gaussian(0.5)
INPUTS = jnp.array([[-0.8, 0.1], [0.4, 0.3], [0.0, 0.2]])


def certify(key, classify=half_space, inputs=INPUTS, **settings):
    settings = {"noise": NOISE, "num_classes": 2, "num_samples": 20_000} | settings
    return smoothing.certify(key, classify, inputs, **settings)


def test_half_space(key):
    """The radius falls short of the distance by the width of the confidence bound alone."""
    certificate = certify(key)
    np.testing.assert_array_equal(certificate.label, [0, 1, smoothing.ABSTAIN])
    distance = np.array([0.8, 0.4, 0.0])
    assert np.all(certificate.radius <= distance)
    assert np.all(certificate.radius[:2] > distance[:2] - 0.05)
    np.testing.assert_array_equal(certificate.counts.sum(axis=1), 20_000)
    np.testing.assert_array_equal(certificate.selection_counts.sum(axis=1), 100)
    for field in certificate:
        assert isinstance(field, np.ndarray)
        assert field.shape[0] == 3


def test_counts_give_the_certificate_back(key):
    certificate = certify(key)
    again = smoothing.certificate_from_counts(
        certificate.selection_counts, certificate.counts, noise=NOISE, alpha=0.001
    )
    for old, new in zip(certificate, again, strict=True):
        np.testing.assert_array_equal(old, new)


def test_selection_estimation_and_prediction_share_no_noise(key):
    settings = {"noise": NOISE, "num_classes": NUM_HASH_CLASSES}
    certificate = smoothing.certify(
        key, hash_of_bits, INPUTS, num_samples=1000, selection_samples=1000, **settings
    )
    prediction = smoothing.predict(key, hash_of_bits, INPUTS, num_samples=1000, **settings)
    rows = np.concatenate([certificate.counts, certificate.selection_counts, prediction.counts])
    assert len(np.unique(rows, axis=0)) == 9


def test_ids_identify_the_noise(key):
    whole = certify(key)
    order = np.array([2, 0, 1])
    permuted = certify(key, inputs=INPUTS[order], ids=order, chunk_size=333)
    for old, new in zip(whole, permuted, strict=True):
        np.testing.assert_array_equal(old[order], new)


def test_on_a_mesh(key):
    if len(jax.devices()) < 4:
        pytest.skip("needs four devices, real or simulated (JAX_NUM_CPU_DEVICES=4)")
    mesh = jax.make_mesh((2, 2), ("images", "samples"))
    for old, new in zip(certify(key), certify(key, mesh=mesh), strict=True):
        np.testing.assert_array_equal(old, new)


def test_predict(key):
    prediction = smoothing.predict(key, half_space, INPUTS, noise=NOISE, num_classes=2)
    np.testing.assert_array_equal(prediction.label, [0, 1, smoothing.ABSTAIN])
    np.testing.assert_array_equal(prediction.counts.sum(axis=1), 1000)
    assert np.all(prediction.p_value[:2] <= 0.001)
    assert prediction.p_value[2] > 0.001


def test_predict_compares_the_two_leading_classes(key):
    def thirds(inputs):
        first = inputs[:, :1]
        cases = [first > 0.2, first < -0.2, jnp.abs(first) <= 0.2]
        return jnp.concatenate(cases, axis=1).astype(jnp.float32)

    prediction = smoothing.predict(
        key, thirds, jnp.zeros((1, 1)), noise=NOISE, num_classes=3, num_samples=5000
    )
    assert prediction.counts.min() > 0
    assert prediction.label[0] == smoothing.ABSTAIN


def test_predict_with_a_single_class(key):
    prediction = smoothing.predict(
        key, lambda x: x[:, :1], INPUTS, noise=NOISE, num_classes=1, num_samples=100
    )
    np.testing.assert_array_equal(prediction.label, 0)


@pytest.mark.parametrize("verb", [smoothing.certify, smoothing.predict])
class TestBadInput:
    def call(self, verb, key, classify=half_space, inputs=INPUTS, **settings):
        settings = {"noise": NOISE, "num_classes": 2, "num_samples": 100} | settings
        return verb(key, classify, inputs, **settings)

    @pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
    def test_a_network_that_is_not_finite_for_some_noise(self, verb, key, bad):
        def fragile(inputs):
            return jnp.where(inputs[:, :1] > 1.5, bad, half_space(inputs))

        with pytest.raises(smoothing.NonFiniteScoresError, match=r"2 of 3 inputs.*of row 1"):
            self.call(verb, key, fragile, num_samples=10_000)
        with pytest.raises(FloatingPointError):
            self.call(verb, key, fragile, num_samples=10_000)

    def test_alpha(self, verb, key):
        for alpha in (0, 1, -0.5):
            with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
                self.call(verb, key, alpha=alpha)

    def test_num_samples(self, verb, key):
        with pytest.raises(ValueError, match="num_samples must lie in"):
            self.call(verb, key, num_samples=0)

    def test_under_a_transformation(self, verb, key):
        with pytest.raises(TypeError, match="use class_counts, then certificate_from_counts"):
            jax.jit(lambda inputs: self.call(verb, key, inputs=inputs))(INPUTS)

    def test_a_flax_module_instead_of_its_adapter(self, verb, key):
        module = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        with pytest.raises(TypeError, match=r"jaxcert.models.from_nnx\(module\)"):
            self.call(verb, key, module)


def test_selection_samples(key):
    with pytest.raises(ValueError, match="selection_samples must lie in"):
        certify(key, selection_samples=0)


def test_stages_of_the_key_are_distinct():
    """Selection, estimation, prediction and recertification never draw from one stage."""
    stages = [
        *(_certify._SELECTION, _certify._ESTIMATION, _certify._PREDICTION),
        *(_recertify._DISAGREEMENT, _recertify._DIRECT),
    ]
    assert len(set(stages)) == len(stages)


@pytest.mark.parametrize("verb", [smoothing.certify, smoothing.predict, smoothing.class_counts])
def test_a_number_instead_of_noise(key, verb):
    with pytest.raises(
        TypeError, match=r"noise must be a Noise such as smoothing.gaussian\(0.25\)"
    ):
        verb(key, half_space, INPUTS, noise=0.25, num_classes=2, num_samples=10)
