"""Counting the votes of a classifier under noise, streamed on the device."""

import dataclasses
import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing import _mesh
from jaxcert.smoothing._chunks import ChunkShape, chunk_shape, trace_classifier
from jaxcert.smoothing._noise import Noise, check_inputs
from jaxcert.smoothing._votes import keys_of_inputs, labels_of, noisy_inputs

Operands = tuple[jax.Array, jax.tree_util.Partial, jax.Array, Noise, jax.Array]


def class_counts(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_samples: int,
    num_classes: int,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    r"""Count how often a classifier says each class under noise.

    .. math::
        n_{jc} = \#\{i < N : \arg\max f(x_j + \epsilon_{ji}) = c\}

    where sample i of input j is `noise.sample(fold_in(fold_in(key, j), i), shape)`: the noise is
    the same for every chunk size, order of the inputs, number of devices and resumption. The score
    of a sample may still differ in its last bit between chunk sizes, as matrix products do, so a
    classifier with near-ties can give counts that differ by a vote.

    One compiled program draws noise and classifies chunk by chunk; memory is bounded by
    `chunk_size` and does not grow with `num_samples`.

    Args:
      key: a typed threefry key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]` that treats
        its rows independently; a tie goes to the lowest class. With a `jax.tree_util.Partial`, as
        the adapters in `jaxcert.models` return, new weights do not recompile; any other function is
        compiled once and, as under `jax.jit`, does not see later changes of what it closes over.
      inputs: floating `[b, *shape]`.
      noise: the noise, with a scalar scale or one value an input `[b]`.
      num_samples: samples for each input.
      num_classes: number of classes.
      ids: integers `[b]`, what identifies each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by the size of the network's
        activations by default.
      mesh: devices to share the work. Axes named `"images"` and `"samples"` split the inputs and
        the samples; at least one of them must be there. Over these each device has a copy of the
        weights; over other axes weights stay split where their `NamedSharding` splits them, and
        the compiler shares the work on them.
        A mesh across processes needs the same call in each, with the same arguments.

    Returns:
      int32 `[b, num_classes]`. Each row sums to `num_samples`, less the samples for which a score
      was not finite: those are no votes.

    Raises:
      TypeError: if an argument has the wrong type: a raw uint32 key, integer images.
      ValueError: if an argument has a wrong value or shape: NaN inputs, scores whose last axis is
        not `num_classes`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> smoothing.class_counts(
      ...     jax.random.key(7), classify, jnp.array([[-5.0], [5.0]]),
      ...     noise=smoothing.gaussian(1.0), num_samples=1000, num_classes=2,
      ... )
      Array([[1000,    0],
             [   0, 1000]], dtype=int32)

    References:
      Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
      arXiv:1902.02918.
    """
    mesh = _mesh.with_automatic_axes(mesh)
    images_axis, samples_axis = _mesh.shares(mesh)
    batch, shape, operands = prepare(
        key, classify, inputs, noise=noise, num_samples=num_samples, num_classes=num_classes,
        ids=ids, chunk_size=chunk_size, images_axis=images_axis, samples_axis=samples_axis,
    )  # fmt: skip
    if mesh is not None:
        operands = (
            _mesh.place(mesh, operands[0], jax.P()),
            _mesh.place_weights(mesh, operands[1]),
            *_mesh.place(mesh, operands[2:], _mesh.by_image(mesh)),
        )
    counts = _count(*operands, num_samples, num_classes=num_classes, shape=shape, mesh=mesh)
    if mesh is not None:
        counts = _mesh.place(mesh, counts, jax.P())
    return counts[:batch]


def prepare(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_samples: int,
    num_classes: int,
    ids: ArrayLike | None,
    chunk_size: int | None,
    images_axis: int,
    samples_axis: int,
) -> tuple[int, ChunkShape, Operands]:
    """Check the arguments of `class_counts` and lay its work out on so many devices.

    Returns:
      The number of inputs; the shape of a chunk; and key, classifier, inputs, noise and ids, the
      last three padded to fill the chunks of every device.
    """
    key = _checks.typed_key("key", key)
    inputs = _checks.batch_of_inputs("inputs", inputs)
    check_inputs("inputs", inputs, noise)
    batch = inputs.shape[0]
    _checks.one_value_per_input("noise.scale", jnp.asarray(noise.scale), batch)
    num_samples = _checks.positive_integer("num_samples", num_samples)
    num_classes = _checks.positive_integer("num_classes", num_classes)
    ids = _input_ids(ids, batch)
    classify = as_partial(classify)
    shape = chunk_shape(
        num_images=-(-batch // images_axis),
        num_samples=-(-num_samples // samples_axis),
        chunk_size=chunk_size,
        row_bytes=_check_scores(classify, inputs, num_classes),
    )
    padding = -batch % (images_axis * shape.images)
    noise = dataclasses.replace(noise, scale=jnp.broadcast_to(noise.scale, (batch,)))
    padded = jax.tree.map(lambda leaf: _pad(leaf, padding), (inputs, noise, ids))
    return batch, shape, (key, classify, *padded)


@functools.partial(jax.jit, static_argnames=("num_classes", "shape", "mesh"))
def _count(
    key: jax.Array,
    classify: Classifier,
    inputs: jax.Array,
    noise: Noise,
    ids: jax.Array,
    num_samples: jax.Array,
    *,
    num_classes: int,
    shape: ChunkShape,
    mesh: jax.sharding.Mesh | None,
) -> jax.Array:
    """Count votes on one device, or on each device of `mesh` for its share."""
    count = functools.partial(count_share, num_classes=num_classes, shape=shape)
    arguments = (key, classify, inputs, noise, ids, num_samples)
    if mesh is None:
        return count(*arguments, device=0, devices=1)

    def count_and_add(*arguments: Any) -> jax.Array:
        if "samples" not in mesh.axis_names:
            return count(*arguments, device=0, devices=1)
        device, devices = jax.lax.axis_index("samples"), mesh.shape["samples"]
        return jax.lax.psum(count(*arguments, device=device, devices=devices), "samples")

    rows = _mesh.by_image(mesh)
    in_specs = (jax.P(), jax.P(), rows, rows, rows, jax.P())
    return _mesh.on_each_device(count_and_add, mesh, in_specs=in_specs, out_specs=rows)(*arguments)


def count_share(
    key: jax.Array,
    classify: Classifier,
    inputs: jax.Array,
    noise: Noise,
    ids: jax.Array,
    num_samples: jax.Array,
    *,
    device: jax.Array | int,
    devices: int,
    num_classes: int,
    shape: ChunkShape,
) -> jax.Array:
    """Count the votes of the samples of one of several devices; shares differ by at most one.

    The number of inputs must be a multiple of `shape.images`; `noise.scale` and `ids` are `[b]`.
    """
    share, rest = num_samples // devices, num_samples % devices
    first = device * share + jnp.minimum(device, rest)
    last = first + share + (device < rest).astype(jnp.int32)
    # The same for all devices, which may have to wait for each other within a chunk.
    longest = share + (rest > 0).astype(jnp.int32)
    num_chunks = (longest + shape.samples - 1) // shape.samples

    def count_images(group: tuple[jax.Array, jax.Array, Noise]) -> jax.Array:
        inputs, keys, noise = jax.tree.map(functools.partial(_rows, shape=shape), group)

        def samples_of(chunk: jax.Array) -> jax.Array:
            return first + chunk * shape.samples + jnp.arange(shape.samples)

        def draw(chunk: jax.Array) -> jax.Array:
            return noisy_inputs(noise, inputs, keys, jnp.tile(samples_of(chunk), shape.images))

        def add_chunk(
            chunk: jax.Array, state: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            counts, noisy = state

            def classified() -> jax.Array:
                labels = labels_of(classify, noisy)
                return counts + _votes(labels, samples_of(chunk - 1) < last, num_classes, shape)

            counts = jax.lax.cond(chunk > 0, classified, lambda: counts)
            return counts, jax.lax.cond(chunk < num_chunks, lambda: draw(chunk), lambda: noisy)

        # A chunk is drawn one step before it is classified, so that it is in memory by then: XLA
        # for CPUs otherwise draws it anew wherever the first layer reads it.
        zeros = jnp.zeros((shape.images, num_classes), jnp.int32)
        return jax.lax.fori_loop(0, num_chunks + 1, add_chunk, (zeros, inputs))[0]

    groups = jax.tree.map(
        lambda leaf: leaf.reshape(-1, shape.images, *leaf.shape[1:]),
        (inputs, keys_of_inputs(key, ids), noise),
    )
    return jax.lax.map(count_images, groups).reshape(-1, num_classes)


def _rows(leaf: jax.Array, *, shape: ChunkShape) -> jax.Array:
    """Repeat what each image of a chunk has for each of its samples."""
    return jnp.repeat(leaf, shape.samples, axis=0)


def _votes(
    labels: jax.Array, is_counted: jax.Array, num_classes: int, shape: ChunkShape
) -> jax.Array:
    """One-hot votes summed over the samples of a chunk: int32 `[images, classes]`."""
    labels = einops.rearrange(labels, "(images samples) -> images samples", images=shape.images)
    one_hot = labels[..., None] == jnp.arange(num_classes)[None, None]
    return jnp.sum(one_hot & is_counted[None, :, None], axis=1, dtype=jnp.int32)


def _check_scores(classify: Classifier, inputs: jax.Array, num_classes: int) -> int:
    """Raise unless `classify` maps such inputs to `[n, num_classes]` real scores.

    Returns:
      The bytes that one input needs at the widest place, the noisy input itself included.
    """
    shape = inputs.shape[1:]
    try:
        scores, activation_bytes = trace_classifier(classify, shape, inputs.dtype)
    except Exception as error:
        raise ValueError(
            f"classify must accept a batch [n, *shape] with inputs of shape {inputs.shape} and "
            f"dtype {inputs.dtype}, and it failed: {error}"
        ) from error
    got = getattr(scores, "shape", None)
    if got != (2, num_classes):
        raise ValueError(
            f"classify must return scores [n, num_classes], (2, {num_classes}) for two inputs, "
            f"got {got}"
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"classify must return floating-point scores, got {scores.dtype}")
    return max(activation_bytes, 4 * math.prod(shape))


def _input_ids(ids: ArrayLike | None, batch: int) -> jax.Array:
    if ids is None:
        return jnp.arange(batch, dtype=jnp.uint32)
    array = ids if isinstance(ids, jax.Array) else np.asarray(ids)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"ids must be integers, got {array.dtype}")
    if array.shape != (batch,):
        raise ValueError(f"ids must have shape ({batch},), one for each input, got {array.shape}")
    if _checks.is_concrete(array):
        values = np.asarray(array)
        if values.min() < 0 or values.max() >= 2**32:
            raise ValueError(f"ids must lie in [0, 2**32), got {values.min()}..{values.max()}")
    return jnp.asarray(array).astype(jnp.uint32)


def _pad(leaf: jax.Array, padding: int) -> jax.Array:
    """Repeat the last row `padding` times; the padded rows are dropped from the result."""
    return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], padding, axis=0)]) if padding else leaf
