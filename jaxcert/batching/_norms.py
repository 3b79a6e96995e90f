"""Squared gradient norms: all that the closed forms need to know about the gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks


class SquaredNorms(NamedTuple):
    r"""Squared norms of the gradients of the examples, of the parts, and of all, at one point.

    Zeros in `parts` and `total` drop the gradients of the parts from every formula, which is right
    at the optimum of a sampling with one part, where both vanish.

    Attributes:
      examples: `[n]`, :math:`h_i = \|\nabla f_i(x)\|^2`; for uniform probabilities, and
        fewer parts than examples, their mean over each part `[m]` will do.
      parts: `[m]`, :math:`\|\nabla f_{C_j}(x)\|^2` of the mean over each part.
      total: scalar, :math:`h = \|\nabla f(x)\|^2` of the mean over all examples.
    """

    examples: jax.Array
    parts: jax.Array
    total: jax.Array


def squared_norms(
    gradients: ArrayLike, *, part_of_example: ArrayLike | None = None, num_parts: int = 1
) -> SquaredNorms:
    r"""Take the squared norms of gradients that are at hand as rows.

    .. math::
        h_i = \|g_i\|^2, \quad h_{C_j} = \Big\|\frac{1}{n_j} \sum_{i \in C_j} g_i\Big\|^2, \quad
        h = \Big\|\frac{1}{n} \sum_i g_i\Big\|^2

    Args:
      gradients: `[n, d]`, one gradient a row.
      part_of_example: integers `[n]` in [0, num_parts); all in one part by default.
      num_parts: number of parts, m.

    Returns:
      `SquaredNorms`, in the dtype of the gradients.

    Raises:
      ValueError: if a shape is wrong.

    Example:
      >>> from jaxcert import batching
      >>> norms = batching.squared_norms([[1.0, 0.0], [0.0, 1.0]])
      >>> norms.examples, norms.total
      (Array([1., 1.], dtype=float32), Array(0.5, dtype=float32))
    """
    gradients = jnp.asarray(gradients)
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(f"gradients must have shape [n, d], got shape {gradients.shape}")
    num_parts = _checks.positive_integer("num_parts", num_parts)
    count = gradients.shape[0]
    parts = jnp.zeros(count, jnp.int32) if part_of_example is None else jnp.asarray(part_of_example)
    if parts.shape != (count,):
        raise ValueError(f"part_of_example must have shape ({count},), got {parts.shape}")
    sums = jax.ops.segment_sum(gradients, parts, num_segments=num_parts)
    sizes = jax.ops.segment_sum(jnp.ones(count, gradients.dtype), parts, num_segments=num_parts)
    mean = gradients.mean(axis=0)
    return SquaredNorms(
        jnp.sum(gradients**2, axis=1),
        jnp.sum((sums / sizes[:, None]) ** 2, axis=1),
        jnp.sum(mean**2),
    )
