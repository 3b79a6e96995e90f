"""The vertices of a zonotope with other packages, each in the way that suits it best.

Needs the `zonotopes` extra; a package that is missing is left out, with the reason.
`python -m benchmarks.zonotope_peers` measures how far each one gets within a limit of CPU time.
"""

import functools
import itertools
import math
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import spatial

# Generators are integers over this, so that exact packages get the same numbers.
DENOMINATOR = 10_000
CPU_LIMIT = 10
LADDER = {
    3: (10, 15, 20, 25, 30, 60),
    4: (10, 15, 20, 25, 30, 40, 60),
    5: (10, 15, 20, 25, 30, 40, 60),
    6: (10, 15, 20, 25, 30, 40),
}


def integers(dimension: int, count: int) -> np.ndarray:
    """Integers `[m, d]`; over `DENOMINATOR` they are the generators of the benchmark."""
    generator = np.random.default_rng(1000 * dimension + count)
    return generator.integers(-DENOMINATOR + 1, DENOMINATOR, size=(count, dimension))


def num_vertices(count: int, dimension: int) -> int:
    """How many vertices the zonotope has: its generators are in general position."""
    return 2 * sum(math.comb(count - 1, i) for i in range(dimension))


def qhull_of_sums(numbers: np.ndarray) -> int:
    """SciPy: the hull of all 2^m sums."""
    sums = np.zeros((1, numbers.shape[1]))
    for generator in numbers / DENOMINATOR:
        sums = np.concatenate([sums, sums + generator])
    return spatial.ConvexHull(sums).vertices.size


def qhull_incremental(numbers: np.ndarray) -> int:
    """SciPy: one generator after the other, keeping the vertices of the hull."""
    points = _start(numbers, DENOMINATOR)
    for generator in numbers[numbers.shape[1] :] / DENOMINATOR:
        points = np.concatenate([points, points + generator])
        points = points[spatial.ConvexHull(points).vertices]
    return len(points)


def ppl_incremental(numbers: np.ndarray) -> int:
    """The Parma Polyhedra Library, exact: one generator after the other."""
    import ppl

    points = _start(numbers, 1).astype(int).tolist()
    for generator in numbers[numbers.shape[1] :].tolist():
        points += [[a + b for a, b in zip(p, generator, strict=True)] for p in points]
        system = ppl.Generator_System()
        for point in points:
            system.insert(ppl.point(ppl.Linear_Expression(point, 0)))
        reduced = ppl.C_Polyhedron(system).minimized_generators()
        points = [[int(c) for c in g.coefficients()] for g in reduced]
    return len(points)


def ppl_facets(numbers: np.ndarray) -> int:
    """The Parma Polyhedra Library, exact: from the facets, whose normals are cofactors."""
    import ppl

    system = ppl.Constraint_System()
    for normal, reach in _integer_facets(numbers):
        form = ppl.Linear_Expression(normal, 0)
        system.insert(form <= sum(v for v in reach if v > 0))
        system.insert(form >= sum(v for v in reach if v < 0))
    return len(ppl.C_Polyhedron(system).minimized_generators())


def cdd_incremental(numbers: np.ndarray) -> int:
    """pycddlib in floating point: one generator after the other, redundancy by linear programs."""
    import cdd

    points = _start(numbers, DENOMINATOR)
    for generator in numbers[numbers.shape[1] :] / DENOMINATOR:
        points = np.concatenate([points, points + generator])
        rows = np.column_stack([np.ones(len(points)), points]).tolist()
        matrix = cdd.matrix_from_array(rows, rep_type=cdd.RepType.GENERATOR)
        redundant = cdd.redundant_rows(matrix)
        points = np.delete(points, sorted(redundant), axis=0)
    return len(points)


def cdd_facets(numbers: np.ndarray) -> int:
    """pycddlib in floating point: from the facets."""
    import cdd

    rows = []
    for normal, reach in _integer_facets(numbers):
        values = np.array(normal, float) / np.linalg.norm(np.array(normal, float))
        extent = np.array(reach, float) / np.linalg.norm(np.array(normal, float))
        rows.append([np.maximum(extent, 0).sum() / DENOMINATOR, *(-values)])
        rows.append([np.maximum(-extent, 0).sum() / DENOMINATOR, *values])
    matrix = cdd.matrix_from_array(rows, rep_type=cdd.RepType.INEQUALITY)
    return len(cdd.copy_generators(cdd.polyhedron_from_matrix(matrix)).array)


def polytope_incremental(numbers: np.ndarray) -> int:
    """polytope: one generator after the other."""
    import polytope

    points = _start(numbers, DENOMINATOR)
    for generator in numbers[numbers.shape[1] :] / DENOMINATOR:
        points = np.concatenate([points, points + generator])
        points = polytope.extreme(polytope.qhull(points))
        # It returns most vertices twice.
        points = np.unique(points.round(6), axis=0)
    return len(points)


PEERS: dict[str, Callable[[np.ndarray], int]] = {
    "scipy, all sums": qhull_of_sums,
    "scipy, incremental": qhull_incremental,
    "pplpy, incremental": ppl_incremental,
    "pplpy, from facets": ppl_facets,
    "pycddlib, incremental": cdd_incremental,
    "pycddlib, from facets": cdd_facets,
    "polytope, incremental": polytope_incremental,
}
PACKAGES = {"pplpy": "ppl", "pycddlib": "cdd", "polytope": "polytope"}


def _start(numbers: np.ndarray, denominator: int) -> np.ndarray:
    """The parallelotope of the first d generators, which are independent."""
    dimension = numbers.shape[1]
    corners = np.array(list(itertools.product((0, 1), repeat=dimension)))
    return corners @ (numbers[:dimension] / denominator)


def _integer_facets(numbers: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Normals of pairs of facets as integers, and their products with all generators."""
    dimension = numbers.shape[1]
    found = []
    rows = numbers.astype(object)
    for subset in itertools.combinations(range(len(numbers)), dimension - 1):
        normal = _cross(tuple(tuple(rows[i]) for i in subset))
        found.append((normal, [int(v) for v in rows @ np.array(normal, object)]))
    return found


def _cross(rows: tuple[tuple[int, ...], ...]) -> list[int]:
    """The generalised cross product in integers."""
    dimension = len(rows) + 1

    @functools.cache
    def minor(row: int, columns: tuple[int, ...]) -> int:
        if row == len(rows):
            return 1
        return sum(
            (-1) ** k * rows[row][c] * minor(row + 1, columns[:k] + columns[k + 1 :])
            for k, c in enumerate(columns)
        )

    everything = tuple(range(dimension))
    return [(-1) ** c * minor(0, everything[:c] + everything[c + 1 :]) for c in everything]


def _child(name: str, dimension: int, count: int, answer: Any) -> None:
    numbers = integers(dimension, count)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT + 2, CPU_LIMIT + 2))
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    start = time.process_time()
    try:
        number: Any = PEERS[name](numbers)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        number = f"{type(error).__name__}"
    answer.put((number, time.process_time() - start))


def probe(name: str, dimension: int, count: int) -> tuple[Any, float] | None:
    """Vertices and CPU seconds of one peer in a process of its own; None beyond the limit."""
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_child, args=(name, dimension, count, answer))
    process.start()
    process.join()
    return None if answer.empty() else answer.get()


def main() -> None:
    """Climb the ladder with every peer until one step is beyond the limit or wrong."""
    for dimension, counts in LADDER.items():
        for name in PEERS:
            line = []
            for count in counts:
                found = probe(name, dimension, count)
                if found is None or found[1] > CPU_LIMIT:
                    line.append(f"{count}: beyond {CPU_LIMIT} s")
                    break
                right = num_vertices(count, dimension)
                line.append(
                    f"{count}: {found[1]:.2f} s"
                    + ("" if found[0] == right else f" WRONG {found[0]}")
                )
                if found[0] != right:
                    break
            print(f"{dimension}  {name:24} {'; '.join(line)}", flush=True)


if __name__ == "__main__":
    main()
