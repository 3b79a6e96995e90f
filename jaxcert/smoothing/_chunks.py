"""How many images and samples go into one launch."""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcert import _checks

# Largest activation of a chunk, by platform: on a CPU it should stay in a core's cache, elsewhere
# it should fill the device. Feature maps want chunks a quarter as large as dense layers do, whose
# weights are read once a chunk: measured on a CPU, a LeNet and a ResNet lose a fifth otherwise.
_ACTIVATION_BYTES = {"cpu": 2**21, "gpu": 2**30, "tpu": 2**28}
_FEATURE_MAP_WEIGHT = 4
_CHUNK_LIMITS = (16, 2**16)


class ChunkShape(NamedTuple):
    """A chunk holds `samples` noisy copies of each of `images` inputs."""

    images: int
    samples: int


def trace_classifier(classify: Any, shape: tuple[int, ...], dtype: Any) -> tuple[Any, int]:
    """Trace `classify` on two inputs, without running it.

    Returns:
      What it returns, as shapes and dtypes, and the bytes of its largest activation for one input,
      those of feature maps weighted.
    """
    leaves, treedef = jax.tree.flatten(classify)
    specs = tuple((np.shape(leaf), jax.dtypes.result_type(leaf)) for leaf in leaves)
    return _trace(treedef, specs, (2, *shape), dtype)


@functools.lru_cache(maxsize=64)
def _trace(treedef: Any, specs: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> Any:
    classify = treedef.unflatten(jax.ShapeDtypeStruct(*spec) for spec in specs)
    call = jax.make_jaxpr(lambda function, batch: function(batch), return_shape=True)
    closed, scores = call(classify, jax.ShapeDtypeStruct(shape, dtype))
    input_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return scores, _largest_output(closed.jaxpr, input_bytes) // shape[0]


def chunk_shape(
    *, num_images: int, num_samples: int, chunk_size: int | None, row_bytes: int
) -> ChunkShape:
    """Split a launch of at most `chunk_size` rows into images and samples, with little padding."""
    if chunk_size is None:
        budget = _ACTIVATION_BYTES.get(jax.default_backend(), _ACTIVATION_BYTES["gpu"])
        lowest, highest = _CHUNK_LIMITS
        chunk_size = min(max(budget // row_bytes, lowest), highest)
    else:
        chunk_size = _checks.positive_integer("chunk_size", chunk_size)
    samples = _even_share(num_samples, chunk_size)
    return ChunkShape(_even_share(num_images, max(1, chunk_size // samples)), samples)


def _even_share(total: int, limit: int) -> int:
    """The smallest chunk that covers `total` in as few chunks as chunks of `limit` would."""
    return math.ceil(total / math.ceil(total / limit))


def _largest_output(jaxpr: Any, input_bytes: int) -> int:
    """Bytes of the largest value that any equation computes, those of inner programs included."""
    largest = 0
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            aval = variable.aval
            if hasattr(aval, "shape") and hasattr(aval, "dtype"):
                num_bytes = math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4)
                # What is no larger than the input is the input, rescaled or reshaped.
                is_feature_map = len(aval.shape) > 2 and num_bytes > input_bytes
                largest = max(largest, num_bytes * (_FEATURE_MAP_WEIGHT if is_feature_map else 1))
        for parameter in equation.params.values():
            branches = parameter if isinstance(parameter, tuple) else (parameter,)
            for branch in branches:
                inner = getattr(branch, "jaxpr", branch)
                if hasattr(inner, "eqns"):
                    largest = max(largest, _largest_output(inner, input_bytes))
    return largest
