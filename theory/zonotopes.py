"""Claims about zonotopes, by all sums of their generators, general hulls and linear programs."""

import itertools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from scipy import optimize, spatial

from jaxcert import tropical
from theory import search
from theory.ledger import Claim, Verdict

Generators = np.ndarray
# Takes dimension and number of generators.
Count = Callable[[int, int], int]
VertexCount = Callable[[Generators], int]
Volume = Callable[[np.ndarray, Generators], float]
# Takes base, generators and directions `[n, d]` to supports `[n]`.
Support = Callable[[np.ndarray, Generators, np.ndarray], np.ndarray]
# Takes base, generators and points `[n, d]` to whether they are inside, and directions `[n, d]`.
Membership = Callable[[np.ndarray, Generators, np.ndarray], tuple[np.ndarray, np.ndarray]]

SHAPES = ((2, 3), (2, 8), (3, 4), (3, 7), (4, 5), (4, 7))
ZIEGLER = "Ziegler, Lectures on Polytopes, 1995, chapter 7"
SHEPHARD = "Shephard, Combinatorial Properties of Associated Zonotopes, 1974"


def sums(base: np.ndarray, generators: Generators) -> np.ndarray:
    """Base plus every sum of some of the generators: the vertices are among them."""
    choices = np.array(list(itertools.product((0, 1), repeat=len(generators))))
    return base + choices @ generators


def differences(size: int) -> Generators:
    """e_i - e_j for i < j, the last coordinate left out: the generators of the permutohedron."""
    unit = np.eye(size)
    rows = [unit[i] - unit[j] for i, j in itertools.combinations(range(size), 2)]
    return np.array(rows)[:, :-1]


def degenerate() -> Iterator[tuple[str, Generators, int]]:
    """Zonotopes with dependent generators whose vertices are known."""
    unit = np.eye(3)
    yield (
        "rhombic dodecahedron",
        np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
        14,
    )
    yield "hexagonal prism", np.array([unit[0], unit[1], unit[0] + unit[1], unit[2]]), 12
    yield "permutohedron of 4", differences(4), math.factorial(4)
    yield "permutohedron of 5", differences(5), math.factorial(5)
    both = [unit[i] + s * unit[j] for i, j in itertools.combinations(range(3), 2) for s in (1, -1)]
    yield "truncated cuboctahedron", np.array([*unit, *both]), 48
    yield "cube with a doubled and a zero generator", np.array([*unit, unit[0], 0 * unit[0]]), 8


def check_generic_count(count: Count, seed: int, trials: int) -> Verdict:
    """Count the vertices of hulls of all sums; slack is the largest difference, negated."""
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for dimension, number in SHAPES:
        for _ in range(trials):
            points = sums(np.zeros(dimension), rng.normal(size=(number, dimension)))
            exact = len(spatial.ConvexHull(points).vertices)
            found = count(dimension, number)
            worst.see(-abs(found - exact), f"{number} generators in {dimension}-d: {exact}")
        worst.pair(found, exact)
    return worst.verdict(seed, tolerance=0.0)


def check_vertex_count(count: VertexCount, seed: int, trials: int) -> Verdict:
    """The same for an enumeration, dependent generators included."""
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for dimension, number in SHAPES:
        for _ in range(trials):
            generators = rng.normal(size=(number, dimension))
            exact = len(spatial.ConvexHull(sums(np.zeros(dimension), generators)).vertices)
            found = count(generators)
            worst.see(-abs(found - exact), f"{number} generators in {dimension}-d: {exact}")
        worst.pair(found, exact)
    for name, generators, exact in degenerate():
        found = count(generators)
        worst.see(-abs(found - exact), f"{name}: {found} for {exact}")
        worst.pair(found, exact)
    return worst.verdict(seed, tolerance=0.0)


def check_volume(volume: Volume, seed: int, trials: int) -> Verdict:
    """Compare with the volume of the hull of all sums; slack is relative."""
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for dimension, number in SHAPES:
        for _ in range(trials):
            base, generators = rng.normal(size=dimension), rng.normal(size=(number, dimension))
            exact = float(spatial.ConvexHull(sums(base, generators)).volume)
            found = volume(base, generators)
            worst.see(-abs(found / exact - 1), f"{number} generators in {dimension}-d: {exact:.6g}")
            worst.pair(found, exact)
    for size in (4, 5):
        # Spanning trees of the complete graph, by Cayley.
        found, exact = volume(np.zeros(size - 1), differences(size)), float(size ** (size - 2))
        worst.see(-abs(found / exact - 1), f"permutohedron of {size}: {exact:g}")
    return worst.verdict(seed, tolerance=1e-9)


def check_support(support: Support, seed: int, trials: int) -> Verdict:
    """Compare with the largest product over all sums; slack is relative to the size of the set."""
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for dimension, number in SHAPES:
        base, generators = rng.normal(size=dimension), rng.normal(size=(number, dimension))
        directions = rng.normal(size=(trials, dimension))
        products = directions @ sums(base, generators).T
        gap = np.abs(support(base, generators, directions) - products.max(axis=1))
        gap /= np.abs(products).max()
        worst.see(-gap.max(), f"{number} generators in {dimension}-d", count=trials)
    return worst.verdict(seed, tolerance=1e-13)


def depth(base: np.ndarray, generators: Generators, point: np.ndarray) -> float:
    """How far t may stay within [0, 1], at least, when `base + t G` is the point: by HiGHS.

    Negative: outside. The point is inside if some t has all its entries in [0, 1].
    """
    number = len(generators)
    goal = np.append(np.zeros(number), -1.0)
    ones = np.ones((number, 1))
    above = np.concatenate([np.eye(number), ones], axis=1)
    below = np.concatenate([-np.eye(number), ones], axis=1)
    found = optimize.linprog(
        goal,
        A_ub=np.concatenate([above, below]),
        b_ub=np.append(np.ones(number), np.zeros(number)),
        A_eq=np.concatenate([generators.T, np.zeros((len(point), 1))], axis=1),
        b_eq=point - base,
        bounds=[(None, None)] * (number + 1),
    )
    return float(found.x[-1])


def check_membership(membership: Membership, seed: int, trials: int) -> Verdict:
    """Compare with linear programs close to the surface, and try the separating directions.

    The slack is 1 where the answer is right and -1 where it is wrong.
    """
    rng = np.random.default_rng(seed)
    worst = search.Worst()
    for dimension, number in SHAPES:
        base, generators = rng.normal(size=dimension), rng.normal(size=(number, dimension))
        corners = sums(base, generators)
        # Between the vertices of a few directions each, and then a little in or out.
        directions = rng.normal(size=(trials, 1, dimension)) + 0.3 * rng.normal(
            size=(trials, dimension, dimension)
        )
        best = corners[(directions @ corners.T).argmax(axis=2)]
        on_face = np.einsum("ns,nsd->nd", rng.dirichlet(np.ones(dimension), size=trials), best)
        scale = np.exp(rng.choice([-0.3, -1e-2, 1e-2, 0.3], size=(trials, 1)))
        points = base + generators.sum(axis=0) / 2
        points = points + scale * (on_face - points)
        inside, separating = membership(base, generators, points)
        for point, answer, direction in zip(points, inside, separating, strict=True):
            found = depth(base, generators, point)
            right = bool(answer) == (found >= 0)
            if right and not answer:
                right = direction @ point > (corners @ direction).max()
            worst.see(1.0 if right else -1.0, f"{number} generators in {dimension}-d, {found:+.2e}")
    return worst.verdict(seed, tolerance=0.0)


def _enumerated(generators: Generators) -> int:
    zonotope = tropical.Zonotope(np.zeros(generators.shape[1]), generators)
    return len(tropical.vertices(zonotope).points)


def _generic(dimension: int, number: int) -> int:
    return 2 * tropical.generic_num_regions(dimension - 1, number - 1)


def _volume(base: np.ndarray, generators: Generators) -> float:
    with jax.enable_x64(True):
        return float(tropical.volume(tropical.Zonotope(base, generators)))


def _support(base: np.ndarray, generators: Generators, directions: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(tropical.support(tropical.Zonotope(base, generators), directions))


def _membership(
    base: np.ndarray, generators: Generators, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    found = tropical.contains(tropical.Zonotope(base, generators), points)
    return found.inside, found.direction


def _one_solution(
    base: np.ndarray, generators: Generators, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve for t once, by least squares, and look whether it lies in the box."""
    found = (points - base) @ np.linalg.pinv(generators)
    return np.all((found >= 0) & (found <= 1), axis=1), np.zeros_like(points)


def _few_directions(
    base: np.ndarray, generators: Generators, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Call inside what none of 50 directions separates."""
    directions = np.random.default_rng(0).normal(size=(50, points.shape[1]))
    lead = points @ directions.T - _support(base, generators, directions)
    return lead.max(axis=1) <= 0, directions[lead.argmax(axis=1)]


CLAIMS = (
    Claim(
        name="zonotope-generic-vertices",
        statement=(
            "A zonotope of m generators in general position in R^d has 2 sum_{i<d} C(m-1, i) "
            "vertices."
        ),
        reference=ZIEGLER,
        hypotheses=(f"dimensions and generators {SHAPES}, normal generators",),
        check=check_generic_count,
        formula=_generic,
        trials=3,
        axes=("formula", "vertices of the hull"),
        twins={
            "one term more": lambda d, m: 2 * tropical.generic_num_regions(d, m - 1),
            "hyperplanes that need not meet": tropical.generic_num_regions,
            "twice the generators, as in the plane": lambda d, m: 2 * m,
        },
    ),
    Claim(
        name="zonotope-vertices",
        statement="The enumeration finds every vertex once, whatever the generators.",
        reference=ZIEGLER,
        hypotheses=(
            f"dimensions and generators {SHAPES}, normal generators",
            "six zonotopes with dependent generators and known vertices",
        ),
        check=check_vertex_count,
        formula=_enumerated,
        trials=2,
        axes=("enumeration", "vertices"),
        twins={
            "as if in general position": lambda g: _generic(g.shape[1], len(g)),
            "all sums": lambda g: 2 ** len(g),
        },
    ),
    Claim(
        name="zonotope-volume",
        statement="The volume is the sum of |det| over all choices of d generators.",
        reference=SHEPHARD,
        hypotheses=(f"dimensions and generators {SHAPES}", "two permutohedra, by spanning trees"),
        check=check_volume,
        formula=_volume,
        trials=4,
        axes=("formula", "volume of the hull"),
        twins={
            "the root of the Gram determinant": lambda b, g: math.sqrt(np.linalg.det(g.T @ g)),
            "segments to both sides": lambda b, g: 2.0 ** len(b) * _volume(b, g),
            "determinants with their signs": lambda b, g: abs(
                sum(
                    np.linalg.det(g[list(s)]) for s in itertools.combinations(range(len(g)), len(b))
                )
            ),
        },
    ),
    Claim(
        name="zonotope-support",
        statement="h(u) = <u, b> + sum_i max(<u, g_i>, 0) is the largest <u, x> over the zonotope.",
        reference=ZIEGLER,
        hypotheses=(f"dimensions and generators {SHAPES}",),
        check=check_support,
        formula=_support,
        trials=60,
        twins={
            "segments from the centre": lambda b, g, u: u @ b + np.abs(u @ g.T).sum(axis=1),
            "the longest generator alone": lambda b, g, u: (
                u @ b + np.maximum(u @ g.T, 0).max(axis=1)
            ),
        },
    ),
    Claim(
        name="zonotope-duality",
        statement=(
            "A point is outside exactly if some direction u has <u, x> > h(u), and the direction "
            "given separates it."
        ),
        reference="Farkas, Theorie der einfachen Ungleichungen, 1902; " + ZIEGLER,
        hypotheses=(
            f"dimensions and generators {SHAPES}",
            "points within 1 percent of the surface",
        ),
        check=check_membership,
        formula=_membership,
        trials=16,
        twins={
            "one solution for the coefficients": _one_solution,
            "fifty directions": _few_directions,
        },
    ),
)
