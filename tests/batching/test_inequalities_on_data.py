"""The one-step inequalities at every step of runs on bodyfat, computed exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import batching
from tests.batching.rule_settings import both_inequalities

STEPS = 2500


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["adaptive", "distance"])
def test_every_step_on_bodyfat_obeys_both_inequalities(rule, real_data_dir):
    with jax.enable_x64(True):
        features, targets = batching.read_libsvm(real_data_dir / "libsvm" / "bodyfat")
        problem = batching.ridge(batching.unit_rows(features), targets, penalty=1 / 252)
        best, sampling = problem.minimizer(), problem.nice_sampling()
        start = np.random.default_rng(0).standard_normal(14)
        mu = problem.strong_convexity_lower
        if rule == "adaptive":
            built = batching.adaptive_batch_sgd(
                sampling, strong_convexity=mu, accuracy=1e-3, estimate="exact", noise="variance"
            )
        else:
            built = batching.distance_aware_sgd(sampling, strong_convexity=mu, estimate="exact")

        @jax.jit
        def run(x, state):
            def step(carry, number):
                x, state = carry
                state = built.refresh(state, problem.squared_norms(x))
                size, step_size = built.plan(state)
                exact, measured, published = both_inequalities(problem, x, best, size, step_size)
                batch = sampling.draw(jax.random.fold_in(jax.random.key(5), number), size)
                found = batching.batch_gradient(problem, x, batch)
                updates, state = built.update(
                    found.gradient, state, x, batch=batch, squared_norms=found.squared_norms
                )
                return (x + updates, state), (exact / measured, exact / published)

            return jax.lax.scan(step, (x, state), jnp.arange(STEPS))

        (x, _), ratios = run(jnp.asarray(start), built.init(start))
        measured, published = (np.asarray(ratio) for ratio in ratios)
        assert np.sum((x - best) ** 2) < 1e-3 * np.sum((start - best) ** 2)
        assert measured.max() <= 1 + 1e-12
        if rule == "adaptive":
            # Its steps obey the published inequality too, which is nearly an equality.
            assert published.max() <= 1 + 1e-12
            assert published.min() > 0.98
