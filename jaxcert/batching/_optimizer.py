"""What every rule for the batch size has in common: plan, then draw, then update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcert.batching._norms import SquaredNorms


class Plan(NamedTuple):
    """What is fixed before the batch is drawn.

    Attributes:
      batch_size: int32 scalar, tau.
      step_size: scalar, gamma.
    """

    batch_size: jax.Array
    step_size: jax.Array


class BatchSizeRule(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optax transformation that also says how large the next batch should be.

    As a tuple it is `(init, update)`, so it stands in `optax.chain` as any transformation; last,
    since it scales by minus the step. `plan` reads its own state or one of a chain that holds it.

    `update(gradient, state, params, *, batch, squared_norms)` takes the gradient estimate of the
    batch, the `Batch` itself and the squared gradient norms of its examples `[capacity]`. It scales
    by the step that was planned before the batch was drawn; what the batch shows enters the next
    plan only. `refresh(state, norms)` takes the norms of a full pass and counts its n evaluations.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import batching
      >>> problem = batching.ridge([[1.0], [2.0], [3.0]], [1.0, 2.0, 2.0], penalty=0.1)
      >>> rule = batching.adaptive_batch_sgd(
      ...     problem.nice_sampling(), strong_convexity=problem.strong_convexity_lower, accuracy=0.1
      ... )
      >>> x = jnp.zeros(1)
      >>> state = rule.init(x)
      >>> rule.plan(state).batch_size
      Array(1, dtype=int32)

    References:
      Alfarra, Hanzely, Albasyoni, Ghanem, Richtarik, "Adaptive Learning of the Optimal Batch Size
      of SGD", 2020, arXiv:2005.01097.
    """

    refresh: Callable[[Any, SquaredNorms], Any]

    @classmethod
    def _of(
        cls,
        init: Callable[..., Any],
        update: Callable[..., Any],
        refresh: Callable[[Any, SquaredNorms], Any],
    ) -> "BatchSizeRule":
        rule = cls(init, update)
        rule.refresh = refresh
        return rule

    def plan(self, state: Any) -> Plan:
        """The batch size and step of the next update, functions of the state alone.

        Args:
          state: of this rule, or of an `optax.chain` with it.

        Returns:
          A `Plan`.

        Raises:
          ValueError: if `state` holds no state of such a rule, or several.
        """
        own = find_state(state)
        return Plan(own.batch_size, own.step_size)


def find_state(state: Any) -> Any:
    """The part of an optax state that has a plan."""

    def has_plan(node: Any) -> bool:
        return hasattr(node, "batch_size") and hasattr(node, "step_size")

    found = [node for node in jax.tree.leaves(state, is_leaf=has_plan) if has_plan(node)]
    if len(found) != 1:
        raise ValueError(f"state must hold the state of one batch-size rule, found {len(found)}")
    return found[0]


def count_evaluations(before: jax.Array, more: jax.Array | int) -> jax.Array:
    """Add to a count that stops at the largest integer, rather than wrap."""
    largest = jnp.iinfo(before.dtype).max
    more = jnp.asarray(more).astype(before.dtype)
    return jnp.where(before > largest - more, largest, before + more)


def no_evaluations() -> jax.Array:
    """The count 0, in 64 bits where JAX has them."""
    return jnp.zeros((), jax.dtypes.canonicalize_dtype(jnp.int64))
