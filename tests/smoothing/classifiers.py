"""Classifiers whose behaviour is known, for the tests of smoothing."""

import jax
import jax.numpy as jnp
import numpy as np

NUM_HASH_CLASSES = 5


def hash_of_bits(inputs: jax.Array) -> jax.Array:
    """Scores that depend on every bit of a row: equal counts mean bitwise equal noise."""
    bits = jax.lax.bitcast_convert_type(inputs, jnp.uint32).reshape(inputs.shape[0], -1)
    weights = jnp.arange(bits.shape[1], dtype=jnp.uint32) * np.uint32(2654435761) + np.uint32(1)
    mixed = jnp.sum(bits * weights[None], axis=1, dtype=jnp.uint32)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(2246822519)
    label = (mixed >> np.uint32(8)) % np.uint32(NUM_HASH_CLASSES)
    return jax.nn.one_hot(label, NUM_HASH_CLASSES)


def half_space(inputs: jax.Array) -> jax.Array:
    """Class 1 where the first coordinate is positive; no near-ties in effect."""
    first = inputs.reshape(inputs.shape[0], -1)[:, 0]
    return jnp.stack([-first, first], axis=1)


def interval(inputs: jax.Array) -> jax.Array:
    """Class 1 on [-1, 1], in one dimension."""
    margin = 1.0 - jnp.abs(inputs[:, 0])
    return jnp.stack([-margin, margin], axis=1)


def ball(inputs: jax.Array) -> jax.Array:
    """Class 1 on the unit ball."""
    margin = 1.0 - jnp.linalg.norm(inputs, axis=1)
    return jnp.stack([-margin, margin], axis=1)
