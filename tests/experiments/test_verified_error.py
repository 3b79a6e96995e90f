"""The experiment on a seeded network, its readers, and what the committed table must say."""

import collections
import json
import pickle
import shlex
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from experiments import trained_networks, verified_error
from jaxcert.lipschitz import apply_layers

RESULTS = Path(verified_error.__file__).parent / "results"
METHODS = ("IBP", "Fast-Lin", "CROWN", "best mix")


def test_smoke(tmp_path, capsys):
    words = ["--preset", "smoke", "--work", str(tmp_path / "work"), "--output", str(tmp_path)]
    words += ["--float64"]
    assert verified_error.main(words) == 0
    (row,) = json.loads((tmp_path / "verified_error.json").read_text())["networks"]
    assert row["clean"] == pytest.approx(1 / 12)
    assert row["clean"] <= row["pgd"] <= row["best mix"] <= row["CROWN"] <= row["IBP"]
    assert row["best mix"] < 1
    table = (tmp_path / "verified_error.md").read_text()
    assert table in capsys.readouterr().out
    # Every stage is on disk, so a second run computes nothing, and says the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.npz")}
    assert len(before) == 10
    assert verified_error.main(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.npz")}
    assert (tmp_path / "verified_error.md").read_text() == table


def test_a_certificate_that_an_attack_breaks_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        verified_error, "least_margins", lambda layers, images, *_, **__: np.ones(len(images))
    )
    words = ["--preset", "smoke", "--work", str(tmp_path / "work"), "--output", str(tmp_path)]
    with pytest.raises(RuntimeError, match="IBP certified images .* that are misclassified"):
        verified_error.main(words)


@pytest.fixture(scope="module")
def committed():
    return json.loads((RESULTS / "verified_error.json").read_text())


def test_committed_errors_are_in_the_order_that_soundness_demands(committed):
    for row in committed["networks"]:
        assert row["images"] == 10_000
        for method in METHODS:
            assert row["clean"] <= row["pgd"] <= row[method] <= 1
        assert row["best mix"] <= min(row[method] for method in METHODS)
    assert committed["epsilon"] == 0.1
    assert committed["command"].startswith("python -m experiments.verified_error")
    assert not any(Path(word).is_absolute() for word in shlex.split(committed["command"]))
    assert (RESULTS / "verified_error.md").read_text() == verified_error.markdown(committed)


def test_committed_errors_beside_the_published_ones(committed):
    rows = {row["network"]: row for row in committed["networks"]}
    wk17a = rows["WK17a"]
    assert wk17a["clean"] == pytest.approx(0.0189)
    # The exact error is 4.38%: attacks cannot exceed it, nor bounds fall below it.
    assert wk17a["pgd"] <= 0.0438 <= min(wk17a[method] for method in METHODS)
    assert wk17a["best mix"] < 0.0582
    # What the same relaxation certified for others, to the image.
    assert wk17a["Fast-Lin"] == pytest.approx(0.0586)
    wong_kolter = rows["Wong-Kolter MNIST"]
    assert wong_kolter["clean"] == pytest.approx(0.0180)
    assert wong_kolter["best mix"] < wong_kolter["Fast-Lin"] == pytest.approx(0.0582)
    fashion = rows["Wong-Kolter Fashion-MNIST"]
    assert fashion["best mix"] < 0.3453
    rsl18a = rows["RSL18a"]
    assert rsl18a["clean"] == pytest.approx(0.0418)
    # The exact error is at least 14.36% and at most 30.81%.
    assert min(rsl18a[method] for method in METHODS) >= 0.1436
    assert rsl18a["pgd"] <= 0.3081


def write_torch_file(path, arrays, monkeypatch, *, global_name="FloatStorage"):
    """Write a state dictionary as torch did before version 1.6, with a stand-in for torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    class Storage:
        pass

    Storage.__module__, Storage.__qualname__ = "torch", global_name
    setattr(torch, global_name, Storage)

    def rebuild(*_):
        raise AssertionError

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Reference:
        def __init__(self, key, size):
            self.pid = ("storage", Storage, key, "cpu", size, None)

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(step // self.array.itemsize for step in self.array.strides)
            reference = Reference(self.key, self.array.size)
            return rebuild, (reference, 0, self.array.shape, strides, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Reference) else None

    state = collections.OrderedDict(
        (name, Tensor(str(index), array)) for index, (name, array) in enumerate(arrays.items())
    )
    with path.open("wb") as file:
        for value in (trained_networks._TORCH_MAGIC, 1001, {"little_endian": True}):
            pickle.dump(value, file, protocol=2)
        Pickler(file, protocol=2).dump({"state_dict": [state], "epoch": 3})
        pickle.dump([str(index) for index in range(len(arrays))], file, protocol=2)
        for array in arrays.values():
            file.write(np.int64(array.size).tobytes() + array.tobytes(order="A"))


def test_torch_files_are_read_without_torch(tmp_path, monkeypatch):
    arrays = {
        "0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "0.bias": np.ones(5, np.float32),
        # A transposed view: strides matter.
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    path = tmp_path / "network.pth"
    write_torch_file(path, arrays, monkeypatch)
    content = trained_networks.read_state_dicts(path)
    assert content["epoch"] == 3
    for name, array in content["state_dict"][0].items():
        np.testing.assert_array_equal(array, arrays[name])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is truncated"):
        trained_networks.read_state_dicts(path)
    write_torch_file(path, arrays, monkeypatch, global_name="Tensor")
    with pytest.raises(pickle.UnpicklingError, match="holds no torch.Tensor"):
        trained_networks.read_state_dicts(path)
    path.write_bytes(pickle.dumps(7))
    with pytest.raises(ValueError, match="is no torch file"):
        trained_networks.read_state_dicts(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "error"),
    [
        (trained_networks.wk17a, 0.0189),
        (trained_networks.wong_kolter, 0.0180),
        (trained_networks.rsl18a, 0.0418),
    ],
)
def test_published_networks_have_their_published_clean_error(read, error, real_data_dir):
    images, labels = trained_networks.read_test_set(real_data_dir, "mnist")
    layers = read(real_data_dir)
    scores = [
        apply_layers(layers, images[start : start + 1000]) for start in range(0, 10_000, 1000)
    ]
    assert np.mean(np.concatenate(scores).argmax(axis=1) != labels) == pytest.approx(error)
