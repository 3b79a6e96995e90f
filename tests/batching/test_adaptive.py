"""The published rule and the rule that follows the distance: plans, inequalities, one trace."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcert import batching
from tests.batching import enumeration as oracle
from tests.batching.rule_settings import both_inequalities, settings_of

STEPS = 400


pytestmark = pytest.mark.usefixtures("float64")


def trace(problem, rule, start, *, steps=STEPS, refresh=False, seed=0):
    """Iterates, plans and states of a run: one scan."""
    sampling = problem.nice_sampling()

    def step(carry, number):
        x, state = carry
        if refresh:
            state = rule.refresh(state, problem.squared_norms(x))
        plan = rule.plan(state)
        batch = sampling.draw(jax.random.fold_in(jax.random.key(seed), number), plan.batch_size)
        found = batching.batch_gradient(problem, x, batch)
        updates, after = rule.update(
            found.gradient, state, x, batch=batch, squared_norms=found.squared_norms
        )
        return (x + updates, after), (x, plan, getattr(state, "distance_sq_estimate", 0.0))

    carry = (jnp.asarray(start), rule.init(start))
    (x, state), seen = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps)))(carry)
    return x, state, seen


def inequalities_along(problem, seen):
    best = problem.minimizer()
    along = jax.vmap(both_inequalities, (None, 0, None, 0, 0))
    return along(problem, seen[0], best, seen[1].batch_size, seen[1].step_size)


@pytest.mark.parametrize(
    "noise", ["mean_square", pytest.param("second_moment", marks=pytest.mark.slow)]
)
def test_published_inequality_holds_at_every_step(problem, noise):
    """Exact statistics, a cap, a far start: every plan obeys it, and every step its bounds."""
    cap = 4 * float(np.mean(problem.squared_norms(problem.minimizer()).examples))
    settings = settings_of(problem, noise_cap=cap)
    rule = batching.adaptive_batch_sgd(
        problem.nice_sampling(), estimate="exact", noise=noise, **settings
    )
    _, state, seen = trace(problem, rule, np.full(4, 3.0), refresh=True)
    exact, measured, published = inequalities_along(problem, seen)
    assert np.all(exact <= published * (1 + 1e-12))
    assert np.all(exact <= measured * (1 + 1e-12))
    assert np.all(np.isfinite(published))
    low, high = batching.step_size_bounds(problem.nice_sampling(), **settings)
    steps = np.asarray(seen[1].step_size)
    assert low * (1 - 1e-12) <= steps.min() <= steps.max() <= high * (1 + 1e-12)
    # Full passes are counted beside the batches.
    sampled = np.asarray(seen[1].batch_size).sum()
    assert int(state.evaluations) == sampled + STEPS * problem.num_examples
    if noise == "mean_square":
        assert seen[1].batch_size[0] > seen[1].batch_size[-1] > 1
        assert np.max(exact / published) > 0.9


def test_the_inequality_catches_a_step_that_is_too_long(problem):
    """The check can fail: three times the planned step breaks it where noise rules."""
    best = problem.minimizer()
    sampling = problem.nice_sampling()
    norms = problem.squared_norms(best)
    step = sampling.step_size(1, norms, **settings_of(problem))
    exact, _, published = both_inequalities(problem, best, best, 1, step)
    assert exact <= published
    longer = batching.expected_distance_sq(
        np.zeros(4), np.zeros(4), second_moment=sampling.gradient_noise(1, norms),
        step_size=3 * step,
    )  # fmt: skip
    assert longer > published
    _, measured, published = both_inequalities(problem, best, best, 1, 1e3)
    assert np.isinf(measured)
    assert np.isinf(published)


@pytest.mark.parametrize("start", ["far", pytest.param("near", marks=pytest.mark.slow)])
def test_distance_is_bounded_at_every_step(problem, start):
    """With exact norms the estimate bounds the mean squared distance of many runs."""
    best = problem.minimizer()
    first = best + (5.0 if start == "far" else 0.02)
    distance_sq = float(np.sum((first - best) ** 2))
    rule = batching.distance_aware_sgd(
        problem.nice_sampling(), distance_sq=distance_sq, estimate="exact",
        strong_convexity=problem.strong_convexity_lower,
    )  # fmt: skip
    _, _, seen = trace(problem, rule, first, refresh=True)
    exact, measured, _ = inequalities_along(problem, seen)
    assert np.all(exact <= measured * (1 + 1e-12))
    estimate = np.asarray(seen[2])
    assert np.all(np.diff(estimate) <= 0)
    squares = np.sum((np.asarray(seen[0]) - best) ** 2, axis=1)
    assert estimate[0] == pytest.approx(distance_sq)
    assert squares[-1] < distance_sq / 20
    # On its own way the planned step never lets the bound rise.
    contraction = np.asarray(seen[1].step_size) * float(problem.strong_convexity_lower)
    assert np.all(estimate[1:] <= (estimate * (1 - contraction))[:-1] * (1 + 1e-9))


@pytest.mark.slow
def test_mean_distance_of_many_runs_stays_below_the_estimate(problem):
    """A fixed schedule, from the largest noise there is: the mean of 64 runs, at 5 sigma."""
    best = problem.minimizer()
    first = best + 0.5
    sampling = problem.nice_sampling()
    rule = batching.distance_aware_sgd(
        sampling, distance_sq=float(np.sum((first - best) ** 2)), estimate="exact",
        strong_convexity=problem.strong_convexity_lower,
    )  # fmt: skip
    largest = np.full(30, 2.0)
    assert float(problem.squared_norms(first).examples.mean()) < 2.0
    state = rule.refresh(
        rule.init(first), batching.SquaredNorms(largest, np.full(1, 1e9), np.float64(1e9))
    )

    def run(key):
        def step(carry, number):
            x, state = carry
            plan = rule.plan(state)
            batch = sampling.draw(jax.random.fold_in(key, number), plan.batch_size)
            found = batching.batch_gradient(problem, x, batch, microbatch_sizes=(30,))
            updates, state = rule.update(
                found.gradient, state, x, batch=batch, squared_norms=found.squared_norms
            )
            x = x + updates
            return (x, state), (jnp.sum((x - best) ** 2), state.distance_sq_estimate)

        return jax.lax.scan(step, (jnp.asarray(first), state), jnp.arange(150))[1]

    squares, estimates = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(3), 64))
    squares, bound = np.asarray(squares), np.asarray(estimates)[0]
    np.testing.assert_array_equal(estimates, np.tile(bound, (64, 1)))
    error = squares.std(axis=0, ddof=1) / 8
    assert np.all(squares.mean(axis=0) <= bound + 5 * error)
    assert bound[-1] < bound[0] / 2


def own_batch_distance(plan_after, x, best):
    """Expected squared distance where the step may look at the batch: all batches of one."""
    rows = oracle.gradients(x)
    steps = np.array([plan_after(row) for row in rows])
    return np.mean(np.sum((x - steps[:, None] * rows - best) ** 2, axis=1)), steps


def test_a_step_planned_from_its_own_batch_breaks_the_inequality():
    """Shorter steps for larger gradients favour the examples that pull away from the optimum."""
    best, mu = oracle.optimum(), oracle.STRONG_CONVEXITY
    sampling = batching.nice(oracle.EXAMPLE_SMOOTHNESS, smoothness=oracle.smoothness())
    noise = float(sampling.gradient_noise(1, batching.squared_norms(oracle.gradients(best))))
    limit = 0.5 / float(sampling.expected_smoothness(1))

    def from_own_batch(row):
        return min(limit, 1e-4 / float(row @ row))

    worst_planned, worst_own = -np.inf, -np.inf
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = best + rng.standard_normal(3) * 10 ** rng.uniform(-1, 0.5)
        own, steps = own_batch_distance(from_own_batch, x, best)
        step = steps.mean()
        planned, _ = own_batch_distance(lambda row, step=step: step, x, best)
        bound = (1 - step * mu) * np.sum((x - best) ** 2) + 2 * step**2 * noise
        worst_planned = max(worst_planned, planned / bound)
        worst_own = max(worst_own, own / bound)
    assert worst_planned <= 1 + 1e-12
    assert worst_own > 1 + 1e-6


@pytest.mark.parametrize("build", ["adaptive", "distance"])
def test_the_plan_does_not_know_its_batch(problem, build):
    """Whatever the batch shows, this update keeps the plan; only the next one differs."""
    sampling = problem.nice_sampling()
    mu = problem.strong_convexity_lower
    rule = (
        batching.adaptive_batch_sgd(sampling, **settings_of(problem))
        if build == "adaptive"
        else batching.distance_aware_sgd(sampling, strong_convexity=mu, distance_sq=4.0)
    )
    x = np.ones(4)
    state = rule.refresh(rule.init(x), problem.squared_norms(x))
    plan = rule.plan(state)
    batch = sampling.draw(jax.random.key(1), plan.batch_size)
    gradient = np.arange(4.0)
    following = []
    for norms in (np.zeros(30), np.full(30, 1e6)):
        updates, after = rule.update(gradient, state, x, batch=batch, squared_norms=norms)
        np.testing.assert_allclose(updates, -plan.step_size * gradient, rtol=1e-14)
        following.append(rule.plan(after))
    assert following[0].step_size != following[1].step_size


def test_one_compilation_for_all_batch_sizes(problem):
    sampling = problem.nice_sampling()
    rule = batching.adaptive_batch_sgd(sampling, **settings_of(problem))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(key, x, state):
        plan = rule.plan(state)
        batch = sampling.draw(key, plan.batch_size)
        found = batching.batch_gradient(problem, x, batch, microbatch_sizes=(16, 4))
        updates, state = rule.update(
            found.gradient, state, x, batch=batch, squared_norms=found.squared_norms
        )
        return x + updates, state, found, batch

    x = np.full(4, 2.0)
    state = rule.init(x)
    for size in (1, 2, 15, 16, 17, 29, 30):
        planned = state._replace(batch_size=jnp.asarray(size, jnp.int32))
        _, after, found, batch = step(jax.random.key(size), x, planned)
        indices = np.asarray(batch.indices)[:size]
        direct = problem.weighted_gradient(x, indices, np.full(size, 1 / size))
        np.testing.assert_allclose(found.gradient, direct[0], rtol=1e-12)
        np.testing.assert_allclose(found.squared_norms[:size], direct[1], rtol=1e-12)
        assert not np.asarray(found.squared_norms)[size:].any()
        assert int(after.evaluations) == size


def test_chains_with_optax(problem):
    """Before it the gradient may be changed; the plan is found in the state of the chain."""
    sampling = problem.nice_sampling()
    rule = batching.adaptive_batch_sgd(sampling, **settings_of(problem))
    chain = optax.chain(optax.clip_by_global_norm(1e-3), rule)
    x = jnp.zeros(4)
    state = chain.init(x)
    plan = rule.plan(state)
    batch = sampling.draw(jax.random.key(0), plan.batch_size)
    found = batching.batch_gradient(problem, x, batch)
    updates, state = chain.update(
        found.gradient, state, x, batch=batch, squared_norms=found.squared_norms
    )
    assert float(jnp.linalg.norm(updates)) == pytest.approx(1e-3 * float(plan.step_size), rel=1e-6)
    assert int(rule.plan(state).batch_size) >= 1
    with pytest.raises(ValueError, match="one batch-size rule, found 0"):
        rule.plan(optax.sgd(0.1).init(x))
    moved, _, history = batching.minimize(
        jax.random.key(0), problem, x, rule=chain, sampling=sampling, num_steps=5
    )
    assert np.all(np.isfinite(moved))
    assert history.evaluations[-1] == history.batch_size.sum()


@pytest.mark.slow
def test_table_and_batch_estimates_come_near_the_norms(problem):
    """At the optimum, where the norms stand still: the table becomes exact, the mean unbiased."""
    best, sampling = problem.minimizer(), problem.nice_sampling()
    norms = problem.squared_norms(best)
    mean = float(norms.examples.mean())
    for estimate in ("table", "batch"):
        rule = batching.adaptive_batch_sgd(
            sampling, estimate=estimate, noise="variance", **settings_of(problem)
        )

        @jax.jit
        def step(state, key, rule=rule):
            batch = sampling.draw(key, 7)
            found = batching.batch_gradient(problem, best, batch)
            return rule.update(
                found.gradient, state, batch=batch, squared_norms=found.squared_norms
            )[1]

        state, means, totals = rule.init(best), [], []
        for number in range(120):
            state = step(state, jax.random.key(number))
            means.append(np.sum(state.noise.examples) / np.sum(state.noise.weight or 1))
            totals.append(float(state.noise.parts[0]))
        if estimate == "table":
            np.testing.assert_allclose(state.noise.examples, norms.examples, rtol=1e-9)
        else:
            # Fading means of 120 batches of 7 of 30: 5 sigma of their average.
            spread = np.std(np.asarray(norms.examples)) * np.sqrt(23 / 29 / 7 / 120)
            assert abs(np.mean(means) - mean) < 5 * spread + 0.05 * mean
        # The squared mean gradient is 0 here; without the correction it would be mean / 9.1.
        assert abs(np.mean(totals)) < 0.05 * mean


@pytest.mark.parametrize(
    "family",
    [
        "nice",
        pytest.param("independent", marks=pytest.mark.slow),
        pytest.param("with_replacement", marks=pytest.mark.slow),
    ],
)
def test_squared_mean_gradient_is_estimated_without_bias(family):
    """Enumerated: the mean over many draws equals |grad f|^2 within 5 standard errors."""
    x = np.array([1.0, -2.0, 0.5])
    rows = oracle.gradients(x)
    sampling = getattr(batching, family)(oracle.EXAMPLE_SMOOTHNESS, smoothness=oracle.smoothness())
    from jaxcert.batching import _estimates

    start = _estimates.start(sampling, "table")

    @jax.jit
    def one(key):
        batch = sampling.draw(key, 3)
        chosen = jnp.asarray(rows)[batch.indices]
        gradient = batch.weights @ chosen / 6
        squares = jnp.sum(chosen**2, axis=1)
        seen = _estimates.observe(
            sampling,
            "table",
            start,
            gradient,
            batch,
            jnp.where(batch.weights > 0, squares, 0),
            0.5,
            with_mean=True,
        )
        return seen.parts[0] / 0.5

    found = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(5), 4000)))
    wanted = np.sum(rows.mean(axis=0) ** 2)
    assert abs(found.mean() - wanted) < 5 * found.std() / np.sqrt(4000)
