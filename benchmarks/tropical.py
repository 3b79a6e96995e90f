"""Vertices of zonotopes beside other packages. Importing this module registers the cases."""

import functools
import importlib.util
import time

import numpy as np

from benchmarks import zonotope_peers
from benchmarks.registry import Aim, Case, register
from jaxcert import tropical

# The largest step of the ladder that each peer climbs in a few seconds, or the first where it gives
# a wrong answer (`python -m benchmarks.zonotope_peers` climbs on); beyond, a run would be long.
# 0: none. In six dimensions pycddlib fails from facets with ten generators already.
_REACH = {
    "scipy, all sums": {3: 20, 4: 20, 5: 15, 6: 10},
    "scipy, incremental": {3: 60, 4: 25, 5: 15, 6: 10},
    "pplpy, incremental": {3: 30, 4: 15, 5: 10, 6: 0},
    "pplpy, from facets": {3: 30, 4: 15, 5: 10, 6: 0},
    "pycddlib, incremental": {3: 20, 4: 10, 5: 10, 6: 10},
    "pycddlib, from facets": {3: 25, 4: 15, 5: 10, 6: 0},
    "polytope, incremental": {3: 10, 4: 0, 5: 0, 6: 0},
}
# From this many generators on the aim is to be ten times as fast as the best of them.
_AIM_FROM = {4: 20, 5: 10, 6: 10}
_AIM = 10.0


def _ours(numbers: np.ndarray) -> int:
    generators = numbers / zonotope_peers.DENOMINATOR
    zonotope = tropical.Zonotope(np.zeros(numbers.shape[1]), generators)
    return len(tropical.vertices(zonotope).points)


def _missing(peer: str) -> bool:
    package = zonotope_peers.PACKAGES.get(peer.split(",")[0])
    return package is not None and importlib.util.find_spec(package) is None


def _case(dimension: int, count: int, quick: bool) -> Case:
    numbers = zonotope_peers.integers(dimension, count)
    expected = zonotope_peers.num_vertices(count, dimension)
    within = [name for name, reach in _REACH.items() if reach[dimension] >= count]
    missing = [name for name in within if _missing(name)]
    runners = {"jaxcert": _ours, **{n: zonotope_peers.PEERS[n] for n in within if n not in missing}}
    wrong, slowest = {}, 0.0
    for name, runner in list(runners.items()):
        start = time.perf_counter()
        found = runner(numbers)
        slowest = max(slowest, time.perf_counter() - start)
        if found != expected:
            # A time for a wrong answer would be no time at all.
            wrong[name] = found
            del runners[name]
    if "jaxcert" in wrong:
        raise AssertionError(f"expected {expected} vertices, got {wrong['jaxcert']}")
    at_least = _AIM if count >= _AIM_FROM.get(dimension, 2**30) else None
    return Case(
        variants={name: functools.partial(runner, numbers) for name, runner in runners.items()},
        aims=tuple(
            Aim(name, "jaxcert", at_least=at_least) for name in runners if name != "jaxcert"
        ),
        settings={
            "dimension": dimension,
            "generators": count,
            "vertices": expected,
            "not run, slow, wrong or failing before this step": [
                n for n in _REACH if n not in within
            ],
            "not installed": missing,
            "wrong numbers of vertices": wrong,
        },
        items=expected,
        unit="vertex",
        # Ratios in the hundreds need no second look where a peer takes seconds.
        repetitions=1 if quick or slowest > 1.0 else 5,
    )


for _dimension, _counts in zonotope_peers.LADDER.items():
    for _count in _counts:
        register(f"vertices-{_dimension}d-{_count}")(functools.partial(_case, _dimension, _count))
