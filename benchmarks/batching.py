"""Adaptive batch sizes. Importing this module registers the cases."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.registry import Aim, Case, UnavailableError, register
from jaxcert import batching

_NUM_EXAMPLES, _NUM_FEATURES = 32_768, 123
# Steps at each batch size, so that every variant takes a good part of a second.
_STEPS = {1: 4000, 16: 3000, 256: 800, 4096: 60}
_PENALTY_TIMES_N = 10.0
# Share of the first gap in the objective that is left at the end.
_GAP = 1e-3
_CHUNK = 64


class _Forced(batching.BatchSizeRule):
    """A rule that makes all its plans, and then takes one batch size whatever they say."""


def _forced(rule: batching.BatchSizeRule, size: int) -> batching.BatchSizeRule:
    def fixed(state: Any) -> Any:
        return state._replace(batch_size=jnp.asarray(size, jnp.int32))

    def update(*arguments: Any, **more: Any) -> tuple[Any, Any]:
        updates, state = rule.update(*arguments, **more)
        return updates, fixed(state)

    return _Forced(lambda params: fixed(rule.init(params)), update)


def _random_problem() -> batching.Problem:
    rng = np.random.default_rng(0)
    features = batching.unit_rows(rng.standard_normal((_NUM_EXAMPLES, _NUM_FEATURES)))
    labels = np.sign(features @ rng.standard_normal(_NUM_FEATURES) + 0.1)
    return batching.logistic(features, labels, penalty=1e-3)


def _plain(
    problem: batching.Problem, size: int, steps: int, draw: Callable[[jax.Array], jax.Array]
) -> Callable[[], object]:
    """A loop as users write it: draw indices, differentiate the mean loss, update by optax."""
    optimizer = optax.sgd(0.1)
    features = jnp.asarray(problem.features, jnp.float32)
    targets, penalty = jnp.asarray(problem.targets, jnp.float32), float(problem.penalty)

    def loss(x: jax.Array, indices: jax.Array) -> jax.Array:
        losses = jnp.logaddexp(0.0, -targets[indices] * (features[indices] @ x))
        return jnp.mean(losses) + penalty / 2 * jnp.sum(x**2)

    def step(carry: Any, key: jax.Array) -> Any:
        x, state = carry
        updates, state = optimizer.update(jax.grad(loss)(x, draw(key)), state)
        return (optax.apply_updates(x, updates), state), None

    @jax.jit
    def train(key: jax.Array, x: jax.Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(steps))
        return jax.lax.scan(step, (x, optimizer.init(x)), keys)[0][0]

    start = jnp.zeros(problem.num_features)
    return lambda: jax.block_until_ready(train(jax.random.key(0), start))


def _throughput(size: int, quick: bool) -> Case:
    problem = _random_problem()
    sampling = problem.nice_sampling()
    steps = _STEPS[size] // (20 if quick else 1)
    rule = _forced(
        batching.adaptive_batch_sgd(
            sampling, strong_convexity=problem.strong_convexity_lower, accuracy=1e-3
        ),
        size,
    )
    start = jnp.zeros(problem.num_features)
    adaptive = functools.partial(
        batching.minimize, jax.random.key(0), problem, start, rule=rule, sampling=sampling,
        num_steps=steps,
    )  # fmt: skip
    with_replacement = functools.partial(
        jax.random.randint, shape=(size,), minval=0, maxval=_NUM_EXAMPLES
    )
    aim = {"at_most": 1.1} if size >= 256 else {}
    same, cheap = "optax, the same draws", "optax, draws with replacement"
    return Case(
        variants={
            "adaptive": lambda: jax.block_until_ready(adaptive()),
            same: _plain(
                problem, size, steps, lambda key: sampling.draw(key, size, capacity=size).indices
            ),
            cheap: _plain(problem, size, steps, with_replacement),
        },
        aims=(Aim("adaptive", same, **aim), Aim("adaptive", cheap)),
        settings={
            "examples": _NUM_EXAMPLES, "features": _NUM_FEATURES, "batch_size": size,
            "steps": steps, "dtype": "float32", "estimate": "table",
        },
        items=steps * size,
        unit="gradient",
        repetitions=3 if quick else 7,
    )  # fmt: skip


def _time_to_error(name: str, quick: bool) -> Case:
    """Logistic regression to a given gap, beside scikit-learn's SAGA and SGD on sparse rows."""
    from scipy import sparse
    from sklearn import linear_model

    home = os.environ.get("JAXCERT_DATA_DIR")
    path = Path(home or ".") / "libsvm" / name
    if not home or not path.exists():
        raise UnavailableError(f"JAXCERT_DATA_DIR must name a folder with libsvm/{name}")
    features, labels = batching.read_libsvm(path)
    kept = features.any(axis=1)
    rows, labels = batching.unit_rows(features[kept]), batching.binary_labels(labels[kept])
    penalty = _PENALTY_TIMES_N / len(rows)
    problem = batching.logistic(rows, labels, penalty=penalty)
    columns = sparse.csr_matrix(rows)
    with jax.enable_x64(True):
        value = jax.jit(problem.value)
        best = float(value(problem.minimizer()))
        first = float(value(np.zeros(rows.shape[1])))

        def gap(x: np.ndarray) -> float:
            return (float(value(np.asarray(x, np.float64).ravel())) - best) / (first - best)

        def epochs(fit: Callable[[int], np.ndarray], limit: int) -> int:
            """The fewest epochs, up to doublings, with which a solver arrives."""
            number = 1
            while gap(fit(number)) > _GAP and number < limit:
                number *= 2
            return number

        def saga(number: int) -> np.ndarray:
            solver = linear_model.LogisticRegression(
                solver="saga", C=1 / _PENALTY_TIMES_N, fit_intercept=False, tol=0.0,
                max_iter=number, random_state=0,
            )  # fmt: skip
            return _quietly(solver.fit, columns, labels).coef_

        def sgd(number: int) -> np.ndarray:
            solver = linear_model.SGDClassifier(
                loss="log_loss", alpha=penalty, fit_intercept=False, tol=None, max_iter=number,
                random_state=0,
            )  # fmt: skip
            return solver.fit(columns, labels).coef_

        numbers = {"saga": epochs(saga, 64), "sgd": epochs(sgd, 256)}
        gaps = {"saga": gap(saga(numbers["saga"])), "sgd": gap(sgd(numbers["sgd"]))}

    # Single precision, as JAX runs by default; the gap above is judged in double.
    problem = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), problem)
    sampling = problem.nice_sampling()
    rule = batching.distance_aware_sgd(
        sampling, strong_convexity=problem.strong_convexity_lower, step_overhead=64.0
    )
    start = jnp.zeros(rows.shape[1])
    norms = jax.jit(problem.squared_norms)

    def run(chunks: int) -> jax.Array:
        x, state = start, rule.refresh(rule.init(start), norms(start))
        for number in range(chunks):
            x, state, _ = batching.minimize(
                jax.random.fold_in(jax.random.key(0), number), problem, x, rule=rule,
                sampling=sampling, num_steps=_CHUNK, state=state,
            )  # fmt: skip
        return jax.block_until_ready(x)

    chunks = 1
    with jax.enable_x64(True):
        judge = jax.jit(gap_of(rows, labels, penalty, best, first))
    while True:
        with jax.enable_x64(False):
            reached = np.asarray(run(chunks), np.float64)
        with jax.enable_x64(True):
            gaps["distance_aware"] = float(judge(reached))
        if gaps["distance_aware"] <= _GAP or chunks >= 512:
            break
        chunks *= 2
    ours = "distance_aware_sgd"
    return Case(
        variants={
            ours: lambda: run(chunks),
            "scikit-learn SAGA": lambda: saga(numbers["saga"]),
            "scikit-learn SGD": lambda: sgd(numbers["sgd"]),
        },
        aims=(Aim("scikit-learn SAGA", ours), Aim("scikit-learn SGD", ours)),
        settings={
            "data": name, "examples": len(rows), "features": rows.shape[1],
            "penalty_times_n": _PENALTY_TIMES_N, "gap_wanted": _GAP, "gaps_reached": gaps,
            "epochs": numbers, "steps": chunks * _CHUNK,
        },
        items=1,
        unit="run",
        repetitions=1 if quick else 5,
    )  # fmt: skip


def gap_of(
    rows: np.ndarray, labels: np.ndarray, penalty: float, best: float, first: float
) -> Callable[[jax.Array], jax.Array]:
    """The share of the first gap that is left at x."""

    def gap(x: jax.Array) -> jax.Array:
        losses = jnp.logaddexp(0.0, -labels * (rows @ x))
        return (jnp.mean(losses) + penalty / 2 * jnp.sum(x**2) - best) / (first - best)

    return gap


def _quietly(fit: Callable[..., Any], *arguments: Any) -> Any:
    """Without the warning that the iterations asked for were all used."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(*arguments)


@register("batch-1")
def _batch_1(quick: bool) -> Case:
    return _throughput(1, quick)


@register("batch-16")
def _batch_16(quick: bool) -> Case:
    return _throughput(16, quick)


@register("batch-256")
def _batch_256(quick: bool) -> Case:
    return _throughput(256, quick)


@register("batch-4096")
def _batch_4096(quick: bool) -> Case:
    return _throughput(4096, quick)


@register("batch-time-a9a")
def _time_a9a(quick: bool) -> Case:
    return _time_to_error("a9a", quick)


@register("batch-time-w8a")
def _time_w8a(quick: bool) -> Case:
    return _time_to_error("w8a", quick)
