"""Constants and optima of ridge and logistic regression."""

import jax
import numpy as np
import pytest
from sklearn import datasets

from jaxcert import batching


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def random_problem(kind, count=40, size=5, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, size)) * np.linspace(0.3, 2, size)
    if kind == "ridge":
        return batching.ridge(features, rng.standard_normal(count), penalty=0.05)
    return batching.logistic(features, np.sign(rng.standard_normal(count)), penalty=0.05)


KINDS = ["ridge", "logistic"]


@pytest.mark.parametrize("kind", KINDS)
def test_optimum_is_exact_to_the_last_bits(kind):
    problem = random_problem(kind)
    best = problem.minimizer()
    assert np.linalg.norm(problem.gradient(best)) < 1e-15
    if kind == "ridge":
        rows = problem.features
        normal = rows.T @ rows / len(rows) + 0.05 * np.eye(rows.shape[1])
        direct = np.linalg.solve(normal, rows.T @ problem.targets / len(rows))
        np.testing.assert_allclose(best, direct, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_norms_are_those_of_the_value(kind):
    problem = random_problem(kind)
    x = np.random.default_rng(3).standard_normal(5)
    np.testing.assert_allclose(problem.gradient(x), jax.grad(problem.value)(x), rtol=1e-12)

    def one(index, x):
        alone = np.asarray(problem.features)[index][None]
        build = batching.ridge if kind == "ridge" else batching.logistic
        return build(alone, problem.targets[index][None], penalty=0.05).gradient(x)

    rows = np.array([one(index, x) for index in range(problem.num_examples)])
    parts = np.arange(problem.num_examples) % 3
    sampling = batching.partition_nice(
        problem.example_smoothness_upper,
        part_smoothness=np.full(3, problem.example_smoothness_upper.mean()),
        part_of_example=parts,
    )
    norms = problem.squared_norms(x, sampling=sampling)
    wanted = batching.squared_norms(rows, part_of_example=parts, num_parts=3)
    for found, right in zip(norms, wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-11)
    total, squares, losses = problem.weighted_gradient(x, np.array([3, 7]), np.array([2.0, 0.5]))
    np.testing.assert_allclose(total, 2 * rows[3] + 0.5 * rows[7], rtol=1e-12)
    np.testing.assert_allclose(squares, wanted.examples[np.array([3, 7])], rtol=1e-11)
    every = problem.weighted_gradient(x, np.arange(40), np.ones(40))[2]
    np.testing.assert_allclose(np.mean(every), problem.value(x), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_constants_bound_the_curvature_and_are_tight(kind):
    problem = random_problem(kind)
    hessian = np.asarray(jax.hessian(problem.value)(np.zeros(5)))
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert eigenvalues[-1] <= problem.smoothness_upper <= eigenvalues[-1] * (1 + 1e-10)
    assert problem.strong_convexity_lower <= eigenvalues[0]
    scale = 1.0 if kind == "ridge" else 0.25
    np.testing.assert_allclose(
        problem.example_smoothness_upper, scale * np.sum(problem.features**2, axis=1) + 0.05
    )
    if kind == "ridge":
        assert problem.strong_convexity_lower >= eigenvalues[0] * (1 - 1e-10)


def test_a_problem_runs_in_the_precision_of_its_caller():
    problem = random_problem("ridge")
    with jax.enable_x64(False):
        assert problem.gradient(np.zeros(5, np.float32)).dtype == np.float32
    assert problem.gradient(np.zeros(5)).dtype == np.float64


def test_constants_of_diabetes():
    """Embedded in scikit-learn; the constants by singular values, not by eigenvalues."""
    features, targets = datasets.load_diabetes(return_X_y=True)
    rows = batching.unit_rows(features)
    problem = batching.ridge(rows, targets / 100, penalty=1 / len(rows))
    singular = np.linalg.svd(rows, compute_uv=False)
    assert problem.smoothness_upper == pytest.approx((singular[0] ** 2 + 1) / 442, rel=1e-12)
    assert problem.strong_convexity_lower == pytest.approx((singular[-1] ** 2 + 1) / 442, rel=1e-9)
    assert np.linalg.norm(problem.gradient(problem.minimizer())) < 1e-14


# Problem, lambda times n, L, Lmax, mu, mean squared norm at the optimum, sizes by accuracy.
REFERENCE = [
    ("bodyfat", 1, 0.99804112, 1.0039683, 0.0039713016, 2.0978740e-4,
     {1e-3: 74.7506, 1e-2: 10.1925, 1e-1: 1.0524}),
    ("a1a", 10, 0.11919038, 0.25623053, 10 / 1605, 0.12978744,
     {1e-3: 1597.668, 0.1: 1100.038, 1.0: 286.401}),
    ("a1a", 1, 0.11358290, 0.25062305, 1 / 1605, 0.10788946, {1.0: 1051.586}),
]  # fmt: skip


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_reference_constants(row, real_data_dir):
    name, penalty, smoothness, largest, mu, mean, sizes = row
    features, targets = batching.read_libsvm(real_data_dir / "libsvm" / name)
    build = batching.ridge if name == "bodyfat" else batching.logistic
    problem = build(batching.unit_rows(features), targets, penalty=penalty / len(targets))
    norms = problem.squared_norms(problem.minimizer())
    assert problem.smoothness_upper == pytest.approx(smoothness, rel=1e-6)
    assert problem.example_smoothness_upper.max() == pytest.approx(largest, rel=1e-6)
    assert problem.strong_convexity_lower == pytest.approx(mu, rel=1e-6)
    assert float(np.mean(norms.examples)) == pytest.approx(mean, rel=1e-6)
    assert norms.total < 1e-30
    sampling = problem.nice_sampling()
    for accuracy, size in sizes.items():
        found = sampling.optimal_batch_size(norms, strong_convexity=mu, accuracy=accuracy)
        assert float(found) == pytest.approx(size, rel=1e-6, abs=6e-4)
    if name == "bodyfat":
        assert float(problem.value(problem.minimizer())) == pytest.approx(0.00235191952, rel=1e-7)
        alone = batching.independent(
            problem.example_smoothness_upper, smoothness=problem.smoothness_upper
        )
        found = alone.optimal_batch_size(norms, strong_convexity=mu, accuracy=1e-3)
        assert float(found) == pytest.approx(74.0444, rel=1e-6)


@pytest.mark.parametrize(("num_parts", "size", "without"), [(2, 78.6, 57.77), (3, 79.9, 47.04)])
def test_reference_partitions(num_parts, size, without, real_data_dir):
    """Contiguous parts of bodyfat; the published sizes leave the gradients of the parts out."""
    features, targets = batching.read_libsvm(real_data_dir / "libsvm" / "bodyfat")
    rows = batching.unit_rows(features)
    problem = batching.ridge(rows, targets, penalty=1 / 252)
    parts = np.repeat(np.arange(num_parts), 252 // num_parts)
    each = [
        batching.ridge(rows[parts == j], targets[parts == j], penalty=1 / 252)
        for j in range(num_parts)
    ]
    sampling = batching.partition_nice(
        problem.example_smoothness_upper,
        part_smoothness=np.array([part.smoothness_upper for part in each]),
        part_of_example=parts,
    )
    norms = problem.squared_norms(problem.minimizer(), sampling=sampling)
    settings = {"strong_convexity": problem.strong_convexity_lower, "accuracy": 1e-3}
    found = float(sampling.optimal_batch_size(norms, **settings))
    assert found == pytest.approx(size, abs=0.06)
    dropped = norms._replace(parts=0 * norms.parts)
    assert float(sampling.optimal_batch_size(dropped, **settings)) == pytest.approx(
        without, abs=0.006
    )


def test_libsvm_files(tmp_path):
    path = tmp_path / "small"
    path.write_text("1 1:0.5 3:2\n2 2:1\n")
    features, labels = batching.read_libsvm(path, num_features=4)
    np.testing.assert_array_equal(features, [[0.5, 0, 2, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(batching.binary_labels(labels), [-1, 1])
    assert batching.read_libsvm(path)[0].shape == (2, 3)
    (tmp_path / "torn").write_text("1 a:b\n")
    with pytest.raises(ValueError):
        batching.read_libsvm(tmp_path / "torn")


ROWS = np.eye(3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: batching.logistic(ROWS, [0, 1, 1], penalty=0.1), "labels must be -1 or 1"),
        (lambda: batching.logistic(ROWS, [1, 1, 1], penalty=0.0), "penalty must be finite"),
        (lambda: batching.ridge(ROWS, [1, 1, 1], penalty=-1.0), "penalty must be finite"),
        (lambda: batching.ridge(ROWS, [1, 1], penalty=1.0), "targets must be 3 finite numbers"),
        (lambda: batching.ridge(ROWS * np.nan, [1, 1, 1], penalty=1.0), "features must be finite"),
        (lambda: batching.ridge(np.ones((3, 2)), [1, 1, 1], penalty=0.0), "full column rank"),
        (lambda: batching.ridge(np.vstack([ROWS, 0 * ROWS[:1]]), [1] * 4, penalty=0.0), "zero row"),
        (lambda: batching.unit_rows(np.diag([1.0, 0.0, 2.0])), "no zero row, got 1 of them"),
        (lambda: batching.binary_labels([1, 2, 3]), "exactly two values"),
        (lambda: batching.ridge(np.ones(3), [1, 1, 1], penalty=1.0), r"shape \[n, d\]"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
