"""SGD that learns its optimal batch size, as published."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching import _arguments, _estimates
from jaxcert.batching._draw import Batch
from jaxcert.batching._estimates import NoiseEstimate
from jaxcert.batching._norms import SquaredNorms
from jaxcert.batching._optimizer import BatchSizeRule, count_evaluations, no_evaluations
from jaxcert.batching._sampling import Sampling


class AdaptiveBatchState(NamedTuple):
    """State of `adaptive_batch_sgd`.

    Attributes:
      step: int32 scalar, updates made.
      batch_size: int32 scalar, planned for the next update.
      step_size: scalar, planned for the next update.
      evaluations: integer scalar, gradients of single examples evaluated so far.
      noise: what is known of the squared gradient norms.
    """

    step: jax.Array
    batch_size: jax.Array
    step_size: jax.Array
    evaluations: jax.Array
    noise: NoiseEstimate


def adaptive_batch_sgd(
    sampling: Sampling,
    *,
    strong_convexity: ArrayLike,
    accuracy: ArrayLike,
    estimate: str = "table",
    noise: str = "mean_square",
    noise_cap: ArrayLike | None = None,
    decay: float = 0.9,
) -> BatchSizeRule:
    r"""SGD whose batch size and step are those that are optimal for the noise seen so far.

    .. math::
        \tau_k = \lfloor \tau^*(x_k) \rfloor, \quad \gamma_k = \frac{1}{2} \min \Big\{
        \frac{1}{\mathcal{L}(\tau_k)}, \frac{\epsilon \mu}{\min(C, 2 \sigma(x_k, \tau_k))} \Big\},
        \quad x_{k+1} = x_k - \gamma_k \nabla f_{v_k}(x_k)

    Both are fixed before the batch is drawn. The batch size is `optimal_batch_size` with the norms
    at the iterate in place of those at the optimum.

    Args:
      sampling: the law of the batches, with its smoothness constants.
      strong_convexity: mu, above 0.
      accuracy: epsilon, above 0, the squared distance to the optimum that is wanted.
      estimate: `"table"` keeps the squared norm that each example had when last drawn, and costs no
        evaluation; `"batch"` keeps a fading mean over the batches; `"exact"` knows only what
        `refresh` is given, each time for n evaluations.
      noise: how the norms at the iterate stand for the noise. `"mean_square"` drops the mean
        gradient, which vanishes at the optimum; `"variance"` takes it off; `"second_moment"` is the
        published rule to the letter, which far from the optimum plans tiny steps of one example.
      noise_cap: C, above 0: caps the noise in the step, never in the batch size. None caps nothing.
      decay: of the fading means, in (0, 1).

    Returns:
      A `BatchSizeRule`; its state is an `AdaptiveBatchState`.

    Raises:
      ValueError: if a setting has a wrong value.

    Example:
      >>> from jaxcert import batching
      >>> sampling = batching.nice([1.0, 2.0, 3.0], smoothness=1.5)
      >>> rule = batching.adaptive_batch_sgd(sampling, strong_convexity=0.1, accuracy=0.1)
      >>> rule.plan(rule.init(None)).step_size.round(4)
      Array(0.1667, dtype=float32)

    Guarantee:
      With exact norms and a cap C the step stays within `step_size_bounds`, and every step obeys
      `one_step_upper` in expectation. The noise is an estimate unless `refresh` is called before
      every step, so the accuracy reached is none that is certified.

    References:
      Alfarra, Hanzely, Albasyoni, Ghanem, Richtarik, "Adaptive Learning of the Optimal Batch Size
      of SGD", 2020, arXiv:2005.01097.
    """
    check_choice("estimate", estimate, _estimates.ESTIMATES)
    check_choice("noise", noise, _estimates.NOISES)
    _checks.probability("decay", decay)
    if estimate == "batch" and sampling.importance != "uniform":
        raise ValueError(
            "estimate='batch' must go with uniform probabilities, since it knows no single "
            f"example; got importance={sampling.importance!r}"
        )
    mu = _arguments.strong_convexity(sampling, strong_convexity)
    epsilon = _checks.positive_values("accuracy", accuracy)
    if noise_cap is not None:
        noise_cap = _checks.positive_values("noise_cap", noise_cap)
    settings: dict[str, Any] = {
        "strong_convexity": mu, "accuracy": epsilon, "centred": noise == "variance",
    }  # fmt: skip

    def planned(known: NoiseEstimate) -> tuple[jax.Array, jax.Array]:
        norms = _estimates.known(sampling, estimate, known)
        if noise == "mean_square":
            norms = norms._replace(parts=0 * norms.parts, total=0 * norms.total)
        size = jnp.floor(sampling.optimal_batch_size(norms, **settings))
        return size.astype(jnp.int32), sampling.step_size(
            size, norms, noise_cap=noise_cap, **settings
        )

    def init(params: optax.Params) -> AdaptiveBatchState:
        del params
        known = _estimates.start(sampling, estimate)
        return AdaptiveBatchState(
            jnp.zeros((), jnp.int32), *planned(known), no_evaluations(), known
        )

    def update(
        updates: optax.Updates,
        state: AdaptiveBatchState,
        params: optax.Params | None = None,
        *,
        batch: Batch,
        squared_norms: jax.Array,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AdaptiveBatchState]:
        del params, extra_args
        known = _estimates.observe(
            sampling, estimate, state.noise, updates, batch, squared_norms, decay,
            with_mean=noise != "mean_square",
        )  # fmt: skip
        evaluations = count_evaluations(state.evaluations, batch.size)
        following = AdaptiveBatchState(state.step + 1, *planned(known), evaluations, known)
        return scaled(updates, state.step_size), following

    def refresh(state: AdaptiveBatchState, norms: SquaredNorms) -> AdaptiveBatchState:
        known = _estimates.exact(sampling, estimate, norms)
        evaluations = count_evaluations(state.evaluations, sampling.num_examples)
        return AdaptiveBatchState(state.step, *planned(known), evaluations, known)

    return BatchSizeRule._of(init, update, refresh)


def scaled(updates: optax.Updates, step_size: jax.Array) -> optax.Updates:
    """Minus the step times the gradient, in the dtype of the gradient."""
    return jax.tree.map(lambda leaf: -step_size.astype(leaf.dtype) * leaf, updates)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise unless a setting is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
