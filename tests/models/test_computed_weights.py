"""How far weights that are compiled together are from those that a bound was proved of."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxcert import _compiled_weights, models

FAMILIES = ("aol", "cayley", "bro")


def matrices_of(networks):
    """The matrices that the layers of all networks compute."""
    return [layer.weight() for network in networks for layer in (network.neck, *network.layers)]


@pytest.mark.parametrize(
    ("inputs", "width", "depth"),
    [(12, 16, 2), pytest.param(784, 128, 12, marks=pytest.mark.slow)],
)
def test_allowance_covers_what_compiling_layers_together_changes(inputs, width, depth):
    networks = [
        models.LipschitzMLP(
            input_shape=(inputs,), num_classes=10, mean=0.0, std=1.0, family=family, width=width,
            depth=depth, rngs=nnx.Rngs(3),
        )
        for family in FAMILIES
    ]  # fmt: skip
    graphdef, state = nnx.split(nnx.List(networks))
    together = jax.jit(lambda weights: matrices_of(nnx.merge(graphdef, weights)))(state)
    bounds = [
        layer.lipschitz_upper() for network in networks for layer in (network.neck, *network.layers)
    ]
    allowance = 1.0 + _compiled_weights.ALLOWANCE
    excess = []
    for alone, compiled, bound in zip(matrices_of(networks), together, bounds, strict=True):
        one, other = (np.asarray(matrix, np.float64) for matrix in (alone, compiled))
        # In float64, of exactly the entries that float32 computed.
        assert np.linalg.norm(one, 2) <= bound
        norm = float(np.linalg.norm(other, 2))
        excess.append(norm / bound - 1.0)
        assert norm <= bound * allowance
        assert np.linalg.norm(one - other, 2) <= 4e-6 * bound
    # The allowance is not idle, nor ten times what there is to allow for where weights differ.
    assert min(excess) > -1e-5
