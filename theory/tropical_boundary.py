"""Claims about decision boundaries and the zonotopes that are dual to them."""

import itertools
from collections.abc import Callable

import jax
import numpy as np
from scipy import spatial

from jaxcert import tropical
from theory.ledger import Claim, Verdict

Network = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Zonotopes = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

REFERENCE = (
    "Alfarra, Bibi, Hammoud, Gaafar, Ghanem, On the Decision Boundaries of Neural Networks: A "
    "Tropical Geometry Perspective, 2020, arXiv:2002.08838"
)
TOLERANCE = 1e-11


def random_network(rng: np.random.Generator, num_inputs: int, num_units: int) -> Network:
    """Two classes that both win somewhere."""
    w1, b1 = rng.normal(size=(num_units, num_inputs)), 0.5 * rng.normal(size=num_units)
    w2 = rng.normal(size=(2, num_units))
    hidden = np.maximum(rng.normal(size=(50, num_inputs)) @ w1.T + b1, 0)
    return w1, b1, w2, -(hidden @ w2.T).mean(axis=0)


def lead(network: Network, points: np.ndarray) -> np.ndarray:
    """The first score less the second."""
    w1, b1, w2, b2 = network
    scores = np.maximum(points @ w1.T + b1, 0) @ w2.T + b2
    return scores[:, 0] - scores[:, 1]


def check_supports(zonotopes: Callable[[Network], Zonotopes], seed: int, count: int) -> Verdict:
    """Compare supports at (x, 1), summed by hand, with the scores; slack is relative."""
    rng = np.random.default_rng(seed)
    worst, trials, witness = np.inf, 0, ""
    for num_inputs, num_units in itertools.product((1, 2, 5), (1, 4, 9)):
        network = random_network(rng, num_inputs, num_units)
        points = 3 * rng.normal(size=(count, num_inputs))
        lifted = np.concatenate([points, np.ones((count, 1))], axis=1)
        one, two = (
            lifted @ base + np.maximum(lifted @ generators.T, 0).sum(axis=1)
            for base, generators in zonotopes(network)
        )
        expected = lead(network, points)
        gap = np.abs(one - two - expected) / (1 + np.abs(one) + np.abs(two))
        trials += gap.size
        if -gap.max() < worst:
            worst, witness = -float(gap.max()), f"{num_inputs} inputs, {num_units} units"
    return Verdict(worst >= -TOLERANCE, worst, float("nan"), trials, witness, seed)


def as_computed(cancel: bool) -> Callable[[Network], Zonotopes]:
    def zonotopes(network: Network) -> Zonotopes:
        with jax.enable_x64(True):
            found = tropical.decision_zonotopes(*network, classes=(0, 1), cancel=cancel)
        first, second = ((np.asarray(z.base), np.asarray(z.generators)) for z in found)
        return first, second

    return zonotopes


def swapped_parts(network: Network) -> Zonotopes:
    """The positive parts of both classes in one zonotope."""
    w1, b1, w2, b2 = network
    rows = np.concatenate([w1, b1[:, None]], axis=1)
    weights = np.maximum(w2, 0).sum(axis=0), np.maximum(-w2, 0).sum(axis=0)
    base = np.zeros(rows.shape[1])
    first, second = (
        (base + np.append(base[1:], shift), weight[:, None] * rows)
        for weight, shift in zip(weights, b2, strict=True)
    )
    return first, second


def from_the_centre(network: Network) -> Zonotopes:
    """Generators that reach to both sides, with the base of those that reach to one."""
    (base, generators), (other_base, others) = as_computed(True)(network)
    return (
        (base - generators.sum(axis=0), 2 * generators),
        (other_base - others.sum(axis=0), 2 * others),
    )


def without_lift(network: Network) -> Zonotopes:
    """The theorem for networks without biases, taken for one with biases."""
    w1, _, w2, _ = network
    first, second = as_computed(True)((w1, np.zeros(len(w1)), w2, np.zeros(2)))
    return first, second


def between_zonotopes(network: Network) -> tuple[int, int]:
    """Upper edges of the hull of both zonotopes: those between the two, and all.

    From all sums of generators and a general hull: nothing is shared with what is checked.
    """
    w1, b1, w2, b2 = network
    rows, difference = np.concatenate([w1, b1[:, None]], axis=1), w2[0] - w2[1]
    points = []
    for sign, shift in ((1, b2[0]), (-1, b2[1])):
        kept = rows[sign * difference > 0] * np.abs(difference)[sign * difference > 0, None]
        choices = np.array(list(itertools.product((0, 1), repeat=len(kept))))
        points.append(choices.reshape(len(choices), -1) @ kept + np.append([0.0, 0.0], shift))
    owner = np.repeat([0, 1], [len(points[0]), len(points[1])])
    hull = spatial.ConvexHull(np.concatenate(points))
    upper = hull.equations[:, 2] > 1e-9
    edges: dict[tuple[int, int], list[np.ndarray]] = {}
    for facet, equation in zip(hull.simplices[upper], hull.equations[upper], strict=True):
        for pair in itertools.combinations(sorted(facet), 2):
            edges.setdefault(pair, []).append(equation)
    # A diagonal of a facet that the hull has cut into triangles is no edge.
    real = [
        (a, b)
        for (a, b), sides in edges.items()
        if len(sides) < 2 or np.abs(sides[0] - sides[1]).max() > 1e-9
    ]
    return sum(owner[a] != owner[b] for a, b in real), len(real)


def check_pieces(pieces: Callable[[Network], int], seed: int, count: int) -> Verdict:
    """Count the pieces of planar boundaries; slack is the largest difference, negated."""
    rng = np.random.default_rng(seed)
    worst, trials, witness, total = 0, 0, "", 0
    for num_units in (3, 5, 7, 9):
        for _ in range(count):
            network = random_network(rng, 2, num_units)
            expected, found = between_zonotopes(network)[0], pieces(network)
            trials += 1
            total += expected
            if -abs(found - expected) < worst:
                worst = -abs(found - expected)
                witness = f"{num_units} units: {found} pieces, {expected} edges"
    return Verdict(worst == 0 and total > 0, float(worst), float("nan"), trials, witness, seed)


def crossed_cells(network: Network) -> int:
    return len(tropical.boundary_cells(*network, classes=(0, 1)).active)


def segments(network: Network) -> int:
    box = np.array([[-1e5, -1e5], [1e5, 1e5]])
    return len(tropical.boundary_segments(*network, classes=(0, 1), box=box).start)


def cells_of_hypersurface(network: Network) -> int:
    """The hypersurface for the boundary: every upper edge counts."""
    return between_zonotopes(network)[1]


def crossed_without_bias(network: Network) -> int:
    w1, b1, w2, _ = network
    return len(tropical.boundary_cells(w1, b1, w2, None, classes=(0, 1)).active)


def near_the_origin(network: Network) -> int:
    box = np.array([[-0.5, -0.5], [0.5, 0.5]])
    return len(tropical.boundary_segments(*network, classes=(0, 1), box=box).start)


CLAIMS = (
    Claim(
        name="tropical-supports",
        statement=(
            "The support functions of the two zonotopes of the paper, lifted by the biases, differ "
            "at (x, 1) by the scores at x; so they do when their common summand is left out."
        ),
        reference=REFERENCE,
        hypotheses=("one hidden layer, two classes", "up to 5 inputs and 9 units"),
        check=check_supports,
        formula=as_computed(True),
        trials=40,
        twins={
            "positive parts of both classes in one": swapped_parts,
            "segments from the centre": from_the_centre,
            "no lift by the biases": without_lift,
        },
    ),
    Claim(
        name="tropical-supports-uncancelled",
        statement=(
            "The same of the zonotopes as the paper has them, with the summand that both share."
        ),
        reference=REFERENCE,
        hypotheses=("one hidden layer, two classes", "up to 5 inputs and 9 units"),
        check=check_supports,
        formula=as_computed(False),
        trials=40,
        twins={"positive parts of both classes in one": swapped_parts},
    ),
    Claim(
        name="tropical-bichromatic-edges",
        statement=(
            "The activation regions that the decision boundary crosses are as many as the upper "
            "edges of the zonotopes' hull that join one with the other."
        ),
        reference=f"{REFERENCE}; Brandenburg, Loho, Montufar, 2024, arXiv:2403.11871",
        hypotheses=("two inputs, two classes, up to 9 units in general position",),
        check=check_pieces,
        formula=crossed_cells,
        trials=4,
        twins={
            "every edge of the hypersurface": cells_of_hypersurface,
            "without the last biases": crossed_without_bias,
            "in a small box only": near_the_origin,
        },
    ),
    Claim(
        name="tropical-segments",
        statement=(
            "Cutting a box into polygons finds as many pieces of a boundary, one for each edge."
        ),
        reference=REFERENCE,
        hypotheses=("two inputs, two classes", "a box of half-width 1e5 holds all of them"),
        check=check_pieces,
        formula=segments,
        trials=4,
        twins={"in a small box only": near_the_origin},
    ),
)
