"""Where a straight segment crosses the decision boundary: exact, at any depth and dimension."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.tropical import _network
from jaxcert.tropical._network import Layers


class SegmentCrossings(NamedTuple):
    """Where a segment crosses the decision boundary.

    Attributes:
      position: `[max_crossings]`, ascending in [0, 1], 0 the start and 1 the end of the segment;
        infinite where there are no more.
      before: int32 `[max_crossings]`, the class before each crossing, -1 where there is none.
      after: int32 `[max_crossings]`, the class behind each crossing, -1 where there is none.
      num_crossings: int32 scalar, how many there are, which may be more than there is room for.
      tied: share of the segment on which the two best classes have equal scores on a whole piece,
        as happens where every hidden unit is off.
      complete: bool scalar, False when there was no room for all breakpoints or crossings.
    """

    position: jax.Array
    before: jax.Array
    after: jax.Array
    num_crossings: jax.Array
    tied: jax.Array
    complete: jax.Array


def segment_crossings(
    layers: Layers,
    start: ArrayLike,
    end: ArrayLike,
    *,
    classes: tuple[int, ...] | None = None,
    max_breakpoints: int | None = None,
    max_crossings: int = 16,
) -> SegmentCrossings:
    r"""Find every point of a segment at which the class of a ReLU network changes.

    .. math::
        x(t) = (1 - t)\, x_0 + t\, x_1, \quad
        \{ t \in [0, 1] : \arg\max_c f_c(x(t)) \text{ changes} \}

    Along the segment the network is piecewise linear. Layer by layer, each unit adds the places
    where it switches; between the breakpoints that result, the scores are straight lines and their
    upper envelope is followed from class to class. Nothing is sampled: up to rounding in the dtype
    of the arguments no crossing is missed, however close to another one.

    Works under `jit`, `vmap` (over segments and over networks of one shape) and `grad`: the
    derivative of a position with respect to weights and ends is that of the crossing.

    Args:
      layers: pairs of a weight `[out, in]` and a bias `[out]` or None, a ReLU between them.
      start: x_0, floating `[d]`.
      end: x_1, floating `[d]`.
      classes: the classes that compete, all by default.
      max_breakpoints: room for the places where a unit switches. By default the number of hidden
        units, which always suffices for one hidden layer, and four times it for deeper networks.
      max_crossings: room for the crossings.

    Returns:
      A `SegmentCrossings`.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if a shape or a setting does not fit, or a number is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> layers = [
      ...     (jnp.array([[1.0, 0.0], [-1.0, 0.0]]), None),       # |x|, from two units,
      ...     (jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.array([0.0, 0.5])),  # against 0.5
      ... ]
      >>> crossings = tropical.segment_crossings(layers, jnp.array([-1.0, 0.0]), jnp.ones(2))
      >>> crossings.position[:2], crossings.after[:2], int(crossings.num_crossings)
      (Array([0.25, 0.75], dtype=float32), Array([1, 0], dtype=int32), 2)

    References:
      Sotoudeh and Thakur, "Computing Linear Restrictions of Neural Networks", 2019,
      arXiv:1908.06214.
    """
    network = _network.device_layers("layers", layers)
    ends = [_end("start", start, network), _end("end", end, network)]
    chosen = _network.class_indices(classes, network[-1][0].shape[0])
    units = sum(weight.shape[0] for weight, _ in network[:-1])
    room = units * (1 if len(network) == 2 else 4)
    if max_breakpoints is not None:
        room = _checks.positive_integer("max_breakpoints", max_breakpoints)
    max_crossings = _checks.positive_integer("max_crossings", max_crossings)
    return _cross(network, *ends, chosen, room, max_crossings)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _cross(
    network: list[tuple[jax.Array, jax.Array]],
    start: jax.Array,
    end: jax.Array,
    classes: tuple[int, ...],
    room: int,
    max_crossings: int,
) -> SegmentCrossings:
    chosen = jnp.asarray(classes, jnp.int32)

    # The first layer is affine along the segment, so the inputs are met only at its ends.
    weight, bias = network[0]
    first, last = weight @ start + bias, weight @ end + bias

    def evaluate(place: jax.Array, depth: int) -> jax.Array:
        values = jnp.outer(1 - place, first) + jnp.outer(place, last)
        for weight, bias in network[1 : depth + 1]:
            values = jnp.maximum(values, 0) @ weight.T + bias[None]
        return values

    place = jnp.array([0, 1], start.dtype)
    complete = jnp.array(True)
    for depth in range(len(network) - 1):
        place, enough = _refined(place, evaluate(place, depth), room + 2)
        complete &= enough
    result = _envelope(place, evaluate(place, len(network) - 1)[:, chosen], max_crossings)
    missing = result.before < 0
    return result._replace(
        before=jnp.where(missing, -1, chosen[result.before]).astype(jnp.int32),
        after=jnp.where(missing, -1, chosen[result.after]).astype(jnp.int32),
        complete=complete & result.complete,
    )


def _end(name: str, value: ArrayLike, network: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    array = _network.floating_array(name, value)
    size = network[0][0].shape[1]
    if array.shape != (size,):
        raise ValueError(
            f"{name} must have shape ({size},), got {array.shape}; use jax.vmap for many segments"
        )
    return array


def _refined(place: jax.Array, value: jax.Array, room: int) -> tuple[jax.Array, jax.Array]:
    """Add to the places `[p]` those where a unit of `value [p, n]` changes sign between them."""
    left, right = value[:-1], value[1:]
    share = _zero_between(left, right)
    added = place[:-1, None] + share * (place[1:] - place[:-1])[:, None]
    # Places beyond the end are no places; a sort puts them last.
    added = jnp.where((left < 0) != (right < 0), added, 2)
    merged = jnp.sort(jnp.concatenate([place, added.ravel()]))
    kept = jnp.minimum(merged[:room], 1)
    enough = jnp.array(True) if merged.size <= room else merged[room - 1] >= 1
    return kept.at[-1].set(1), enough


def _zero_between(left: jax.Array, right: jax.Array) -> jax.Array:
    """The share of the way at which a line from `left` to `right` is 0, 0 where it is constant."""
    drop = left - right
    flat = drop == 0
    return jnp.where(flat, 0, left / jnp.where(flat, 1, drop))


def _envelope(place: jax.Array, value: jax.Array, max_crossings: int) -> SegmentCrossings:
    """Follow the upper envelope of the lines between the scores `[p, classes]` at the places."""
    num_classes = value.shape[1]
    left, right = value[:-1], value[1:]
    width = place[1:] - place[:-1]
    real = width > 0
    rows = jnp.arange(left.shape[0])
    # At a tie, the class that wins just behind it.
    top = left == jnp.max(left, axis=1, keepdims=True)
    label = jnp.argmax(jnp.where(top, right, -jnp.inf), axis=1)
    first, here = label, jnp.zeros_like(width)
    shares, befores, afters = [], [], []
    for _ in range(num_classes - 1):
        lead = left[rows, label][:, None] - left
        final = right[rows, label][:, None] - right
        reach = jnp.where(final < 0, _zero_between(lead, final), jnp.inf)
        nearest = jnp.maximum(jnp.min(reach, axis=1), here)
        overtaking = jnp.maximum(reach, here[:, None]) == nearest[:, None]
        steepest = jnp.argmin(jnp.where(overtaking & (final < 0), final, jnp.inf), axis=1)
        change = jnp.isfinite(nearest) & real
        shares.append(jnp.where(change, nearest, jnp.inf))
        befores.append(label)
        afters.append(steepest)
        label = jnp.where(change, steepest, label)
        here = jnp.where(change, nearest, here)
    # A change may also happen exactly at a breakpoint: then the pieces around it differ.
    last_real = jax.lax.cummax(jnp.where(real, rows, -1))
    previous = jnp.concatenate([jnp.array([-1]), last_real[:-1]])
    old = jnp.where(previous >= 0, label[previous], first)
    jump = real & (old != first)
    start_place = jnp.where(jump, place[:-1], jnp.inf)
    positions = [start_place] + [
        jnp.where(
            jnp.isfinite(share),
            place[:-1] + jnp.where(jnp.isfinite(share), share, 0) * width,
            jnp.inf,
        )
        for share in shares
    ]
    position = jnp.stack(positions, axis=1).ravel()
    before = jnp.stack([old, *befores], axis=1).ravel()
    after = jnp.stack([first, *afters], axis=1).ravel()
    count = jnp.sum(jnp.isfinite(position)).astype(jnp.int32)
    padding = max(0, max_crossings - position.size)
    # Stable, as changes at one place follow each other in the order of the walk.
    order = jnp.argsort(position, stable=True)[:max_crossings]
    position = jnp.pad(position[order], (0, padding), constant_values=jnp.inf)
    found = jnp.isfinite(position)
    best = jnp.arange(num_classes)[None] == first[:, None]
    second_left, second_right = (
        jnp.max(jnp.where(best, -jnp.inf, side), axis=1) for side in (left, right)
    )
    # Rounding may split a tie by a few units in the last place.
    slack = 32 * jnp.finfo(value.dtype).eps * jnp.max(jnp.abs(value))
    equal = (left[rows, first] - second_left <= slack) & (
        jnp.abs(right[rows, first] - second_right) <= slack
    )
    return SegmentCrossings(
        position=position,
        before=jnp.where(found, jnp.pad(before[order], (0, padding)), -1),
        after=jnp.where(found, jnp.pad(after[order], (0, padding)), -1),
        num_crossings=count,
        tied=jnp.sum(jnp.where(real & equal, width, 0)),
        complete=count <= max_crossings,
    )
