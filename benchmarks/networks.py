"""The three networks of the benchmarks, with weights that leave no part of them idle."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import models

SIGMA = 0.25
NUM_CLASSES = 10


class Workload(NamedTuple):
    """A network by name, and how much of it a measurement runs on a CPU."""

    name: str
    input_shape: tuple[int, ...]
    num_images: int
    num_samples: int


WORKLOADS = {
    "mlp": Workload("mlp", (28, 28, 1), num_images=2, num_samples=20_000),
    "lenet": Workload("lenet", (28, 28, 1), num_images=2, num_samples=20_000),
    "resnet20": Workload("resnet20", (32, 32, 3), num_images=1, num_samples=4_000),
}


def create(workload: Workload, *, seed: int = 0) -> nnx.Module:
    """A network in evaluation mode.

    Fresh networks have zero biases and the running statistics of no data; both are replaced by
    random values, so that a mistake in carrying weights over cannot hide.
    """
    network = models.create(
        workload.name,
        input_shape=workload.input_shape,
        num_classes=NUM_CLASSES,
        mean=0.45,
        std=0.25,
        seed=seed,
    )
    generator = np.random.default_rng(seed)
    for _, node in nnx.iter_graph(network):
        if isinstance(node, nnx.BatchNorm):
            for variable in (node.scale, node.var):
                _fill(variable, lambda shape: generator.uniform(0.8, 1.2, shape))
            for variable in (node.bias, node.mean):
                _fill(variable, lambda shape: generator.normal(0.0, 0.1, shape))
        elif isinstance(node, nnx.Linear | nnx.Conv):
            _fill(node.bias, lambda shape: generator.normal(0.0, 0.1, shape))
    network.eval()
    return network


def images(workload: Workload, count: int, *, seed: int = 1) -> np.ndarray:
    """Random images in [0, 1], float32 `[count, *input_shape]`."""
    shape = (count, *workload.input_shape)
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _fill(variable: nnx.Variable | None, draw: Callable[[tuple[int, ...]], np.ndarray]) -> None:
    """Replace the values of a variable, if the layer has it."""
    if variable is not None:
        variable.set_value(jnp.asarray(draw(variable.shape), variable.dtype))
