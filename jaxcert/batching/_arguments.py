"""Checks of what the methods of a sampling are called with."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching._norms import SquaredNorms

if TYPE_CHECKING:
    from jaxcert.batching._sampling import Sampling

# A strong convexity that rounding puts above the smoothness is no error.
_SLACK = 1e-5


def size(sampling: "Sampling", batch_size: ArrayLike) -> jax.Array:
    """The batch size in the dtype of the constants, its value checked where that is known."""
    tau = jnp.asarray(batch_size)
    if tau.ndim != 0:
        raise ValueError(f"batch_size must be a scalar, got shape {tau.shape}")
    if _checks.is_concrete(tau) and _checks.is_concrete(sampling.part_sizes):
        without = sampling.family != "with_replacement"
        largest = float(np.asarray(sampling.part_sizes).min()) if without else np.inf
        if not 1 <= float(tau) <= largest:
            raise ValueError(
                f"batch_size must lie in [1, {largest:g}], up to the size of the smallest part, "
                f"got {tau}"
            )
    return tau.astype(sampling.part_smoothness.dtype)


def norms(sampling: "Sampling", squared: SquaredNorms) -> SquaredNorms:
    """The norms in the dtype of the constants, their shapes checked."""
    dtype = sampling.part_smoothness.dtype
    examples, parts, total = (jnp.asarray(value).astype(dtype) for value in squared)
    count, num_parts = sampling.num_examples, sampling.num_parts
    # Uniform probabilities need the mean of each part alone, which is all that some rules know.
    means = sampling.importance == "uniform" and examples.shape == (num_parts,)
    if examples.shape != (count,) and not means:
        raise ValueError(f"norms.examples must have shape ({count},), got {examples.shape}")
    if parts.shape not in ((), (num_parts,)) or total.ndim != 0:
        raise ValueError(
            f"norms.parts must have shape ({num_parts},) and norms.total shape (), "
            f"got {parts.shape} and {total.shape}"
        )
    return SquaredNorms(examples, jnp.broadcast_to(parts, (num_parts,)), total)


def strong_convexity(sampling: "Sampling", value: ArrayLike) -> jax.Array:
    """Mu in the dtype of the constants: above 0 and at most the smoothness."""
    mu = _checks.positive_values("strong_convexity", value)
    if _checks.is_concrete(mu) and _checks.is_concrete(sampling.part_smoothness):
        smoothness = float(np.asarray(sampling.part_smoothness).max())
        if float(np.asarray(mu).max()) > smoothness * (1 + _SLACK):
            raise ValueError(
                f"strong_convexity must not exceed the smoothness {smoothness:.6g}, got {mu}"
            )
    return mu.astype(sampling.part_smoothness.dtype)


def noise_scale(sampling: "Sampling", mu: ArrayLike, accuracy: ArrayLike) -> jax.Array:
    """2 / (epsilon mu), which makes the noise comparable with the smoothness."""
    epsilon = _checks.positive_values("accuracy", accuracy).astype(sampling.part_smoothness.dtype)
    return 2.0 / (strong_convexity(sampling, mu) * epsilon)
