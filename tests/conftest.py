"""Fixtures that every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

# The folders whose code owes exact dtypes and ranks. The others run Flax and Optax, which promote.
STRICT_FOLDERS = {"smoothing", "theory"}


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Free what a module compiled, which the next one rarely needs: gigabytes in a whole run."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _strict_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make silent promotion of dtypes and ranks an error where the code is ours alone."""
    if STRICT_FOLDERS.isdisjoint(Path(request.node.path).parts):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def key() -> jax.Array:
    """A fixed typed key; fold from it, one branch a use."""
    return jax.random.key(20190613)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """The folder of real data sets, or a skip on machines that have none."""
    folder = os.environ.get("JAXCERT_DATA_DIR")
    if not folder:
        pytest.skip("JAXCERT_DATA_DIR names no folder of real data")
    return Path(folder).resolve()
