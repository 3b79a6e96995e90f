"""The volume of a zonotope."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from . import _subsets, _zonotope
from ._zonotope import Zonotope

_CHUNK = 1 << 12
_MOST_SUBSETS = 2**31 - _CHUNK


def volume(zonotope: Zonotope) -> jax.Array:
    r"""The volume of a zonotope: the parallelotopes of d generators each, added.

    .. math::
        \mathrm{vol}(Z) = \sum_{|S| = d} |\det g_S|
        = \frac{1}{d} \sum_{|T| = d - 1} \sum_j |\langle n_T, g_j \rangle|

    n_T being the generalised cross product of the generators T. The second form, which is computed,
    takes one matrix product for a block of sets. Works under jit, vmap and grad, in the dtype of
    the zonotope, with the sets numbered and built in blocks, so that memory stays small.

    Args:
      zonotope: in R^d, with m generators. A flat one has volume 0, up to rounding.

    Returns:
      The volume, a scalar, for segments [0, 1] g.

    Raises:
      ValueError: if there are 2^31 sets or more; the message says how many.

    Example:
      >>> from jaxcert import tropical
      >>> generators = [[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
      >>> print(tropical.volume(tropical.Zonotope([0.0, 0.0, 0.0], generators)))
      16.0

    References:
      Gover, Krikorian, "Determinants and the volumes of parallelotopes and zonotopes", Linear
      Algebra and its Applications 433, 2010.
    """
    base, generators = _zonotope.arrays(zonotope)
    dimension, count = base.shape[0], generators.shape[0]
    total = math.comb(count, dimension - 1)
    if total > _MOST_SUBSETS:
        raise ValueError(
            f"zonotope must have fewer than 2^31 sets of d - 1 generators, got {total:,} sets from "
            f"{count} generators in {dimension} dimensions"
        )
    return _volume(generators)


@jax.jit
def _volume(generators: jax.Array) -> jax.Array:
    count, dimension = generators.shape
    if count < dimension:
        return jnp.zeros((), generators.dtype)
    total = math.comb(count, dimension - 1)
    chunk = min(_CHUNK, total)
    starts = jnp.arange(0, total, chunk, dtype=jnp.int32)

    # Without the residuals of all blocks, a gradient needs no more memory than one of them.
    @jax.checkpoint
    def add(sum_so_far: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
        rank = start + jnp.arange(chunk, dtype=jnp.int32)
        subsets = _unranked(count, dimension - 1, jnp.minimum(rank, total - 1))
        normals = _subsets.normals(generators[subsets])
        products = jnp.einsum("nd,md->nm", normals, generators, precision=jax.lax.Precision.HIGHEST)
        sums = jnp.sum(jnp.abs(products), axis=1)
        return sum_so_far + jnp.sum(jnp.where(rank < total, sums, 0)), None

    result, _ = jax.lax.scan(add, jnp.zeros((), generators.dtype), starts)
    return result / dimension


@functools.lru_cache(maxsize=64)
def _counts(num_items: int, size: int) -> np.ndarray:
    """How many subsets of a size lie below each item, capped: no number of a subset is larger."""
    return np.array([min(math.comb(i, size), 2**31 - 1) for i in range(num_items)], np.int32)


def _unranked(num_items: int, size: int, rank: jax.Array) -> jax.Array:
    """The subsets of these numbers, as `_subsets.combinations` does: int32 `[n, size]`."""
    items = []
    for position in range(size, 0, -1):
        table = jnp.asarray(_counts(num_items, position))
        item = jnp.sum(table[None, :] <= rank[:, None], axis=1, dtype=jnp.int32) - 1
        rank = rank - table[item]
        items.append(item)
    if not items:
        return jnp.zeros((rank.shape[0], 0), jnp.int32)
    return jnp.stack(items[::-1], axis=1)
