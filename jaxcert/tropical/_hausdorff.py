"""Bounds on the Hausdorff distance of zonotopes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxcert import _checks

from . import _zonotope
from ._vertices import host_arrays
from ._zonotope import Zonotope

_MATCHINGS = ("given", "assignment")


def hausdorff_distance_lower(
    key: jax.Array, zonotope: Zonotope, other: Zonotope, *, num_directions: int = 256,
    num_steps: int = 32,
) -> jax.Array:  # fmt: skip
    r"""A lower bound on the Hausdorff distance of two zonotopes, by ascent from random directions.

    .. math::
        d_H(Z, Z') = \max_{\|u\| = 1} |h_Z(u) - h_{Z'}(u)|

    The maximum is not of a concave function, so this finds a local one: any direction gives a lower
    bound. Works under jit and vmap.

    Args:
      key: a typed key.
      zonotope: in R^d.
      other: in R^d.
      num_directions: where the ascent starts.
      num_steps: its steps, each accepted if it leads up; 0 evaluates the starts alone.

    Returns:
      The bound, a scalar, at least 0.

    Raises:
      TypeError: if the key is not typed or a number is not an integer.
      ValueError: if the dimensions differ or a number is out of range.

    Guarantee:
      Sound: at most the distance. It is rounded down by a bound on the rounding of the sums.

    Example:
      >>> import jax
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> wider = tropical.Zonotope([0.0, 0.0], [[3.0, 0.0], [0.0, 1.0]])
      >>> print(tropical.hausdorff_distance_lower(jax.random.key(0), square, wider).round(3))
      2.0
    """
    key = _checks.typed_key("key", key)
    num_directions = _checks.positive_integer("num_directions", num_directions)
    num_steps = _checks.positive_integer("num_steps", num_steps, minimum=0)
    base, generators = _zonotope.arrays(zonotope)
    other_base, other_generators = _same_space(base, other)
    return _ascent(
        key, Zonotope(base, generators), Zonotope(other_base, other_generators),
        num_directions, num_steps,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("num_directions", "num_steps"))
def _ascent(
    key: jax.Array, first: Zonotope, second: Zonotope, num_directions: int, num_steps: int
) -> jax.Array:
    base, generators = first.base, first.generators
    other_base, other_generators = second.base, second.generators

    def difference(directions: jax.Array) -> jax.Array:
        return jnp.abs(_zonotope.support(first, directions) - _zonotope.support(second, directions))

    def ascend(
        state: tuple[jax.Array, jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        directions, values, step = state
        slope = jax.grad(lambda u: jnp.sum(difference(u)))(directions)
        moved = _unit(directions + step[:, None] * _unit(slope))
        reached = difference(moved)
        better = reached > values
        return (
            jnp.where(better[:, None], moved, directions),
            jnp.where(better, reached, values),
            jnp.where(better, step, step / 2),
        ), None

    starts = _unit(jax.random.normal(key, (num_directions, base.shape[0]), base.dtype))
    state = (starts, difference(starts), jnp.ones(num_directions, base.dtype))
    (_, values, _), _ = jax.lax.scan(ascend, state, None, length=num_steps)
    epsilon = jnp.finfo(base.dtype).eps
    number = generators.shape[0] + other_generators.shape[0] + 4 * base.shape[0] + 8
    slack = 4 * number * epsilon * (_size(base, generators) + _size(other_base, other_generators))
    return jnp.maximum(jnp.max(values) - slack, 0)


def hausdorff_distance_upper(
    zonotope: Zonotope, other: Zonotope, *, matching: str = "given"
) -> jax.Array:
    r"""An upper bound on the Hausdorff distance of two zonotopes, from matched generators.

    .. math::
        d_H(Z, Z') \le \|c - c'\| + \tfrac{1}{2} \min \Big( \sum_j \|\Delta_j\|, \;
        \sqrt{m} \, \|\Delta\|_2 \Big), \quad \Delta_j = g_j \mp g'_j

    c being the centres, and the sign of each pair the better one, since a segment about its centre
    has no sense. Works under jit, vmap and grad with the given matching.

    Args:
      zonotope: in R^d.
      other: in R^d; where one has fewer generators, zero ones are appended.
      matching: `"given"` takes the generators in their order; `"assignment"` finds the pairs for
        which the sum of lengths is least, on the host.

    Returns:
      The bound, a scalar.

    Raises:
      TypeError: if an argument is no zonotope, or is traced with `"assignment"`.
      ValueError: if the dimensions differ or the matching is unknown.

    Guarantee:
      Sound: at least the distance. It is rounded up by a bound on the rounding of the sums.

    Example:
      >>> from jaxcert import tropical
      >>> square = tropical.Zonotope([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
      >>> wider = tropical.Zonotope([0.0, 0.0], [[0.0, 1.0], [3.0, 0.0]])
      >>> print(tropical.hausdorff_distance_upper(square, wider).round(3))
      3.288
      >>> print(tropical.hausdorff_distance_upper(square, wider, matching="assignment").round(3))
      2.0
    """
    if matching not in _MATCHINGS:
        raise ValueError(f"matching must be one of {', '.join(_MATCHINGS)}, got {matching!r}")
    base, generators = _zonotope.arrays(zonotope)
    other_base, other_generators = _same_space(base, other)
    count = max(generators.shape[0], other_generators.shape[0])
    generators = jnp.pad(generators, ((0, count - generators.shape[0]), (0, 0)))
    other_generators = jnp.pad(other_generators, ((0, count - other_generators.shape[0]), (0, 0)))
    if matching == "assignment":
        host_arrays(zonotope), host_arrays(other)
        other_generators = other_generators[_assignment(generators, other_generators)]
    return _matched_upper(base, generators, other_base, other_generators)


@jax.jit
def _matched_upper(
    base: jax.Array, generators: jax.Array, other_base: jax.Array, other_generators: jax.Array
) -> jax.Array:
    count = generators.shape[0]
    epsilon = jnp.finfo(base.dtype).eps
    size = _size(base, generators) + _size(other_base, other_generators)
    centers = base + jnp.sum(generators, axis=0) / 2 - other_base - jnp.sum(other_generators, 0) / 2
    same = jnp.sum((generators - other_generators) ** 2, axis=1)
    opposite = jnp.sum((generators + other_generators) ** 2, axis=1)
    turned = jnp.where((opposite < same)[:, None], -other_generators, other_generators)
    change = generators - turned
    spread = jnp.zeros((), base.dtype)
    if count:
        lengths = jnp.sum(_length(change))
        # A computed singular value is off by a small multiple of epsilon of the Frobenius norm.
        off = 8 * (count + base.shape[0]) * epsilon * _length(change.reshape(-1))
        spread = jnp.minimum(lengths, count**0.5 * (jnp.linalg.norm(change, ord=2) + off))
    slack = 8 * (count + base.shape[0] + 8) * epsilon * size
    return _length(centers) + spread / 2 + slack


def _same_space(base: jax.Array, other: Zonotope) -> tuple[jax.Array, jax.Array]:
    """The fields of the other zonotope in the dtype of the first, or raise."""
    other_base, other_generators = _zonotope.arrays(other)
    if base.shape != other_base.shape:
        raise ValueError(
            f"zonotopes must lie in the same space, got dimensions {base.shape[0]} and "
            f"{other_base.shape[0]}"
        )
    return other_base.astype(base.dtype), other_generators.astype(base.dtype)


def _size(base: jax.Array, generators: jax.Array) -> jax.Array:
    """A bound on the terms of the support function in a unit direction."""
    return jnp.sum(jnp.abs(base)) + jnp.sum(jnp.abs(generators))


def _length(vectors: jax.Array) -> jax.Array:
    """Euclidean lengths, with gradient 0 at 0."""
    squares = jnp.sum(vectors**2, axis=-1)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _unit(vectors: jax.Array) -> jax.Array:
    """Vectors divided by their lengths; 0 stays 0."""
    lengths = _length(vectors)[..., None]
    return vectors / jnp.where(lengths > 0, lengths, 1)


def _assignment(generators: jax.Array, others: jax.Array) -> np.ndarray:
    """Which of the others goes with each generator so that the lengths add up to least."""
    one, two = np.asarray(generators, np.float64), np.asarray(others, np.float64)
    difference = np.linalg.norm(one[:, None] - two, axis=2)
    cost = np.minimum(difference, np.linalg.norm(one[:, None] + two, axis=2))
    return optimize.linear_sum_assignment(cost)[1]
