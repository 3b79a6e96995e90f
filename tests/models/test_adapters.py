"""Adapters: one trace for equal architectures, snapshots, evaluation mode, refusals."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import models


class NnxNet(nnx.Module):
    """Batch normalisation and dropout: all that differs between training and evaluation."""

    def __init__(self, seed, *, always_training=False):
        rngs = nnx.Rngs(seed)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)
        self.always_training = always_training

    def __call__(self, x):
        x = self.norm(x, use_running_average=False if self.always_training else None)
        return self.dense(self.drop(x))


class LinenNet(nn.Module):
    width: int = 3
    forgets_train: bool = False

    @nn.compact
    def __call__(self, x, train: bool = True):
        average = not train and not self.forgets_train
        x = nn.BatchNorm(use_running_average=average)(x)
        x = nn.Dropout(0.5, deterministic=average)(x)
        return nn.Dense(self.width)(x)


class LinenSwitch(nn.Module):
    train: bool = True

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not self.train)(x))


def linen_variables(module, seed=0):
    return module.init(
        {"params": jax.random.key(seed), "dropout": jax.random.key(1)}, jnp.zeros((2, 4))
    )


@pytest.fixture
def inputs(key):
    return jax.random.normal(key, (6, 4))


def make_nnx(seed):
    return models.from_nnx(NnxNet(seed))


def make_linen(seed):
    module = LinenNet()
    return models.from_linen(module, linen_variables(module, seed))


@pytest.mark.parametrize("make", [make_nnx, make_linen])
def test_equal_architectures_share_one_trace(make, inputs):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def scores(classify, x):
        return classify(x)

    first, second = make(0), make(1)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert not np.allclose(scores(first, inputs), scores(second, inputs))


def test_other_architectures_differ():
    wide = LinenNet(width=5)
    assert jax.tree.structure(make_linen(0)) != jax.tree.structure(
        models.from_linen(wide, linen_variables(wide))
    )
    assert jax.tree.structure(make_nnx(0)) != jax.tree.structure(
        models.from_nnx(NnxNet(0, always_training=True))
    )


@pytest.mark.parametrize("make", [make_nnx, make_linen])
def test_a_row_does_not_depend_on_the_others(make, inputs):
    classify = make(0)
    whole = np.asarray(classify(inputs))
    # In batch-statistics mode, one wild row would move all others.
    wild = inputs.at[0].set(1e3)
    np.testing.assert_allclose(classify(wild)[1:], whole[1:], rtol=1e-5)
    np.testing.assert_allclose(classify(inputs[2:3]), whole[2:3], rtol=1e-5)


@pytest.mark.parametrize("make", [make_nnx, make_linen])
def test_evaluation_is_one_fixed_function(make, inputs):
    classify = make(0)
    np.testing.assert_array_equal(classify(inputs), classify(inputs))


def test_running_averages_are_used(inputs):
    module = NnxNet(0)
    module.norm.mean[...] = jnp.full(4, 2.0)
    expected = (inputs - 2.0) / np.sqrt(1.0 + 1e-5) @ module.dense.kernel[...]
    np.testing.assert_allclose(models.from_nnx(module)(inputs), expected, rtol=1e-4, atol=1e-5)


def test_nnx_snapshot_and_untouched_module(inputs):
    module = NnxNet(0)
    classify = models.from_nnx(module)
    before = np.asarray(classify(inputs))
    assert module.drop.deterministic is False
    module.dense.kernel[...] = module.dense.kernel[...] + 1.0
    np.testing.assert_array_equal(classify(inputs), before)
    # The other way round: donating the classifier's arrays leaves the module usable.
    jax.jit(lambda c: c, donate_argnums=0)(classify)
    assert np.isfinite(module.dense.kernel[...]).all()


def test_linen_snapshot(inputs):
    module = LinenNet()
    variables = linen_variables(module)
    variables = jax.tree.map(np.array, variables)
    classify = models.from_linen(module, variables)
    before = np.asarray(classify(inputs))
    variables["params"]["Dense_0"]["kernel"] += 1.0
    np.testing.assert_array_equal(classify(inputs), before)


def test_a_module_that_stays_in_training_mode_is_refused(inputs):
    classify = models.from_nnx(NnxNet(0, always_training=True))
    with pytest.raises(ValueError, match="NnxNet changes its state norm/mean"):
        classify(inputs)
    module = LinenNet(forgets_train=True)
    classify = models.from_linen(module, linen_variables(module))
    with pytest.raises(ValueError, match="LinenNet is not in evaluation mode"):
        classify(inputs)


def test_linen_switch_as_a_field_and_as_an_argument(inputs):
    module = LinenSwitch()
    models.from_linen(module, linen_variables(module))(inputs)
    module = LinenNet()
    classify = models.from_linen(module, linen_variables(module), arguments={"train": True})
    with pytest.raises(ValueError, match="not in evaluation mode"):
        classify(inputs)


def test_linen_variables_must_be_complete(inputs):
    module = LinenNet()
    variables = linen_variables(module)
    with pytest.raises(ValueError, match=r"collection 'params', got \['batch_stats'\]"):
        models.from_linen(module, {"batch_stats": variables["batch_stats"]})
    classify = models.from_linen(module, {"params": variables["params"]})
    with pytest.raises(ValueError, match="variables lacks a collection"):
        classify(inputs)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="flax.nnx.Module, got LinenNet"):
        models.from_nnx(LinenNet())
    with pytest.raises(TypeError, match="flax.linen.Module, got NnxNet"):
        models.from_linen(NnxNet(0), {})
    with pytest.raises(TypeError, match="Partial.*got function"):
        models.fingerprint(lambda x: x)


def test_fingerprint_sees_every_weight_and_nothing_else():
    module = NnxNet(0)
    original = models.fingerprint(models.from_nnx(module))
    assert models.fingerprint(models.from_nnx(NnxNet(0))) == original
    module.drop.rngs.count[...] = module.drop.rngs.count[...] + 1
    assert models.fingerprint(models.from_nnx(module)) == original
    module.norm.var[...] = (
        module.norm.var[...].at[0].set(np.nextafter(np.float32(1), np.float32(2)))
    )
    assert models.fingerprint(models.from_nnx(module)) != original


def test_fingerprint_is_pinned():
    # Written into manifests, so it must not change between releases.
    classify = jax.tree_util.Partial(jnp.dot, np.eye(2, dtype=np.float32))
    zeros = nnx.eval_shape(
        lambda: models.MLP(
            input_shape=(2,), num_classes=2, mean=0.0, std=1.0, hidden=(3,), rngs=nnx.Rngs(0)
        )
    )
    zeros = nnx.merge(
        nnx.graphdef(zeros),
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nnx.state(zeros)),
    )
    assert models.fingerprint(models.from_nnx(zeros))[:16] == "1ee5429af55560b6"
    assert models.fingerprint(classify) != models.fingerprint(models.from_nnx(zeros))
