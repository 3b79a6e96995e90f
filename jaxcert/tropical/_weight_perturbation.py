"""The least change of a weight matrix that moves its product with a vector as asked."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._layers import floating


def weight_perturbation(
    w1: ArrayLike,
    inputs: ArrayLike,
    perturbations: ArrayLike,
    *,
    max_weight_change: float = np.inf,
) -> jax.Array:
    r"""Compute the least change of `w1` that does to an input what a perturbation of it does.

    .. math::
        \min_\xi \|\xi\|_F \quad\text{s.t.}\quad \xi x = A \eta, \quad |\xi_{rj}| \le \epsilon

    Each row is :math:`\xi_{rj} = \mathrm{clip}(\nu_r x_j, \pm\epsilon)`, for the one number nu_r
    that fits; without a limit, :math:`\xi = (A \eta) x^T / \|x\|^2`. It is also least in every norm
    that weights the rows, such as D2 of `tropical_attack`.

    Args:
      w1: A, `[h, d]`.
      inputs: x, `[b, d]`.
      perturbations: eta, `[b, d]`.
      max_weight_change: epsilon, above 0.

    Returns:
      `[b, h, d]`, with NaN in the rows for which no change within the limit exists: those with
      :math:`|(A \eta)_r| > \epsilon \|x\|_1`.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, a number is not finite, or the limit is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> tropical.weight_perturbation(jnp.eye(2), jnp.array([[2.0, 1.0]]), jnp.array([[1.0, 0.0]]))
      Array([[[0.4, 0.2],
              [0. , 0. ]]], dtype=float32)
    """
    w1, inputs, perturbations = (
        floating(name, value)
        for name, value in (("w1", w1), ("inputs", inputs), ("perturbations", perturbations))
    )
    shape = (*inputs.shape[:1], *w1.shape[1:])
    if w1.ndim != 2 or inputs.shape != shape or perturbations.shape != shape or len(shape) != 2:
        raise ValueError(
            "w1, inputs and perturbations must have shapes [h, d], [b, d] and [b, d], "
            f"got {w1.shape}, {inputs.shape} and {perturbations.shape}"
        )
    if not max_weight_change > 0:
        raise ValueError(f"max_weight_change must be above 0, got {max_weight_change}")
    shifts = perturbations @ w1.T
    limit = jnp.asarray(max_weight_change, w1.dtype)
    rows = jax.vmap(jax.vmap(row_change, (None, 0, None)), (0, 0, None))
    return rows(inputs, shifts, limit)


def row_change(x: jax.Array, shift: jax.Array, limit: jax.Array) -> jax.Array:
    """The shortest row r within the limit for which `r @ x` is the shift, or NaN."""
    size = jnp.abs(x)
    # As nu grows, entries reach the limit one after the other, the largest first.
    order = jnp.argsort(-size)
    sorted_size = size[order]
    clipped = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(sorted_size)])[:-1]
    free = jnp.cumsum((sorted_size**2)[::-1])[::-1]
    finite = jnp.where(jnp.isfinite(limit), limit, 0)
    nu = (jnp.abs(shift) - finite * clipped) / jnp.where(free > 0, free, 1)
    # The first count of clipped entries for which the largest free one stays within the limit.
    fits = (nu * sorted_size <= limit) & (free > 0)
    chosen = jnp.where(jnp.any(fits), nu[jnp.argmax(fits)], jnp.nan)
    row = jnp.sign(shift) * jnp.clip(chosen * x, -limit, limit)
    row = jnp.where(shift == 0, jnp.zeros_like(x), row)
    return row
