"""Projected gradient ascent within a ball."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.attacks._result import (
    Attack,
    check,
    check_scores,
    is_misclassified,
    norms,
    outcome,
    per_input,
)

_OBJECTIVES = ("margin", "cross_entropy", "multi_targeted")

# Points `[b, *shape]`, their margins `[b]`, and whether they are misclassified.
Met = tuple[jax.Array, jax.Array, jax.Array]


def pgd(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    labels: ArrayLike,
    *,
    radius: ArrayLike,
    norm: str = "l2",
    num_steps: int = 40,
    step_size: ArrayLike | None = None,
    num_restarts: int = 1,
    objective: str = "margin",
    bounds: tuple[float, float] | None = None,
) -> Attack:
    r"""Search a ball around each input for another answer, by projected gradient ascent.

    .. math::
        x_{t+1} = \Pi\bigl(x_t + \eta \, s(\nabla J(x_t))\bigr), \qquad
        J(x) = \max_{c \ne y} f_c(x) - f_y(x)

    where s is the sign for the l-infinity norm and division by the l2 norm for l2, and the
    projection is onto the ball and then onto `bounds`. The first run starts at the input, each
    other one at a random point of the ball. The strongest point of all steps and runs is kept, a
    misclassified one before any other.

    Args:
      key: a typed key, for the random starts.
      classify: from `[n, *shape]` to scores `[n, classes]`, differentiable, row by row.
      inputs: `[b, *shape]`, floating point.
      labels: integers `[b]`; the attack looks for any other class.
      radius: of the ball, in units of the input: a scalar or one value an input, `[b]`.
      norm: `"l2"` or `"linf"`.
      num_steps: ascent steps of each run.
      step_size: length of a step in the norm; a scalar or `[b]`. By default 2.5 radius / num_steps.
      num_restarts: runs, at least 1.
      objective: `"margin"`, as above; `"cross_entropy"`; or `"multi_targeted"`, which takes a run
        for each class c with the objective f_c - f_y, `classes` times as many: the strongest.
      bounds: the least and the largest value of an input, such as (0, 1), or None.

    Returns:
      The `Attack`. A perturbation is never longer than its radius, rounding included: the ball is
      made smaller by what rounding could add.

    Raises:
      ValueError: if a shape, a setting or a value does not fit.
      TypeError: if a type does not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import attacks
      >>> key, inputs = jax.random.key(0), jnp.array([[0.3, 0.0], [0.8, 0.0]])
      >>> halves = lambda x: jnp.stack([x[:, 0], -x[:, 0]], axis=1)
      >>> attacks.pgd(key, halves, inputs, jnp.array([0, 0]), radius=0.5).success
      Array([ True, False], dtype=bool)

    References:
      Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to
      Adversarial Attacks", 2018, arXiv:1706.06083. Carlini, Wagner, "Towards Evaluating the
      Robustness of Neural Networks", 2017, arXiv:1608.04644 (the margin objective). Gowal,
      Uesato, Qin, Huang, Mann, Kohli, "An Alternative Surrogate Loss for PGD-based Adversarial
      Testing", 2019, arXiv:1910.09338 (multi-targeted).
    """
    key = _checks.typed_key("key", key)
    inputs, labels, limits = check(inputs, labels, norm, bounds)
    num_steps = _checks.positive_integer("num_steps", num_steps)
    num_restarts = _checks.positive_integer("num_restarts", num_restarts)
    if objective not in _OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(_OBJECTIVES)}, got {objective!r}")
    radii = _lengths("radius", radius, inputs)
    steps = (
        2.5 * radii / num_steps if step_size is None else _lengths("step_size", step_size, inputs)
    )
    partial = as_partial(classify)
    check_scores(jax.eval_shape(partial, inputs), labels)
    return _search(
        key, partial, inputs, labels, radii, steps, limits,
        norm=norm, num_steps=num_steps, num_restarts=num_restarts, objective=objective,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("norm", "num_steps", "num_restarts", "objective"))
def _search(
    key: jax.Array,
    classify: jax.tree_util.Partial,
    inputs: jax.Array,
    labels: jax.Array,
    radii: jax.Array,
    steps: jax.Array,
    limits: jax.Array,
    *,
    norm: str,
    num_steps: int,
    num_restarts: int,
    objective: str,
) -> Attack:
    """All runs, compiled once for each shape and setting."""
    radii = _room_for_rounding(inputs, radii, norm)

    classes = jax.eval_shape(classify, inputs).shape[1]
    runs_each = classes if objective == "multi_targeted" else 1

    def evaluate(points: jax.Array, number: jax.Array) -> tuple[jax.Array, Met]:
        scores = classify(points)
        if objective == "cross_entropy":
            values = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        elif objective == "multi_targeted":
            values = _margins_of(scores, labels, number % classes)
        else:
            values = _margins(scores, labels)
        met = points, _margins(scores, labels), is_misclassified(scores, labels)
        return jnp.sum(values), met

    ascend = jax.grad(evaluate, has_aux=True)

    def project(points: jax.Array) -> jax.Array:
        # Clipping moves every coordinate towards the input, so the point stays in the ball.
        return jnp.clip(inputs + _into_ball(points - inputs, radii, norm), limits[0], limits[1])

    def run(number: jax.Array, best: Met) -> Met:
        def step(_: int, carry: tuple[jax.Array, Met]) -> tuple[jax.Array, Met]:
            points, best = carry
            gradients, met = ascend(points, number)
            moves = per_input(steps, points) * _direction(gradients, norm)
            return project(points + moves), _stronger(best, met)

        offsets = _random_offsets(jax.random.fold_in(key, number), inputs, radii, norm)
        start = project(inputs + jnp.where(number >= runs_each, offsets, 0))
        last, best = jax.lax.fori_loop(0, num_steps, step, (start, best))
        return _stronger(best, evaluate(last, number)[1])

    margins = jax.eval_shape(evaluate, inputs, jnp.zeros((), jnp.int32))[1][1]
    nothing = (
        inputs,
        jnp.full(margins.shape, -jnp.inf, margins.dtype),
        jnp.zeros(margins.shape, bool),
    )
    best = jax.lax.fori_loop(0, num_restarts * runs_each, run, nothing)
    return outcome(inputs, best[0], classify(best[0]), labels, norm)


def _stronger(best: Met, met: Met) -> Met:
    """For each input the stronger of two points: misclassified first, then by the margin."""
    better = (met[2] & ~best[2]) | ((met[2] == best[2]) & (met[1] > best[1]))
    points = jnp.where(per_input(better, met[0]), met[0], best[0])
    return points, jnp.where(better, met[1], best[1]), met[2] | best[2]


def _margins(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The best score of another class less that of the label: `[b]`."""
    is_label = jax.nn.one_hot(labels, scores.shape[1], dtype=bool)
    others = jnp.max(jnp.where(is_label, -jnp.inf, scores), axis=1)
    return others - jnp.max(jnp.where(is_label, scores, -jnp.inf), axis=1)


def _margins_of(scores: jax.Array, labels: jax.Array, target: jax.Array) -> jax.Array:
    """The score of the target less that of the label; where these are one class, the margin."""
    of_label = jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    differences = jnp.take(scores, target, axis=1) - of_label
    return jnp.where(target == labels, _margins(scores, labels), differences)


def _direction(gradients: jax.Array, norm: str) -> jax.Array:
    """The steepest direction of unit norm; zero where the gradient is zero or not finite."""
    gradients = jnp.where(jnp.isfinite(gradients), gradients, 0)
    if norm == "linf":
        return jnp.sign(gradients)
    lengths = norms(gradients, norm)
    return gradients / per_input(jnp.where(lengths > 0, lengths, 1), gradients)


def _into_ball(perturbations: jax.Array, radii: jax.Array, norm: str) -> jax.Array:
    limits = per_input(radii, perturbations)
    if norm == "linf":
        return jnp.clip(perturbations, -limits, limits)
    lengths = per_input(norms(perturbations, norm), perturbations)
    return perturbations * jnp.minimum(1, limits / jnp.where(lengths > 0, lengths, 1))


def _random_offsets(key: jax.Array, inputs: jax.Array, radii: jax.Array, norm: str) -> jax.Array:
    """Points of the ball: uniform for l-infinity; for l2 uniform in direction and in length."""
    limits = per_input(radii, inputs)
    if norm == "linf":
        return limits * jax.random.uniform(key, inputs.shape, inputs.dtype, -1, 1)
    directions, lengths = jax.random.split(key)
    normal = _direction(jax.random.normal(directions, inputs.shape, inputs.dtype), norm)
    return (
        normal
        * limits
        * per_input(jax.random.uniform(lengths, inputs.shape[:1], inputs.dtype), inputs)
    )


def _room_for_rounding(inputs: jax.Array, radii: jax.Array, norm: str) -> jax.Array:
    """Smaller radii, so that the rounded sum of input and perturbation stays in the ball.

    A sum is wrong by half a unit in the last place in every coordinate; the norm of the
    perturbation, the product with the quotient and the difference add a few relative ones.
    """
    unit = jnp.finfo(inputs.dtype).eps
    size = int(np.prod(inputs.shape[1:]))
    largest = norms(inputs, "linf") + radii
    relative = 4 + size if norm == "l2" else 4
    absolute = unit * largest * (size**0.5 if norm == "l2" else 1)
    return jnp.maximum(0, radii * (1 - jnp.minimum(0.5, relative * unit)) - absolute)


def _lengths(name: str, value: ArrayLike, inputs: jax.Array) -> jax.Array:
    """Return `value` as `[b]` of the dtype of the inputs, or raise."""
    lengths = jnp.asarray(value, inputs.dtype)
    _checks.one_value_per_input(name, lengths, inputs.shape[0])
    if _checks.is_concrete(lengths):
        found = np.asarray(lengths)
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return jnp.broadcast_to(lengths, inputs.shape[:1])
