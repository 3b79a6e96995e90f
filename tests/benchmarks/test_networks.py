"""The networks of the benchmarks, and their twins in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import cases, networks
from jaxcert import models, smoothing


@pytest.fixture
def pytorch():
    pytest.importorskip("torch", reason="PyTorch, of the bench extra, is not installed")
    from benchmarks import pytorch

    return pytorch


@pytest.mark.parametrize("name", networks.WORKLOADS)
def test_no_weight_is_left_at_a_value_that_hides_mistakes(name):
    network = networks.create(networks.WORKLOADS[name])
    for path, variable in nnx.to_flat_state(nnx.state(network, (nnx.Param, nnx.BatchStat))):
        values = np.asarray(variable[...])
        assert np.unique(values).size > 0.9 * values.size, path
        assert np.all(values != 0.0), path
        assert np.all(values != 1.0), path


def test_workloads_are_the_ones_that_the_aims_speak_of():
    mlp = networks.create(networks.WORKLOADS["mlp"])
    assert [layer.kernel.shape for layer in mlp.layers] == [(784, 1024), (1024, 1024)]
    assert mlp.head.kernel.shape == (1024, 10)
    assert networks.create(networks.WORKLOADS["resnet20"]).depth == 20
    assert networks.WORKLOADS["resnet20"].input_shape == (32, 32, 3)


@pytest.mark.parametrize("name", networks.WORKLOADS)
def test_pytorch_computes_the_same_scores(pytorch, name):
    workload = networks.WORKLOADS[name]
    network = networks.create(workload)
    images = networks.images(workload, 8)
    scores = np.asarray(jax.jit(models.from_nnx(network))(jnp.asarray(images)))
    module = pytorch.convert(network)
    others = module(pytorch.to_channels_first(images)).detach().cpu().numpy()
    assert scores.shape == (8, networks.NUM_CLASSES)
    assert np.ptp(scores, axis=0).min() > 1e-3, "scores that ignore the image agree too easily"
    cases.check_scores(scores, others)


@pytest.mark.parametrize("settings", [{"padding": 1}, {"input_shape": (16, 12, 3)}])
def test_pytorch_follows_the_settings_of_a_lenet(pytorch, settings):
    arguments = {"input_shape": (28, 28, 1), "num_classes": 4, "mean": 0.3, "std": 0.4, **settings}
    network = models.LeNet(**arguments, rngs=nnx.Rngs(0))
    workload = networks.Workload("lenet", arguments["input_shape"], 1, 1)
    images = networks.images(workload, 5)
    module = pytorch.convert(network)
    others = module(pytorch.to_channels_first(images)).detach().cpu().numpy()
    cases.check_scores(np.asarray(network(jnp.asarray(images))), others)


def test_a_wrong_weight_is_noticed(pytorch):
    workload = networks.WORKLOADS["lenet"]
    network = networks.create(workload)
    images = networks.images(workload, 4)
    scores = np.asarray(network(jnp.asarray(images)))
    module = pytorch.convert(network)
    with pytorch.torch.no_grad():
        module.convolutions[1].bias += 0.01
    others = module(pytorch.to_channels_first(images)).detach().cpu().numpy()
    with pytest.raises(ValueError, match="must agree"):
        cases.check_scores(scores, others)
    with pytest.raises(ValueError, match="must agree"):
        cases.check_scores(scores, np.full_like(scores, np.nan))


def test_the_pytorch_loop_certifies_as_jaxcert_does(pytorch):
    """Both certify a half-space; the radii agree within five standard errors of the counts.

    With p = Phi(1) = 0.841 and N = 4000, sqrt(p (1 - p) / N) = 0.0058 in p is 0.024 in units of
    sigma, so a difference of two runs beyond 5 * sqrt(2) * 0.024 = 0.17 is a one in 1e6 event.
    """
    distance = sigma = 0.25

    def classify(x):
        return jnp.stack([-x[:, 0, 0, 0], x[:, 0, 0, 0]], axis=1)

    class HalfSpace(pytorch.torch.nn.Module):
        def forward(self, x):
            return pytorch.torch.stack([-x[:, 0, 0, 0], x[:, 0, 0, 0]], 1)

    images = np.zeros((2, 1, 1, 1), np.float32)
    images[:, 0, 0, 0] = distance, -distance
    pytorch.torch.manual_seed(0)
    found = pytorch.certify(
        HalfSpace(), pytorch.to_channels_first(images), sigma=sigma, num_classes=2,
        num_samples=4000, batch_size=1500,
    )  # fmt: skip
    expected = smoothing.certify(
        jax.random.key(0), classify, jnp.asarray(images), noise=smoothing.gaussian(sigma),
        num_classes=2, num_samples=4000,
    )  # fmt: skip
    assert [label for label, _ in found] == [1, 0] == expected.label.tolist()
    np.testing.assert_allclose([r for _, r in found], expected.radius, atol=0.17 * sigma)


def test_ready_made_inputs_split_into_whole_batches():
    assert cases._divisor(40_200, 1000) == 804
    assert cases._divisor(2_200, 25) == 25
    assert cases._divisor(7, 5) == 1


def test_the_forward_pass_classifies_every_input():
    inputs = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(12, 1)
    run = cases._forward_runner(
        jax.tree_util.Partial(lambda x: jnp.concatenate([-x, x], axis=1)), inputs, 4
    )
    np.testing.assert_array_equal(np.asarray(run()).reshape(-1), inputs[:, 0] > 0)
