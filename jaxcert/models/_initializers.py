"""Initial weights; module-level functions, so that modules of equal architecture compare equal."""

import math

import jax
import jax.numpy as jnp

_BLOCK = 2**14


def he_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, _sharding: None = None
) -> jax.Array:
    """Normal weights of variance `2 / fan_in`, which keep the size of activations after a ReLU."""
    return _scaled_normal(key, shape, dtype, gain=2.0)


def small_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32, _sharding: None = None
) -> jax.Array:
    """Normal weights of variance `0.1 / fan_in`: scores start small, the loss near log(classes)."""
    return _scaled_normal(key, shape, dtype, gain=0.1)


def _scaled_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, *, gain: float
) -> jax.Array:
    """Normal weights of variance `gain / fan_in` for kernels `[..., in, out]`."""
    # Blocks of one size, since XLA compiles the generator for most of a second for each size.
    size = math.prod(shape)
    blocks = [_block(jax.random.fold_in(key, index)) for index in range(-(-size // _BLOCK))]
    weights = jnp.concatenate(blocks)[:size].reshape(shape)
    return (math.sqrt(gain / math.prod(shape[:-1])) * weights).astype(dtype)


@jax.jit
def _block(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (_BLOCK,))


def near_identity(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """The leading block of an identity, with normal weights of variance `0.01 / fan_in` added."""
    return jnp.eye(*shape) + _scaled_normal(key, shape, jnp.dtype(jnp.float32), gain=0.01)


def near_identity_kernel(key: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
    """A convolution kernel near the identity map, with normal weights of the same variance."""
    noise = _scaled_normal(key, shape, jnp.dtype(jnp.float32), gain=0.01)
    return noise.at[shape[0] // 2, shape[1] // 2].add(jnp.eye(*shape[2:]))
