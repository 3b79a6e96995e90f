r"""SGD whose step and batch follow the distance to the optimum: right both far from it and near.

For an unbiased estimate g of the gradient of an L-smooth f with variance V(x, tau),

    E |x - gamma g - x*|^2 = r - 2 gamma <grad f(x), x - x*> + gamma^2 (|grad f(x)|^2 + V).

For convex f, |grad f(x)|^2 <= L <grad f(x), x - x*>; where f is mu-strongly convex also
<grad f(x), x - x*> >= mu r. So for gamma <= 2 / L

    E r+ <= (1 - gamma mu (2 - gamma L)) r + gamma^2 V(x, tau),

with the variance at the iterate, which can be measured, and no factor 2 before it. The right side
is least at gamma = 1 / (L + V / (mu r)), where it is (1 - gamma mu) r. The batch size is then the
one of least work for each unit of log r. With tau calL(tau) = A + B tau and tau V = C + D tau, the
cost of a step being tau + c gradients and c what the step costs beside them,

    (tau + c) (calL + V / (mu r)),

which is least at tau = sqrt(c (A + C') / (B + D')), C' = C / (mu r), D' = D / (mu r), and at the
largest batch where B + D' <= 0. Steps use calL(tau) >= L, the expected smoothness, which keeps them
stable while the measured noise is out of date; the inequality holds for every smaller step.

Without overhead, c = 0, the work is linear in tau: batches of one are best until V / ((n - 1) mu r)
exceeds L - Lmax / n, and full batches from there on. No fixed step can be right in both regimes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching import _arguments, _closed_forms, _estimates
from jaxcert.batching._adaptive import check_choice, scaled
from jaxcert.batching._draw import Batch
from jaxcert.batching._estimates import NoiseEstimate
from jaxcert.batching._norms import SquaredNorms
from jaxcert.batching._optimizer import BatchSizeRule, count_evaluations, no_evaluations
from jaxcert.batching._progress import one_step_upper
from jaxcert.batching._sampling import Sampling


class DistanceAwareState(NamedTuple):
    """State of `distance_aware_sgd`.

    Attributes:
      step: int32 scalar, updates made.
      batch_size: int32 scalar, planned for the next update.
      step_size: scalar, planned for the next update.
      evaluations: integer scalar, gradients of single examples evaluated so far.
      distance_sq_estimate: scalar, the squared distance to the optimum that is left in expectation;
        an upper bound as far as the noise is one.
      noise: what is known of the squared gradient norms.
    """

    step: jax.Array
    batch_size: jax.Array
    step_size: jax.Array
    evaluations: jax.Array
    distance_sq_estimate: jax.Array
    noise: NoiseEstimate


def distance_aware_sgd(
    sampling: Sampling,
    *,
    strong_convexity: ArrayLike,
    distance_sq: ArrayLike | None = None,
    estimate: str = "table",
    noise: str = "mean_square",
    step_overhead: ArrayLike = 0.0,
    decay: float = 0.9,
) -> BatchSizeRule:
    r"""SGD with the step and batch size of fastest decrease for the distance that is left.

    .. math::
        \gamma_k = \Big(\mathcal{L}(\tau_k) + \frac{V(\tau_k)}{\mu \rho_k}\Big)^{-1}, \quad
        \tau_k = \arg\min_\tau \frac{\tau + c}{\gamma(\tau)}, \quad
        \rho_{k+1} = (1 - \gamma_k \mu (2 - \gamma_k L)) \rho_k + \gamma_k^2 V(\tau_k)

    with V the variance of the gradient estimate. Far away steps are long and batches small; nearer,
    steps shrink with the distance, and batches grow. It has no accuracy to be set:
    `distance_sq_estimate` of its state says how near the optimum is, so one may stop by it.

    Args:
      sampling: the law of the batches, with uniform probabilities and one part.
      strong_convexity: mu, above 0.
      distance_sq: an upper bound on the squared distance of the start to the optimum. None takes
        :math:`\|\nabla f(x_0)\|^2 / \mu^2` from the `refresh` with which training then must begin.
        A bound that is too large costs little: the logarithm of its excess.
      estimate: as for `adaptive_batch_sgd`.
      noise: `"mean_square"`, which bounds the variance from above, or `"variance"`.
      step_overhead: c, at least 0, what a step costs beside its gradients, in gradient evaluations;
        0 minimises gradient evaluations, a measured value the time.
      decay: of the fading means, in (0, 1).

    Returns:
      A `BatchSizeRule`; its state is a `DistanceAwareState`.

    Raises:
      ValueError: if a setting has a wrong value, or the sampling has parts or importances.

    Guarantee:
      Where the noise of every plan is at least the variance at the iterate, every step obeys
      `one_step_upper` in expectation, and the squared distance minus its estimate, divided by the
      product of the contractions so far, is a supermartingale that starts at or below 0. Where the
      noise is an estimate, so is the distance.

    Example:
      >>> from jaxcert import batching
      >>> sampling = batching.nice([1.0, 2.0, 3.0], smoothness=1.5)
      >>> rule = batching.distance_aware_sgd(sampling, strong_convexity=0.1, distance_sq=2.0)
      >>> rule.plan(rule.init(None)).step_size.round(4)
      Array(0.3333, dtype=float32)

    References:
      Gower et al., "SGD: General Analysis and Improved Rates", 2019, arXiv:1901.09401, for the
      expected smoothness; the rule and its inequality are derived in `jaxcert.batching`'s guide.
    """
    check_choice("estimate", estimate, _estimates.ESTIMATES)
    check_choice("noise", noise, ("mean_square", "variance"))
    _checks.probability("decay", decay)
    if sampling.num_parts != 1 or (
        sampling.importance != "uniform" and sampling.family != "with_replacement"
    ):
        raise ValueError(
            "sampling must have one part and uniform probabilities, got "
            f"{sampling.num_parts} parts and importance={sampling.importance!r}"
        )
    mu = _arguments.strong_convexity(sampling, strong_convexity)
    dtype = sampling.part_smoothness.dtype
    overhead = jnp.asarray(step_overhead, dtype)
    if _checks.is_concrete(overhead) and not float(overhead) >= 0:
        raise ValueError(f"step_overhead must be at least 0, got {step_overhead}")
    # A full batch can arrive; the noise is still divided by what is left.
    nearest = jnp.sqrt(jnp.finfo(dtype).tiny)
    initial = jnp.full((), jnp.inf, dtype)
    if distance_sq is not None:
        initial = _checks.positive_values("distance_sq", distance_sq).astype(dtype)

    def variance_norms(known: NoiseEstimate) -> SquaredNorms:
        norms = _estimates.known(sampling, estimate, known)
        if noise == "mean_square":
            return norms._replace(parts=0 * norms.parts, total=0 * norms.total)
        return norms

    def planned(known: NoiseEstimate, distance: jax.Array) -> tuple[jax.Array, jax.Array]:
        norms = variance_norms(known)
        zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
        smooth = _closed_forms.scaled_smoothness(sampling, zero)[0]
        smooth_slope = _closed_forms.scaled_smoothness(sampling, one)[0] - smooth
        spread = _closed_forms.scaled_noise(sampling, zero, norms)
        spread_slope = _closed_forms.scaled_noise(sampling, one, norms) - spread - norms.total
        floor = smooth_slope + spread_slope / (mu * distance)
        falling = smooth + spread / (mu * distance)
        largest = sampling.max_batch_size.astype(dtype)
        ideal = jnp.sqrt(overhead * falling / jnp.where(floor > 0, floor, 1.0))
        ideal = jnp.clip(jnp.where(floor > 0, ideal, largest), 1.0, largest)
        around = jnp.clip(jnp.stack([jnp.floor(ideal), jnp.floor(ideal) + 1]), 1.0, largest)
        work = (around + overhead) * (floor + falling / around)
        size = around[jnp.argmin(work)]
        variance = sampling.gradient_variance(size, norms)
        step = 1.0 / (sampling.expected_smoothness(size) + variance / (mu * distance))
        return size.astype(jnp.int32), step

    def init(params: optax.Params) -> DistanceAwareState:
        del params
        known = _estimates.start(sampling, estimate)
        return DistanceAwareState(
            jnp.zeros((), jnp.int32), *planned(known, initial), no_evaluations(), initial, known
        )

    def update(
        updates: optax.Updates,
        state: DistanceAwareState,
        params: optax.Params | None = None,
        *,
        batch: Batch,
        squared_norms: jax.Array,
        **extra_args: Any,
    ) -> tuple[optax.Updates, DistanceAwareState]:
        del params, extra_args
        norms = variance_norms(state.noise)
        distance = one_step_upper(
            state.distance_sq_estimate,
            step_size=state.step_size,
            strong_convexity=mu,
            smoothness=sampling.part_smoothness[0],
            variance=sampling.gradient_variance(state.batch_size, norms),
        )
        distance = jnp.maximum(distance, nearest)
        known = _estimates.observe(
            sampling, estimate, state.noise, updates, batch, squared_norms, decay,
            with_mean=noise != "mean_square",
        )  # fmt: skip
        evaluations = count_evaluations(state.evaluations, batch.size)
        following = DistanceAwareState(
            state.step + 1, *planned(known, distance), evaluations, distance, known
        )
        return scaled(updates, state.step_size), following

    def refresh(state: DistanceAwareState, norms: SquaredNorms) -> DistanceAwareState:
        known = _estimates.exact(sampling, estimate, norms)
        evaluations = count_evaluations(state.evaluations, sampling.num_examples)
        # Strong convexity: mu |x - x*| <= |grad f(x)|.
        measured = jnp.asarray(norms.total).astype(dtype) / mu**2
        distance = jnp.maximum(jnp.minimum(state.distance_sq_estimate, measured), nearest)
        return DistanceAwareState(
            state.step, *planned(known, distance), evaluations, distance, known
        )

    return BatchSizeRule._of(init, update, refresh)
