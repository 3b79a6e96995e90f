"""The largest radius at which bounds over the ball certify an input, by bisection."""

import functools
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._balls import Norm, ball
from jaxcert.lipschitz._interval import prepared
from jaxcert.lipschitz._linear_relaxation import Slopes, check_settings
from jaxcert.lipschitz._local import local_lipschitz_upper
from jaxcert.lipschitz._margin_bounds import check_labels, margins_of_bounds, other_classes
from jaxcert.lipschitz._outward import round_up
from jaxcert.lipschitz._sequential import Dense, Layer


def certified_radius_lower(
    layers: Sequence[Layer],
    inputs: ArrayLike,
    labels: ArrayLike,
    *,
    max_radius: ArrayLike,
    norm: Norm = "l2",
    box: tuple[float, float] | None = None,
    steps: int = 10,
    patterns: int = 0,
    global_upper: ArrayLike | None = None,
    slopes: Slopes = "adaptive",
    refine: int | None = None,
) -> jax.Array:
    r"""Find a radius, as large as the bounds allow, within which every input keeps its label.

    A radius r is certified if, over the ball B of that radius around the input,

    .. math::
        \min_{x \in B} f_y(x) - f_j(x) > 0 \quad\text{or}\quad f_y(x_0) - f_j(x_0) > r \, L_j(B)

    for each other class j: the first by linear bounds, the second by the Lipschitz constant of the
    difference on the same ball. Bisection between 0 and `max_radius` keeps the largest radius that
    was certified.

    Args:
      layers: the network, which ends in a `Dense` layer with one output for each class.
      inputs: floating `[b, *shape]`, float32 or float64.
      labels: integers `[b]`.
      max_radius: above 0, where the search starts; a scalar or one value an input.
      norm: "linf", "l2" or "l1".
      box: the range of the data, such as (0, 1), if only inputs within it count; then the radius
        is about those alone.
      steps: of the bisection.
      patterns: of `local_lipschitz_upper`.
      global_upper: a Lipschitz bound of each difference of classes for all inputs, a scalar.
      slopes: of `linear_bounds`.
      refine: of `linear_bounds`.

    Returns:
      `[b]`, the radii in units of the input; 0 where none was certified, such as where the label
      is not the class of the highest score.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if shapes do not fit or a setting is out of range.

    Guarantee:
      Sound: a lower bound on the distance to the nearest input (within `box`) that the network
      with exactly these weights classifies otherwise, in real arithmetic. Each evaluation is sound
      by itself, so the bisection assumes nothing of the bounds.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert.lipschitz import Dense, certified_radius_lower
      >>> layers = [Dense(jnp.eye(2), jnp.zeros(2))]  # the boundary is the diagonal
      >>> certified_radius_lower(layers, jnp.array([[1.0, 0.0]]), jnp.array([0]), max_radius=1.0,
      ...                        steps=20).round(4)
      Array([0.7071], dtype=float32)
    """
    center = ball(inputs, 0.0, norm=norm, box=box).center
    largest = jnp.asarray(max_radius, center.dtype)
    _checks.one_value_per_input("max_radius", largest, center.shape[0])
    if _checks.is_concrete(largest) and not np.all(
        np.isfinite(largest) & (np.asarray(largest) > 0)
    ):
        raise ValueError(f"max_radius must be finite and above 0, got {max_radius}")
    steps = _checks.positive_integer("steps", steps, maximum=100)
    patterns = _checks.positive_integer("patterns", patterns, minimum=0, maximum=20)
    check_settings(slopes, refine)
    layers, region = prepared(layers, ball(center, 0.0, norm=norm, box=box))
    center = region.center
    _, labels = check_labels(layers, region, labels)
    return _bisect(
        layers, center, labels, jnp.broadcast_to(largest, center.shape[:1]),
        None if global_upper is None else jnp.asarray(global_upper, center.dtype),
        norm=norm, box=box, steps=steps, patterns=patterns, slopes=slopes, refine=refine,
    )  # fmt: skip


@functools.partial(
    jax.jit, static_argnames=("norm", "box", "steps", "patterns", "slopes", "refine")
)
def _bisect(
    layers: Sequence[Layer],
    center: jax.Array,
    labels: jax.Array,
    largest: jax.Array,
    global_upper: jax.Array | None,
    *,
    norm: Norm,
    box: tuple[float, float] | None,
    steps: int,
    patterns: int,
    slopes: Slopes,
    refine: int | None,
) -> jax.Array:
    """All steps in one program."""
    classes = cast(Dense, layers[-1]).bias.shape[0]
    others = other_classes(labels, classes)
    differences = jax.nn.one_hot(labels, classes, dtype=center.dtype)[:, None] - jax.nn.one_hot(
        others, classes, dtype=center.dtype
    )
    at_center = margins_of_bounds(
        layers, ball(center, 0.0, norm=norm, box=box), labels, slopes=slopes, refine=0
    )[0]

    def is_certified(radius: jax.Array) -> jax.Array:
        region = ball(center, radius, norm=norm, box=box)
        margins, bounds = margins_of_bounds(layers, region, labels, slopes=slopes, refine=refine)
        lipschitz = local_lipschitz_upper(
            layers, region, functionals=differences, bounds=bounds, patterns=patterns,
            global_upper=global_upper,
        )  # fmt: skip
        falls = round_up(radius[:, None] * lipschitz)
        return jnp.all((margins > 0) | (at_center > falls), axis=1)

    def halve(index: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        # The largest radius first; one that is certified ends the search.
        middle = jnp.where(index == 0, high, (low + high) / 2)
        certified = is_certified(middle)
        return jnp.where(certified, middle, low), jnp.where(certified, high, middle)

    low, _ = jax.lax.fori_loop(0, steps + 1, halve, (jnp.zeros_like(largest), largest))
    return low
