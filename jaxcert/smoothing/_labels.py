"""The class that a classifier says for each of many chosen noisy samples."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert._classifier import Classifier
from jaxcert.smoothing import _mesh
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._sampling import prepare
from jaxcert.smoothing._votes import keys_of_inputs, labels_of, noisy_inputs


def sample_labels(
    key: jax.Array,
    classify: Classifier,
    inputs: jax.Array,
    *,
    noise: Noise,
    num_classes: int,
    images: np.ndarray,
    samples: np.ndarray,
    ids: ArrayLike | None,
    chunk_size: int | None,
    mesh: jax.sharding.Mesh | None,
) -> np.ndarray:
    """Classify sample `samples[t]` of input `images[t]` for each t, noise as in `class_counts`.

    The samples are packed into full chunks, whatever inputs they belong to.

    Returns:
      int32 `[t]`; `NOT_FINITE` where a score was NaN or infinite.
    """
    mesh = _mesh.with_automatic_axes(mesh)
    devices, total = math.prod(_mesh.shares(mesh)), len(images)
    # As if each input had devices of its own: nothing is padded, and a chunk is one of samples.
    _, shape, operands = prepare(
        key, classify, inputs, noise=noise, num_samples=-(-total // devices),
        num_classes=num_classes, ids=ids, chunk_size=chunk_size, images_axis=inputs.shape[0],
        samples_axis=1,
    )  # fmt: skip
    rounds = -(-total // (shape.samples * devices))
    layout = (1 << (rounds - 1).bit_length(), devices, shape.samples)
    flat = np.zeros((2, math.prod(layout)), np.int32)
    flat[:, :total] = images, samples
    places = jnp.asarray(flat.reshape(2, *layout))
    if mesh is not None:
        operands = (
            _mesh.place(mesh, operands[0], jax.P()),
            _mesh.place_weights(mesh, operands[1]),
            *_mesh.place(mesh, operands[2:], jax.P()),
        )
        places = _mesh.place(mesh, places, _by_device(mesh))
    labels = _labels(*operands, places, np.int32(rounds), mesh=mesh)
    if mesh is not None:
        labels = _mesh.place(mesh, labels, jax.P())
    return np.asarray(labels).reshape(-1)[:total]


@functools.partial(jax.jit, static_argnames=("mesh",))
def _labels(
    key: jax.Array,
    classify: Classifier,
    inputs: jax.Array,
    noise: Noise,
    ids: jax.Array,
    places: jax.Array,
    rounds: jax.Array,
    *,
    mesh: jax.sharding.Mesh | None,
) -> jax.Array:
    """Labels for places `[2, chunks, devices, rows]`, of which `rounds` chunks are wanted."""
    if mesh is None:
        return _share_of_labels(key, classify, inputs, noise, ids, places, rounds)
    replicated, by_device = jax.P(), _by_device(mesh)
    return _mesh.on_each_device(
        _share_of_labels,
        mesh,
        in_specs=(*[replicated] * 5, by_device, replicated),
        out_specs=jax.P(*by_device[1:]),
    )(key, classify, inputs, noise, ids, places, rounds)


def _share_of_labels(
    key: jax.Array,
    classify: Classifier,
    inputs: jax.Array,
    noise: Noise,
    ids: jax.Array,
    places: jax.Array,
    rounds: jax.Array,
) -> jax.Array:
    """Labels of one device: int32 `[chunks, 1, rows]`."""
    input_keys = keys_of_inputs(key, ids)

    def add_chunk(chunk: jax.Array, labels: jax.Array) -> jax.Array:
        image, sample = places[0, chunk, 0], places[1, chunk, 0]
        scaled = dataclasses.replace(noise, scale=noise.scale[image])
        noisy = noisy_inputs(scaled, inputs[image], input_keys[image], sample)
        return labels.at[chunk, 0].set(labels_of(classify, noisy))

    return jax.lax.fori_loop(0, rounds, add_chunk, jnp.zeros(places.shape[1:], jnp.int32))


def _by_device(mesh: jax.sharding.Mesh) -> jax.P:
    """Split the axis of devices of places over the axes that split the work."""
    return jax.P(None, None, _mesh.work_axes(mesh), None)
