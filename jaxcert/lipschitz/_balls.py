"""Balls around inputs, cut to the box that the data lie in, and linear functions on them."""

import dataclasses
import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._outward import epsilon, round_down, round_up, smallest
from jaxcert.lipschitz._rounding import gamma

Norm = Literal["linf", "l2", "l1"]

# Bisection steps for the multiplier of a ball that is cut to a box; any multiplier is valid.
_STEPS = 24


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["center", "radius", "lower", "upper"],
    meta_fields=["norm", "clipped"],
)
@dataclasses.dataclass(frozen=True)
class Ball:
    """A set of inputs around each input of a batch; made by `ball`.

    Attributes:
      center: floating `[b, *shape]`.
      radius: `[b]`.
      lower: `[b, *shape]`, below every point of the set.
      upper: `[b, *shape]`, above every point of the set.
      norm: "linf", "l2" or "l1".
      clipped: whether the set is cut to a box.
    """

    center: Any
    radius: Any
    lower: Any
    upper: Any
    norm: str = "linf"
    clipped: bool = False


def ball(
    center: ArrayLike,
    radius: ArrayLike,
    *,
    norm: Norm = "linf",
    box: tuple[float, float] | None = None,
) -> Ball:
    r"""Describe the inputs within a radius of each input, within a box where one is given.

    .. math::
        \{ x : \|x - x_0\|_p \le r, \; a \le x \le b \}

    Args:
      center: x_0, floating `[b, *shape]`, float32 or float64, within the box.
      radius: r, at least 0, a scalar or one value an input `[b]`, in units of the inputs.
      norm: "linf", "l2" or "l1".
      box: (a, b), such as (0, 1) for images; None for the whole ball.

    Returns:
      A `Ball`, a pytree. Its `lower` and `upper` are rounded outwards.

    Raises:
      TypeError: if `center` is not float32 or float64, or is float64 where JAX computes in float32.
      ValueError: if a shape or a value is wrong.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import ball
      >>> region = ball(jnp.array([[0.05, 0.5]]), 0.1, box=(0.0, 1.0))
      >>> region.lower.round(3), region.upper.round(3)
      (Array([[0. , 0.4]], dtype=float32), Array([[0.15, 0.6 ]], dtype=float32))
    """
    check_precision("center", center)
    center = _checks.batch_of_inputs("center", center)
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {get_args(Norm)}, got {norm!r}")
    check_precision("radius", radius)
    radii = jnp.asarray(radius, center.dtype)
    _checks.one_value_per_input("radius", radii, center.shape[0])
    if _checks.is_concrete(radius) and not np.all(
        np.isfinite(np.asarray(radius)) & (np.asarray(radius) >= 0)
    ):
        raise ValueError(f"radius must be finite and at least 0, got {radius}")
    # A Python number is rounded once: upwards, so that the ball is no smaller than was asked for.
    if isinstance(radius, float) or not hasattr(radius, "dtype"):
        radii = jnp.where(radii == 0, radii, round_up(radii))
    radii = jnp.broadcast_to(radii, center.shape[:1])
    wide = radii.reshape(-1, *(1,) * (center.ndim - 1))
    lower, upper = round_down(center - wide), round_up(center + wide)
    # At radius 0 the set is the point itself.
    lower = jnp.where(wide == 0, center, lower)
    upper = jnp.where(wide == 0, center, upper)
    if box is not None:
        least, greatest = box
        if not least < greatest:
            raise ValueError(f"box must be (a, b) with a < b, got {box}")
        if _checks.is_concrete(center):
            values = np.asarray(center)
            if values.min() < least or values.max() > greatest:
                raise ValueError(
                    f"center must lie within box {box}, got values from {values.min()} "
                    f"to {values.max()}"
                )
        lower = jnp.maximum(lower, _outwards(least, center.dtype, -np.inf))
        upper = jnp.minimum(upper, _outwards(greatest, center.dtype, np.inf))
    return Ball(center, radii, lower, upper, norm, box is not None)


def _outwards(value: float, dtype: Any, direction: float) -> np.ndarray:
    """The nearest number of a dtype that is not nearer than `value` to the other side."""
    rounded = np.asarray(value, dtype)
    # Compared as Python numbers: NumPy would first round the wider one to this dtype.
    missed = float(rounded) > value if direction < 0 else float(rounded) < value
    return np.nextafter(rounded, np.asarray(direction, dtype)) if missed else rounded


def _computes_in_float64() -> bool:
    return jnp.result_type(float) == jnp.float64


def check_precision(name: str, value: Any) -> None:
    """Raise if floating numbers are of a width that no bound is made for, or would be rounded."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return
    if dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"{name} must be float32 or float64, got {dtype}")
    if dtype == jnp.float64 and isinstance(value, np.ndarray) and not _computes_in_float64():
        raise TypeError(
            f"{name} must be float32 unless JAX computes in float64, got float64; cast it, so that "
            "the bound is about the rounded values, or call within jax.enable_x64(True)"
        )


def linear_minimum(coefficients: jax.Array, region: Ball) -> jax.Array:
    """A lower bound of `sum(a * x)` over the set, rounding included.

    Args:
      coefficients: a, `[b, rows, *shape]`.
      region: the set.

    Returns:
      `[b, rows]`.
    """
    batch, rows = coefficients.shape[:2]
    vectors = coefficients.reshape(batch, rows, -1)
    lower, upper = region.lower.reshape(batch, -1), region.upper.reshape(batch, -1)
    dtype, size = vectors.dtype, vectors.shape[-1]
    farthest = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    moduli = jnp.abs(vectors)
    error = gamma(size + 4, dtype) * _dot(moduli, farthest)
    error += size * smallest(dtype) * (1 + jnp.max(farthest, axis=-1, keepdims=True))
    error += size * smallest(dtype) * jnp.max(moduli, axis=-1)
    if region.norm == "linf":
        value = _dot(jnp.maximum(vectors, 0), lower) + _dot(jnp.minimum(vectors, 0), upper)
        return value - error
    center = region.center.reshape(batch, -1)
    # A coordinate that is fixed, such as padding, cannot take part in the drop.
    free = jnp.where((upper > lower)[:, None], moduli, 0)
    drop = _largest_drop(vectors, free, center, lower, upper, region)
    value = _dot(vectors, center) - drop * (1 + gamma(size + 12, dtype))
    return round_down(value - error) - epsilon(dtype) * drop


def _dot(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """`[b, rows, d]` times `[b, d]`."""
    return jnp.einsum("brd,bd->br", matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _largest_drop(
    vectors: jax.Array,
    moduli: jax.Array,
    center: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    region: Ball,
) -> jax.Array:
    """How far `a . x` can fall below its value at the centre, from above up to relative rounding.

    Cut to a box, this is the Lagrange dual in the one multiplier of the ball, at a multiplier that
    bisection finds; weak duality makes any multiplier valid.
    """
    radius = region.radius[:, None]
    if region.norm == "l2":
        largest = jnp.max(moduli, axis=-1)
        # Scaled, so that no square underflows where it matters.
        scale = jnp.maximum(largest, smallest(vectors.dtype))[..., None]
        whole = scale[..., 0] * jnp.sqrt(jnp.sum((moduli / scale) ** 2, axis=-1))
    else:
        whole = jnp.max(moduli, axis=-1)
    if not region.clipped:
        return radius * whole
    room = round_up(jnp.where(vectors > 0, (center - lower)[:, None], (upper - center)[:, None]))
    room = jnp.maximum(room, 0)
    low, high = jnp.zeros_like(whole), whole
    if region.norm == "l2":
        # Where the multiplier is `high` or more, the box does not matter.
        high = whole / jnp.maximum(radius, smallest(vectors.dtype))

    def spent(multiplier: jax.Array) -> jax.Array:
        scaled = multiplier[..., None]
        if region.norm == "l1":
            return jnp.sum(jnp.where(moduli > scaled, room, 0), axis=-1)
        return jnp.sqrt(jnp.sum(jnp.minimum(moduli / scaled, room) ** 2, axis=-1))

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        beyond = spent(middle) > radius
        return jnp.where(beyond, middle, low), jnp.where(beyond, high, middle)

    low, high = jax.lax.fori_loop(0, _STEPS, halve, (low, high))
    multiplier = jnp.maximum(high, smallest(vectors.dtype))
    scaled = multiplier[..., None]
    if region.norm == "l1":
        dual = multiplier * radius + jnp.sum(room * jnp.maximum(moduli - scaled, 0), axis=-1)
    else:
        inside = moduli <= room * scaled
        gain = jnp.where(inside, moduli**2 / (2 * scaled), room * (moduli - scaled * room / 2))
        dual = multiplier * radius**2 / 2 + jnp.sum(gain, axis=-1)
    everything = jnp.sum(moduli * room, axis=-1)
    return jnp.minimum(jnp.minimum(radius * whole, dual), everything)
