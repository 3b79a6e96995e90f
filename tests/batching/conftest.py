"""A small problem that several tests of rules share."""

import jax
import numpy as np
import pytest

from jaxcert import batching


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        features = batching.unit_rows(rng.standard_normal((30, 4)))
        targets = features @ rng.standard_normal(4) + 0.3 * rng.standard_normal(30)
        return batching.ridge(features, targets, penalty=0.02)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield
