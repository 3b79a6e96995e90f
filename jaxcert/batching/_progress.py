"""What one step of SGD does to the squared distance to the optimum: exactly, and at most."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching import _arguments
from jaxcert.batching._sampling import Sampling


class StepSizeBounds(NamedTuple):
    """The range of the steps of `adaptive_batch_sgd`.

    Attributes:
      lower: no step is smaller.
      upper: no step is larger.
    """

    lower: jax.Array
    upper: jax.Array


def expected_distance_sq(
    offset: ArrayLike, gradient: ArrayLike, *, second_moment: ArrayLike, step_size: ArrayLike
) -> jax.Array:
    r"""Expected squared distance after one step whose size does not depend on the batch.

    .. math::
        E \|x - \gamma \nabla f_v(x) - x^*\|^2 = \|x - x^*\|^2
        - 2 \gamma \langle \nabla f(x), x - x^* \rangle + \gamma^2 \sigma(x)

    Args:
      offset: `[d]`, x minus the optimum.
      gradient: `[d]`, of f at x.
      second_moment: `Sampling.gradient_noise` at x.
      step_size: gamma.

    Returns:
      Scalar, exact in exact arithmetic.

    Example:
      >>> from jaxcert import batching
      >>> batching.expected_distance_sq([1.0], [1.0], second_moment=3.0, step_size=0.5)
      Array(0.75, dtype=float32)
    """
    offset, gradient = jnp.asarray(offset), jnp.asarray(gradient)
    inner = jnp.sum(gradient * offset)
    return jnp.sum(offset**2) - 2 * step_size * inner + step_size**2 * second_moment


def one_step_upper(
    distance_sq: ArrayLike,
    *,
    step_size: ArrayLike,
    strong_convexity: ArrayLike,
    smoothness: ArrayLike,
    variance: ArrayLike,
) -> jax.Array:
    r"""Largest expected squared distance after one step, from the variance at the iterate.

    .. math::
        E r_{k+1} \le (1 - \gamma \mu (2 - \gamma L)) r_k + \gamma^2 V(x_k, \tau),
        \quad \gamma \le 2 / L

    Proof: :math:`E r_{k+1} = r_k - 2 \gamma \langle \nabla f, x_k - x^* \rangle + \gamma^2
    (\|\nabla f\|^2 + V)`, with :math:`\|\nabla f\|^2 \le L \langle \nabla f, x_k - x^* \rangle` for
    convex L-smooth f, and :math:`\langle \nabla f, x_k - x^* \rangle \ge \mu r_k`.

    Args:
      distance_sq: :math:`r_k`, or an upper bound on it.
      step_size: gamma, planned before the batch was drawn.
      strong_convexity: mu, a lower bound.
      smoothness: L of the mean, an upper bound.
      variance: `Sampling.gradient_variance` at the iterate, or an upper bound on it.

    Returns:
      Scalar; infinite for a step above 2 / L, of which it says nothing.

    Guarantee:
      An upper bound, in exact arithmetic, if its arguments are bounds as said.

    Example:
      >>> from jaxcert import batching
      >>> batching.one_step_upper(
      ...     1.0, step_size=0.5, strong_convexity=0.5, smoothness=1.0, variance=0.25
      ... )
      Array(0.6875, dtype=float32, weak_type=True)
    """
    distance_sq, step_size, smoothness = map(jnp.asarray, (distance_sq, step_size, smoothness))
    contraction = 1 - step_size * strong_convexity * (2 - step_size * smoothness)
    bound = contraction * distance_sq + step_size**2 * variance
    return jnp.where(step_size * smoothness <= 2, bound, jnp.inf)


def one_step_at_optimum_upper(
    distance_sq: ArrayLike,
    *,
    step_size: ArrayLike,
    strong_convexity: ArrayLike,
    expected_smoothness: ArrayLike,
    noise: ArrayLike,
) -> jax.Array:
    r"""Largest expected squared distance after one step, from the noise at the optimum.

    .. math::
        E r_{k+1} \le (1 - \gamma \mu) r_k + 2 \gamma^2 \sigma(x^*, \tau),
        \quad \gamma \le \frac{1}{2 \mathcal{L}(\tau)}

    Args:
      distance_sq: :math:`r_k`, or an upper bound on it.
      step_size: gamma, planned before the batch was drawn.
      strong_convexity: mu, a lower bound.
      expected_smoothness: of the batch size that was planned.
      noise: `Sampling.gradient_noise` at the optimum.

    Returns:
      Scalar; infinite for a step above 1 / (2 calL), of which it says nothing.

    Guarantee:
      An upper bound, in exact arithmetic, if its arguments are bounds as said.

    Example:
      >>> from jaxcert import batching
      >>> batching.one_step_at_optimum_upper(
      ...     1.0, step_size=0.5, strong_convexity=0.5, expected_smoothness=1.0, noise=0.25
      ... )
      Array(0.875, dtype=float32, weak_type=True)

    References:
      Gower et al., "SGD: General Analysis and Improved Rates", 2019, arXiv:1901.09401.
    """
    distance_sq, step_size = jnp.asarray(distance_sq), jnp.asarray(step_size)
    bound = (1 - step_size * strong_convexity) * distance_sq + 2 * step_size**2 * noise
    # A step planned at the limit must not fall to rounding.
    limit = 2 * step_size * expected_smoothness
    slack = 8 * jnp.finfo(step_size.dtype).eps
    return jnp.where(limit <= 1 + slack, bound, jnp.inf)


def step_size_bounds(
    sampling: Sampling,
    *,
    strong_convexity: ArrayLike,
    accuracy: ArrayLike,
    noise_cap: ArrayLike,
) -> StepSizeBounds:
    r"""Between which values every step of `adaptive_batch_sgd` with a noise cap lies.

    .. math::
        \gamma_{min} = \frac{1}{2} \min \Big\{\min_\tau \frac{1}{\mathcal{L}(\tau)},
        \frac{\epsilon \mu}{C}\Big\}, \quad
        \gamma_{max} = \frac{1}{2} \max_\tau \frac{1}{\mathcal{L}(\tau)}

    Args:
      sampling: the law of the batches.
      strong_convexity: mu, above 0.
      accuracy: epsilon, above 0.
      noise_cap: C, above 0.

    Returns:
      `StepSizeBounds`. The expected smoothness falls as the batch grows, so its extremes are at the
      ends.

    Raises:
      ValueError: if a setting is not above 0.

    Guarantee:
      Sound for every estimate of the noise, up to the rounding of the arithmetic.

    Example:
      >>> from jaxcert import batching
      >>> sampling = batching.nice([1.0, 3.0], smoothness=2.0)
      >>> batching.step_size_bounds(
      ...     sampling, strong_convexity=0.5, accuracy=0.1, noise_cap=1.0
      ... ).upper
      Array(0.25, dtype=float32)
    """
    mu = _arguments.strong_convexity(sampling, strong_convexity)
    epsilon = _checks.positive_values("accuracy", accuracy).astype(mu.dtype)
    cap = _checks.positive_values("noise_cap", noise_cap).astype(mu.dtype)
    first = sampling.expected_smoothness(1)
    last = sampling.expected_smoothness(sampling.max_batch_size)
    return StepSizeBounds(0.5 * jnp.minimum(1 / first, epsilon * mu / cap), 0.5 / last)
