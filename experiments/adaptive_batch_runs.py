"""Simulated runs of fixed and adaptive batch sizes on problems whose optimum is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import batching

# Relative squared distances whose first crossing is reported.
LEVELS = (1e-2, 1e-3, 1e-4)
# Points of a recorded curve, ever wider apart: from fiftieths of a pass on.
POINTS = 400
_FINEST = 0.02
# Steps of a rule between two looks at whether all seeds have arrived.
_CHUNK = 256


class Setting(NamedTuple):
    """A problem as it is run.

    Attributes:
      file: name in the folder of LIBSVM files, or of a loader of scikit-learn.
      kind: `"ridge"` or `"logistic"`.
      penalty: lambda times n.
      num_features: as the format may leave out the last ones.
      limit: how many rows to draw at random, so that ten seeds take minutes; None keeps all.
      exact: whether the variants that need full passes are run too: the two published examples.
    """

    file: str
    kind: str
    penalty: float
    num_features: int
    limit: int | None = None
    exact: bool = False

    @property
    def name(self) -> str:
        return self.file.split(".")[0].removeprefix("load_")


SETTINGS = (
    Setting("bodyfat", "ridge", 1.0, 14, exact=True),
    Setting("a1a", "logistic", 10.0, 119, exact=True),
    Setting("german.numer_scale", "logistic", 10.0, 24),
    Setting("load_breast_cancer", "logistic", 10.0, 30),
    Setting("load_diabetes", "ridge", 10.0, 10),
    Setting("phishing", "logistic", 10.0, 68, 2000),
)


class Instance(NamedTuple):
    """A problem with its optimum, in float64."""

    name: str
    problem: batching.Problem
    best: np.ndarray
    norms: batching.SquaredNorms

    @property
    def n(self) -> int:
        return self.problem.num_examples

    def start(self, kind: str) -> np.ndarray:
        """Far: standard normal; near: at distance 1 from the optimum."""
        size = self.problem.num_features
        if kind == "far":
            return np.random.default_rng(0).standard_normal(size)
        offset = np.random.default_rng(1).standard_normal(size)
        return self.best + offset / np.linalg.norm(offset)

    def accuracy(self, kind: str) -> float:
        """A thousandth of the first squared distance; for bodyfat the published 1e-3."""
        first = float(np.sum((self.start(kind) - self.best) ** 2))
        return 1e-3 if self.name == "bodyfat" else 1e-3 * first


def load(folder: Path, setting: Setting) -> Instance:
    if setting.file.startswith("load_"):
        from sklearn import datasets

        features, targets = getattr(datasets, setting.file)(return_X_y=True)
    else:
        features, targets = batching.read_libsvm(
            folder / setting.file, num_features=setting.num_features
        )
    if setting.limit is not None:
        rows = np.random.default_rng(2).permutation(len(targets))[: setting.limit]
        features, targets = features[rows], targets[rows]
    return instance(setting.name, setting.kind, setting.penalty, features, targets)


def instance(
    name: str, kind: str, penalty: float, features: np.ndarray, targets: np.ndarray
) -> Instance:
    rows = batching.unit_rows(features)
    if kind == "ridge":
        problem = batching.ridge(rows, targets, penalty=penalty / len(rows))
    else:
        problem = batching.logistic(
            rows, batching.binary_labels(targets), penalty=penalty / len(rows)
        )
    best = problem.minimizer()
    return Instance(name, problem, best, problem.squared_norms(best))


class Curve(NamedTuple):
    """What a run showed, a row for each seed.

    Attributes:
      hits: `[seeds, levels]`, passes over the data when each level was first reached, or infinity.
      full: `[seeds, levels]`, passes for full refreshes until then.
      distance: `[seeds, points]`, relative squared distance; NaN where no step ended.
      batch_size: `[seeds, points]`.
      stopped: `[seeds]`, all passes when the rule's own estimate of the distance reached epsilon.
      steps: `[seeds]`, steps made until the last level that was reached.
      passes: `[points]`, where the points lie.
    """

    hits: np.ndarray
    full: np.ndarray
    distance: np.ndarray
    batch_size: np.ndarray
    stopped: np.ndarray
    steps: np.ndarray
    passes: np.ndarray


class _Record(NamedTuple):
    hits: jax.Array
    full: jax.Array
    steps: jax.Array
    distance: jax.Array
    batch_size: jax.Array
    stopped: jax.Array


def _empty(seeds: int) -> _Record:
    levels, points = (seeds, len(LEVELS)), (seeds, POINTS)
    return _Record(
        jnp.full(levels, jnp.inf), jnp.full(levels, jnp.inf), jnp.zeros(seeds),
        jnp.full(points, jnp.nan), jnp.full(points, jnp.nan), jnp.full(seeds, jnp.inf),
    )  # fmt: skip


def _note(
    record: _Record,
    relative: jax.Array,
    sampled: jax.Array,
    full: jax.Array,
    steps: jax.Array,
    batch_size: jax.Array,
    estimate: jax.Array,
    budget: jax.Array,
) -> _Record:
    """Fold one step of one seed into its record; `sampled` and `full` are passes."""
    first = (relative <= jnp.array(LEVELS)) & ~jnp.isfinite(record.hits)
    point = jnp.log1p(sampled / _FINEST) / jnp.log1p(budget / _FINEST)
    point = jnp.minimum(POINTS * point, POINTS).astype(jnp.int32)
    return _Record(
        jnp.where(first, sampled, record.hits),
        jnp.where(first, full, record.full),
        jnp.where(jnp.any(first), steps, record.steps),
        record.distance.at[point].set(relative, mode="drop"),
        record.batch_size.at[point].set(batch_size, mode="drop"),
        jnp.where(
            (estimate <= 1.0) & ~jnp.isfinite(record.stopped), sampled + full, record.stopped
        ),
    )


@functools.partial(jax.jit, static_argnames=("tau", "seeds", "chunk"))
def _fixed_chunk(
    problem: batching.Problem,
    sampling: batching.Sampling,
    key: jax.Array,
    x: jax.Array,
    record: _Record,
    first_step: jax.Array,
    step_size: jax.Array,
    best: jax.Array,
    first_distance: jax.Array,
    budget: jax.Array,
    *,
    tau: int,
    seeds: int,
    chunk: int,
) -> tuple[jax.Array, _Record]:
    """Steps of a constant batch size and step, all seeds at once."""
    n = problem.num_examples

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        if tau == n:
            return x - step_size * problem.gradient(x)
        if tau == 1:
            indices = jax.random.randint(key, (1,), 0, n)
        else:
            indices = sampling.draw(key, tau, capacity=tau).indices
        total, *_ = problem.weighted_gradient(x, indices, jnp.full(tau, 1 / tau))
        return x - step_size * total

    def body(number: jax.Array, carry: Any) -> Any:
        x, record = carry
        x = jax.vmap(one)(jax.random.split(jax.random.fold_in(key, number), seeds), x)
        relative = jnp.sum((x - best) ** 2, axis=1) / first_distance
        steps = (first_step + number + 1).astype(float)
        fixed = functools.partial(
            _note, sampled=steps * tau / n, full=jnp.zeros(()), steps=steps,
            batch_size=jnp.full((), float(tau)), estimate=jnp.full((), jnp.inf), budget=budget,
        )  # fmt: skip
        return x, jax.vmap(lambda record, relative: fixed(record, relative))(record, relative)

    return jax.lax.fori_loop(0, chunk, body, (x, record))


def run_fixed(
    instance: Instance,
    start: np.ndarray,
    *,
    tau: int,
    step_size: float,
    seeds: int,
    target: float,
    budget: float,
) -> Curve:
    """Run until every seed is at the target, or the budget of passes is spent."""
    seeds = 1 if tau == instance.n else seeds
    sampling = instance.problem.nice_sampling()
    record, x = _empty(seeds), jnp.tile(jnp.asarray(start), (seeds, 1))
    first = jnp.sum((start - instance.best) ** 2)
    # About ten passes between two looks at whether all seeds have arrived.
    chunk = int(np.clip(10 * instance.n / tau, 16, 4096))
    number, key = 0, jax.random.key(20200501)
    while not _done(record, target) and number * chunk * tau / instance.n < budget:
        x, record = _fixed_chunk(
            instance.problem, sampling, jax.random.fold_in(key, number), x, record,
            jnp.asarray(number * chunk), jnp.asarray(step_size), instance.best, first,
            jnp.asarray(budget), tau=tau, seeds=seeds, chunk=chunk,
        )  # fmt: skip
        number += 1
    return _curve(record, budget)


Build = Callable[[batching.Sampling, Any], batching.BatchSizeRule]


@functools.partial(jax.jit, static_argnames=("build", "refresh_every"))
def _rule_chunk(
    problem: batching.Problem,
    sampling: batching.Sampling,
    settings: Any,
    keys: jax.Array,
    carry: Any,
    accuracy: jax.Array,
    best: jax.Array,
    first_distance: jax.Array,
    budget: jax.Array,
    *,
    build: Build,
    refresh_every: int,
) -> Any:
    """Steps of an adaptive rule, one seed after the other."""
    rule = build(sampling, settings)
    n = problem.num_examples

    def one(key: jax.Array, x: jax.Array, state: Any, refreshes: jax.Array, record: _Record) -> Any:
        def body(number: jax.Array, carry: Any) -> Any:
            x, state, refreshes, record = carry
            if refresh_every:
                due = state.step % refresh_every == 0
                state = jax.lax.cond(
                    due, lambda: rule.refresh(state, problem.squared_norms(x)), lambda: state
                )
                refreshes = refreshes + due
            plan = rule.plan(state)
            batch = sampling.draw(jax.random.fold_in(key, number), plan.batch_size)
            found = batching.batch_gradient(problem, x, batch)
            updates, state = rule.update(
                found.gradient, state, x, batch=batch, squared_norms=found.squared_norms
            )
            x = x + updates
            full = refreshes.astype(float)
            estimate = getattr(state, "distance_sq_estimate", jnp.inf) / accuracy
            record = _note(
                record, jnp.sum((x - best) ** 2) / first_distance,
                state.evaluations / n - full, full, state.step.astype(float),
                plan.batch_size.astype(float), estimate, budget,
            )  # fmt: skip
            return x, state, refreshes, record

        return jax.lax.fori_loop(0, _CHUNK, body, (x, state, refreshes, record))

    return jax.lax.map(lambda row: one(row[0], *row[1]), (keys, carry))


def run_rule(
    instance: Instance,
    start: np.ndarray,
    *,
    build: Build,
    settings: Any,
    seeds: int,
    target: float,
    budget: float,
    accuracy: float,
    refresh_every: int = 0,
    refresh_first: bool = False,
) -> Curve:
    """Run a rule until every seed is at the target, or the budget of sampled passes is spent."""
    problem, sampling = instance.problem, instance.problem.nice_sampling()
    rule = build(sampling, settings)
    state = rule.init(jnp.asarray(start))
    if refresh_first:
        state = rule.refresh(state, problem.squared_norms(start))
    tile = functools.partial(_repeat, seeds=seeds)
    record = _empty(seeds)
    refreshes = jnp.full(seeds, int(refresh_first))
    carry = (tile(jnp.asarray(start)), jax.tree.map(tile, state), refreshes, record)
    first = jnp.sum((start - instance.best) ** 2)
    chunk, key = 0, jax.random.key(20200502)
    while not _done(carry[3], target):
        keys = jax.random.split(jax.random.fold_in(key, chunk), seeds)
        carry = _rule_chunk(
            problem, sampling, settings, keys, carry, jnp.asarray(accuracy), instance.best, first,
            jnp.asarray(budget), build=build, refresh_every=refresh_every,
        )  # fmt: skip
        sampled = carry[1].evaluations / instance.n - carry[2]
        if float(jnp.min(sampled)) > budget:
            break
        chunk += 1
    return _curve(carry[3], budget)


def _repeat(leaf: jax.Array, *, seeds: int) -> jax.Array:
    return jnp.broadcast_to(leaf, (seeds, *jnp.shape(leaf)))


def _done(record: _Record, target: float) -> bool:
    return bool(jnp.all(jnp.isfinite(record.hits[:, LEVELS.index(target)])))


def _curve(record: _Record, budget: float) -> Curve:
    values = {name: np.asarray(value) for name, value in record._asdict().items()}
    share = np.arange(POINTS) / POINTS
    passes = _FINEST * np.expm1(share * np.log1p(budget / _FINEST))
    return Curve(**values, passes=passes)


def theory_step(instance: Instance, tau: int, accuracy: float) -> float:
    """The constant step of the theorem for a fixed batch size."""
    step = instance.problem.nice_sampling().step_size(
        tau, instance.norms, strong_convexity=instance.problem.strong_convexity_lower,
        accuracy=accuracy,
    )  # fmt: skip
    return float(step)


def optimal_batch_size(instance: Instance, accuracy: float) -> float:
    return float(
        instance.problem.nice_sampling().optimal_batch_size(
            instance.norms,
            strong_convexity=instance.problem.strong_convexity_lower,
            accuracy=accuracy,
        )  # fmt: skip
    )
