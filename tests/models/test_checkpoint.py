"""Saving and restoring networks, whole and damaged."""

import errno
import json
import os
import resource
import shutil
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcert import _storage, models


def small_network(seed=0):
    return models.MLP(
        input_shape=(3,),
        num_classes=2,
        mean=0.25,
        std=(0.5, 1.0, 2.0),
        hidden=(5,),
        rngs=nnx.Rngs(seed),
    )


@pytest.fixture
def saved(tmp_path):
    network = small_network()
    models.save(tmp_path / "network", network)
    return tmp_path / "network", network


def fingerprint(network):
    return models.fingerprint(models.from_nnx(network))


def test_round_trip_is_bitwise(saved):
    path, network = saved
    again = models.restore(path)
    assert type(again) is models.MLP
    assert again.settings == network.settings
    assert fingerprint(again) == fingerprint(network)
    x = jnp.ones((4, 3))
    np.testing.assert_array_equal(again(x), network(x))
    assert jax.tree.structure(models.from_nnx(again)) == jax.tree.structure(
        models.from_nnx(network)
    )


def test_resnet_keeps_its_running_averages(tmp_path):
    network = models.ResNet(
        input_shape=(4, 4, 1), num_classes=2, mean=0.0, std=1.0, depth=8, rngs=nnx.Rngs(0)
    )
    network.blocks[2].second_norm.mean[...] = jnp.arange(64.0)
    models.save(tmp_path / "network", network)
    again = models.restore(tmp_path / "network")
    assert fingerprint(again) == fingerprint(network)
    np.testing.assert_array_equal(again.blocks[2].second_norm.mean[...], np.arange(64.0))


def test_existing_folder_is_kept_unless_told(saved):
    path, _ = saved
    with pytest.raises(FileExistsError, match="overwrite=True"):
        models.save(path, small_network(1))
    models.save(path, small_network(1), overwrite=True)
    assert fingerprint(models.restore(path)) == fingerprint(small_network(1))
    assert os.listdir(path.parent) == ["network"]


def files_below(folder):
    return sorted(
        file.relative_to(folder)
        for file in folder.rglob("*")
        if file.is_file() and file.stat().st_size
    )


def remove(file, _content):
    file.unlink()


def truncate(file, content):
    file.write_bytes(content[: len(content) // 2])


def flip(file, content):
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :])


@pytest.mark.parametrize("damage", [remove, truncate, flip])
def test_damage_to_any_file_is_an_error(saved, damage):
    path, network = saved
    original = fingerprint(network)
    names = files_below(path)
    assert len(names) >= 4
    for name in names:
        content = (path / name).read_bytes()
        damage(path / name, content)
        with pytest.raises(ValueError, match="write the checkpoint again") as caught:
            models.restore(path)
        assert str(path) in str(caught.value)
        assert name.name in str(caught.value)
        (path / name).write_bytes(content)
    assert fingerprint(models.restore(path)) == original


def test_every_flipped_byte_of_the_settings_is_found(saved):
    path, network = saved
    file = path / "settings.json"
    content = file.read_bytes()
    meaning = json.loads(content)
    for place in range(0, len(content), 7):
        flip_at = content[:place] + bytes([content[place] ^ 0x01]) + content[place + 1 :]
        file.write_bytes(flip_at)
        try:
            same = json.loads(flip_at) == meaning
        except ValueError:
            same = False
        if not same:
            with pytest.raises(ValueError, match="checkpoint"):
                models.restore(path)


def test_weights_of_another_checkpoint_are_found(saved, tmp_path):
    path, _ = saved
    models.save(tmp_path / "other", small_network(1))
    shutil.rmtree(path / "arrays")
    shutil.copytree(tmp_path / "other" / "arrays", path / "arrays")
    with pytest.raises(ValueError, match="not as it was written"):
        models.restore(path)


def test_arrays_that_orbax_reads_wrongly_are_found(saved, monkeypatch):
    path, _ = saved
    unnest = _storage._unnest

    def swapped(tree, prefix=""):
        arrays = unnest(tree, prefix)
        return {name: arrays[name][::-1] for name in arrays}

    monkeypatch.setattr(_storage, "_unnest", swapped)
    with pytest.raises(ValueError, match="do not match the SHA-256"):
        models.restore(path)


# TensorStore may finish its other writes after Orbax has given up on the one that failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_names_the_folder_and_leaves_nothing(tmp_path):
    # A limit on the size of a file is the full disk that a test can make without privileges.
    network = models.MLP(
        input_shape=(64,), num_classes=2, mean=0.0, std=1.0, hidden=(64,), rngs=nnx.Rngs(0)
    )
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, former[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            models.save(tmp_path / "network", network)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "network")
    assert os.listdir(tmp_path) == []


def test_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_storage.json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        models.save(tmp_path / "network", small_network())
    assert os.listdir(tmp_path) == []


def test_failing_overwrite_keeps_the_former(saved, monkeypatch):
    path, network = saved

    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_storage.json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        models.save(path, small_network(1), overwrite=True)
    assert fingerprint(models.restore(path)) == fingerprint(network)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a run that was started in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupted_write_waits_for_the_writer_and_leaves_nothing(tmp_path, monkeypatch):
    save = _storage._save_arrays
    finished = []

    def slow(path, arrays):
        time.sleep(0.2)  # By then the main thread waits for the result.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)
        save(path, arrays)
        finished.append(path.is_dir())

    monkeypatch.setattr(_storage, "_save_arrays", slow)
    with pytest.raises(KeyboardInterrupt):
        models.save(tmp_path / "network", small_network())
    assert finished == [True]
    assert os.listdir(tmp_path) == []


def test_failing_second_rename_puts_the_former_back(saved, monkeypatch):
    path, network = saved
    rename = os.rename

    def failing(source, target):
        if str(source).endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(_storage.os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        models.save(path, small_network(1), overwrite=True)
    assert fingerprint(models.restore(path)) == fingerprint(network)
    assert os.listdir(path.parent) == ["network"]


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        models.restore(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="settings.json cannot be used"):
        models.restore(tmp_path / "empty")
    _storage.write(tmp_path / "other", {"a": np.zeros(2)}, {"class": "Tree"})
    with pytest.raises(ValueError, match="holds no network of jaxcert"):
        models.restore(tmp_path / "other")


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(TypeError, match="one of MLP, LeNet, ResNet, .*got Linear"):
        models.save(tmp_path / "network", nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
