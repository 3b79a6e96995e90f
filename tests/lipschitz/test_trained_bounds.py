"""Bounds of a published, trained network, beside values sampled from its balls."""

import functools

import jax
import numpy as np
import pytest

from experiments import trained_networks
from jaxcert.lipschitz import ball, interval_bounds, linear_bounds
from tests.lipschitz.relu_networks import points_of_ball, values_of_layers

RADIUS = 0.1


@pytest.fixture(scope="module")
def network(real_data_dir):
    """WK17a, trained for l-infinity 0.1 on MNIST, two of its test images, and points near them."""
    layers = trained_networks.wk17a(real_data_dir)
    images, _ = trained_networks.read_test_set(real_data_dir, "mnist")
    center = np.asarray(images[:2], np.float32)
    points = points_of_ball(np.random.default_rng(0), center, RADIUS, "linf", (0.0, 1.0), 12)
    values = values_of_layers(layers, points.reshape(-1, *points.shape[2:]))
    return layers, center, [value.reshape(*points.shape[:2], *value.shape[1:]) for value in values]


@pytest.mark.parametrize("method", ["interval", "linear"])
def test_bounds_of_every_layer_enclose_what_the_trained_network_puts_out(network, method):
    layers, center, values = network
    bound = interval_bounds if method == "interval" else functools.partial(linear_bounds, refine=0)
    bounds = jax.jit(bound)(layers, ball(center, RADIUS, box=(0.0, 1.0)))
    widths = []
    for value, (low, high) in zip(values, bounds, strict=True):
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        assert np.all((low <= value) & (value <= high))
        widths.append(float(np.mean(high - low)))
    # The bounds are of use: the first layer's intervals are what one box needs, and no more.
    spread = np.ptp(values[0], axis=0)
    assert widths[0] < 6.0 * float(np.mean(spread))
    # A tenth of the radius is no bound.
    narrow = jax.jit(bound)(layers, ball(center, RADIUS / 10, box=(0.0, 1.0)))
    assert np.any(values[0] > np.asarray(narrow[0].upper, np.float64))
