"""Certified radii from margins and Lipschitz constants."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._spectral import Order, floating, norm_order

# Largest change of f_y - f_j when the outputs move by at most 1: in l1 one of the two moves all the
# way, in l2 both do by 1 / sqrt(2), in linf both do all the way.
_FACTORS = {1: 1.0, 2: math.sqrt(2.0), math.inf: 2.0}


def margin_radius(
    scores: ArrayLike, lipschitz: ArrayLike, *, output_norm: Order = 2
) -> jax.Array | np.ndarray:
    r"""Radius of the ball around each input in which the highest score stays the highest.

    .. math::
        r = \min_{j \ne y} \frac{f_y - f_j}{L_{yj}}, \qquad
        L_{yj} = \sqrt 2 L \text{ for one constant } L

    The radius is in the norm that the constant measures inputs with. Without pairs it measures the
    scores jointly, in `output_norm`: the factor is sqrt(2) for l2, 2 for linf (every score has the
    constant by itself), 1 for l1. A single score is decided by its sign, :math:`r = |f| / L`.

    Args:
      scores: floating `[n, classes]`, or `[n, 1]` for a single score.
      lipschitz: the constant of all scores together, above 0, a scalar; or one for each difference
        of two scores, `[classes, classes]`, as `pairwise_lipschitz_upper` gives them.
      output_norm: norm in which a scalar constant measures the scores: 1, 2 or `math.inf`.

    Returns:
      Radii `[n]`, 0 where two scores are highest or a score is not finite: JAX arrays in the dtype
      of the scores for JAX arrays, otherwise float64.

    Raises:
      TypeError: if the scores are not floating point.
      ValueError: if shapes do not fit, the constant is negative or NaN, or the norm is another.

    Guarantee:
      Sound if the constant is: rounded down by the budget of a subtraction and a division. It
      speaks of the scores as they are given, so a network in float32 owes its own rounding, and of
      inputs in the units that the constant takes: standardised inputs count in the constant.

    Example:
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> lipschitz.margin_radius(np.array([[3.0, 1.0, 0.0]]), 2.0)
      array([0.707107])

    References:
      Tsuzuku, Sato, Sugiyama, "Lipschitz-Margin Training", 2018, arXiv:1802.04034. Leino, Wang,
      Fredrikson, "Globally-Robust Neural Networks", 2021, arXiv:2102.08452.
    """
    values = floating("scores", scores)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"scores must have shape [n, classes], got shape {values.shape}")
    classes = values.shape[1]
    factor = _FACTORS[norm_order("output_norm", output_norm)]
    on_host = not isinstance(scores, jax.Array) and _checks.is_concrete(lipschitz)
    xp = np if on_host else jnp
    dtype = np.float64 if on_host else jnp.asarray(values).dtype
    constants = xp.asarray(lipschitz, dtype)
    if constants.shape not in ((), (classes, classes)):
        raise ValueError(
            f"lipschitz must be a scalar or of shape ({classes}, {classes}), one for each pair of "
            f"classes, got shape {constants.shape}"
        )
    if _checks.is_concrete(constants) and not np.all(np.asarray(constants) >= 0.0):
        raise ValueError(f"lipschitz must be at least 0 and no NaN, got {lipschitz}")
    values = xp.asarray(values, dtype)
    is_finite = xp.all(xp.isfinite(values), axis=1)
    values = xp.where(is_finite[:, None], values, xp.zeros_like(values))
    budget = 1.0 - gamma(8, dtype)
    if classes == 1:
        if constants.shape:
            raise ValueError("lipschitz must be a scalar for a single score")
        radii = _quotient(xp.abs(values[:, 0]), constants, xp) * budget
    else:
        label = xp.argmax(values, axis=1)
        top = xp.take_along_axis(values, label[:, None], axis=1)
        constants = constants[label] if constants.shape else constants * factor
        gaps = _quotient(top - values, xp.broadcast_to(constants, values.shape), xp)
        is_label = xp.arange(classes)[None, :] == label[:, None]
        radii = xp.min(xp.where(is_label, xp.asarray(np.inf, dtype), gaps), axis=1) * budget
    return xp.where(is_finite, radii, xp.zeros_like(radii))


def _quotient(margin: Any, constant: Any, xp: Any) -> Any:
    """Margins over constants; a constant of 0 certifies any positive margin for ever."""
    is_zero = constant == 0.0
    safe = xp.where(is_zero, xp.ones_like(constant), constant)
    unbounded = xp.where(margin > 0.0, xp.full_like(margin, np.inf), xp.zeros_like(margin))
    return xp.where(is_zero, unbounded, margin / safe)
