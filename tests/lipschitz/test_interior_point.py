"""The interior-point method: its derivatives, its optimum beside a conic solver's, its failures."""

import itertools

import numpy as np
import pytest

from jaxcert import lipschitz
from jaxcert.lipschitz import _chain_bounds, _interior_point, _sweeps

DIMS = (3, 6, 5, 2)
SLOPES = ("relu", "gelu", "abs", lipschitz.SlopeRange(0.2, 1.0), lipschitz.SlopeRange(-1.0, -0.5))
# Values of LipSDP-Neuron by Clarabel, for random_network(seed, dims), to its tolerance of 1e-8.
CLARABEL = {
    (0, (4, 20, 1)): 10.6879079,
    (1, (2, 10, 10, 10, 3)): 77.4282829,
    (2, (30, 5, 8, 1)): 40.9242893,
}


def random_network(seed, dims=DIMS):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, a)) for a, b in itertools.pairwise(dims)]


def dense_matrix(weights, slopes, square, multipliers):
    """The inequality written out, with rho in its first block, for multipliers T."""
    widths = [weights[0].shape[1], *(len(weight) for weight in weights[:-1])]
    starts = np.cumsum([0, *widths])
    matrix = np.zeros((starts[-1], starts[-1]))
    matrix[: widths[0], : widths[0]] = square * np.eye(widths[0])
    low, high = slopes
    for layer, (weight, multiplier) in enumerate(zip(weights, multipliers, strict=False)):
        pair = np.zeros((2 * len(weight), starts[-1]))
        pair[: len(weight), starts[layer] : starts[layer + 1]] = weight
        pair[len(weight) :, starts[layer + 1] : starts[layer + 2]] = np.eye(len(weight))
        form = np.array([[low * high, -(low + high) / 2], [-(low + high) / 2, 1.0]])
        matrix += pair.T @ np.kron(form, np.diag(multiplier)) @ pair
    matrix[starts[-2] :, starts[-2] :] -= weights[-1].T @ weights[-1]
    return matrix


def conic_value(weights, slopes):
    """LipSDP-Neuron for any range of slopes, by Clarabel."""
    cvxpy = pytest.importorskip("cvxpy", reason="cvxpy, of the bench extra, is not installed")
    hidden = weights[:-1]
    none = [np.zeros(len(weight)) for weight in hidden]
    constant = dense_matrix(weights, slopes, 0.0, none)
    unknowns = cvxpy.Variable(1 + sum(map(len, hidden)))
    parts = [dense_matrix(weights, slopes, 1.0, none) - constant]
    for neuron in np.eye(sum(map(len, hidden))):
        unit = np.split(neuron, np.cumsum([len(weight) for weight in hidden])[:-1])
        parts.append(dense_matrix(weights, slopes, 0.0, unit) - constant)
    matrix = constant + sum(unknowns[index] * part for index, part in enumerate(parts))
    problem = cvxpy.Problem(cvxpy.Minimize(unknowns[0]), [matrix >> 0, unknowns[1:] >= 0])
    problem.solve(solver="CLARABEL")
    return float(np.sqrt(unknowns.value[0]))


def upper(weights, method="lipsdp", activation="relu", steps=60):
    return lipschitz.network_lipschitz_upper(
        weights, method=method, activation=activation, steps=steps
    )


def exact_over_patterns(weights):
    """The largest norm over all patterns of ReLUs, by enumeration."""
    best = 0.0
    widths = [len(weight) for weight in weights[:-1]]
    for bits in itertools.product((0.0, 1.0), repeat=sum(widths)):
        product = weights[0]
        patterns = np.split(np.array(bits), np.cumsum(widths)[:-1])
        for weight, pattern in zip(weights[1:], patterns, strict=True):
            product = weight @ (pattern[:, None] * product)
        best = max(best, float(np.linalg.norm(product, 2)))
    return best


def test_values_are_those_of_a_conic_solver():
    for (seed, dims), value in CLARABEL.items():
        assert upper(random_network(seed, dims)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("activation", SLOPES)
def test_every_range_of_slopes_has_the_value_of_a_conic_solver(activation):
    weights = random_network(5)
    value = conic_value(weights, lipschitz.slope_range(activation))
    assert upper(weights, activation=activation) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("activation", SLOPES)
def test_derivatives_are_those_of_the_determinant(activation, by_layer):
    slopes = lipschitz.slope_range(activation)
    # More inputs than neurons, which the method leaves out.
    weights = [weight / 8.0 for weight in random_network(6, (7, 3, 4, 2))]
    inequality = _interior_point.Inequality(weights, slopes, by_layer=by_layer)
    point = np.array([2.0, 1.1, 0.9] if by_layer else [2.0, 1.1, 0.9, 1.3, 0.8, 1.2, 1.0, 0.7])

    def barrier(point):
        """Of the matrix written out; the inputs left out add to it in rho alone."""
        hidden = np.repeat(point[1:], (3, 4)) if by_layer else point[1:]
        matrix = dense_matrix(weights, slopes, point[0], np.split(hidden, [3]))
        value = -np.linalg.slogdet(matrix)[1] + 4 * np.log(point[0])
        return value if slopes.low * slopes.high <= 0.0 else value - np.sum(np.log(point[1:]))

    iterate = inequality.iterate(point)
    assert inequality.barrier(iterate) == pytest.approx(barrier(point))
    gradient, hessian = inequality.derivatives(iterate)
    step = 1e-5
    for index, unit in enumerate(step * np.eye(len(point))):
        sides = [inequality.iterate(point + sign * unit) for sign in (1.0, -1.0)]
        change = (barrier(sides[0].point) - barrier(sides[1].point)) / (2.0 * step)
        assert gradient[index] == pytest.approx(change, rel=1e-6, abs=1e-6)
        gradients = [inequality.derivatives(side).gradient for side in sides]
        np.testing.assert_allclose(
            hessian[index], (gradients[0] - gradients[1]) / (2.0 * step), rtol=1e-6, atol=1e-6
        )
    neurons = np.repeat(point[1:], (3, 4)) if by_layer else point[1:]
    whole = np.linalg.inv(dense_matrix(weights, slopes, point[0], np.split(neurons, [3])))
    np.testing.assert_allclose(inequality.inverse(iterate)[3:, 3:], whole[7:, 7:], rtol=1e-9)


def test_multipliers_of_neurons_layers_and_none_are_in_order():
    for seed in range(5):
        weights = random_network(seed, (4, 8, 8, 8, 3))
        neurons, layers, closed = (
            upper(weights, method) for method in ("lipsdp", "lipsdp_layer", "eclipse_fast")
        )
        assert neurons < 0.99 * layers < 0.99 * 0.99 * closed
    # One neuron a layer leaves no choice but the best.
    chain = [np.array([[weight]]) for weight in (2.0, -3.0, 0.5)]
    for method in ("lipsdp", "lipsdp_layer"):
        assert 3.0 <= upper(chain, method) <= 3.0 * (1.0 + 1e-7)


def test_scales_of_neurons_and_idle_ones_change_nothing():
    weights = random_network(7)
    value = upper(weights)
    # ReLU commutes with positive factors.
    factors = np.exp(4.0 * np.random.default_rng(0).standard_normal(6))
    scaled = [factors[:, None] * weights[0], weights[1] / factors, weights[2]]
    assert upper(scaled) == pytest.approx(value, rel=1e-7)
    # A constant neuron, one that reads it alone, and one that nothing reads.
    idle = [
        np.vstack([weights[0], np.zeros(3), np.ones(3)]),
        np.vstack([np.hstack([weights[1], np.ones((5, 1)), np.zeros((5, 1))]), np.eye(8)[6]]),
        np.hstack([weights[2], np.ones((2, 1))]),
    ]
    assert [len(weight) for weight in _chain_bounds.without_idle_neurons(idle)] == [6, 5, 2]
    for method in ("product", "averaged", "eclipse_fast", "lipsdp"):
        assert upper(idle, method) == pytest.approx(upper(weights, method), rel=1e-12)
    nothing = [np.eye(2), np.diag([1.0, 0.0]), np.array([[0.0, 1.0]])]
    assert upper(nothing) == 0.0


@pytest.mark.parametrize("kind", ["rank one", "sparse", "rounded", "nonnegative"])
def test_degenerate_programs_are_solved(kind, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the path was not followed to its end")

    monkeypatch.setattr(_chain_bounds._multipliers, "propose", refuse)
    rng = np.random.default_rng(8)
    for _ in range(5):
        weights = random_network(rng, tuple(rng.integers(1, 9, size=5)))
        weights = {
            "rank one": [np.outer(weight[:, 0], weight[0]) for weight in weights],
            "sparse": [weight * (rng.random(weight.shape) < 0.4) for weight in weights],
            "rounded": [np.round(weight) for weight in weights],
            "nonnegative": [np.abs(weight) for weight in weights],
        }[kind]
        linear = float(np.linalg.norm(np.linalg.multi_dot(weights[::-1]), 2))
        found = upper(weights)
        assert found >= linear * (1.0 - 1e-14)
        if kind == "nonnegative":
            assert found <= linear * (1.0 + 1e-6)


def test_wrong_multipliers_give_no_bound_below_the_constant(monkeypatch):
    weights = random_network(9, (3, 4, 4, 2))
    exact = exact_over_patterns(weights)
    honest = _chain_bounds.best_multipliers
    value = upper(weights)
    for factor in (0.1, 1.0 + 1e-7, 1.001, 50.0, np.inf, np.nan, -1.0):

        def wrong(*arguments, factor=factor, **settings):
            return [factor * part for part in honest(*arguments, **settings)]

        monkeypatch.setattr(_chain_bounds, "best_multipliers", wrong)
        assert upper(weights) >= exact
    # Nothing at all leaves the descent.
    monkeypatch.setattr(_chain_bounds, "best_multipliers", lambda *_, **__: None)
    assert value <= upper(weights) <= 1.01 * value

    # Without the factorisation, larger multipliers would be taken for a smaller constant.
    def unproved(factor):
        normal, scale = _chain_bounds.normalised(weights)
        best = honest(normal, lipschitz.slope_range("relu"), by_layer=False)
        matrix = dense_matrix(normal, (0.0, 1.0), 1.0, [factor * part for part in best])
        matrix[-4:, -4:] += normal[-1].T @ normal[-1]
        tail = np.linalg.inv(matrix)[-4:, -4:]
        return scale * np.sqrt(abs(np.linalg.eigvalsh(normal[-1] @ tail @ normal[-1].T)).max())

    assert unproved(1.0) == pytest.approx(value, rel=1e-6)
    assert unproved(50.0) < exact


def test_scales_beyond_all_reason_end_in_a_bound():
    for small, most in ((1e-30, 1.0 + 1e-6), (1e-170, np.inf)):
        weights = [np.diag([1.0, small]), np.array([[1.0, 1e-9 / small]])]
        assert 1.0 <= upper(weights) <= most


def test_each_pair_has_the_value_of_its_own_program(monkeypatch):
    weights = random_network(10, (3, 4, 4, 3))
    pairs = lipschitz.pairwise_lipschitz_upper(weights)
    joint = upper(weights)
    for i, j in itertools.combinations(range(3), 2):
        single = [*weights[:-1], weights[-1][[i]] - weights[-1][[j]]]
        assert exact_over_patterns(single) <= pairs[i, j]
        assert pairs[i, j] == pytest.approx(upper(single), rel=1e-7)
        assert pairs[i, j] < np.sqrt(2.0) * joint
    # One choice of multipliers for all of them is above, and still a bound.
    monkeypatch.setattr(_chain_bounds, "_MOST_WORK_FOR_ROWS", 0.0)
    shared = lipschitz.pairwise_lipschitz_upper(weights)
    assert np.all(pairs <= shared * (1.0 + 1e-7))
    assert np.any(pairs < 0.99 * shared)
    assert np.all(shared <= 1.2 * pairs.max())
    # Equal outputs do not differ.
    equal = [*weights[:-1], weights[-1][[0, 0, 1]]]
    monkeypatch.undo()
    assert lipschitz.pairwise_lipschitz_upper(equal)[0, 1] == 0.0


@pytest.mark.parametrize("activation", SLOPES)
def test_sweeps_over_layers_come_near_the_optimum(activation, monkeypatch):
    weights = random_network(11, (4, 8, 8, 8, 8, 8, 8, 3))
    value = upper(weights, activation=activation)
    closed = upper(weights, "eclipse_fast", activation=activation)

    def refuse(*_, **__):
        raise AssertionError("the sweeps came to no end")

    monkeypatch.setattr(_chain_bounds._multipliers, "propose", refuse)
    monkeypatch.setattr(_chain_bounds, "_MOST_NEURONS", 24)
    found = upper(weights, activation=activation)
    assert value * (1.0 - 1e-7) <= found <= 1.05 * value < closed


def test_windows_cover_all_layers_and_overlap():
    assert _sweeps.windows([5, 5, 5, 5, 5], 10) == [
        slice(0, 2), slice(1, 3), slice(2, 4), slice(3, 5)
    ]  # fmt: skip
    assert _sweeps.windows([2, 9, 2, 2, 2, 2], 10) == [
        slice(0, 1), slice(1, 2), slice(2, 6)
    ]  # fmt: skip


def test_wide_layers_are_left_to_the_descent(monkeypatch):
    weights = random_network(9, (3, 4, 4, 2))
    value = upper(weights)
    monkeypatch.setattr(_chain_bounds, "_MOST_NEURONS", 7)
    assert value <= upper(weights) <= 1.01 * value
