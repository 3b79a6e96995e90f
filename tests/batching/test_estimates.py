"""What is kept of the gradient norms: the table, its sums, and means in place of norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import batching
from jaxcert.batching import _estimates
from tests.batching import enumeration as oracle
from tests.batching.small_samplings import build

COUNT, STEPS = 700, 300


def wide(family):
    """A sampling of more examples than are written at once."""
    each = np.ones(COUNT, np.float32)
    if family == "partition_nice":
        parts = np.arange(COUNT) % 2
        return batching.partition_nice(each, part_smoothness=[1.0, 1.0], part_of_example=parts)
    return getattr(batching, family)(each, smoothness=1.0)


@pytest.mark.parametrize("family", ["nice", "partition_nice", "with_replacement"])
def test_sums_follow_the_table(family):
    """Single precision, norms that fall by ten orders of magnitude, batches of all sizes."""
    sampling = wide(family)
    largest = int(sampling.max_batch_size)

    @jax.jit
    def run(key):
        def step(estimate, number):
            own = jax.random.fold_in(key, number)
            size = jnp.where(number % 3 == 0, 1 + number * (largest - 1) // STEPS, 1 + number % 40)
            batch = sampling.draw(own, size)
            norms = 1e4 * 10.0 ** (-10 * number / STEPS) * (1.0 + batch.indices)
            found = _estimates.observe(
                sampling, "table", estimate, jnp.zeros(1), batch, norms, 0.9, with_mean=False
            )
            drawn = jnp.where(jnp.arange(COUNT) < batch.size, batch.indices, COUNT)
            wanted = estimate.examples.at[drawn].set(norms, mode="drop")
            return found, jnp.all(found.examples == wanted)

        return jax.lax.scan(step, _estimates.start(sampling, "table"), jnp.arange(STEPS))

    estimate, same = run(jax.random.key(0))
    assert np.all(same)
    table, parts = np.asarray(estimate.examples, np.float64), np.asarray(sampling.part_of_example)
    seen = table >= 0
    sums = np.bincount(parts, np.where(seen, table, 0.0), sampling.num_parts)
    np.testing.assert_array_equal(estimate.weight, np.bincount(parts, seen, sampling.num_parts))
    # Sums that were never taken anew would keep the rounding of norms ten orders larger.
    np.testing.assert_allclose(estimate.sums, sums, rtol=1e-4)
    known = _estimates.known(sampling, "table", estimate)
    np.testing.assert_allclose(known.examples, sums / np.bincount(parts, seen), rtol=1e-4)


UNIFORM = [
    "nice",
    "independent",
    "with_replacement",
    "partition_nice",
    "partition_nice skewed",
    "partition_independent skewed",
]


@pytest.mark.parametrize("name", UNIFORM)
def test_means_of_parts_stand_for_the_norms_of_examples(name):
    with jax.enable_x64(True):
        sampling, _ = build(name)
        parts = np.asarray(sampling.part_of_example)
        norms = batching.squared_norms(
            oracle.gradients(np.ones(3)), part_of_example=parts, num_parts=sampling.num_parts
        )
        means = np.bincount(parts, norms.examples) / np.bincount(parts)
        short = norms._replace(examples=jnp.asarray(means))
        for tau in (1, 2):
            for method in (sampling.gradient_noise, sampling.gradient_variance):
                assert float(method(tau, short)) == pytest.approx(
                    float(method(tau, norms)), rel=1e-12
                )
        settings = {"strong_convexity": 0.01, "accuracy": 10.0}
        assert float(sampling.optimal_batch_size(short, **settings)) == pytest.approx(
            float(sampling.optimal_batch_size(norms, **settings)), rel=1e-12
        )


def test_means_of_parts_are_refused_where_examples_count():
    sampling, _ = build("independent smoothness")
    norms = batching.SquaredNorms(np.ones(1), np.zeros(1), np.float32(0.0))
    with pytest.raises(ValueError, match=r"norms.examples must have shape \(6,\), got \(1,\)"):
        sampling.gradient_noise(1, norms)


def test_parts_of_one_example_take_norms_in_the_order_of_the_examples():
    """As many norms as means: part j is example 2 - j here, with a probability of its own."""
    sampling = batching.partition_nice(
        [1.0, 1.0, 1.0], part_smoothness=[1.0, 1.0, 1.0], part_of_example=[2, 1, 0],
        part_probabilities=[0.5, 0.3, 0.2],
    )  # fmt: skip
    squares = np.array([4.0, 2.0, 1.0])
    norms = batching.SquaredNorms(squares, squares[::-1], np.float32(0.0))
    wanted = np.sum(squares / np.array([0.2, 0.3, 0.5])) / 9
    assert float(sampling.gradient_noise(1, norms)) == pytest.approx(wanted, rel=1e-6)
    for kind in ("table", "batch"):
        estimate = _estimates.exact(sampling, kind, norms)
        found = _estimates.known(sampling, kind, estimate)
        np.testing.assert_allclose(found.examples, squares)
