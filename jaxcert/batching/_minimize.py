"""Gradients of batches of any size under one compilation, and the loop around a rule."""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxcert import _checks
from jaxcert.batching._draw import Batch
from jaxcert.batching._optimizer import BatchSizeRule, find_state
from jaxcert.batching._sampling import Sampling

MICROBATCHES = (256, 8)


class Objective(Protocol):
    """A mean of losses of examples, such as `Problem` and `ExampleLosses`."""

    @property
    def num_examples(self) -> int:
        """The number of examples, n."""

    def weighted_gradient(
        self, params: Any, indices: jax.Array, weights: jax.Array
    ) -> tuple[Any, jax.Array, jax.Array]:
        """Sum of the weighted gradients of examples `[b]`, their squared norms and losses `[b]`."""


class BatchGradient(NamedTuple):
    """What a batch shows.

    Attributes:
      gradient: the gradient estimate, a tree like the parameters.
      squared_norms: `[capacity]`, of the gradients of the examples; 0 in the padding.
      losses: `[capacity]`, of the examples; 0 in the padding.
    """

    gradient: Any
    squared_norms: jax.Array
    losses: jax.Array


class History(NamedTuple):
    """What each step of `minimize` did.

    Attributes:
      batch_size: int32 `[steps]`, as planned.
      step_size: `[steps]`, as planned.
      evaluations: integers `[steps]`, gradients evaluated up to and with this step.
    """

    batch_size: jax.Array
    step_size: jax.Array
    evaluations: jax.Array


def batch_gradient(
    objective: Objective,
    params: Any,
    batch: Batch,
    *,
    microbatch_sizes: tuple[int, ...] = MICROBATCHES,
) -> BatchGradient:
    r"""The gradient estimate of a batch, and the squared gradient norm of each of its examples.

    .. math::
        \nabla f_v(x) = \frac{1}{n} \sum_s w_s \nabla f_{i_s}(x)

    The batch is cut into microbatches of fixed sizes in loops whose lengths are traced: one
    compilation serves all batch sizes, and the cost follows the batch that was drawn.

    Args:
      objective: the mean of losses.
      params: a pytree of arrays.
      batch: as drawn.
      microbatch_sizes: how many examples go through the network at once, falling; the last bounds
        what a small batch wastes.

    Returns:
      A `BatchGradient`.

    Raises:
      ValueError: if the sizes are not falling positive integers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import batching
      >>> problem = batching.ridge([[1.0], [2.0], [3.0]], [1.0, 2.0, 2.0], penalty=0.1)
      >>> batch = problem.nice_sampling().draw(jax.random.key(7), 3)
      >>> found = batching.batch_gradient(problem, jnp.zeros(1), batch)
      >>> found.gradient.round(4), problem.gradient(jnp.zeros(1)).round(4)
      (Array([-3.6667], dtype=float32), Array([-3.6667], dtype=float32))
    """
    sizes = [_checks.positive_integer("microbatch_sizes", size) for size in microbatch_sizes]
    if not sizes or sorted(set(sizes), reverse=True) != sizes:
        raise ValueError(f"microbatch_sizes must fall, got {microbatch_sizes}")
    capacity = batch.indices.shape[0]
    sizes = [size for size in sizes if size <= capacity] or [capacity]
    weight_type = batch.weights.dtype

    def add(size: int, first: jax.Array, number: jax.Array, carry: Any) -> Any:
        total, *columns = carry
        wanted = first + number * size
        # The last slice starts early enough to end with the arrays, and skips what was seen.
        start = jnp.minimum(wanted, capacity - size)
        place = start + jnp.arange(size)
        new = (place >= wanted) & (place < batch.size)
        some = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        weights = jnp.where(new, some(batch.weights), 0.0)
        gradient, *found = objective.weighted_gradient(params, some(batch.indices), weights)
        total = jax.tree.map(lambda one, other: one + other.astype(one.dtype), total, gradient)
        for column, values in enumerate(found):
            values = jnp.where(new, values.astype(weight_type), some(columns[column]))
            columns[column] = jax.lax.dynamic_update_slice_in_dim(columns[column], values, start, 0)
        return (total, *columns)

    nothing = jnp.zeros(capacity, weight_type)
    carry = (jax.tree.map(jnp.zeros_like, params), nothing, nothing)
    done = jnp.zeros_like(batch.size)
    for size in sizes:
        left = batch.size - done
        count = left // size if size != sizes[-1] else (left + size - 1) // size
        carry = jax.lax.fori_loop(0, count, functools.partial(add, size, done), carry)
        done = done + count * size
    total, norms, losses = carry
    gradient = jax.tree.map(lambda leaf: leaf / objective.num_examples, total)
    return BatchGradient(gradient, norms, losses)


def minimize(
    key: jax.Array,
    objective: Objective,
    params: Any,
    *,
    rule: optax.GradientTransformationExtraArgs,
    sampling: Sampling,
    num_steps: int,
    state: Any = None,
    capacity: int | None = None,
    microbatch_sizes: tuple[int, ...] = MICROBATCHES,
) -> tuple[Any, Any, History]:
    """Make steps: plan, draw, evaluate, update; one compiled program, whatever the batch sizes.

    Args:
      key: a typed threefry key; step k draws by `fold_in(key, k)`.
      objective: the mean of losses.
      params: where to start, a pytree of floating arrays.
      rule: a `BatchSizeRule`, or an `optax.chain` that holds one.
      sampling: what the batches are drawn by.
      num_steps: number of steps.
      state: of the rule, to go on with; `rule.init(params)` by default. Give it another key then.
      capacity: the largest batch to make room for; n by default.
      microbatch_sizes: see `batch_gradient`.

    Returns:
      The parameters, the state of the rule, and a `History`.

    Raises:
      ValueError: if a setting has a wrong value.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import batching
      >>> problem = batching.ridge([[1.0], [2.0], [3.0]], [1.0, 2.0, 2.0], penalty=0.1)
      >>> sampling = problem.nice_sampling()
      >>> rule = batching.distance_aware_sgd(
      ...     sampling, strong_convexity=problem.strong_convexity_lower, distance_sq=1.0
      ... )
      >>> x, state, history = batching.minimize(
      ...     jax.random.key(7), problem, jnp.zeros(1), rule=rule, sampling=sampling, num_steps=5
      ... )
      >>> history.evaluations.shape, bool(history.evaluations[-1] == history.batch_size.sum())
      ((5,), True)
    """
    key = _checks.typed_key("key", key)
    num_steps = _checks.positive_integer("num_steps", num_steps)
    if state is None:
        state = rule.init(params)
    find_state(state)
    return _minimize(
        key, objective, params, state, sampling, rule, num_steps, capacity, microbatch_sizes
    )


@functools.partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _minimize(
    key: jax.Array,
    objective: Objective,
    params: Any,
    state: Any,
    sampling: Sampling,
    rule: BatchSizeRule,
    num_steps: int,
    capacity: int | None,
    microbatch_sizes: tuple[int, ...],
) -> tuple[Any, Any, History]:
    def step(carry: Any, number: jax.Array) -> Any:
        params, state = carry
        plan = find_state(state)
        batch = sampling.draw(jax.random.fold_in(key, number), plan.batch_size, capacity=capacity)
        found = batch_gradient(objective, params, batch, microbatch_sizes=microbatch_sizes)
        updates, state = rule.update(
            found.gradient,
            state,
            params,
            batch=batch,
            squared_norms=found.squared_norms,
            losses=found.losses,
        )
        evaluations = find_state(state).evaluations
        made = History(plan.batch_size, plan.step_size, evaluations)
        return (optax.apply_updates(params, updates), state), made

    (params, state), history = jax.lax.scan(step, (params, state), jnp.arange(num_steps))
    return params, state, history
