"""Claims about hypersurfaces and linear regions, by bisection, lines and linear programs."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize

from jaxcert import tropical
from theory import search
from theory.ledger import Claim, Verdict
from theory.tropical_boundary import REFERENCE, Network, lead, random_network

# Coefficients `[k]`, exponents `[k, d]` and the class that each monomial belongs to.
Polynomial = tuple[np.ndarray, np.ndarray, np.ndarray]
ZHANG = "Zhang, Naitzat, Lim, Tropical Geometry of Deep Neural Networks, 2018, arXiv:1805.07091"


def crossings(
    function: Callable[[np.ndarray], np.ndarray], start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Halve segments over which the sign changes, to the last bit: points where it does."""
    changes = function(start) * function(end) < 0
    start, end = start[changes], end[changes]
    first = np.sign(function(start))
    for _ in range(60):
        middle = (start + end) / 2
        stays = (np.sign(function(middle)) == first)[:, None]
        start, end = np.where(stays, middle, start), np.where(stays, end, middle)
    return (start + end) / 2


def check_containment(
    polynomial: Callable[[Network], Polynomial], seed: int, trials: int
) -> Verdict:
    """Measure how far the two leading monomials are apart on the boundary; slack is relative.

    The boundary is found by bisection of the scores alone. Away from it one monomial must lead,
    or a polynomial that says everything twice would pass.
    """
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for inputs, units in ((1, 4), (2, 5), (3, 6)):
        for _ in range(trials):
            network = random_network(rng, inputs, units)
            coefficients, exponents, _ = polynomial(network)

            def gap(points: np.ndarray) -> np.ndarray:
                ordered = np.sort(points @ exponents.T + coefficients, axis=1)  # noqa: B023
                if ordered.shape[1] == 1:
                    return np.full(len(points), np.inf)
                scale = 1 + np.abs(ordered).max(axis=1)
                return (ordered[:, -1] - ordered[:, -2]) / scale

            ends = 4 * rng.normal(size=(2, 60, inputs))
            points = crossings(lambda x: lead(network, x), *ends)  # noqa: B023
            witness = f"{inputs} inputs, {units} units"
            if len(points):
                worst.see(-gap(points).max(), witness, count=len(points))
            if np.median(gap(ends[0])) < 1e-6:
                worst.see(-1.0, f"{witness}: two monomials lead everywhere")
    return worst.verdict(seed, tolerance=1e-9)


def check_ties(polynomial: Callable[[Network], Polynomial], seed: int, trials: int) -> Verdict:
    """Walk to places where the leading monomial changes: the scores tie there, or they do not.

    The slack is 1 where the boundary is exactly where monomials of both classes tie, else -1.
    """
    rng = np.random.default_rng(seed)
    worst, kinds = search.Worst(), {True: 0, False: 0}
    for inputs, units in ((1, 4), (2, 5), (3, 6)):
        for _ in range(trials):
            network = random_network(rng, inputs, units)
            coefficients, exponents, owner = polynomial(network)
            start, end = 4 * rng.normal(size=(2, 60, inputs))

            def leader(points: np.ndarray) -> np.ndarray:
                return (points @ exponents.T + coefficients).argmax(axis=1)  # noqa: B023

            first = leader(start)
            moved = first != leader(end)
            start, end, first = start[moved], end[moved], first[moved]
            for _ in range(60):
                middle = (start + end) / 2
                stays = (leader(middle) == first)[:, None]
                start, end = np.where(stays, middle, start), np.where(stays, end, middle)
            scores = np.abs(lead(network, start))
            is_tie = scores < 1e-9 * (1 + np.abs(start).max())
            of_both = owner[first] != owner[leader(end)]
            for tie, both in zip(is_tie, of_both, strict=True):
                kinds[bool(both)] += 1
                worst.see(1.0 if tie == both else -1.0, f"{inputs} inputs, {units} units")
    # Ties of both kinds must have been met.
    verdict = worst.verdict(seed, tolerance=0.0)
    return verdict if all(kinds.values()) else dataclasses.replace(verdict, holds=False)


def regions_of_lines(w1: np.ndarray, b1: np.ndarray) -> int:
    """Regions that lines cut the plane into: one, one a line, and those of their meeting points."""
    points: list[np.ndarray] = []
    through: list[set[int]] = []
    for i, j in itertools.combinations(range(len(w1)), 2):
        matrix = w1[[i, j]]
        if abs(np.linalg.det(matrix)) < 1e-12:
            continue
        point = np.linalg.solve(matrix, -b1[[i, j]])
        for known, lines in zip(points, through, strict=True):
            if np.abs(known - point).max() < 1e-9:
                lines.update((i, j))
                break
        else:
            points.append(point)
            through.append({i, j})
    return 1 + len(w1) + sum(len(lines) - 1 for lines in through)


def regions_by_programs(w1: np.ndarray, b1: np.ndarray) -> int:
    """Sign vectors with an interior, by a linear program each."""
    count, (units, inputs) = 0, w1.shape
    for signs in itertools.product((1.0, -1.0), repeat=units):
        rows = -np.array(signs)[:, None] * w1
        found = optimize.linprog(
            np.append(np.zeros(inputs), -1.0),
            A_ub=np.concatenate([rows, np.ones((units, 1))], axis=1),
            b_ub=np.array(signs) * b1,
            bounds=[(None, None)] * inputs + [(None, 1.0)],
        )
        count += found.status == 0 and found.x[-1] > 1e-9
    return count


def check_regions(regions: Callable[[np.ndarray, np.ndarray], int], seed: int, n: int) -> Verdict:
    """Count the regions of one hidden layer; slack is the largest difference, negated."""
    rng = np.random.default_rng(seed)
    worst = search.Worst()

    def compare(w1: np.ndarray, b1: np.ndarray, exact: int, name: str) -> None:
        found = regions(w1, b1)
        worst.see(-abs(found - exact), f"{name}: {found} for {exact}")
        worst.pair(found, exact)

    for _ in range(n):
        for units in (3, 8, 13):
            w1, b1 = rng.normal(size=(units, 2)), rng.normal(size=units)
            compare(w1, b1, regions_of_lines(w1, b1), f"{units} lines")
        w1, b1 = rng.normal(size=(6, 2)), rng.normal(size=6)
        w1[3], b1[4:] = 2 * w1[2], 0.0
        compare(w1, b1, regions_of_lines(w1, b1), "6 lines, two parallel")
        w1 = rng.normal(size=(6, 2))
        compare(w1, np.zeros(6), regions_of_lines(w1, np.zeros(6)), "6 lines through a point")
        w1, b1 = rng.normal(size=(5, 3)), rng.normal(size=5)
        compare(w1, b1, regions_by_programs(w1, b1), "5 planes")
    return worst.verdict(seed, tolerance=0.0)


Pieces = list[tuple[np.ndarray, np.ndarray]]


def pieces_on_a_line(layers: Pieces) -> int:
    """Activation regions of a network with one input, exactly: breakpoints layer by layer."""
    edges = np.array([-1e6, 1e6])
    for depth in range(len(layers)):
        # Within a piece everything before the next ReLU is affine: two points give its zero.
        found = [edges]
        left, right = edges[:-1], edges[1:]
        inner = left + (right - left) / 3, right - (right - left) / 3
        low, high = (_before_relu(layers, x, depth) for x in inner)
        slope = (high - low) / (inner[1] - inner[0])[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = inner[0][:, None] - low / slope
        inside = (zero > left[:, None]) & (zero < right[:, None])
        found.append(zero[inside])
        edges = np.unique(np.concatenate(found))
    middle = (edges[1:] + edges[:-1]) / 2
    patterns = np.concatenate(
        [_before_relu(layers, middle, depth) > 0 for depth in range(len(layers))], axis=1
    )
    return 1 + int(np.any(patterns[1:] != patterns[:-1], axis=1).sum())


def _before_relu(layers: Pieces, inputs: np.ndarray, depth: int) -> np.ndarray:
    value = inputs[:, None]
    for number, (weight, bias) in enumerate(layers[: depth + 1]):
        value = (np.maximum(value, 0) if number else value) @ weight.T + bias
    return value


def check_bound(bound: Callable[[int, Sequence[int]], int], seed: int, trials: int) -> Verdict:
    """Compare with the regions of networks with one input, and of single layers of a plane.

    The slack is relative; in one layer the bound is reached.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), np.inf
    for widths in ((4,), (9,), (3, 3), (5, 4), (3, 3, 3), (6, 1, 6)):
        for _ in range(trials):
            layers = []
            for inputs, units in zip((1, *widths), widths, strict=False):
                layers.append((rng.normal(size=(units, inputs)), rng.normal(size=units)))
            exact, limit = pieces_on_a_line(layers), bound(1, widths)
            worst.see(limit / exact - 1, f"one input, widths {widths}: {exact} of {limit}")
            worst.pair(limit, exact)
            if len(widths) == 1:
                tightness = min(tightness, exact / limit)
    for units in (3, 7):
        w1, b1 = rng.normal(size=(units, 2)), rng.normal(size=units)
        exact, limit = regions_of_lines(w1, b1), bound(2, (units,))
        worst.see(limit / exact - 1, f"two inputs, {units} units: {exact} of {limit}")
        tightness = min(tightness, exact / limit)
    return worst.verdict(seed, tolerance=0.0, tightness=tightness, least_tightness=1.0)


def _polynomial(network: Network) -> Polynomial:
    found, owner = tropical.decision_polynomial(*network, classes=(0, 1))
    return np.asarray(found.coefficients), np.asarray(found.exponents), owner


def _uncancelled(network: Network) -> Polynomial:
    found, owner = tropical.decision_polynomial(*network, classes=(0, 1), cancel=False)
    return np.asarray(found.coefficients), np.asarray(found.exponents), owner


def _of_one_class(network: Network) -> Polynomial:
    coefficients, exponents, owner = _polynomial(network)
    kept = owner == owner[0]
    return coefficients[kept], exponents[kept], owner[kept]


def _without_bias(network: Network) -> Polynomial:
    w1, _, w2, b2 = network
    return _polynomial((w1, np.zeros(len(w1)), w2, b2))


def _shifted(network: Network) -> Polynomial:
    coefficients, exponents, owner = _polynomial(network)
    return coefficients + 1e-6 * (owner == owner[0]), exponents, owner


def _all_apart(network: Network) -> Polynomial:
    """Every tie of monomials taken for a piece of the boundary."""
    coefficients, exponents, owner = _uncancelled(network)
    return coefficients, exponents, np.arange(len(owner))


def _counted(w1: np.ndarray, b1: np.ndarray) -> int:
    return tropical.num_linear_regions(w1, b1, np.ones((1, len(w1))))


def _closed_form(w1: np.ndarray, b1: np.ndarray) -> int:
    return tropical.generic_num_regions(w1.shape[1], len(w1))


CLAIMS = (
    Claim(
        name="boundary-in-hypersurface",
        statement=(
            "Where two classes tie, two monomials of the tropical polynomial of the network attain "
            "its maximum: the boundary lies in the hypersurface."
        ),
        reference=REFERENCE,
        hypotheses=("one hidden layer, two classes, up to 3 inputs and 6 units",),
        check=check_containment,
        formula=_polynomial,
        trials=8,
        twins={
            "the monomials of one class": _of_one_class,
            "without the first biases": _without_bias,
            "one class lifted by 1e-6": _shifted,
        },
    ),
    Claim(
        name="boundary-is-bichromatic",
        statement=(
            "A point of the hypersurface is on the boundary exactly if monomials of two classes "
            "tie there."
        ),
        reference=f"{REFERENCE}; Brandenburg, Loho, Montufar, 2024, arXiv:2403.11871",
        hypotheses=(
            "one hidden layer, two classes, up to 3 inputs and 6 units",
            "the zonotopes of the paper, with the summand that both share",
        ),
        check=check_ties,
        formula=_uncancelled,
        trials=6,
        twins={"every point of the hypersurface": _all_apart, "without biases": _without_bias},
    ),
    Claim(
        name="linear-regions",
        statement="The count of linear regions is exact, in general position or not.",
        reference=f"{ZHANG}; Zaslavsky, Facing up to Arrangements, 1975",
        hypotheses=("one hidden layer; lines in the plane, 5 planes in space",),
        check=check_regions,
        formula=_counted,
        trials=3,
        axes=("count", "lines or linear programs"),
        twins={
            "as if in general position": _closed_form,
            "all sign vectors": lambda w, b: 2 ** len(w),
            "without the constant term": lambda w, b: _counted(w, b) - 1,
        },
    ),
    Claim(
        name="region-bound",
        statement="A ReLU network has at most prod_l sum_{i <= d_l} C(n_l, i) linear regions.",
        reference=f"{ZHANG}; Montufar, Notes on the number of linear regions, 2017",
        hypotheses=(
            "networks with one input and up to 3 layers, single layers of a plane",
            "reached by single layers",
        ),
        check=check_bound,
        formula=tropical.num_regions_upper,
        trials=12,
        axes=("bound", "regions"),
        twins={
            "the last layer left out": lambda d, n: tropical.num_regions_upper(
                d, n[:-1] if len(n) > 1 else n
            ),
            "one dimension less": lambda d, n: tropical.num_regions_upper(max(d - 1, 1), n),
            "twice as many": lambda d, n: 2 * tropical.num_regions_upper(d, n),
        },
    ),
)
