"""Batch-size rules for networks, where neither the smoothness nor the strong convexity is known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching._adaptive import scaled
from jaxcert.batching._draw import Batch
from jaxcert.batching._estimates import tree_squared_norm
from jaxcert.batching._norms import SquaredNorms
from jaxcert.batching._optimizer import BatchSizeRule, count_evaluations, no_evaluations


class GradientTestState(NamedTuple):
    """State of the rules that look at the spread of the gradients in a batch.

    Attributes:
      step: int32 scalar, updates made.
      batch_size: int32 scalar, planned for the next update.
      step_size: scalar, planned for the next update.
      evaluations: integer scalar, gradients of single examples evaluated so far.
      numerator: scalar, fading mean of what the batch size is proportional to.
      denominator: scalar, fading mean of what it is divided by. A ratio of means: a mean of ratios
        would be biased by the noise of the denominator.
      weight: scalar, of the fading means.
      needs_inner_products: shape `[1]` if the update must be given the inner products of the
        gradients with their mean, else `[0]`.
    """

    step: jax.Array
    batch_size: jax.Array
    step_size: jax.Array
    evaluations: jax.Array
    numerator: jax.Array
    denominator: jax.Array
    weight: jax.Array
    needs_inner_products: jax.Array

    @property
    def ratio(self) -> jax.Array:
        """The batch size that the fading means ask for, before limits."""
        return self.numerator / jnp.where(self.denominator > 0, self.denominator, jnp.inf)


class _Seen(NamedTuple):
    """What a batch shows: its size, means over it, and the spread with 1 / (size - 1)."""

    size: jax.Array
    gradient_sq: jax.Array
    spread: jax.Array
    loss: jax.Array | None
    inner_products: jax.Array | None
    drawn: jax.Array


def gradient_noise_scale(
    *,
    learning_rate: ArrayLike,
    step_overhead: ArrayLike | None = None,
    couple_step: bool = False,
    min_batch_size: int = 8,
    max_batch_size: int = 4096,
    decay: float = 0.95,
) -> BatchSizeRule:
    r"""Batches as large as the gradient noise scale, or as the cost of a step makes best.

    .. math::
        B_{simple} = \frac{\operatorname{tr} \Sigma}{\|G\|^2}, \quad
        B = B_{simple} \;\text{ or }\; \sqrt{c \, B_{simple}}

    With the best step for each batch a step makes progress in proportion to
    :math:`B / (B + B_{simple})` and costs :math:`B + c` gradient evaluations; the progress for the
    cost is greatest at :math:`\sqrt{c B_{simple}}`.

    Args:
      learning_rate: the step, or with `couple_step` its limit for large batches; above 0.
      step_overhead: c, above 0, what a step costs beside its gradients, in gradient evaluations.
        None takes :math:`B_{simple}` itself.
      couple_step: scale the step by :math:`B / (B + B_{simple})`, as is best for a quadratic.
      min_batch_size: at least 2, for a spread to be seen.
      max_batch_size: at least `min_batch_size`.
      decay: of the fading means of numerator and denominator, in (0, 1).

    Returns:
      A `BatchSizeRule`; its state is a `GradientTestState`, whose `ratio` estimates
      :math:`B_{simple}`.

    Raises:
      ValueError: if a setting has a wrong value.

    Example:
      >>> from jaxcert import batching
      >>> rule = batching.gradient_noise_scale(learning_rate=0.1, min_batch_size=16)
      >>> rule.plan(rule.init(None)).batch_size
      Array(16, dtype=int32)

    References:
      McCandlish, Kaplan, Amodei, "An Empirical Model of Large-Batch Training", 2018,
      arXiv:1812.06162.
    """
    if step_overhead is not None:
        step_overhead = _checks.positive_values("step_overhead", step_overhead)

    def statistics(seen: _Seen) -> tuple[jax.Array, jax.Array]:
        # Unbiased: the squared norm of the mean is too large by the variance of the mean.
        return seen.spread, seen.gradient_sq - seen.spread / seen.size

    def wanted(ratio: jax.Array, before: jax.Array) -> jax.Array:
        return ratio if step_overhead is None else jnp.sqrt(step_overhead * ratio)

    return _rule(
        statistics, wanted, learning_rate, min_batch_size, max_batch_size, decay,
        couple_step=couple_step,
    )  # fmt: skip


def norm_test(
    *,
    learning_rate: ArrayLike,
    theta: float = 0.5,
    min_batch_size: int = 8,
    max_batch_size: int = 4096,
    decay: float = 0.95,
) -> BatchSizeRule:
    r"""Batches that grow until the variance of the gradient is a small share of its square.

    .. math::
        \frac{\operatorname{Var}_1}{B} \le \theta^2 \|g\|^2, \quad \text{else} \quad
        B^+ = \Big\lceil \frac{\operatorname{Var}_1}{\theta^2 \|g\|^2} \Big\rceil

    Args:
      learning_rate: the step, above 0.
      theta: above 0; 1 is the gradient noise scale.
      min_batch_size: at least 2, for a spread to be seen; the first batch.
      max_batch_size: at least `min_batch_size`.
      decay: of the fading means of numerator and denominator, in (0, 1).

    Returns:
      A `BatchSizeRule`; its state is a `GradientTestState`. The batch never shrinks.

    Raises:
      ValueError: if a setting has a wrong value.

    Example:
      >>> from jaxcert import batching
      >>> rule = batching.norm_test(learning_rate=0.1, theta=0.5)
      >>> rule.plan(rule.init(None)).batch_size
      Array(8, dtype=int32)

    References:
      Byrd, Chin, Nocedal, Wu, "Sample Size Selection in Optimization Methods for Machine Learning",
      2012, doi:10.1007/s10107-012-0572-5.
    """
    theta = _checks.positive_number("theta", theta)
    return _rule(
        lambda seen: (seen.spread, theta**2 * seen.gradient_sq), jnp.maximum,
        learning_rate, min_batch_size, max_batch_size, decay,
    )  # fmt: skip


def inner_product_test(
    *,
    learning_rate: ArrayLike,
    theta: float = 0.9,
    min_batch_size: int = 8,
    max_batch_size: int = 4096,
    decay: float = 0.95,
) -> BatchSizeRule:
    r"""Batches that grow until most gradients point the same way as their mean.

    .. math::
        \frac{\operatorname{Var}_1 \langle g_i, g \rangle}{B} \le \theta^2 \|g\|^4, \quad
        \text{else} \quad
        B^+ = \Big\lceil \frac{\operatorname{Var}_1 \langle g_i, g \rangle}{\theta^2 \|g\|^4}
        \Big\rceil

    The inner products are directional derivatives of the losses, one forward pass for all of them:
    `update` takes them as `inner_products` `[capacity]`, and counts a second evaluation of every
    example. They run over all parameters together, so that the covariance between layers counts.

    Args:
      learning_rate: the step, above 0.
      theta: above 0.
      min_batch_size: at least 2, for a spread to be seen; the first batch.
      max_batch_size: at least `min_batch_size`.
      decay: of the fading means of numerator and denominator, in (0, 1).

    Returns:
      A `BatchSizeRule`; its state is a `GradientTestState`. The batch never shrinks.

    Raises:
      ValueError: if a setting has a wrong value.

    Example:
      >>> from jaxcert import batching
      >>> rule = batching.inner_product_test(learning_rate=0.1, theta=0.9)
      >>> rule.plan(rule.init(None)).batch_size
      Array(8, dtype=int32)

    References:
      Bollapragada, Byrd, Nocedal, "Adaptive Sampling Strategies for Stochastic Optimization", 2018,
      arXiv:1710.11258.
    """
    theta = _checks.positive_number("theta", theta)

    def statistics(seen: _Seen) -> tuple[jax.Array, jax.Array]:
        if seen.inner_products is None:
            raise ValueError("inner_products must be given to the inner product test, got None")
        centred = jnp.where(seen.drawn, seen.inner_products - seen.gradient_sq, 0.0)
        spread = jnp.sum(centred**2) / jnp.maximum(seen.size - 1, 1)
        return spread, theta**2 * seen.gradient_sq**2

    return _rule(
        statistics, jnp.maximum, learning_rate, min_batch_size, max_batch_size, decay,
        needs_inner_products=True,
    )  # fmt: skip


def cabs(
    *,
    learning_rate: ArrayLike,
    min_batch_size: int = 16,
    max_batch_size: int = 2048,
    decay: float = 0.95,
) -> BatchSizeRule:
    r"""Coupled adaptive batch size: noise over loss, times the step.

    .. math::
        B = \eta \frac{\operatorname{tr} \Sigma}{F}

    with F the loss, whose least value is taken to be 0, and the variance with 1 / B as published.

    Args:
      learning_rate: eta, above 0.
      min_batch_size: at least 2, for a spread to be seen.
      max_batch_size: at least `min_batch_size`.
      decay: of the fading means of numerator and denominator, in (0, 1).

    Returns:
      A `BatchSizeRule`; its state is a `GradientTestState`. Its `update` takes `losses`
      `[capacity]` too.

    Raises:
      ValueError: if a setting has a wrong value.

    Example:
      >>> from jaxcert import batching
      >>> rule = batching.cabs(learning_rate=0.1)
      >>> rule.plan(rule.init(None)).batch_size
      Array(16, dtype=int32)

    References:
      Balles, Romero, Hennig, "Coupling Adaptive Batch Sizes with Learning Rates", 2017,
      arXiv:1612.05086.
    """
    rate = _checks.positive_values("learning_rate", learning_rate)

    def statistics(seen: _Seen) -> tuple[jax.Array, jax.Array]:
        if seen.loss is None:
            raise ValueError("losses must be given to the coupled adaptive batch size, got None")
        return rate * seen.spread * (seen.size - 1) / seen.size, seen.loss

    return _rule(
        statistics, lambda ratio, before: ratio, learning_rate, min_batch_size, max_batch_size,
        decay, rounding=jnp.round,
    )  # fmt: skip


def constant_batch(*, learning_rate: ArrayLike, batch_size: int) -> BatchSizeRule:
    """A fixed batch size and step: what the other rules are compared with.

    Args:
      learning_rate: the step, above 0.
      batch_size: at least 1.

    Returns:
      A `BatchSizeRule`; its state is a `GradientTestState`.

    Raises:
      ValueError: if a setting has a wrong value.

    Example:
      >>> from jaxcert import batching
      >>> rule = batching.constant_batch(learning_rate=0.1, batch_size=32)
      >>> rule.plan(rule.init(None)).batch_size
      Array(32, dtype=int32)
    """
    _checks.positive_integer("batch_size", batch_size)
    return _rule(
        lambda seen: (jnp.zeros(()), jnp.ones(())), lambda ratio, before: before,
        learning_rate, batch_size, batch_size, 0.5, smallest=1,
    )  # fmt: skip


def _rule(
    statistics: Callable[[_Seen], tuple[jax.Array, jax.Array]],
    wanted: Callable[[jax.Array, jax.Array], jax.Array],
    learning_rate: ArrayLike,
    min_batch_size: int,
    max_batch_size: int,
    decay: float,
    *,
    couple_step: bool = False,
    needs_inner_products: bool = False,
    rounding: Callable[[jax.Array], jax.Array] = jnp.ceil,
    smallest: int = 2,
) -> BatchSizeRule:
    """A rule from the two statistics whose ratio says how large the next batch should be."""
    rate = _checks.positive_values("learning_rate", learning_rate)
    low = _checks.positive_integer("min_batch_size", min_batch_size, minimum=smallest)
    high = _checks.positive_integer("max_batch_size", max_batch_size, minimum=low)
    _checks.probability("decay", decay)

    def init(params: optax.Params) -> GradientTestState:
        del params
        zero = jnp.zeros((), rate.dtype)
        return GradientTestState(
            jnp.zeros((), jnp.int32), jnp.asarray(low, jnp.int32), rate, no_evaluations(),
            zero, zero, zero, jnp.zeros(int(needs_inner_products)),
        )  # fmt: skip

    def update(
        updates: optax.Updates,
        state: GradientTestState,
        params: optax.Params | None = None,
        *,
        batch: Batch,
        squared_norms: jax.Array,
        losses: jax.Array | None = None,
        inner_products: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GradientTestState]:
        del params, extra_args
        size = batch.size.astype(rate.dtype)
        drawn = jnp.arange(batch.indices.shape[0]) < batch.size
        gradient_sq = tree_squared_norm(updates)
        total = jnp.sum(jnp.where(drawn, squared_norms, 0.0))
        spread = jnp.maximum(total - size * gradient_sq, 0.0) / jnp.maximum(size - 1, 1)
        loss = None if losses is None else jnp.sum(jnp.where(drawn, losses, 0.0)) / size
        seen = _Seen(size, gradient_sq, spread, loss, inner_products, drawn)
        above, below = statistics(seen)
        numerator = decay * state.numerator + (1 - decay) * above.astype(rate.dtype)
        denominator = decay * state.denominator + (1 - decay) * below.astype(rate.dtype)
        cost = batch.size * (2 if needs_inner_products else 1)
        following = state._replace(
            step=state.step + 1,
            evaluations=count_evaluations(state.evaluations, cost),
            numerator=numerator,
            denominator=denominator,
            weight=decay * state.weight + (1 - decay),
        )
        # A denominator that noise made negative asks for the largest batch.
        ratio = jnp.where(denominator > 0, following.ratio, jnp.inf)
        ratio = jnp.where(numerator > 0, ratio, 0.0)
        asked = jnp.clip(rounding(wanted(ratio, state.batch_size.astype(rate.dtype))), low, high)
        step = rate
        if couple_step:
            coupled = rate * asked / (asked + following.ratio)
            step = jnp.where(denominator > 0, coupled, state.step_size)
        following = following._replace(batch_size=asked.astype(jnp.int32), step_size=step)
        return scaled(updates, state.step_size), following

    def refresh(state: GradientTestState, norms: SquaredNorms) -> GradientTestState:
        raise TypeError("refresh belongs to the rules with known constants; this one has none")

    return BatchSizeRule._of(init, update, refresh)
