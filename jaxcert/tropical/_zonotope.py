"""Zonotopes as pytrees, and what is linear or a maximum: support, images, sums."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Zonotope:
    r"""A sum of segments.

    .. math::
        Z = \Big\{ b + \sum_i t_i g_i : t \in [0, 1]^m \Big\}

    A pytree: map it, batch it with `jax.vmap`, differentiate with respect to it. The functions of
    this package read its fields in their own dtype; the exact ones, which run on the host, in
    float64.

    Attributes:
      base: b, `[d]`.
      generators: g, `[m, d]`; none at all (`[0, d]`), zero and dependent ones are welcome.
    """

    base: Any
    generators: Any


def from_center(center: ArrayLike, generators: ArrayLike) -> Zonotope:
    r"""The zonotope of a centre and symmetric segments.

    .. math::
        \Big\{ c + \sum_i t_i g_i : t \in [-1, 1]^m \Big\}
        = Z\Big(c - \sum_i g_i, \; 2 g\Big)

    Args:
      center: c, `[d]`.
      generators: g, `[m, d]`, half of each segment.

    Returns:
      The same set as a `Zonotope`.

    Raises:
      ValueError: if a shape does not fit.

    Example:
      >>> from jaxcert import tropical
      >>> square = tropical.from_center([1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> print(square.base, square.generators)
      [0. 0.] [[2. 0.]
       [0. 2.]]
    """
    base, directions = arrays(Zonotope(center, generators))
    return Zonotope(base - jnp.sum(directions, axis=0), 2 * directions)


def support(zonotope: Zonotope, directions: ArrayLike) -> jax.Array:
    r"""Support function: how far the zonotope reaches in some directions.

    .. math::
        h(u) = \max_{x \in Z} \langle u, x \rangle = \langle u, b \rangle
        + \sum_i \max(\langle u, g_i \rangle, 0)

    Works under jit, vmap and grad; its gradient with respect to u is `support_vertex`.

    Args:
      zonotope: in R^d.
      directions: u, `[..., d]`, of any length.

    Returns:
      h, `[...]`.

    Raises:
      ValueError: if a shape does not fit.

    Example:
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> print(tropical.support(square, [[1.0, 1.0], [-1.0, 2.0], [-1.0, -1.0]]))
      [2. 2. 0.]
    """
    base, generators = arrays(zonotope)
    directions = direction_array("directions", directions, base.shape[0])
    products = _dot(directions, generators)
    return _dot(directions, base[None, :])[..., 0] + jnp.sum(jax.nn.relu(products), axis=-1)


def support_vertex(zonotope: Zonotope, directions: ArrayLike) -> jax.Array:
    r"""The vertex that a direction selects.

    .. math::
        v(u) = b + \sum_{i : \langle u, g_i \rangle > 0} g_i, \quad
        \langle u, v(u) \rangle = h(u)

    A vertex for all u but those orthogonal to a generator; there it is one point of a larger face.

    Args:
      zonotope: in R^d.
      directions: u, `[..., d]`.

    Returns:
      v, `[..., d]`.

    Raises:
      ValueError: if a shape does not fit.

    Example:
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> print(tropical.support_vertex(square, [-1.0, 2.0]))
      [0. 1.]
    """
    base, generators = arrays(zonotope)
    directions = direction_array("directions", directions, base.shape[0])
    taken = (_dot(directions, generators) > 0).astype(base.dtype)
    moved = _dot(taken, generators.T)
    return jnp.broadcast_to(base, moved.shape) + moved


def affine_image(
    zonotope: Zonotope, matrix: ArrayLike, *, offset: ArrayLike | None = None
) -> Zonotope:
    r"""The image under an affine map, again a zonotope.

    .. math::
        \{ A x + c : x \in Z \}, \quad h_{A Z + c}(u) = h_Z(A^T u) + \langle u, c \rangle

    Args:
      zonotope: in R^d.
      matrix: A, `[e, d]`.
      offset: c, `[e]`; 0 by default.

    Returns:
      The image, in R^e.

    Raises:
      ValueError: if a shape does not fit.

    Example:
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> print(tropical.affine_image(square, [[1.0, 1.0]], offset=[5.0]).generators.ravel())
      [1. 1.]
    """
    base, generators = arrays(zonotope)
    matrix = jnp.asarray(matrix, base.dtype)
    if matrix.ndim != 2 or matrix.shape[1] != base.shape[0]:
        raise ValueError(f"matrix must have shape [e, {base.shape[0]}], got {matrix.shape}")
    moved = _dot(matrix, base[None, :])[:, 0]
    if offset is not None:
        offset = jnp.asarray(offset, base.dtype)
        if offset.shape != moved.shape:
            raise ValueError(f"offset must have shape {moved.shape}, got {offset.shape}")
        moved = moved + offset
    return Zonotope(moved, _dot(generators, matrix))


def minkowski_sum(zonotope: Zonotope, other: Zonotope) -> Zonotope:
    r"""All sums of a point of one zonotope and a point of the other.

    .. math::
        Z + Z' = \{ x + x' \}, \quad h_{Z + Z'} = h_Z + h_{Z'}

    Args:
      zonotope: in R^d.
      other: in R^d.

    Returns:
      The sum: bases are added, generators listed one after the other.

    Raises:
      ValueError: if the dimensions differ.

    Example:
      >>> from jaxcert import tropical
      >>> one = tropical.Zonotope([1.0, 0.0], [[1.0, 0.0]])
      >>> other = tropical.Zonotope([0.0, 2.0], [[0.0, 1.0]])
      >>> both = tropical.minkowski_sum(one, other)
      >>> print(both.base, both.generators.shape)
      [1. 2.] (2, 2)
    """
    base, generators = arrays(zonotope)
    other_base, other_generators = arrays(other)
    if base.shape != other_base.shape:
        raise ValueError(
            f"zonotopes must lie in the same space, got dimensions {base.shape[0]} and "
            f"{other_base.shape[0]}"
        )
    return Zonotope(base + other_base, jnp.concatenate([generators, other_generators]))


def sample_vertices(key: jax.Array, zonotope: Zonotope, *, num_directions: int) -> jax.Array:
    """Vertices that random directions select: a sketch, never all of them.

    A vertex is met with the probability of its normal cone, so small cones are missed: with 20
    generators in R^4 a million directions find nine vertices in ten. `vertices` gives all.

    Args:
      key: a typed key.
      zonotope: in R^d.
      num_directions: how many directions, uniform on the sphere.

    Returns:
      `[num_directions, d]`, most vertices repeated.

    Raises:
      TypeError: if the key is not typed.
      ValueError: if a shape does not fit or `num_directions` is below 1.

    Example:
      >>> import jax, numpy as np
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> points = tropical.sample_vertices(jax.random.key(0), square, num_directions=50)
      >>> print(np.unique(points, axis=0))
      [[0. 0.]
       [0. 1.]
       [1. 0.]
       [1. 1.]]
    """
    key = _checks.typed_key("key", key)
    num_directions = _checks.positive_integer("num_directions", num_directions)
    base, _ = arrays(zonotope)
    # A normal vector points anywhere with equal probability; its length does not matter.
    return support_vertex(
        zonotope, jax.random.normal(key, (num_directions, base.shape[0]), base.dtype)
    )


def arrays(zonotope: Zonotope) -> tuple[jax.Array, jax.Array]:
    """The fields of one zonotope as JAX arrays of one floating dtype, or raise."""
    if not isinstance(zonotope, Zonotope):
        raise TypeError(f"zonotope must be a Zonotope, got {type(zonotope).__name__}")
    base, generators = jnp.asarray(zonotope.base), jnp.asarray(zonotope.generators)
    check_shapes(base.shape, generators.shape)
    for name, array in (("base", base), ("generators", generators)):
        if jnp.issubdtype(array.dtype, jnp.complexfloating) or array.dtype == bool:
            raise TypeError(f"{name} must be an array of real numbers, got {array.dtype}")
    if not jnp.issubdtype(base.dtype, jnp.floating):
        base = base.astype(jnp.result_type(float))
    return base, generators.astype(base.dtype)


def check_shapes(base: tuple[int, ...], generators: tuple[int, ...]) -> None:
    """Raise unless the shapes are those of one zonotope."""
    if len(base) != 1 or base[0] == 0:
        raise ValueError(f"base must have shape [d] with d >= 1, got {base}; batch with jax.vmap")
    if len(generators) != 2 or generators[1] != base[0]:
        raise ValueError(f"generators must have shape [m, {base[0]}], got {generators}")


def direction_array(name: str, value: ArrayLike, dimension: int) -> jax.Array:
    """Return vectors `[..., dimension]` as a floating array, or raise."""
    array = jnp.asarray(value)
    if array.ndim == 0 or array.shape[-1] != dimension:
        raise ValueError(f"{name} must have shape [..., {dimension}], got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    return array


def _dot(x: jax.Array, rows: jax.Array) -> jax.Array:
    """`x @ rows.T` in full precision also where the device would round to fewer bits."""
    return jnp.einsum("...d,md->...m", x, rows, precision=jax.lax.Precision.HIGHEST)
