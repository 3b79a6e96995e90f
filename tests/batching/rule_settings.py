"""Settings of rules, and the one-step inequalities that their plans obey."""

import jax
import jax.numpy as jnp

from jaxcert import batching


def settings_of(problem, **more):
    return {"strong_convexity": problem.strong_convexity_lower, "accuracy": 1e-2} | more


@jax.jit
def both_inequalities(problem, x, best, batch_size, step_size):
    """Exact expected squared distances after one step, and both upper bounds."""
    sampling = problem.nice_sampling()
    norms, at_best = problem.squared_norms(x), problem.squared_norms(best)
    mu = problem.strong_convexity_lower
    exact = batching.expected_distance_sq(
        x - best, problem.gradient(x), step_size=step_size,
        second_moment=sampling.gradient_noise(batch_size, norms),
    )  # fmt: skip
    distance_sq = jnp.sum((x - best) ** 2)
    measured = batching.one_step_upper(
        distance_sq, step_size=step_size, strong_convexity=mu,
        smoothness=problem.smoothness_upper,
        variance=sampling.gradient_variance(batch_size, norms),
    )  # fmt: skip
    published = batching.one_step_at_optimum_upper(
        distance_sq, step_size=step_size, strong_convexity=mu,
        expected_smoothness=sampling.expected_smoothness(batch_size),
        noise=sampling.gradient_noise(batch_size, at_best),
    )  # fmt: skip
    return exact, measured, published
