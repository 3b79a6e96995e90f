"""The nearest boundary of the linearised classifier, again and again."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.attacks._result import Attack, check, check_scores, is_misclassified, per_input
from jaxcert.attacks._shrink import bisect

# The number of steps taken, the sum of the moves, and whose answer has changed.
Carry = tuple[jax.Array, jax.Array, jax.Array]


def deepfool(
    classify: Classifier,
    inputs: ArrayLike,
    labels: ArrayLike,
    *,
    norm: str = "l2",
    num_steps: int = 50,
    overshoot: float = 0.02,
    bounds: tuple[float, float] | None = None,
) -> Attack:
    r"""Step to the nearest boundary of the linearised classifier until the answer changes.

    .. math::
        c^* = \arg\min_{c \ne y} \frac{|f_c - f_y|}{\lVert w_c \rVert_*}, \qquad
        w_c = \nabla (f_c - f_y)(x_t), \qquad
        x_{t+1} = x_t + \frac{|f_{c^*} - f_y|}{\lVert w_{c^*} \rVert_2^2} \, w_{c^*}

    with the dual norm, and for the l-infinity norm :math:`|f_{c^*} - f_y| / \lVert w \rVert_1`
    times the sign of w. The sum of the steps is taken 1 + `overshoot` times, and the point that
    changes the answer is then moved back along its segment by bisection.

    Args:
      classify: from `[n, *shape]` to scores `[n, classes]`, differentiable, row by row. A step
        takes one backward pass for each class.
      inputs: `[b, *shape]`, floating point.
      labels: integers `[b]`; the classifier's own answers give distances to its boundary.
      norm: `"l2"` or `"linf"`.
      num_steps: the largest number of steps.
      overshoot: how far to go beyond the linearised boundary, relative.
      bounds: the least and the largest value of an input, such as (0, 1), or None.

    Returns:
      The `Attack`.

    Raises:
      ValueError: if a shape, a setting or a value does not fit.
      TypeError: if a type does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import attacks
      >>> linear = lambda x: x @ jnp.array([[3.0, 0.0], [4.0, 0.0]])
      >>> found = attacks.deepfool(linear, jnp.array([[1.0, 0.5]]), jnp.array([0]))
      >>> found.distance.round(3)
      Array([1.], dtype=float32)

    References:
      Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep
      neural networks", 2016, arXiv:1511.04599.
    """
    inputs, labels, limits = check(inputs, labels, norm, bounds)
    num_steps = _checks.positive_integer("num_steps", num_steps)
    overshoot = _checks.positive_number("overshoot", overshoot)
    partial = as_partial(classify)
    check_scores(jax.eval_shape(partial, inputs), labels)
    return _iterate(partial, inputs, labels, limits, overshoot, norm=norm, num_steps=num_steps)


@functools.partial(jax.jit, static_argnames=("norm", "num_steps"))
def _iterate(
    classify: jax.tree_util.Partial,
    inputs: jax.Array,
    labels: jax.Array,
    limits: jax.Array,
    overshoot: jax.Array,
    *,
    norm: str,
    num_steps: int,
) -> Attack:
    """Step until all answers changed or the steps are spent, then bisect."""

    def reached(moves: jax.Array) -> jax.Array:
        return jnp.clip(inputs + (1 + overshoot) * moves, limits[0], limits[1])

    def step(carry: Carry) -> Carry:
        number, moves, done = carry
        points = jnp.clip(inputs + moves, limits[0], limits[1])
        change = _to_nearest_boundary(classify, points, labels, norm)
        moves = jnp.where(per_input(done, inputs), moves, points + change - inputs)
        return number + 1, moves, is_misclassified(classify(reached(moves)), labels)

    def goes_on(carry: Carry) -> jax.Array:
        return (carry[0] < num_steps) & ~jnp.all(carry[2])

    done = is_misclassified(classify(inputs), labels)
    start = (jnp.zeros((), jnp.int32), jnp.zeros_like(inputs), done)
    _, moves, _ = jax.lax.while_loop(goes_on, step, start)
    return bisect(classify, inputs, reached(moves), labels, norm=norm, num_steps=16)


def _to_nearest_boundary(
    classify: jax.tree_util.Partial, points: jax.Array, labels: jax.Array, norm: str
) -> jax.Array:
    """The shortest way to a boundary of the linearised classifier: `[b, *shape]`."""
    scores, pull_back = jax.vjp(classify, points)
    batch, classes = scores.shape
    is_label = jax.nn.one_hot(labels, classes, dtype=scores.dtype)

    def gradient_of_difference(other: jax.Array) -> jax.Array:
        return pull_back(jax.nn.one_hot(other, classes, dtype=scores.dtype) - is_label)[0]

    gradients = jax.vmap(gradient_of_difference)(jnp.arange(classes))
    flat = gradients.reshape(classes, batch, -1).swapaxes(0, 1)
    gaps = jnp.sum(is_label * scores, axis=1, keepdims=True) - scores
    sizes = jnp.sum(jnp.abs(flat) if norm == "linf" else flat**2, axis=2)
    usable = (sizes > 0) & jnp.isfinite(sizes) & (is_label == 0)
    dual = sizes if norm == "linf" else jnp.sqrt(sizes)
    distances = jnp.where(usable, jnp.abs(gaps) / jnp.where(usable, dual, 1), jnp.inf)
    nearest = jnp.argmin(distances, axis=1)[:, None]

    def chosen(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, nearest, axis=1)[:, 0]

    way = jnp.take_along_axis(flat, nearest[..., None], axis=1)[:, 0]
    direction = jnp.sign(way) if norm == "linf" else way
    # Beyond the boundary by a little: with a gap of 0 the step would be none.
    lengths = (jnp.abs(chosen(gaps)) + 1e-6) / jnp.where(chosen(usable), chosen(sizes), 1)
    lengths = jnp.where(chosen(usable), lengths, 0)
    return (lengths[:, None] * direction).reshape(points.shape)
