"""Seconds beside data passes: the same runs, each alone in one compiled program."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import adaptive_batch_runs as runs
from jaxcert import batching

KEYS = 5


@functools.partial(jax.jit, static_argnames="tau")
def _fixed(
    problem: batching.Problem,
    key: jax.Array,
    x: jax.Array,
    best: jax.Array,
    level: jax.Array,
    limit: jax.Array,
    step_size: jax.Array,
    *,
    tau: int,
) -> tuple[jax.Array, jax.Array]:
    """Steps of a fixed batch until the squared distance is at a level."""
    n, sampling = problem.num_examples, problem.nice_sampling()

    def gradient(number: jax.Array, x: jax.Array) -> jax.Array:
        if tau == n:
            return problem.gradient(x)
        own = jax.random.fold_in(key, number)
        if tau == 1:
            indices = jax.random.randint(own, (1,), 0, n)
        else:
            indices = sampling.draw(own, tau, capacity=tau).indices
        return problem.weighted_gradient(x, indices, jnp.full(tau, 1 / tau))[0]

    def go_on(carry: Any) -> jax.Array:
        x, number = carry
        return (jnp.sum((x - best) ** 2) > level) & (number * tau < limit)

    def step(carry: Any) -> Any:
        x, number = carry
        return x - step_size * gradient(number, x), number + 1

    x, number = jax.lax.while_loop(go_on, step, (x, jnp.zeros((), jnp.int64)))
    return jnp.sum((x - best) ** 2), number * tau


@functools.partial(jax.jit, static_argnames=("build", "refresh_first"))
def _adaptive(
    problem: batching.Problem,
    key: jax.Array,
    x: jax.Array,
    best: jax.Array,
    level: jax.Array,
    limit: jax.Array,
    settings: Any,
    *,
    build: runs.Build,
    refresh_first: bool,
) -> tuple[jax.Array, jax.Array]:
    """Steps of a rule until the squared distance is at a level; its first full pass included."""
    sampling = problem.nice_sampling()
    rule = build(sampling, settings)
    state = rule.init(x)
    if refresh_first:
        state = rule.refresh(state, problem.squared_norms(x))

    def go_on(carry: Any) -> jax.Array:
        x, state = carry
        return (jnp.sum((x - best) ** 2) > level) & (state.evaluations < limit)

    def step(carry: Any) -> Any:
        x, state = carry
        batch = sampling.draw(jax.random.fold_in(key, state.step), rule.plan(state).batch_size)
        found = batching.batch_gradient(problem, x, batch)
        updates, state = rule.update(
            found.gradient, state, x, batch=batch, squared_norms=found.squared_norms
        )
        return x + updates, state

    x, state = jax.lax.while_loop(go_on, step, (x, state))
    return jnp.sum((x - best) ** 2), state.evaluations


def seconds(
    instance: runs.Instance,
    start: np.ndarray,
    *,
    target: float,
    budget: float,
    tau: int | None = None,
    **arguments: Any,
) -> dict[str, Any] | None:
    """Median seconds and mean passes over `KEYS` keys; None if one of them did not arrive."""
    first = float(np.sum((start - instance.best) ** 2))
    run = _adaptive if tau is None else functools.partial(_fixed, tau=tau)

    def once(number: int, level: float) -> tuple[float, float, float]:
        # Of the processor, which on one core is the time that a quiet one takes.
        begin = time.process_time()
        distance, evaluations = jax.block_until_ready(
            run(
                instance.problem, jax.random.key(number), jnp.asarray(start), instance.best,
                jnp.asarray(level), jnp.asarray(budget * instance.n), **arguments,
            )
        )  # fmt: skip
        return time.process_time() - begin, float(distance), float(evaluations) / instance.n

    # Compiled, and not one step made, before the clock starts.
    once(0, 2 * first)
    found = [once(number, target * first) for number in range(1, KEYS + 1)]
    if any(distance > target * first for _, distance, _ in found):
        return None
    return {
        "seconds": float(f"{np.median([each[0] for each in found]):.3g}"),
        "passes": round(float(np.mean([each[2] for each in found])), 3),
    }


def wall_times(
    instance: runs.Instance,
    starts: Mapping[str, Any],
    rules: Mapping[str, tuple[runs.Build, Any, bool]],
) -> dict[str, Any]:
    """Seconds of the best fixed batch by passes, of one example, of all, and of the rules.

    Args:
      instance: the problem.
      starts: for each kind of start what `run_start` found.
      rules: for each name how it is built, its settings by start, and whether it refreshes first.
    """
    found: dict[str, Any] = {}
    for kind, result in starts.items():
        start, target = instance.start(kind), result["target"]
        level = runs.LEVELS.index(target)
        fixed = [row for row in result["rows"] if row["group"] == "fixed"]
        budget = 5.0 * max(row["passes"][level] or 0.0 for row in fixed)
        common = {"target": target, "budget": budget}
        rows = {}
        for row in fixed:
            if row["passes"][level] is not None:
                rows[row["name"]] = seconds(
                    instance, start, tau=row["tau"], step_size=jnp.asarray(row["step_size"]),
                    **common,
                )  # fmt: skip
        for name, (build, settings, refresh) in rules.items():
            rows[name] = seconds(
                instance, start, build=build, settings=settings(kind), refresh_first=refresh,
                **common,
            )  # fmt: skip
        found[kind] = rows
        print(time.strftime("%H:%M:%S"), instance.name, kind, rows, flush=True)
    return {"name": instance.name, "keys": KEYS, "starts": found}
