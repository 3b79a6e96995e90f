"""Counting votes where each input wants other samples, packed into full batches."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing import _mesh
from jaxcert.smoothing._chunks import chunk_shape
from jaxcert.smoothing._noise import Noise, check_inputs
from jaxcert.smoothing._sampling import _check_scores, _input_ids
from jaxcert.smoothing._votes import (
    NOT_FINITE,
    check_finite,
    keys_of_inputs,
    labels_of,
    noisy_inputs,
)

# Rows of one launch are numbered in int32, one chunk beyond the last included.
_LARGEST_LAUNCH = 2**30


class PackedCounter:
    """Counts votes of any samples of any of the inputs, by one compiled program.

    The inputs stay on the device. A launch lists slots, each an input and a range of its samples;
    their rows follow each other without gaps, so a batch is full whatever the inputs want. Sample i
    of input j has the noise that `class_counts` gives it.

    With a mesh every device holds all inputs and takes every so many-th chunk. `fewest_samples` is
    the least that a launch takes of each input: unless `chunk_size` says otherwise, a chunk is not
    made larger than that needs.
    """

    def __init__(
        self,
        classify: Classifier,
        inputs: ArrayLike,
        *,
        noise: Noise,
        num_classes: int,
        ids: ArrayLike | None,
        chunk_size: int | None,
        mesh: jax.sharding.Mesh | None,
        fewest_samples: int,
    ) -> None:
        if not all(
            _checks.is_concrete(leaf) for leaf in jax.tree.leaves((inputs, noise, classify))
        ):
            raise TypeError(
                "sampling that depends on the votes is steered from the host and cannot be traced; "
                "under jax.jit or jax.vmap use class_counts"
            )
        inputs = _checks.batch_of_inputs("inputs", inputs)
        check_inputs("inputs", inputs, noise)
        self.num_inputs = inputs.shape[0]
        _checks.one_value_per_input("noise.scale", jnp.asarray(noise.scale), self.num_inputs)
        self._num_classes = _checks.positive_integer("num_classes", num_classes)
        self._classify = as_partial(classify)
        self._mesh = _mesh.with_automatic_axes(mesh)
        row_bytes = _check_scores(self._classify, inputs, self._num_classes)
        # Half the inputs are launched at a time.
        smallest = fewest_samples * max(1, self.num_inputs // 2)
        share = max(1, smallest // math.prod(_mesh.shares(self._mesh)))
        if chunk_size is not None:
            share = _checks.positive_integer("chunk_size", chunk_size)
        self._rows = chunk_shape(
            num_images=1, num_samples=share, chunk_size=chunk_size, row_bytes=row_bytes
        ).samples
        scale = jnp.broadcast_to(jnp.asarray(noise.scale), (self.num_inputs,))
        noise = dataclasses.replace(noise, scale=scale)
        self._placed = (inputs, noise, _input_ids(ids, self.num_inputs))
        if self._mesh is not None:
            self._classify = _mesh.place_weights(self._mesh, self._classify)
            self._placed = _mesh.place(self._mesh, self._placed, jax.P())

    def launch(
        self, key: jax.Array, which: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> list[jax.Array]:
        """Start counting samples `first <= i < last` of inputs `which`; do not wait for it.

        Returns:
          int32 `[inputs, classes]`, one for each launch that the work was cut into.
        """
        if self._mesh is not None:
            key = _mesh.place(self._mesh, key, jax.P())
        launches = []
        ends = np.cumsum(last - first)
        begin = 0
        while begin < len(which):
            done = ends[begin - 1] if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, done + _LARGEST_LAUNCH, "right")))
            part = slice(begin, stop)
            launches.append(self._start(key, which[part], first[part], ends[part] - done))
            begin = stop
        return launches

    def _start(
        self, key: jax.Array, which: np.ndarray, first: np.ndarray, ends: np.ndarray
    ) -> jax.Array:
        # Empty slots fill the arrays up, so that all launches have one shape.
        unused = self.num_inputs - len(which)
        slots = tuple(
            np.pad(array, (0, unused), mode="edge").astype(np.int32)
            for array in (which, first, ends)
        )
        return _count_rows(
            key, self._classify, *self._placed, *slots,
            num_classes=self._num_classes, rows=self._rows, mesh=self._mesh,
        )  # fmt: skip

    def collect(
        self, launches: list[jax.Array], which: np.ndarray, num_samples: np.ndarray
    ) -> np.ndarray:
        """Wait for counts, as int64 `[inputs, classes]`; raise if a sample was no vote."""
        counts = sum(np.asarray(part).astype(np.int64) for part in launches)
        assert isinstance(counts, np.ndarray)
        check_finite(num_samples - counts[which].sum(axis=1), num_samples, which)
        return counts


@functools.partial(jax.jit, static_argnames=("num_classes", "rows", "mesh"))
def _count_rows(
    key: jax.Array,
    classify: Classifier,
    inputs: jax.Array,
    noise: Noise,
    ids: jax.Array,
    which: jax.Array,
    first: jax.Array,
    ends: jax.Array,
    *,
    num_classes: int,
    rows: int,
    mesh: jax.sharding.Mesh | None,
) -> jax.Array:
    """Votes `[inputs, classes]` of the rows of all slots; slot s ends before row `ends[s]`."""
    count = functools.partial(_count_every, num_classes=num_classes, rows=rows)
    arguments = (key, classify, inputs, noise, ids, which, first, ends)
    if mesh is None:
        return count(0, 1, *arguments)
    names, devices = _mesh.work_axes(mesh), math.prod(_mesh.shares(mesh))

    def count_and_add(*arguments: Any) -> jax.Array:
        counts = count(jax.lax.axis_index(names), devices, *arguments)
        return jax.lax.psum(counts, names)

    return _mesh.on_each_device(count_and_add, mesh, in_specs=jax.P(), out_specs=jax.P())(
        *arguments
    )


def _count_every(
    device: jax.Array | int,
    devices: int,
    key: jax.Array,
    classify: Classifier,
    inputs: jax.Array,
    noise: Noise,
    ids: jax.Array,
    which: jax.Array,
    first: jax.Array,
    ends: jax.Array,
    *,
    num_classes: int,
    rows: int,
) -> jax.Array:
    """Votes of chunks `device`, `device + devices`, and so on."""
    starts = jnp.concatenate([jnp.zeros((1,), jnp.int32), ends[:-1]])
    input_keys = keys_of_inputs(key, ids)

    def add_chunk(index: jax.Array, counts: jax.Array) -> jax.Array:
        row = (index * devices + device) * rows + jnp.arange(rows, dtype=jnp.int32)
        slot = jnp.minimum(jnp.searchsorted(ends, row, side="right"), ends.shape[0] - 1)
        image = which[slot]
        sample = first[slot] + row - starts[slot]
        scaled = dataclasses.replace(noise, scale=noise.scale[image])
        noisy = noisy_inputs(scaled, inputs[image], input_keys[image], sample)
        label = labels_of(classify, noisy)
        is_vote = (label != NOT_FINITE) & (row < ends[-1])
        return counts.at[image, label].add(is_vote.astype(jnp.int32))

    rounds = (ends[-1] + rows * devices - 1) // (rows * devices)
    zeros = jnp.zeros((inputs.shape[0], num_classes), jnp.int32)
    return jax.lax.fori_loop(0, rounds, add_chunk, zeros)
