"""The closed forms against the enumeration of all batches, and against brute force over sizes."""

import jax
import numpy as np
import pytest

from jaxcert import batching
from tests.batching import enumeration as oracle
from tests.batching.small_samplings import NAMES, build

N = oracle.NUM_EXAMPLES
SETTINGS = {"strong_convexity": oracle.STRONG_CONVEXITY, "accuracy": 0.05}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=NAMES)
def case(request):
    return build(request.param)


def norms_at(sampling, x):
    return batching.squared_norms(
        oracle.gradients(x), part_of_example=sampling.part_of_example, num_parts=sampling.num_parts
    )


def sizes(sampling):
    limit = 4 if sampling.family == "with_replacement" else int(sampling.max_batch_size)
    return range(1, limit + 1)


def test_moments_equal_those_of_all_batches(case):
    sampling, batches = case
    for x in (oracle.optimum(), np.array([1.0, -2.0, 0.5])):
        rows = oracle.gradients(x)
        norms = norms_at(sampling, x)
        for tau in sizes(sampling):
            chances, estimates = oracle.estimates(batches(tau), rows)
            np.testing.assert_allclose(chances @ estimates, rows.mean(axis=0), atol=1e-12)
            second = chances @ np.sum(estimates**2, axis=1)
            centred = chances @ np.sum((estimates - rows.mean(axis=0)) ** 2, axis=1)
            np.testing.assert_allclose(sampling.gradient_noise(tau, norms), second, rtol=1e-12)
            np.testing.assert_allclose(
                sampling.gradient_variance(tau, norms), centred, rtol=1e-12, atol=1e-12
            )


def test_expected_smoothness_bounds_the_change_of_the_estimate(case):
    """On random points, and near the optimum along the steepest directions of the examples."""
    sampling, batches = case
    best = oracle.optimum()
    rng = np.random.default_rng(1)
    directions = np.concatenate([rng.standard_normal((6, 3)), oracle.FEATURES])
    ratios = []
    for tau in sizes(sampling):
        smoothness = float(sampling.expected_smoothness(tau))
        listed = list(batches(tau))
        for direction in directions:
            x = best + direction
            chances, change = oracle.estimates(listed, oracle.gradients(x) - oracle.gradients(best))
            gap = oracle.value(x) - oracle.value(best)
            ratios.append(chances @ np.sum(change**2, axis=1) / (2 * gap * smoothness))
    assert max(ratios) <= 1 + 1e-12
    # Not vacuous: some direction comes near.
    assert max(ratios) > 0.5


def test_a_smaller_constant_would_not_bound_it():
    """The full batch along the top eigenvector attains L, so nothing below L will do."""
    sampling, batches = build("nice")
    direction = np.linalg.eigh(oracle.hessian())[1][:, -1]
    best = oracle.optimum()
    chances, change = oracle.estimates(
        batches(N), oracle.gradients(best + direction) - oracle.gradients(best)
    )
    needed = (
        chances
        @ np.sum(change**2, axis=1)
        / (2 * (oracle.value(best + direction) - oracle.value(best)))
    )
    np.testing.assert_allclose(needed, sampling.expected_smoothness(N), rtol=1e-10)


@jax.jit
def curve_of_work(sampling, norms, taus, scale):
    def one(tau):
        noise = scale * sampling.gradient_noise(tau, norms)
        return tau * jax.numpy.maximum(sampling.expected_smoothness(tau), noise)

    return jax.vmap(one)(taus)


def work(sampling, norms, taus, settings):
    """Total work by its definition, from the methods that the enumeration checks."""
    scale = 2 / (settings["strong_convexity"] * settings["accuracy"])
    return np.asarray(curve_of_work(sampling, norms, np.asarray(taus, float), scale))


def large(name, rng, count=60):
    """A larger sampling with random constants, and random norms."""
    each = rng.uniform(0.2, 3.0, count)
    parts = rng.permutation(np.arange(count) % 3)
    part = np.array(
        [rng.uniform(each[parts == j].max() / 10, each[parts == j].max()) for j in range(3)]
    )
    whole = rng.uniform(each.max() / 20, each.mean())
    kind, _, importance = name.partition(" ")
    build = getattr(batching, kind)
    if kind.startswith("partition"):
        extra = {"importance": importance} if importance else {}
        sampling = build(each, part_smoothness=part, part_of_example=parts, **extra)
    elif kind == "independent":
        weights = rng.uniform(0.1, 1.0, count) if importance == "weights" else None
        sampling = build(
            each, smoothness=whole, importance=importance or "uniform", weights=weights
        )
    else:
        sampling = build(each, smoothness=whole)
    scale = 10 ** rng.uniform(-4, 1)
    examples = scale * rng.uniform(0.1, 1.0, count) ** 2
    if sampling.num_parts > 1:
        mean = np.array([examples[parts == j].mean() for j in range(3)])
        norms = batching.SquaredNorms(examples, mean * rng.uniform(0, 0.1), 0.0)
    else:
        norms = batching.SquaredNorms(examples, np.zeros(1), 0.0)
    return sampling, norms


LARGE = [
    "nice",
    "independent",
    "independent smoothness",
    "independent weights",
    "with_replacement",
    "partition_nice",
    "partition_independent",
    "partition_independent smoothness",
]


@pytest.mark.parametrize("name", LARGE)
def test_optimal_batch_size_is_that_of_brute_force(name):
    rng = np.random.default_rng(3)
    interior = 0
    for _ in range(8):
        sampling, norms = large(name, rng)
        # Noise from one to six times the largest smoothness, where the answer is rarely an end.
        accuracy = 100 * norms.examples.mean() / (3 * 10 ** rng.uniform(0.0, 0.8))
        settings = {"strong_convexity": 0.02, "accuracy": accuracy}
        largest = int(sampling.max_batch_size)
        fine = np.linspace(1, largest, 301)
        best = float(sampling.optimal_batch_size(norms, **settings))
        curve = work(sampling, norms, [*np.arange(1, largest + 1), *fine, best], settings)
        assert curve[-1] <= curve[:-1].min() * (1 + 1e-9), (name, best)
        curve = curve[:largest]
        chosen = int(sampling.optimal_integer_batch_size(norms, **settings))
        assert curve[chosen - 1] <= curve.min() * (1 + 1e-9), (name, chosen, best)
        interior += 1.5 < best < largest - 0.5
    assert interior >= (1 if name.endswith("weights") else 2)


@pytest.mark.parametrize("name", ["nice", "independent", "partition_nice"])
def test_degenerate_cases(name):
    """No noise, or noise that grows with the batch: one example; all noise: everything."""
    sampling, norms = large(name, np.random.default_rng(8))
    settings = {"strong_convexity": 0.02, "accuracy": 0.1}
    silent = norms._replace(examples=0 * norms.examples, parts=0 * norms.parts)
    assert sampling.optimal_batch_size(silent, **settings) == 1
    step = sampling.step_size(int(sampling.max_batch_size), silent, **settings)
    assert float(step) == pytest.approx(
        0.5 / float(sampling.expected_smoothness(int(sampling.max_batch_size)))
    )
    coherent = norms._replace(parts=np.full(sampling.num_parts, norms.examples.max()), total=9.0)
    assert sampling.optimal_batch_size(coherent, **settings) == 1
    loud = norms._replace(examples=1e9 * norms.examples, parts=0 * norms.parts)
    assert sampling.optimal_batch_size(loud, **settings) == pytest.approx(
        int(sampling.max_batch_size), rel=1e-4
    )


def test_one_example():
    sampling = batching.nice([2.0], smoothness=2.0)
    norms = batching.SquaredNorms(np.array([3.0]), np.array([3.0]), 3.0)
    assert sampling.gradient_variance(1, norms) == 0
    assert sampling.gradient_noise(1, norms) == 3
    assert sampling.optimal_batch_size(norms, strong_convexity=1.0, accuracy=1.0) == 1


def test_complexities_are_those_of_the_theorem():
    sampling, norms = large("nice", np.random.default_rng(2))
    settings = {"strong_convexity": 0.02, "accuracy": 0.1}
    for tau in (1, 7, 60):
        smooth = float(sampling.expected_smoothness(tau))
        noise = float(sampling.gradient_noise(tau, norms))
        steps = max(2 * smooth / 0.02, 4 * noise / (0.1 * 0.02**2)) * np.log(2 * 5.0 / 0.1)
        found = sampling.iteration_complexity(tau, norms, distance_sq=5.0, **settings)
        assert float(found) == pytest.approx(steps, rel=1e-12)
        total = sampling.total_complexity(tau, norms, distance_sq=5.0, **settings)
        assert float(total) == pytest.approx(tau * steps, rel=1e-12)
        gamma = 0.5 * min(1 / smooth, 0.1 * 0.02 / (2 * noise) if noise else np.inf)
        assert float(sampling.step_size(tau, norms, **settings)) == pytest.approx(gamma, rel=1e-12)
        capped = 0.5 * min(1 / smooth, 0.1 * 0.02 / min(2 * noise, 1e-3) if noise else np.inf)
        found = sampling.step_size(tau, norms, noise_cap=1e-3, **settings)
        assert float(found) == pytest.approx(capped, rel=1e-12)


def test_methods_are_one_trace_for_all_sizes_and_map():
    sampling, norms = large("partition_nice", np.random.default_rng(4))
    taus = np.arange(1, 21)
    mapped = jax.vmap(sampling.gradient_noise, (0, None))(taus, norms)
    single = [float(sampling.gradient_noise(int(tau), norms)) for tau in taus]
    np.testing.assert_allclose(mapped, single, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: batching.nice([1.0, 0.0], smoothness=1.0), "example_smoothness must be finite"),
        (lambda: batching.nice([1.0, 2.0], smoothness=3.0), "smoothness must lie between"),
        (lambda: batching.nice([1.0, 2.0], smoothness=0.5), "smoothness must lie between"),
        (lambda: batching.nice([1.0, 2.0], smoothness=-1.0), "smoothness must be finite"),
        (lambda: batching.nice([[1.0]], smoothness=1.0), r"shape \[n\]"),
        (
            lambda: batching.partition_nice(
                [1.0, 1.0], part_smoothness=[1.0, 1.0], part_of_example=[0, 0]
            ),
            "no part empty, got none in part 1",
        ),
        (
            lambda: batching.partition_nice(
                [1.0, 1.0], part_smoothness=[1.0], part_of_example=[0, 1]
            ),
            r"must lie in \[0, 1\)",
        ),
        (lambda: build("nice")[0].expected_smoothness(7), r"batch_size must lie in \[1, 6\]"),
        (lambda: build("nice")[0].expected_smoothness(0), r"batch_size must lie in \[1, 6\]"),
        (lambda: build("partition_nice")[0].expected_smoothness(4), r"must lie in \[1, 3\]"),
        (
            lambda: batching.independent([1.0, 1.0], smoothness=1.0, importance="weights"),
            "weights must be given",
        ),
        (
            lambda: batching.independent([1.0, 1.0], smoothness=1.0, importance="norms"),
            "importance must be",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strong_convexity": 0.0}, "strong_convexity must be finite and above 0"),
        ({"strong_convexity": -1.0}, "strong_convexity must be finite and above 0"),
        ({"strong_convexity": 100.0}, "strong_convexity must not exceed the smoothness"),
        ({"accuracy": 0.0}, "accuracy must be finite and above 0"),
        ({"noise_cap": 0.0}, "noise_cap must be finite and above 0"),
    ],
)
def test_bad_settings(change, words):
    sampling, _ = build("nice")
    norms = norms_at(sampling, np.zeros(3))
    with pytest.raises(ValueError, match=words):
        sampling.step_size(2, norms, **(SETTINGS | change))


def test_norms_of_another_sampling_are_refused():
    sampling, _ = build("partition_nice")
    norms = norms_at(sampling, np.zeros(3))
    with pytest.raises(ValueError, match="norms.examples must have shape"):
        sampling.gradient_noise(1, norms._replace(examples=norms.examples[:3]))
    with pytest.raises(ValueError, match="norms.parts must have shape"):
        sampling.gradient_noise(1, norms._replace(parts=np.zeros(5)))
