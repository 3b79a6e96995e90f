"""Claims about tropical pruning, by non-negative least squares and by support functions."""

from collections.abc import Callable

import jax
import numpy as np
from scipy import optimize

from jaxcert import tropical
from theory.ledger import Claim, Verdict

Network = tuple[np.ndarray, np.ndarray, np.ndarray]
Pruner = Callable[[Network, float], Network]
Bound = Callable[[Network, Network], np.ndarray]

REFERENCE = (
    "Alfarra, Bibi, Hammoud, Gaafar, Ghanem, On the Decision Boundaries of Neural Networks: A "
    "Tropical Geometry Perspective, 2020, arXiv:2002.08838; the closed form is ours"
)
TOLERANCE = 1e-10


def random_network(rng: np.random.Generator, classes: int, hidden: int) -> Network:
    """Weights of which some are 0."""
    kept = rng.uniform(size=(classes, hidden)) < 0.8
    return (
        rng.normal(size=(hidden, 3)), rng.normal(size=hidden),
        rng.normal(size=(classes, hidden)) * kept,
    )  # fmt: skip


def generators(network: Network) -> np.ndarray:
    """The generators of the zonotope of every ordered pair of classes: `[pairs, h, d + 1]`."""
    w1, b1, w2 = network
    rows = np.concatenate([w1, b1[:, None]], axis=1)
    pairs = [(i, j) for i in range(len(w2)) for j in range(len(w2)) if i != j]
    scales = [np.maximum(w2[i], 0) + np.maximum(-w2[j], 0) for i, j in pairs]
    return np.stack([scale[:, None] * rows for scale in scales])


def objective(network: Network, pruned: Network, penalty: float) -> float:
    """The paper's objective by its definition."""
    old, new = generators(network), generators(pruned)
    return float(((new - old) ** 2).sum() / 2 + penalty * np.linalg.norm(new, axis=2).sum())


def least_objective(network: Network, penalty: float) -> float:
    """The minimum over all networks, neuron by neuron.

    All generators of a neuron are multiples of one vector, a component across which adds to both
    terms, so only the lengths p_i + q_j matter, p and q being the positive and negative parts.
    """
    w1, b1, w2 = network
    classes, total = len(w2), 0.0
    pairs = [(i, j) for i in range(classes) for j in range(classes) if i != j]
    matrix = np.zeros((len(pairs), 2 * classes))
    for row, (i, j) in enumerate(pairs):
        matrix[row, i] = matrix[row, classes + j] = 1.0
    for lengths in np.linalg.norm(generators(network), axis=2).T:
        _, residual = optimize.nnls(matrix, lengths - penalty)
        total += (residual**2 + (lengths**2).sum() - ((lengths - penalty) ** 2).sum()) / 2
    return total


def check_minimum(prune: Pruner, seed: int, count: int) -> Verdict:
    """Hold the objective of a pruned network against the least one; slack is relative."""
    rng = np.random.default_rng(seed)
    worst, trials, witness = np.inf, 0, ""
    for classes in (2, 3, 6):
        for _ in range(count):
            network, penalty = random_network(rng, classes, 5), float(rng.uniform(0.1, 4))
            least = least_objective(network, penalty)
            value = objective(network, prune(network, penalty), penalty)
            slack = (least - value) / max(least, 1e-12)
            trials += 1
            if slack < worst:
                worst, witness = slack, f"{classes} classes, penalty {penalty:.3f}"
    holds = worst >= -TOLERANCE
    return Verdict(holds, worst, 1 / (1 - worst) if worst < 0 else 1.0, trials, witness, seed)


def check_distance(bound: Bound, seed: int, count: int) -> Verdict:
    """Look for a direction in which supports differ by more than the bound; slack is relative.

    Neurons that go one by one, and parallel ones that shrink alike, reach the bound.
    """
    rng = np.random.default_rng(seed)
    worst, tightness, trials, witness = np.inf, np.inf, 0, ""
    for kind in ("one gone", "parallel", "pruned", "moved"):
        for _ in range(count):
            old = random_network(rng, 2, 6)
            new = (old[0].copy(), old[1].copy(), old[2].copy())
            if kind == "one gone":
                new[2][:, 0] = 0.0
            elif kind == "parallel":
                old[0][:], old[1][:] = old[0][:1], old[1][:1]
                old[2][:] = np.abs(old[2][:1]) + 0.1
                new = (old[0], old[1], old[2] * 0.5)
            elif kind == "pruned":
                new = pruned_by("closed_form")(old, float(rng.uniform(0.2, 3)))
            else:
                new = (old[0] + 0.2 * rng.normal(size=old[0].shape), old[1], old[2])
            found = bound(old, new)
            before, after = generators(old), generators(new)
            # The changes themselves are the directions in which single neurons differ most.
            steps = (after - before).reshape(-1, 4)
            u = np.concatenate([steps, -steps, rng.normal(size=(2000, 4))])
            lengths = np.linalg.norm(u, axis=1, keepdims=True)
            u = (u / np.where(lengths > 0, lengths, 1))[lengths[:, 0] > 0]
            for pair, place in enumerate(((0, 1), (1, 0))):
                reached = float(
                    np.abs(
                        np.maximum(u @ before[pair].T, 0).sum(axis=1)
                        - np.maximum(u @ after[pair].T, 0).sum(axis=1)
                    ).max()
                )
                if reached == 0.0:
                    continue
                trials += 1
                slack = (found[place] - reached) / reached
                if slack < worst:
                    worst, witness = slack, f"{kind}, reached {reached:.6f}"
                if kind in ("one gone", "parallel"):
                    tightness = min(tightness, reached / found[place])
    return Verdict(worst >= 0 and tightness > 1 - 1e-6, worst, tightness, trials, witness, seed)


def pruned_by(method: str) -> Pruner:
    def prune(network: Network, penalty: float) -> Network:
        with jax.enable_x64(True):
            found = tropical.prune(
                *network, np.zeros(len(network[2])), penalty=penalty, method=method, num_rounds=50
            )
        return np.asarray(found.w1), np.asarray(found.b1), np.asarray(found.w2)

    return prune


def shrunk_alone(network: Network, penalty: float) -> Network:
    """Every weight loses the penalty for itself, as if its pairs did not share it."""
    w1, b1, w2 = network
    lengths = np.linalg.norm(np.concatenate([w1, b1[:, None]], axis=1), axis=1)
    return w1, b1, np.sign(w2) * np.maximum(np.abs(w2) - penalty / lengths, 0)


def kept_as_trained(network: Network, penalty: float) -> Network:
    """The right neurons go, and the others keep their weights."""
    w1, b1, w2 = network
    alive = pruned_by("closed_form")(network, penalty)[2].any(axis=0)
    return w1, b1, w2 * alive


def scaled(factor: float) -> Bound:
    return lambda old, new: factor * tropical.pruning_distance_upper(*old, *new)


def by_lengths(combine: Callable[[np.ndarray], float]) -> Bound:
    """A bound from the lengths by which the generators change."""

    def bound(old: Network, new: Network) -> np.ndarray:
        lengths = np.linalg.norm(generators(new) - generators(old), axis=2)
        return np.array([[0.0, combine(lengths[0])], [combine(lengths[1]), 0.0]])

    return bound


CLAIMS = (
    Claim(
        name="tropical-pruning",
        statement=(
            "Shrinking each weight by the two thresholds of its neuron minimises the paper's "
            "objective over all networks of the shape, for any number of classes."
        ),
        reference=REFERENCE,
        hypotheses=("one penalty for all pairs", "up to 6 classes and 5 neurons"),
        check=check_minimum,
        formula=pruned_by("closed_form"),
        trials=12,
        twins={
            "the paper's alternation": pruned_by("alternating"),
            "each weight shrunk for itself": shrunk_alone,
            "neurons that stay keep their weights": kept_as_trained,
        },
    ),
    Claim(
        name="tropical-pruning-distance",
        statement=(
            "The Hausdorff distance of two zonotopes with matched generators is at most the "
            "smaller of the sum of the lengths of the changes and the root of their number times "
            "the spectral norm of the change."
        ),
        reference=REFERENCE,
        hypotheses=("two classes, 6 neurons, 4 dimensions", "directions are sampled"),
        check=check_distance,
        formula=scaled(1.0),
        trials=6,
        twins={
            "2 percent too small": scaled(0.98),
            "loose by 1e-3": scaled(1.001),
            "the longest change alone": by_lengths(lambda changes: float(changes.max())),
            "the Frobenius norm without the root": by_lengths(
                lambda changes: float(np.linalg.norm(changes))
            ),
        },
    ),
)
