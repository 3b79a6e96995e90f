"""The counts of `class_counts` by `jax.pmap`, for those who still use it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert._classifier import Classifier
from jaxcert.smoothing._chunks import ChunkShape
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._sampling import count_share, prepare


def pmap_class_counts(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_samples: int,
    num_classes: int,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> jax.Array:
    """Count votes as `class_counts` does, under the same noise, with `jax.pmap` over the samples.

    For code and comparisons that are built on `jax.pmap`; JAX itself recommends sharding, which
    `class_counts` uses when it is given a `mesh`.

    Args:
      key: a typed threefry key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`; see
        `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: the noise, with a scalar scale or one value an input `[b]`.
      num_samples: samples for each input, which the devices share.
      num_classes: number of classes.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs each device classifies at once; chosen by default.
      devices: the devices of this process to use; all of them by default.

    Returns:
      int32 `[b, num_classes]`, the counts of `class_counts` with the same arguments.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument has a wrong value or shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> smoothing.pmap_class_counts(
      ...     jax.random.key(7), classify, jnp.array([[-5.0], [5.0]]),
      ...     noise=smoothing.gaussian(1.0), num_samples=1000, num_classes=2,
      ... )
      Array([[1000,    0],
             [   0, 1000]], dtype=int32)
    """
    chosen = tuple(jax.local_devices() if devices is None else devices)
    if not chosen:
        raise ValueError("devices must name at least one device, got none")
    batch, shape, operands = prepare(
        key, classify, inputs, noise=noise, num_samples=num_samples, num_classes=num_classes,
        ids=ids, chunk_size=chunk_size, images_axis=1, samples_axis=len(chosen),
    )  # fmt: skip
    order = np.arange(len(chosen), dtype=np.int32)
    count = _mapped(num_classes, shape, chosen)
    return count(order, *operands, np.int32(num_samples))[:batch]


@functools.lru_cache(maxsize=64)
def _mapped(num_classes: int, shape: ChunkShape, devices: tuple[jax.Device, ...]) -> Any:
    """One mapped function for each layout, so that equal calls share its compilation."""

    def count_and_add(
        device: jax.Array,
        key: jax.Array,
        classify: Classifier,
        inputs: jax.Array,
        noise: Noise,
        ids: jax.Array,
        num_samples: jax.Array,
    ) -> jax.Array:
        counts = count_share(
            key, classify, inputs, noise, ids, num_samples, device=device, devices=len(devices),
            num_classes=num_classes, shape=shape,
        )  # fmt: skip
        return jax.lax.psum(counts, "samples")

    # Replicated operands, and one copy of the equal results.
    in_axes = (0, *[None] * 6)
    return jax.pmap(
        count_and_add, axis_name="samples", in_axes=in_axes, out_axes=None, devices=devices
    )
