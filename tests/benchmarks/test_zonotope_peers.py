"""The other packages, where they are installed, and the table of what each can do."""

import importlib.util

import pytest

from benchmarks import registry, tropical, zonotope_peers


@pytest.mark.parametrize("name", zonotope_peers.PEERS)
def test_peers_count_the_vertices_of_a_small_zonotope(name):
    package = zonotope_peers.PACKAGES.get(name.split(",")[0])
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package}, of the zonotopes extra, is not installed")
    numbers = zonotope_peers.integers(3, 6)
    assert zonotope_peers.PEERS[name](numbers) == zonotope_peers.num_vertices(6, 3) == 32


def test_integer_normals_are_orthogonal_to_their_sets():
    numbers = zonotope_peers.integers(4, 5)
    for normal, reach in zonotope_peers._integer_facets(numbers):
        assert (numbers.astype(object) @ normal).tolist() == reach
        assert reach.count(0) == 3


def test_every_step_of_the_ladder_is_a_case():
    assert set(tropical._REACH) == set(zonotope_peers.PEERS)
    for dimension, counts in zonotope_peers.LADDER.items():
        for count in counts:
            assert f"vertices-{dimension}d-{count}" in registry.CASES


def test_wrong_counts_are_reported_and_not_timed(monkeypatch):
    monkeypatch.setitem(zonotope_peers.PEERS, "scipy, incremental", lambda numbers: 7)
    case = registry.CASES["vertices-3d-10"](True)
    assert case.settings["wrong numbers of vertices"] == {"scipy, incremental": 7}
    assert "scipy, incremental" not in case.variants
    assert {aim.denominator for aim in case.aims} == {"jaxcert"}
