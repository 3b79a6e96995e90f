"""Constants of single layers, and networks read from Flax modules."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import lipschitz, models
from jaxcert.lipschitz import Activation, Conv, Dense, Flatten, Relu
from tests.lipschitz.convolution_operator import sparse_operator

ORDERS = (1, 2, math.inf)


def product(layers, shape, order=2):
    return lipschitz.network_lipschitz_upper(
        layers, method="product", input_shape=shape, order=order
    )


def conv(kernel, padding="SAME", **settings):
    return Conv(kernel, np.zeros(kernel.shape[-1]), padding=padding, **settings)


def dense(weight):
    return Dense(weight, np.zeros(len(weight)))


def steepest_secant(function, shape, order, seed=0, pairs=400):
    """The largest ratio of output to input distance over random pairs, near and far."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((pairs, *shape))
    each = (pairs, *(1 for _ in shape))
    steps = rng.standard_normal((pairs, *shape)) * 10.0 ** rng.uniform(-3, 0.5, each)
    steps *= rng.random((pairs, *shape)) < rng.uniform(0.05, 1.0, each)
    with jax.enable_x64(True):
        moved = np.asarray(function(jnp.asarray(points + steps)) - function(jnp.asarray(points)))
    top = np.linalg.norm(moved.reshape(pairs, -1), order, axis=1)
    below = np.linalg.norm(steps.reshape(pairs, -1), order, axis=1)
    return float(np.max(top[below > 0] / below[below > 0]))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", jax.nn.relu),
        ("tanh", jnp.tanh),
        ("sigmoid", jax.nn.sigmoid),
        ("softplus", jax.nn.softplus),
        ("elu", jax.nn.elu),
        ("softsign", jax.nn.soft_sign),
        ("hard_tanh", jax.nn.hard_tanh),
        ("relu6", jax.nn.relu6),
        ("log_sigmoid", jax.nn.log_sigmoid),
        ("gelu", functools.partial(jax.nn.gelu, approximate=False)),
        ("gelu_tanh", jax.nn.gelu),
        ("silu", jax.nn.silu),
        ("leaky_relu", jax.nn.leaky_relu),
        ("abs", jnp.abs),
        ("identity", lambda x: x),
    ],
)
def test_slope_ranges_hold_and_are_reached(name, function):
    with jax.enable_x64(True):
        points = jnp.linspace(-40.0, 40.0, 400_002)
        slopes = np.asarray(jax.vmap(jax.grad(function))(points))
    low, high = lipschitz.slope_range(name)
    assert low <= slopes.min() + 1e-15
    assert slopes.max() <= high + 1e-15
    # The ends of elu, hard_tanh and their like are met; others are approached.
    assert slopes.min() - low < 1e-6 or name == "softsign"
    assert high - slopes.max() < 1e-6 or name == "softsign"


def test_published_range_of_silu_misses_the_true_minimum():
    slope = float(jax.grad(jax.nn.silu)(-2.3994))
    assert slope < -0.0734
    assert lipschitz.slope_range("silu").low <= slope


@pytest.mark.parametrize(("window", "stride", "exact"), [(3, 2, 2.0), (3, 1, 3.0), (2, 2, 1.0)])
def test_overlapping_max_pools_expand(window, stride, exact):
    pool = lipschitz.MaxPool((window, window), (stride, stride))
    assert product([pool], (7, 7, 2)) == pytest.approx(exact, rel=1e-12)
    # A single pixel that wins all windows that hold it.
    image = np.zeros((1, 7, 7, 1))
    image[0, 2, 2] = 1.0
    pooled = nnx.max_pool(jnp.asarray(image), (window, window), (stride, stride))
    assert float(jnp.linalg.norm(pooled)) == pytest.approx(exact)
    assert product([pool], (7, 7, 2), math.inf) == pytest.approx(1.0)
    assert product([pool], (7, 7, 2), 1) == pytest.approx(exact**2)


def test_average_pools():
    plain = lipschitz.AveragePool((2, 2), (2, 2))
    assert product([plain], (8, 8, 3)) == pytest.approx(0.5, rel=1e-4)
    whole = lipschitz.AveragePool()
    assert product([whole], (6, 4, 3)) == pytest.approx(1 / math.sqrt(24), rel=1e-4)
    overlapping = lipschitz.AveragePool((3, 3), (2, 2))
    matrix = sparse_operator(
        np.full((3, 3, 1, 1), 1 / 9), (9, 9, 1), strides=2, padding="VALID"
    ).toarray()
    for order in ORDERS:
        exact = np.linalg.norm(matrix, order)
        assert exact <= product([overlapping], (9, 9, 3), order) <= exact * 1.1


@pytest.mark.parametrize("order", ORDERS)
def test_scales_are_folded_into_their_neighbours(order):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, 1, 4))
    before, after = rng.standard_normal(2), rng.standard_normal(4)
    layers = [
        lipschitz.Scale(before), conv(kernel, groups=2), lipschitz.Scale(after),
    ]  # fmt: skip
    image = np.repeat(before, 2)
    matrix = sparse_operator(kernel, (5, 5, 2), groups=2).toarray()
    exact = np.linalg.norm(np.tile(after, 25)[:, None] * matrix * np.tile(before, 25)[None], order)
    found = product(layers, (5, 5, 2), order)
    assert exact <= found <= exact * (1.35 if order == 2 else 1 + 1e-9)
    apart = np.linalg.norm(matrix, order) * np.abs(before).max() * np.abs(after).max()
    assert found < apart
    weight = rng.standard_normal((3, 50))
    flat = product([lipschitz.Scale(before), Flatten(), dense(weight)], (5, 5, 2), order)
    assert flat == pytest.approx(np.linalg.norm(weight * np.tile(before, 25), order), rel=1e-6)
    assert image.size == 4


@pytest.mark.parametrize("order", ORDERS)
def test_residual_sums_and_concatenations(order):
    rng = np.random.default_rng(1)
    square = rng.standard_normal((6, 6)) - 2 * np.eye(6)
    linear = product([lipschitz.Residual((dense(square),))], (6,), order)
    assert linear == pytest.approx(np.linalg.norm(square + np.eye(6), order), rel=1e-6)
    assert linear < 1 + np.linalg.norm(square, order)
    kernel = rng.standard_normal((3, 3, 2, 4)) * 0.1
    kernel[1, 1] -= 0.5
    for dilation in (1, 2):
        layer = lipschitz.Residual((conv(kernel, groups=2, dilation=(dilation,) * 2),))
        matrix = sparse_operator(kernel, (6, 6, 4), groups=2, dilation=dilation).toarray()
        exact = np.linalg.norm(matrix + np.eye(len(matrix)), order)
        assert exact <= product([layer], (6, 6, 4), order) <= exact * 1.2
    weight = rng.standard_normal((6, 6))
    curved = lipschitz.Residual((dense(weight), Relu()))
    found = product([curved], (6,), order)
    assert found == pytest.approx(1 + np.linalg.norm(weight, order), rel=1e-6)

    def function(x):
        return x + jax.nn.relu(x @ weight.T)

    assert steepest_secant(function, (6,), order) <= found
    both = lipschitz.Concatenate(((dense(weight),), (dense(square),)))
    stacked = product([both], (6,), order)
    assert np.linalg.norm(np.concatenate([weight, square]), order) <= stacked * (1 + 1e-12)
    parts = [np.linalg.norm(m, order) for m in (weight, square)]
    assert stacked == pytest.approx(np.linalg.norm(parts, order), rel=1e-6)


def test_sorting_activations_are_one_lipschitz_and_have_no_slopes():
    weight = np.random.default_rng(2).standard_normal((4, 4))
    layers = [dense(weight), Activation("group_sort"), dense(weight)]
    assert product(layers, (4,)) == pytest.approx(np.linalg.norm(weight, 2) ** 2, rel=1e-6)
    with pytest.raises(ValueError, match="must be 'product' for networks with a group_sort"):
        lipschitz.network_lipschitz_upper(layers, method="lipsdp")


def test_convolutional_network_by_every_cheap_method_and_its_lower_bound(key):
    rng = np.random.default_rng(3)
    layers = [
        lipschitz.Scale(np.array([2.0, 0.5])),
        conv(rng.standard_normal((3, 3, 2, 3)), strides=(2, 2), padding=((1, 0), (0, 1))),
        Relu(),
        Flatten(),
        dense(rng.standard_normal((8, 27))),
        Relu(),
        dense(rng.standard_normal((3, 8))),
    ]
    values = {
        method: lipschitz.network_lipschitz_upper(layers, method=method, input_shape=(6, 6, 2))
        for method in ("product", "averaged", "eclipse_fast")
    }
    lower = lipschitz.network_lipschitz_lower(key, layers, input_shape=(6, 6, 2), starts=4)
    assert 0 < lower <= min(values.values())
    assert values["averaged"] < values["product"]
    pairs = lipschitz.pairwise_lipschitz_upper(layers, method="product", input_shape=(6, 6, 2))
    assert pairs.max() <= math.sqrt(2) * values["product"]


def sequential():
    rngs = nnx.Rngs(0)
    network = nnx.Sequential(
        nnx.Conv(3, 8, (3, 3), strides=2, feature_group_count=1, rngs=rngs),
        nnx.BatchNorm(8, rngs=rngs),
        jax.nn.relu,
        functools.partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2)),
        nnx.Conv(8, 8, (3, 3), padding="CIRCULAR", feature_group_count=2, rngs=rngs),
        functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
        functools.partial(nnx.avg_pool, window_shape=(2, 2), strides=(1, 1)),
        nnx.Conv(8, 4, (2, 2), padding=1, kernel_dilation=2, rngs=rngs),
        jax.nn.gelu,
        nnx.Dropout(0.5, rngs=rngs),
    )
    norm = network.layers[1]
    norm.scale[...] = jnp.linspace(-2.0, 3.0, 8)
    norm.var[...] = jnp.linspace(0.1, 4.0, 8)
    network.eval()
    return network


def test_flax_module_is_bounded_above_what_it_does():
    network = sequential()
    shape = (16, 16, 3)
    apply = jax.jit(lambda x: network(x))
    for order in ORDERS:
        found = product(network, shape, order)
        seen = steepest_secant(apply, shape, order, pairs=100)
        assert 0 < seen <= found


@pytest.mark.parametrize("kind", ["mlp", "lenet", "resnet"])
def test_own_networks_count_their_input_normalisation(kind):
    settings = {"input_shape": (8, 8, 1), "num_classes": 4, "mean": 0.3, "rngs": nnx.Rngs(0)}
    build = {
        "mlp": functools.partial(models.MLP, hidden=(8, 8)),
        "lenet": functools.partial(models.LeNet, channels=(2, 3), hidden=8),
        "resnet": functools.partial(models.ResNet, depth=8),
    }[kind]
    found = {}
    for std in (1.0, 0.25):
        network = build(std=std, **{**settings, "rngs": nnx.Rngs(0)})
        network.eval()
        found[std] = lipschitz.network_lipschitz_upper(network, method="product")
    assert found[0.25] == pytest.approx(4 * found[1.0], rel=1e-5)
    seen = steepest_secant(jax.jit(lambda x: network(x)), (8, 8, 1), 2, pairs=50)
    assert 0 < seen <= found[0.25]
    if kind == "mlp":
        better = lipschitz.network_lipschitz_upper(network, method="eclipse_fast")
        assert seen <= better <= found[0.25]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda r: nnx.Sequential(nnx.Linear(3, 3, rngs=r), nnx.LayerNorm(3, rngs=r)),
         TypeError, "Lipschitz constants are known, got LayerNorm"),
        (lambda r: nnx.Sequential(nnx.Linear(3, 3, rngs=r), jax.nn.softmax),
         TypeError, "Lipschitz constants are known, got softmax"),
        (lambda r: nnx.Sequential(nnx.Linear(3, 3, rngs=r), lambda x: x * 1e9),
         TypeError, "Lipschitz constants are known, got <lambda>"),
        (lambda r: nnx.Sequential(nnx.BatchNorm(3, rngs=r)),
         ValueError, "evaluation mode"),
        (lambda r: nnx.Sequential(nnx.Linear(3, 3, rngs=r), nnx.Dropout(0.5, rngs=r)),
         ValueError, "evaluation mode"),
        (lambda r: nnx.Sequential(nnx.Conv(3, 3, (3, 3), padding="REFLECT", rngs=r)),
         ValueError, "padding must be one of"),
        (lambda r: nnx.Sequential(nnx.Conv(3, 3, (3, 3), input_dilation=2, rngs=r)),
         TypeError, "input_dilation"),
    ],
)  # fmt: skip
def test_modules_that_are_not_understood_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        product(build(nnx.Rngs(0)), (8, 8, 3))


@pytest.mark.parametrize(
    ("layers", "shape", "error", "message"),
    [
        ([object()], (3,), TypeError, "got object, whose Lipschitz constant is not known"),
        ([Activation("swoosh")], (3,), ValueError, "activation must be"),
        ([dense(np.ones((2, 3)))], (4,), ValueError, r"layers\[0\]: weight of shape"),
        ([dense(np.full((2, 3), np.inf))], (3,), ValueError, r"layers\[0\].weight must be finite"),
        ([conv(np.ones((3, 3, 2, 2)))], (6, 6, 3), ValueError, r"layers\[0\]: kernel must have"),
        ([lipschitz.Scale(np.ones(2))], (6, 6, 3), ValueError, r"layers\[0\]: factor must have"),
        ([Relu(), Flatten()], None, ValueError, "input_shape must be given"),
    ],
)
def test_bad_layers_are_refused(layers, shape, error, message):
    with pytest.raises(error, match=message):
        lipschitz.network_lipschitz_upper(layers, method="product", input_shape=shape)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([dense(np.eye(3)), dense(np.eye(3))], "linear layers in a row"),
        ([dense(np.eye(3)), Relu()], "do not end in a linear layer"),
        ([Relu(), dense(np.eye(3))], "do not alternate"),
        ([dense(np.eye(3)), Relu(), dense(np.eye(3)), Activation("tanh"), dense(np.eye(3))],
         "with activations"),
        ([lipschitz.Residual((dense(np.eye(3)),))], "with a Residual"),
    ],
)  # fmt: skip
def test_networks_that_are_no_chain_are_left_to_the_product(layers, message):
    with pytest.raises(ValueError, match=message):
        lipschitz.network_lipschitz_upper(layers, method="eclipse_fast", input_shape=(3,))
    assert product(layers, (3,)) >= 1.0
