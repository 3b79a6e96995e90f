"""Moving a successful perturbation closer to its input."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.attacks._result import (
    Attack,
    check,
    check_scores,
    is_misclassified,
    outcome,
    per_input,
)


def shrink(
    classify: Classifier,
    inputs: ArrayLike,
    perturbed: ArrayLike,
    labels: ArrayLike,
    *,
    norm: str = "l2",
    num_steps: int = 20,
) -> Attack:
    r"""Move each misclassified point towards its input for as long as it stays misclassified.

    Bisection of t on the segment :math:`x + t (x' - x)`: the result is the smallest t that was
    tried and is misclassified, within :math:`2^{-n}` of a change of the answer on the segment
    after n steps.

    Args:
      classify: from `[n, *shape]` to scores `[n, classes]`.
      inputs: `[b, *shape]`, floating point.
      perturbed: `[b, *shape]`, what an attack found.
      labels: integers `[b]`.
      norm: `"l2"` or `"linf"`, of the distance that is reported.
      num_steps: halvings.

    Returns:
      The `Attack`; points that were not misclassified stay where they were, without success.

    Raises:
      ValueError: if a shape or a setting does not fit.
      TypeError: if a type does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import attacks
      >>> halves = lambda x: jnp.stack([x[:, 0], -x[:, 0]], axis=1)
      >>> near = attacks.shrink(
      ...     halves, jnp.array([[0.25]]), jnp.array([[-4.0]]), jnp.array([0]))
      >>> near.distance.round(3)
      Array([0.25], dtype=float32)
    """
    inputs, labels, _ = check(inputs, labels, norm, None)
    perturbed = _checks.batch_of_inputs("perturbed", perturbed)
    if perturbed.shape != inputs.shape:
        raise ValueError(
            f"perturbed must have the shape of inputs, {inputs.shape}, got {perturbed.shape}"
        )
    num_steps = _checks.positive_integer("num_steps", num_steps)
    partial = as_partial(classify)
    check_scores(jax.eval_shape(partial, inputs), labels)
    return bisect(
        partial, inputs, perturbed.astype(inputs.dtype), labels, norm=norm, num_steps=num_steps
    )


@functools.partial(jax.jit, static_argnames=("norm", "num_steps"))
def bisect(
    classify: jax.tree_util.Partial,
    inputs: jax.Array,
    perturbed: jax.Array,
    labels: jax.Array,
    *,
    norm: str,
    num_steps: int,
) -> Attack:
    """Halve the segments; the far end is misclassified at every step, or was so never."""

    def step(
        _: int, carry: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        near, far, found = carry
        middle = (near + far) / 2
        points = inputs + per_input(middle, inputs) * (perturbed - inputs)
        wrong = is_misclassified(classify(points), labels)
        return (
            jnp.where(wrong, near, middle),
            jnp.where(wrong, middle, far),
            jnp.where(per_input(wrong, points), points, found),
        )

    batch = inputs.shape[:1]
    # The input itself first: what is misclassified from the start is at distance 0.
    start_wrong = is_misclassified(classify(inputs), labels)
    first = jnp.where(per_input(start_wrong, inputs), inputs, perturbed)
    was_wrong = is_misclassified(classify(first), labels)
    ends = (jnp.zeros(batch, inputs.dtype), jnp.ones(batch, inputs.dtype))
    _, _, found = jax.lax.fori_loop(0, num_steps, step, (*ends, first))
    moved = jnp.where(per_input(was_wrong & ~start_wrong, inputs), found, first)
    return outcome(inputs, moved, classify(moved), labels, norm)
