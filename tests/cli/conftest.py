"""A network small enough that a command starts in seconds, and a place for the data set."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from flax import nnx

from jaxcert import data, models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Where the digits are prepared, once for all tests."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    data.load("digits", "test", data_dir=folder)
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A saved network with fresh weights: it certifies some digits and abstains on others."""
    network = models.MLP(
        input_shape=(8, 8, 1),
        num_classes=10,
        mean=0.3,
        std=0.4,
        hidden=(32,),
        rngs=nnx.Rngs(0),
    )
    folder = tmp_path_factory.mktemp("models") / "mlp"
    models.save(folder, network)
    return folder


@pytest.fixture
def start(data_dir, model_dir) -> Callable[..., subprocess.Popen]:
    """Start `jaxcert certify` as a process of its own, under another command if one is given."""

    def start(output, *arguments: str, under: Sequence[str] = ()) -> subprocess.Popen:
        command = [
            *under,
            *(sys.executable, "-m", "jaxcert.cli", "certify", "--quiet"),
            *("--model", str(model_dir), "--data-dir", str(data_dir), "--output", str(output)),
            *("--sigma", "0.25", *arguments),
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
