"""The environment of a test run, tests and docstring examples alike, set before JAX starts."""

import os
import shutil
import tempfile

import pytest

# Four CPU devices, so that sharded code is really run.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("MPLBACKEND", "Agg")

_OWN_FOLDER = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Let data sets be prepared in a folder of this run, not in the user's home."""
    # Workers of pytest-xdist inherit the folder of the process that started them.
    if "TFDS_DATA_DIR" not in os.environ:
        config.stash[_OWN_FOLDER] = tempfile.mkdtemp(prefix="jaxcert-tests-")
        os.environ["TFDS_DATA_DIR"] = config.stash[_OWN_FOLDER]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that folder."""
    folder = config.stash.get(_OWN_FOLDER, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
