"""Random 32-bit words from Threefry-2x32, written so that XLA fuses them into one vector loop."""

import jax
import jax.numpy as jnp
import numpy as np

# Rotation distances and key-schedule constant of Threefry-2x32-20 (Salmon et al., 2011).
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry_2x32(
    key: tuple[jax.Array, jax.Array], counter: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Encrypt `counter` with `key`: the 20 rounds of Threefry-2x32, elementwise.

    The same function as the one behind `jax.random`, unrolled: on a CPU JAX runs it as a loop over
    rounds, each of which goes through memory, and that costs several times as much.

    Args:
      key: two uint32 arrays.
      counter: two uint32 arrays that broadcast against the key.

    Returns:
      Two uint32 arrays.

    References:
      Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    left, right = counter[0] + schedule[0], counter[1] + schedule[1]
    for injection in range(5):
        for distance in _ROTATIONS[injection % 2]:
            left = left + right
            rotated = (right << np.uint32(distance)) | (right >> np.uint32(32 - distance))
            right = rotated ^ left
        left = left + schedule[(injection + 1) % 3]
        right = right + schedule[(injection + 2) % 3] + np.uint32(injection + 1)
    return left, right


def random_words(keys: jax.Array, count: int, *, block: int = 0) -> jax.Array:
    """Draw `count` independent 32-bit words for each key.

    Word `t` and word `t + ceil(count / 2)` are the two halves of one encrypted counter
    `(block, t)`, so no output of the generator is thrown away (`jax.random.bits` folds the halves
    into one).

    Args:
      keys: typed threefry keys `[...]`.
      count: number of words for each key.
      block: words of different blocks are independent.

    Returns:
      uint32 `[..., count]`.
    """
    data = jax.random.key_data(keys)
    half = (count + 1) // 2
    counters = jax.lax.broadcasted_iota(jnp.uint32, (*[1] * keys.ndim, half), keys.ndim)
    high = jnp.full_like(counters, block)
    words = threefry_2x32((data[..., 0:1], data[..., 1:2]), (high, counters))
    return jnp.concatenate(words, axis=-1)[..., :count]
