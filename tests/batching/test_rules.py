"""Rules for networks: their statistics on batches that are made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import batching

RATE = 0.25


def made(rows, capacity=8):
    """A batch whose gradients are given rows, as an update sees it."""
    rows = np.asarray(rows, np.float32)
    size = len(rows)
    indices = np.zeros(capacity, np.int32)
    weights = np.zeros(capacity, np.float32)
    weights[:size] = 1 / size
    norms = np.full(capacity, 77.0, np.float32)
    norms[:size] = (rows**2).sum(axis=1)
    mean = rows.mean(axis=0)
    inner = np.full(capacity, 55.0, np.float32)
    inner[:size] = rows @ mean
    batch = batching.Batch(indices, weights, jnp.asarray(size), jnp.asarray(0))
    return mean, {"batch": batch, "squared_norms": norms, "inner_products": inner}


ROWS = np.array([[3.0, 0.0], [1.0, 1.0], [2.0, -1.0], [2.0, 2.0]])
MEAN = ROWS.mean(axis=0)
SPREAD = ROWS.var(axis=0, ddof=1).sum()
SQUARE = MEAN @ MEAN


def after(rule, rows=ROWS, **more):
    mean, seen = made(rows)
    updates, state = rule.update(mean, rule.init(None), **(seen | more))
    np.testing.assert_allclose(updates, -RATE * mean, rtol=1e-6)
    return state


def limits(**more):
    return {"learning_rate": RATE, "min_batch_size": 2, "max_batch_size": 1000} | more


def test_noise_scale_is_unbiased_for_the_pair_of_sizes_one_and_all():
    state = after(batching.gradient_noise_scale(**limits()))
    # McCandlish's pair from single examples and the batch.
    small, large = (ROWS**2).sum(axis=1).mean(), SQUARE
    gradient = (4 * large - small) / 3
    noise = (small - large) / (1 - 1 / 4)
    assert noise == pytest.approx(SPREAD)
    assert float(state.ratio) == pytest.approx(noise / gradient, rel=1e-5)
    assert int(state.batch_size) == max(2, np.ceil(noise / gradient))
    assert int(state.evaluations) == 4


def test_overhead_takes_the_square_root_and_the_step_follows():
    rule = batching.gradient_noise_scale(**limits(step_overhead=100.0, couple_step=True))
    state = after(rule)
    ratio = float(state.ratio)
    size = np.ceil(np.sqrt(100 * ratio))
    assert int(state.batch_size) == size
    assert float(state.step_size) == pytest.approx(RATE * size / (size + ratio), rel=1e-5)
    # It is the size of most progress for the cost.
    sizes = np.arange(1, 1000)
    progress = sizes / (sizes + ratio) / (sizes + 100)
    assert abs(sizes[progress.argmax()] - size) <= 1


def test_norm_test_grows_to_the_published_size():
    state = after(batching.norm_test(**limits(theta=0.1)))
    assert int(state.batch_size) == np.ceil(SPREAD / (0.01 * SQUARE))
    # A large enough batch stays.
    rule = batching.norm_test(**limits(theta=10.0, min_batch_size=5))
    assert int(after(rule).batch_size) == 5


def test_inner_product_test_uses_all_parameters_together():
    inner = ROWS @ MEAN
    state = after(batching.inner_product_test(**limits(theta=0.1)))
    assert int(state.batch_size) == np.ceil(inner.var(ddof=1) / (0.01 * SQUARE**2) - 1e-4)
    assert int(state.evaluations) == 8
    # Summing the variances of the two coordinates would forget their covariance.
    apart = sum((ROWS[:, j] * MEAN[j]).var(ddof=1) for j in range(2))
    assert abs(apart / inner.var(ddof=1) - 1) > 0.1
    with pytest.raises(ValueError, match="inner_products must be given"):
        after(batching.inner_product_test(**limits()), inner_products=None)


def test_cabs_is_the_published_ratio():
    rule = batching.cabs(**limits())
    losses = np.full(8, 99.0)
    losses[:4] = 0.01
    state = after(rule, losses=losses)
    biased = ROWS.var(axis=0, ddof=0).sum()
    assert int(state.batch_size) == round(RATE * biased / 0.01)
    with pytest.raises(ValueError, match="losses must be given"):
        after(rule)


def test_means_fade_separately():
    """A ratio of means, which differs from the mean of ratios."""
    rule = batching.norm_test(**limits(theta=1.0, decay=0.5))
    state = rule.init(None)
    above, below, ratios = 0.0, 0.0, []
    for scale in (1.0, 5.0, 0.2):
        rows = ROWS * np.array([scale, 1.0])
        mean, seen = made(rows)
        _, state = rule.update(mean, state, **seen)
        above = (above + rows.var(axis=0, ddof=1).sum()) / 2
        below = (below + mean @ mean) / 2
        ratios.append(rows.var(axis=0, ddof=1).sum() / (mean @ mean))
    assert float(state.ratio) == pytest.approx(above / below, rel=1e-5)
    assert abs(np.mean(ratios) / (above / below) - 1) > 0.1


def test_no_gradient_left_asks_for_the_largest_batch_and_no_noise_for_the_least():
    opposed = np.array([[1.0, 0.0], [-1.0, 0.0]])
    mean, seen = made(opposed)
    rule = batching.gradient_noise_scale(**limits())
    _, state = rule.update(mean, rule.init(None), **seen)
    assert int(state.batch_size) == 1000
    equal = np.ones((3, 2))
    assert int(after(rule, rows=equal).batch_size) == 2


def test_constant_batch_is_constant():
    rule = batching.constant_batch(learning_rate=RATE, batch_size=4)
    state = after(rule)
    assert int(state.batch_size) == 4
    assert float(rule.plan(state).step_size) == RATE


@pytest.mark.parametrize(
    ("build", "change", "words"),
    [
        (batching.norm_test, {"theta": 0.0}, "theta must be finite and above 0"),
        (batching.cabs, {"learning_rate": 0.0}, "learning_rate must be finite and above 0"),
        (batching.cabs, {"min_batch_size": 1}, r"min_batch_size must lie in \[2"),
        (batching.gradient_noise_scale, {"max_batch_size": 1}, r"max_batch_size must lie in \[2"),
        (batching.gradient_noise_scale, {"step_overhead": 0.0}, "step_overhead must be finite"),
        (batching.inner_product_test, {"decay": 0.0}, "decay must lie strictly between"),
    ],
)
def test_bad_settings(build, change, words):
    with pytest.raises(ValueError, match=words):
        build(**limits(**change))


def test_networks_have_nothing_to_refresh():
    rule = batching.norm_test(**limits())
    with pytest.raises(TypeError, match="known constants"):
        rule.refresh(rule.init(None), None)
