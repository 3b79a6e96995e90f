"""Zonotopes with fewer generators that contain a given one."""

import functools

import jax
import jax.numpy as jnp

from jaxcert import _checks

from . import _zonotope
from ._zonotope import Zonotope

_METHODS = ("girard", "combastel", "pca")


def reduce_order_upper(
    zonotope: Zonotope, *, num_generators: int, method: str = "girard"
) -> Zonotope:
    r"""A zonotope with fewer generators that contains the given one.

    The generators that score highest are kept; a box takes the place of the others:

    .. math::
        \sum_{i \in \text{rest}} [0, 1] \, g_i \subseteq c + \sum_{k = 1}^{d} [-1, 1] \, r_k q_k,
        \quad r_k = \tfrac{1}{2} \sum_{i \in \text{rest}} |\langle q_k, g_i \rangle|, \quad
        c = \tfrac{1}{2} \sum_{i \in \text{rest}} g_i

    Works under jit and vmap. It is for reachability and bounds: the hull of two zonotopes that have
    been reduced is not dual to a network's decision boundary any more.

    Args:
      zonotope: in R^d.
      num_generators: how many generators the result has, at least d. With as few already, the
        zonotope is returned as it is.
      method: `"girard"` keeps those with the largest `|g|_1 - |g|_inf` and boxes along the axes;
        `"combastel"` keeps the longest; `"pca"` keeps the longest and boxes along the principal
        axes of the others.

    Returns:
      The zonotope, in the dtype of the given one.

    Raises:
      TypeError: if `num_generators` is not an integer.
      ValueError: if it is below d, or if the method is unknown.

    Guarantee:
      Sound: it contains the given one. The box is larger by a bound on the rounding of its sums.

    Example:
      >>> from jaxcert import tropical
      >>> zonotope = tropical.Zonotope([0.0, 0.0], [[2.0, 1.0], [0.1, 0.0], [0.1, 0.1]])
      >>> print(tropical.reduce_order_upper(zonotope, num_generators=3).generators.round(3))
      [[2.  1. ]
       [0.1 0. ]
       [0.1 0.1]]
      >>> print(tropical.reduce_order_upper(zonotope, num_generators=2).generators.round(3))
      [[2.2 0. ]
       [0.  1.1]]

    References:
      Girard, "Reachability of uncertain linear systems using zonotopes", HSCC 2005.
      Combastel, "A state bounding observer based on zonotopes", ECC 2003.
      Kopetzki, Schuermann, Althoff, "Methods for order reduction of zonotopes", CDC 2017.
    """
    base, generators = _zonotope.arrays(zonotope)
    dimension, count = base.shape[0], generators.shape[0]
    num_generators = _checks.positive_integer("num_generators", num_generators, minimum=dimension)
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    if count <= num_generators:
        return Zonotope(base, generators)
    return _reduced(base, generators, num_generators, method)


@functools.partial(jax.jit, static_argnames=("num_generators", "method"))
def _reduced(base: jax.Array, generators: jax.Array, num_generators: int, method: str) -> Zonotope:
    count, dimension = generators.shape
    absolute = jnp.abs(generators)
    if method == "girard":
        score = jnp.sum(absolute, axis=1) - jnp.max(absolute, axis=1)
    else:
        score = jnp.linalg.norm(generators, axis=1)
    order = jnp.argsort(-score)
    kept = generators[order[: num_generators - dimension]]
    rest = generators[order[num_generators - dimension :]]
    epsilon = jnp.finfo(base.dtype).eps
    if method == "pca":
        axes = jnp.linalg.eigh(_product(rest.T, rest))[1].T
        # The axes are orthonormal up to rounding, which moves any point of the sum by so much.
        half = _product(jnp.abs(_product(rest, axes.T)).T, jnp.full((rest.shape[0], 1), 0.5))[:, 0]
        slack = 32 * dimension * epsilon * jnp.sum(jnp.linalg.norm(rest, axis=1))
    else:
        axes = jnp.eye(dimension, dtype=base.dtype)
        half = 0.5 * jnp.sum(jnp.abs(rest), axis=0)
        slack = jnp.zeros((), base.dtype)
    # Sums of so many terms, in any order, and the base that is moved by them.
    terms = jnp.sum(jnp.abs(rest)) + jnp.sum(jnp.abs(base))
    half = half + slack + 4 * (count + dimension) * epsilon * terms
    corner = base + 0.5 * jnp.sum(rest, axis=0) - _product(half[None, :], axes)[0]
    return Zonotope(corner, jnp.concatenate([kept, 2 * half[:, None] * axes]))


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
