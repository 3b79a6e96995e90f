"""A claim about LipSDP-Neuron, against all activation patterns and closed forms."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxcert import lipschitz
from theory.ledger import Claim, Verdict
from theory.lipschitz_bounds import TOLERANCE, over_patterns

Network = Sequence[np.ndarray]
# How near the bound must come to the constant where the value of the program is that.
LEAST_TIGHTNESS = 0.999
# jaxcert shrinks multipliers and rounds outwards; the formula below does neither.
_ROUNDED_UP = 1e-9


def networks(seed: int, count: int) -> list[tuple[str, Network, bool]]:
    """A description, the weights, and whether LipSDP-Neuron is exact there.

    The rows of the first matrices are independent, so that every pattern of the first layer is
    reached, whatever the biases, and that of the second for some biases.
    """
    rng = np.random.default_rng(seed)
    # Neurons that differ in sign alone: LipSDP-Network couples them and says 1, not the root of 8.
    # Two dead neurons more, which must change nothing.
    pair, difference = np.array([[2.0, 2.0], [2.0, 1.0]]), np.array([[-1.0, 1.0]])
    planted = [np.pad(pair, ((0, 2), (0, 0))), np.pad(difference, ((0, 0), (0, 2)))]
    found: list[tuple[str, Network, bool]] = [("two neurons of opposite signs", planted, True)]
    for trial in range(count):
        inputs, outputs = int(rng.integers(4, 7)), int(rng.integers(1, 5))
        shallow = [rng.normal(size=(4, inputs)), rng.normal(size=(outputs, 4))]
        deep = [rng.normal(size=(4, inputs)), *rng.normal(size=(2, 4, 4))]
        rows = np.linalg.qr(rng.normal(size=(inputs, 4)))[0].T
        lengths = np.exp(rng.uniform(-1.0, 1.0, 4))
        orthogonal = [lengths[:, None] * rows, rng.normal(size=(1, 4))]
        found += [
            (f"random network {trial}, one hidden layer", shallow, False),
            (f"random network {trial}, two hidden layers", deep, False),
            (f"random network {trial}, orthogonal rows", orthogonal, True),
            (f"random network {trial}, nothing negative", [np.abs(w) for w in deep], True),
        ]
    return found


def check(bound: Callable[[Network], float], seed: int, count: int) -> Verdict:
    """Compare with all patterns from below and with ECLipsE-Fast from above.

    The slack is the smaller of the shares by which the bound is above the constant and below
    ECLipsE-Fast; the tightness is over the networks of which LipSDP-Neuron knows the constant.
    """
    above = below = math.inf
    tightness, witness, measured = 1.0, "", []
    cases = networks(seed, count)
    for words, weights, is_exact in cases:
        value, exact = bound(weights), over_patterns(weights)
        rise, fall = value / exact - 1.0, closed_multipliers(weights) / value - 1.0
        if min(rise, fall) < min(above, below):
            witness = words
        above, below = min(above, rise), min(below, fall)
        if is_exact:
            tightness = min(tightness, exact / value)
        measured.append((value, exact))
    holds = above >= -TOLERANCE and below >= -_ROUNDED_UP and tightness >= LEAST_TIGHTNESS
    return Verdict(
        holds, min(above, below), tightness, len(cases), witness, seed, tuple(measured[:200])
    )


def closed_multipliers(weights: Network) -> float:
    """ECLipsE-Fast, by its formula."""
    return float(np.linalg.norm(_last_factor(weights, len(weights) - 1), 2))


def _last_factor(weights: Network, hidden: int) -> np.ndarray:
    """Y of LipSDP's chain after so many hidden layers, by one multiplier 2 / |Y|^2 a layer."""
    factor = weights[0]
    for weight in weights[1 : hidden + 1]:
        squares = np.linalg.norm(factor, 2) ** 2
        block = (2.0 * np.eye(len(factor)) - factor @ factor.T / squares) / squares
        factor = np.linalg.solve(np.linalg.cholesky(block), weight.T).T
    return factor


def neuron(weights: Network) -> float:
    return lipschitz.network_lipschitz_upper(list(weights), method="lipsdp")


def with_couplings(weights: Network) -> float:
    """LipSDP-Network: multipliers for differences of neurons of the last hidden layer as well.

    A multiplier T is a diagonal and a Laplacian, both without negative weights. With T >= W'W the
    program is feasible, and its value at most that of Y' T (2 T - W'W)^-1 T Y.
    """
    factor, weight = _last_factor(weights, len(weights) - 2), weights[-1]
    gram = weight.T @ weight
    apart = gram - np.diag(np.diag(gram))
    couplings = np.maximum(-apart, 0.0)
    laplacian = np.diag(couplings.sum(axis=1)) - couplings
    excess = np.diag(gram - laplacian) + np.maximum(apart, 0.0).sum(axis=1)
    multiplier = laplacian + np.diag(np.maximum(excess, 0.0) + 1e-9 * np.trace(gram))
    inner = np.linalg.solve(2.0 * multiplier - gram, multiplier @ factor)
    value = float(np.linalg.norm(factor.T @ multiplier @ inner, 2))
    return min(neuron(weights), math.sqrt(value))


def product(weights: Network) -> float:
    return math.prod(float(np.linalg.norm(weight, 2)) for weight in weights)


def samples_of_jacobians(weights: Network, *, points: int = 4) -> float:
    """The largest norm at a few inputs, without biases: from below, and so no bound."""
    rng = np.random.default_rng(0)
    best = 0.0
    for values in rng.normal(size=(points, weights[0].shape[1])):
        jacobian = np.eye(len(values))
        for weight in weights[:-1]:
            values, jacobian = weight @ values, weight @ jacobian
            values, jacobian = np.maximum(values, 0.0), (values > 0)[:, None] * jacobian
        best = max(best, float(np.linalg.norm(weights[-1] @ jacobian, 2)))
    return best


CLAIMS = (
    Claim(
        name="lipsdp-bound",
        statement=(
            "The bound by LipSDP-Neuron is at least the constant of a ReLU network for its worst "
            "biases, at most ECLipsE-Fast, and within a part in 1000 of the constant where "
            "the program's value is that."
        ),
        reference=(
            "Fazlyab, Robey, Hassani, Morari, Pappas, Efficient and Accurate Estimation of "
            "Lipschitz Constants for Deep Neural Networks, 2019, arXiv:1906.04893; Pauli, Koch, "
            "Berberich, Kohler, Allgöwer, Training Robust Neural Networks Using Lipschitz Bounds, "
            "2020, arXiv:2005.02929; Xu, Sivaranjani, 2024, arXiv:2404.04375"
        ),
        hypotheses=(
            "ReLU networks of one and two hidden layers of 4 neurons, all patterns tried",
            "exact for one output and orthogonal first rows, for weights that are not negative, "
            "and for a planted pair of neurons of opposite signs",
        ),
        check=check,
        formula=neuron,
        twins={
            "LipSDP-Network, which couples neurons": with_couplings,
            "1 percent less": lambda weights: 0.99 * neuron(weights),
            "the largest of four Jacobians": samples_of_jacobians,
            "ECLipsE-Fast in its place": closed_multipliers,
            "the product of norms": product,
        },
        trials=8,
        axes=("bound", "largest norm over all patterns"),
    ),
)
