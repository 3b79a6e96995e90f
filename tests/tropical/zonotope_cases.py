"""Zonotopes with known counts and volumes, and oracles that share no code with the package."""

import itertools
import math
from fractions import Fraction

import numpy as np
from scipy import optimize


def permutohedron(size):
    """The graphical zonotope of a complete graph, of full dimension: size! vertices."""
    return graphical(size, list(itertools.combinations(range(size), 2)))


def graphical(size, edges):
    """Generators e_i - e_j of the edges of a graph, without the last coordinate."""
    unit = np.eye(size)
    return np.array([unit[i] - unit[j] for i, j in edges])[:, :-1]


def type_b(size):
    """The generators e_i and e_i +- e_j: 2^n n! vertices."""
    unit = np.eye(size)
    pairs = itertools.combinations(range(size), 2)
    return np.array([*unit, *(unit[i] + s * unit[j] for i, j in pairs for s in (1, -1))])


def type_h4():
    """The 60 axes of the 600-cell, with golden ratios: 14400 vertices."""
    golden = (1 + 5**0.5) / 2
    roots = [*np.eye(4), *(np.array((1, *s)) / 2 for s in itertools.product((1, -1), repeat=3))]
    even = [
        p for p in itertools.permutations(range(4)) if round(np.linalg.det(np.eye(4)[list(p)])) == 1
    ]
    for signs in itertools.product((1, -1), repeat=2):
        corner = np.array([golden, signs[0], signs[1] / golden, 0.0]) / 2
        roots += [corner[list(p)] for p in even]
    return np.array(roots)


def zero_one(size):
    """All vectors of zeros and ones but 0, the resonance arrangement (OEIS A034997)."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=size))[1:])


# Name, generators, vertices, volume: the published ones, or None.
KNOWN = [
    (
        "rhombic dodecahedron",
        np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
        14,
        16,
    ),
    ("hexagonal prism", np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]), 12, 3),
    ("permutohedron of 4", permutohedron(4), 24, 16),
    ("permutohedron of 5", permutohedron(5), 120, 125),
    ("truncated cuboctahedron", type_b(3), 48, 87),
    ("type B4", type_b(4), 384, None),
    ("type H4", type_h4(), 14400, None),
    ("zeros and ones in R^3", zero_one(3), 32, None),
    ("zeros and ones in R^4", zero_one(4), 370, None),
    ("cube", np.eye(5), 32, 1),
]


def generic_count(count, rank):
    """Vertices of a zonotope of lines in general position."""
    if count <= rank:
        return 2**count
    return 2 * sum(math.comb(count - 1, i) for i in range(rank))


def acyclic_orientations(size, edges):
    """By deletion and contraction."""
    edges = {frozenset(e) for e in edges}
    if not edges:
        return 1
    edge = next(iter(edges))
    rest = edges - {edge}
    kept, gone = sorted(edge)
    merged = {frozenset(kept if v == gone else v for v in e) for e in rest}
    return acyclic_orientations(size, rest) + acyclic_orientations(size, merged)


def spanning_trees(size, edges):
    """By Kirchhoff's theorem, in rational numbers."""
    laplacian = [[Fraction(0)] * size for _ in range(size)]
    for i, j in edges:
        laplacian[i][i] += 1
        laplacian[j][j] += 1
        laplacian[i][j] -= 1
        laplacian[j][i] -= 1
    result = Fraction(1)
    for k in range(size - 1):
        pivot = next((r for r in range(k, size - 1) if laplacian[r][k]), None)
        if pivot is None:
            return 0
        if pivot != k:
            laplacian[k], laplacian[pivot] = laplacian[pivot], laplacian[k]
            result = -result
        result *= laplacian[k][k]
        for r in range(k + 1, size - 1):
            factor = laplacian[r][k] / laplacian[k][k]
            laplacian[r] = [a - factor * b for a, b in zip(laplacian[r], laplacian[k], strict=True)]
    return int(result)


def random_graph(seed, size, num_edges):
    generator = np.random.default_rng(seed)
    pairs = list(itertools.combinations(range(size), 2))
    return [pairs[i] for i in generator.choice(len(pairs), num_edges, replace=False)]


def signs_by_linear_programs(generators):
    """All sign vectors of cells: a linear program for each of the 2^m candidates."""
    count, dimension = generators.shape
    found = set()
    for signs in itertools.product((1, -1), repeat=count):
        signed = np.array(signs)[:, None] * generators
        solved = optimize.linprog(
            np.append(np.zeros(dimension), -1.0),
            A_ub=np.column_stack([-signed, np.ones(count)]),
            b_ub=np.zeros(count),
            bounds=[(-1.0, 1.0)] * dimension + [(None, 1.0)],
        )
        if solved.x[-1] > 1e-9:
            found.add(signs)
    return found


def volume_by_determinants(generators):
    dimension = generators.shape[1]
    return sum(
        abs(np.linalg.det(generators[list(s)]))
        for s in itertools.combinations(range(len(generators)), dimension)
    )


def support_by_sums(base, generators, directions):
    """The support function in float64, term by term."""
    return directions @ base + np.maximum(directions @ np.asarray(generators).T, 0.0).sum(axis=-1)
