"""What an attack returns, and what the attacks share."""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks

NORMS = ("l2", "linf")


class Attack(NamedTuple):
    """The outcome of an attack on a batch.

    Attributes:
      inputs: `[b, *shape]`, the strongest perturbed inputs that were met, successful or not.
      success: bool `[b]`, whether the classifier gives `inputs` finite scores that are not highest
        at the label. True for an input that was misclassified from the start.
      distance: `[b]`, the norm of the perturbation where it succeeded and infinity elsewhere: an
        upper bound on the distance to the nearest input that is not classified as the label.
    """

    inputs: jax.Array
    success: jax.Array
    distance: jax.Array


def check(
    inputs: ArrayLike, labels: ArrayLike, norm: str, bounds: tuple[float, float] | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return inputs, labels and the bounds as an array `[2]`, or raise."""
    inputs = _checks.batch_of_inputs("inputs", inputs)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"labels must have shape ({inputs.shape[0]},), one an input, got {labels.shape}"
        )
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if bounds is None:
        return inputs, labels, jnp.array([-jnp.inf, jnp.inf], inputs.dtype)
    lower, upper = bounds
    if not lower < upper:
        raise ValueError(f"bounds must be (lower, upper) with lower < upper, got {bounds}")
    if _checks.is_concrete(inputs):
        values = np.asarray(inputs)
        if values.min() < lower or values.max() > upper:
            raise ValueError(
                f"inputs must lie within bounds [{lower}, {upper}], "
                f"got values from {values.min():.6g} to {values.max():.6g}"
            )
    return inputs, labels, jnp.array([lower, upper], inputs.dtype)


def check_scores(scores: jax.ShapeDtypeStruct, labels: jax.Array) -> None:
    """Raise unless scores are `[b, classes]` and each label is one of at least two classes."""
    if len(scores.shape) != 2 or scores.shape[0] != labels.shape[0] or scores.shape[1] < 2:
        raise ValueError(
            f"classify must return scores [{labels.shape[0]}, classes] of at least two classes, "
            f"got shape {scores.shape}"
        )
    if _checks.is_concrete(labels):
        found = np.asarray(labels)
        if found.min() < 0 or found.max() >= scores.shape[1]:
            raise ValueError(
                f"labels must lie in [0, {scores.shape[1] - 1}], "
                f"got values from {found.min()} to {found.max()}"
            )


def per_input(values: jax.Array, like: jax.Array) -> jax.Array:
    """Give `values`, `[b]`, the trailing axes of one that broadcast against `[b, *shape]`."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def norms(perturbations: jax.Array, norm: str) -> jax.Array:
    """The norm of each perturbation: `[b]`."""
    flat = einops.rearrange(perturbations, "b ... -> b (...)")
    if norm == "linf":
        return jnp.max(jnp.abs(flat), axis=1)
    # Scaled, so that squares neither overflow nor vanish.
    largest = jnp.max(jnp.abs(flat), axis=1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale[:, 0] * jnp.sqrt(jnp.sum((flat / scale) ** 2, axis=1))


def is_misclassified(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether scores are finite and highest elsewhere than at the label: bool `[b]`."""
    finite = jnp.all(jnp.isfinite(scores), axis=1)
    return finite & (jnp.argmax(scores, axis=1) != labels)


def outcome(
    inputs: jax.Array, perturbed: jax.Array, scores: jax.Array, labels: jax.Array, norm: str
) -> Attack:
    """Assemble the result from the scores of the perturbed inputs."""
    success = is_misclassified(scores, labels)
    distance = jnp.where(success, norms(perturbed - inputs, norm), jnp.inf)
    return Attack(perturbed, success, distance)
