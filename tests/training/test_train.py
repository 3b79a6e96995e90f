"""The train loop: learning, one trace, resuming to the same bits, refusals."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxcert import data, models, smoothing, training


def bars(number, seed=0):
    """Images with a bright row (class 0) or a bright column (class 1)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, number).astype(np.int32)
    images = np.zeros((number, 4, 4, 1), np.float32)
    places = generator.integers(0, 4, number)
    images[labels == 0, places[labels == 0], :] = 1.0
    images[labels == 1, :, places[labels == 1]] = 1.0
    return data.Dataset(images, labels, "bars", "train", 2)


class Net(nnx.Module):
    """Small, with batch statistics and dropout: all kinds of state there are."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(16, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.second = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.first(x.reshape(x.shape[0], -1))))
        return self.second(self.drop(x))


SETTINGS = {
    "noise": smoothing.gaussian(0.3),
    "num_epochs": 4,
    "batch_size": 16,
    "learning_rate": 0.02,
    "progress": False,
}


def run(network=None, dataset=None, seed=7, **changed):
    network = network or Net()
    result = training.train(
        jax.random.key(seed), network, dataset or bars(70), **(SETTINGS | changed)
    )
    return network, result


def fingerprint(network):
    return models.fingerprint(models.from_nnx(network))


def test_learns_and_reports():
    network, result = run(num_epochs=15)
    assert result.module is network
    assert [epoch["epoch"] for epoch in result.history] == list(range(1, 16))
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert result.history[-1]["accuracy"] > 0.8
    assert all(epoch["images_per_second"] > 0 for epoch in result.history)
    # The result is in evaluation mode only where a classifier is made from it.
    assert network.norm.use_running_average is False
    fresh = bars(100, seed=1)
    right = models.from_nnx(network)(fresh.images).argmax(-1) == fresh.labels
    assert right.mean() > 0.9


def test_a_classifier_made_before_keeps_its_weights():
    network = Net()
    classify = models.from_nnx(network)
    before = models.fingerprint(classify)
    run(network, num_epochs=1)
    assert models.fingerprint(classify) == before
    assert fingerprint(network) != before


def test_one_trace_for_all_epochs():
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def loss(key, classify, images, labels, *, noise):
        return training.cross_entropy(key, classify, images, labels, noise=noise)

    run(loss=loss)


def test_same_arguments_same_bits_other_key_other_bits():
    first, _ = run()
    assert fingerprint(run()[0]) == fingerprint(first)
    assert fingerprint(run(seed=8)[0]) != fingerprint(first)


def test_another_scheme_reports_its_own_metrics():
    def twice(key, classify, images, labels, *, noise):
        """Two noisy copies of each image."""
        losses = [
            training.cross_entropy(
                jax.random.fold_in(key, copy), classify, images, labels, noise=noise
            )[0]
            for copy in range(2)
        ]
        return (losses[0] + losses[1]) / 2, {"gap": abs(losses[0] - losses[1])}

    _, result = run(loss=twice, num_epochs=1)
    assert result.history[0]["gap"] > 0
    assert "accuracy" not in result.history[0]


def test_augmented_images_reach_the_loss_and_the_loop():
    def loss(key, classify, images, labels, *, noise):
        value, _ = training.cross_entropy(key, classify, images, labels, noise=noise)
        return value, {"brightness": images.mean()}

    dataset = bars(70)
    _, plain = run(dataset=dataset, loss=loss, num_epochs=1)
    _, shifted = run(
        dataset=dataset,
        loss=loss,
        num_epochs=1,
        augment=functools.partial(training.shift_randomly, pixels=3),
    )
    # Bars of four pixels lose more than half of them to shifts of up to three.
    assert shifted.history[0]["brightness"] < 0.75 * plain.history[0]["brightness"]


def test_step_is_plain_gradient_descent(key):
    network = models.MLP(
        input_shape=(3,), num_classes=2, mean=0.5, std=0.5, hidden=(), rngs=nnx.Rngs(0)
    )
    optimizer = optax.sgd(0.1)
    graphdef, state = training.start(network, optimizer=optimizer)
    step = training.make_step(
        graphdef, optimizer=optimizer, loss=training.cross_entropy, noise=None
    )
    images, labels = jax.random.uniform(key, (4, 3)), jnp.array([0, 1, 1, 0])
    after, metrics = jax.jit(step)(state, key, images, labels)

    kernel = np.asarray(network.head.kernel[...], np.float64)
    x = (np.asarray(images, np.float64) - 0.5) / 0.5
    scores = x @ kernel
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    residual = (probabilities - np.eye(2)[np.asarray(labels)]) / 4
    np.testing.assert_allclose(
        after.parameters["head"]["kernel"], kernel - 0.1 * x.T @ residual, rtol=1e-5, atol=1e-6
    )
    # The normalisation constants are not trained.
    chex.assert_trees_all_equal(after.variables, state.variables)
    assert set(metrics) == {"loss", "accuracy"}


class ProcessEndError(Exception):
    """Stands for a process that ends."""


def test_resumed_after_each_epoch_gives_the_same_bits(tmp_path, monkeypatch):
    whole, expected = run()
    for stop_after in (1, 2, 3):
        folder = tmp_path / str(stop_after)
        network = Net()
        write = training._train._Checkpoints.write

        def write_and_end(self, state, history, stop_after=stop_after, write=write):
            write(self, state, history)
            if len(history) == stop_after:
                raise ProcessEndError

        with monkeypatch.context() as patch:
            patch.setattr(training._train._Checkpoints, "write", write_and_end)
            with pytest.raises(ProcessEndError):
                run(network, checkpoint_dir=folder)
        # An unfinished run has not touched the network, so the same arguments are at hand.
        assert fingerprint(network) == fingerprint(Net())
        _, result = run(network, checkpoint_dir=folder)
        assert fingerprint(network) == fingerprint(whole)
        assert [epoch["loss"] for epoch in result.history] == [
            epoch["loss"] for epoch in expected.history
        ]
    assert len(os.listdir(folder)) == 2


def test_a_complete_run_is_read_back(tmp_path):
    first, result = run(checkpoint_dir=tmp_path / "run")
    again, repeated = run(checkpoint_dir=tmp_path / "run")
    assert fingerprint(again) == fingerprint(first)
    assert repeated.history == result.history


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"noise": smoothing.gaussian(0.5)}, r"noise was gaussian\(0.3\) and is now"),
        ({"learning_rate": 0.01}, "learning_rate was 0.02 and is now 0.01"),
        ({"num_epochs": 5}, "num_epochs was 1 and is now 5"),
        ({"augment": training.flip_randomly}, "augment was None and is now .*flip_randomly"),
        ({"seed": 8}, "key was"),
        ({"network": Net(1)}, "initial weights was"),
        ({"dataset": bars(70, seed=3)}, "data was"),
    ],
)
def test_checkpoint_of_other_settings_is_refused(one_epoch, changed, words):
    settings = {"num_epochs": 1, "checkpoint_dir": one_epoch} | changed
    with pytest.raises(ValueError, match=words):
        run(**settings)


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "run"
    run(num_epochs=1, checkpoint_dir=folder)
    return folder


class Shift:
    """Stateful, so that its class says too little about it."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __call__(self, key, images):
        return training.shift_randomly(key, images, pixels=self.pixels)

    def method(self, key, images):
        return self(key, images)


def shift_by_two(key, images):
    return training.shift_randomly(key, images, pixels=2)


def _closure(pixels):
    def local(key, images):
        return training.shift_randomly(key, images, pixels=pixels)

    return local


@pytest.mark.parametrize(
    "function",
    [
        lambda key, images: images,
        _closure(1),
        functools.wraps(shift_by_two)(_closure(1)),
        Shift(1),
        Shift(1).method,
        functools.partial(_closure(1)),
        functools.partial(training.shift_randomly, pixels=np.arange(2)),
    ],
)
def test_functions_without_a_name_of_their_own_are_refused_with_checkpoints(tmp_path, function):
    with pytest.raises(ValueError, match=r"augment must be .* define it at the top level"):
        run(augment=function, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"loss must be .* train without checkpoint_dir"):
        run(loss=function, checkpoint_dir=tmp_path)


def test_functions_of_a_module_are_told_apart(tmp_path):
    run(num_epochs=1, checkpoint_dir=tmp_path / "own", augment=shift_by_two)
    run(num_epochs=1, checkpoint_dir=tmp_path / "own", augment=shift_by_two)
    shift = functools.partial(training.shift_randomly, pixels=1)
    run(num_epochs=1, checkpoint_dir=tmp_path / "partial", augment=shift)
    with pytest.raises(ValueError, match=r"pixels=1\) and is now .*pixels=2\)"):
        run(
            num_epochs=1,
            checkpoint_dir=tmp_path / "partial",
            augment=functools.partial(training.shift_randomly, pixels=2),
        )


def test_strangers_in_the_folder_are_left_and_epochs_ordered_by_number(tmp_path):
    (tmp_path / "epoch_notes.txt").write_text("mine")
    (tmp_path / "epoch_99999").write_text("a file")
    (tmp_path / "epoch_00001_copy").mkdir()
    first, _ = run(num_epochs=2, checkpoint_dir=tmp_path)
    again, _ = run(num_epochs=2, checkpoint_dir=tmp_path)
    assert fingerprint(again) == fingerprint(first)
    assert (tmp_path / "epoch_notes.txt").exists()
    (tmp_path / "epoch_100000").mkdir()
    (tmp_path / "epoch_99998").mkdir()
    names = [path.name for path in training._train._Checkpoints(tmp_path, {})._folders()]
    assert names == ["epoch_00001", "epoch_00002", "epoch_99998", "epoch_100000"]


def test_damaged_checkpoint_is_refused(tmp_path):
    run(num_epochs=2, checkpoint_dir=tmp_path)
    file = tmp_path / "epoch_00002" / "settings.json"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"epoch_00002.*delete that folder"):
        run(num_epochs=2, checkpoint_dir=tmp_path)


def test_not_finite_loss_names_the_step():
    dataset = bars(64)
    dataset.images[5] = 3e38
    with pytest.raises(FloatingPointError, match="step .* of epoch 1; lower learning_rate"):
        run(dataset=dataset)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"num_epochs": 0}, ValueError, "num_epochs must lie in"),
        ({"batch_size": 71}, ValueError, "batch_size must not exceed the number of images, 70"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be finite and above 0"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be"),
        ({"warmup_fraction": 1.0}, ValueError, r"warmup_fraction must lie in \[0, 1\)"),
        ({"optimizer": "adam"}, ValueError, "optimizer must be 'adamw' or 'sgd', got 'adam'"),
        ({"noise": smoothing.gaussian([0.1, 0.2])}, ValueError, "noise must have one scale"),
        ({"network": len}, TypeError, "module must be a flax.nnx.Module"),
        ({"dataset": bars(70)._replace(num_classes=1)}, ValueError, r"labels must lie in \[0, 1\)"),
        (
            {"dataset": bars(70)._replace(images=np.zeros((70, 4, 4, 1), np.uint8))},
            TypeError,
            "dataset.images must be floating",
        ),
    ],
)
def test_bad_settings_are_named(changed, error, words):
    with pytest.raises(error, match=words):
        run(**changed)


def test_sgd_learns_too():
    _, result = run(optimizer="sgd", learning_rate=0.1, num_epochs=6)
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]


SCRIPT = textwrap.dedent(
    """
    import sys
    import jax
    import numpy as np
    from jaxcert import data, models, smoothing, training

    folder = sys.argv[1]
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 2000).astype(np.int32)
    images = generator.uniform(size=(2000, 4, 4, 1)) + labels[:, None, None, None]
    dataset = data.Dataset((images / 2).astype(np.float32), labels, "bright", "train", 2)
    network = models.MLP(input_shape=(4, 4, 1), num_classes=2, mean=0.5, std=0.5, hidden=(8,),
                         rngs=models._networks.nnx.Rngs(0))
    print("started", flush=True)
    training.train(jax.random.key(0), network, dataset, noise=smoothing.gaussian(0.2),
                   num_epochs=12, batch_size=20, learning_rate=0.01, progress=False,
                   checkpoint_dir=folder)
    print(models.fingerprint(models.from_nnx(network)))
    """
)


@pytest.mark.slow
def test_killed_at_any_time_it_continues_to_the_same_bits(tmp_path):
    def start_process(folder):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True
        )

    process = start_process(tmp_path / "whole")
    whole = process.stdout.readline()
    began = time.monotonic()
    whole += process.communicate()[0]
    duration = time.monotonic() - began
    generator = np.random.default_rng(5)
    folder = tmp_path / "killed"
    kills = 0
    while True:
        process = start_process(folder)
        assert process.stdout.readline() == "started\n"
        try:
            rest, _ = process.communicate(timeout=generator.uniform(0.1, 0.9) * duration)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            assert kills < 60
        else:
            break
    assert process.returncode == 0
    assert kills > 0
    assert "started\n" + rest == whole
