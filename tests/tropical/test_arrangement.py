"""Cells of arrangements: their number, their proofs, and the rays that span them."""

import re
import tracemalloc

import jax
import numpy as np
import pytest
from scipy import optimize

from jaxcert import tropical
from jaxcert.tropical import _arrangement, _generic_cells, _subsets
from tests.tropical import zonotope_cases as cases


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def check_cells(cells, generators):
    """Everything that the docstring of `SignCells` promises."""
    number, half = len(cells.signs), len(cells.signs) // 2
    lengths = np.linalg.norm(generators, axis=1)
    used = lengths > 0
    np.testing.assert_array_equal(cells.signs == 0, np.broadcast_to(~used, cells.signs.shape))
    np.testing.assert_allclose(np.linalg.norm(cells.witness, axis=1), 1.0, rtol=1e-12)
    sines = cells.signs[:, used] * (cells.witness @ generators[used].T) / lengths[used]
    assert sines.min() > 0
    np.testing.assert_allclose(cells.margin, sines.min(axis=1), rtol=1e-6, atol=1e-13)
    assert len(np.unique(cells.signs, axis=0)) == number
    np.testing.assert_array_equal(cells.signs[:half], -cells.signs[half:])
    np.testing.assert_array_equal(
        cells.rays[: len(cells.rays) // 2], -cells.rays[len(cells.rays) // 2 :]
    )
    np.testing.assert_allclose(np.linalg.norm(cells.rays, axis=1), 1.0, rtol=1e-12)
    assert len(np.unique(cells.rays.round(9), axis=0)) == len(cells.rays)
    # Every ray of a cell lies in its closure, and as many as the rank are independent.
    cell_of = np.repeat(np.arange(number), np.diff(cells.indptr))
    on_rays = cells.signs[cell_of][:, used] * (cells.rays[cells.indices] @ generators[used].T)
    assert on_rays.min() > -1e-9 * lengths.max()
    assert np.diff(cells.indptr).min() >= cells.rank
    for cell in np.random.default_rng(0).integers(number, size=min(number, 10)):
        rays = cells.rays[cells.indices[cells.indptr[cell] : cells.indptr[cell + 1]]]
        assert len(np.unique(rays.round(9), axis=0)) == len(rays)
        assert np.linalg.matrix_rank(rays, tol=1e-7) == cells.rank
        # Any vector of the cell is a non-negative sum of its rays: none is missing.
        directions = normal(cell, 5, generators.shape[1]) @ np.linalg.pinv(generators[used])
        directions = directions @ generators[used]
        inside = cells.witness[cell] + 0.5 * cells.margin[cell] * directions / np.linalg.norm(
            directions, axis=1, keepdims=True
        )
        for vector in inside:
            assert optimize.nnls(rays.T, vector)[1] < 1e-9


@pytest.mark.parametrize(
    ("generators", "count"),
    [pytest.param(g, n, id=name) for name, g, n, _ in cases.KNOWN if name != "type H4"],
)
def test_known_arrangements(generators, count):
    cells = tropical.sign_cells(generators)
    assert len(cells.signs) == count
    check_cells(cells, np.asarray(generators, float))


@pytest.mark.parametrize(
    ("dimension", "count"),
    [(1, 1), (1, 4), (2, 1), (2, 7), (3, 2), (3, 12), (4, 4), (4, 12), (5, 9), (6, 9)],
)
def test_general_position_has_as_many_cells_as_the_formula(dimension, count):
    generators = normal(dimension * 100 + count, count, dimension)
    cells = tropical.sign_cells(generators)
    assert len(cells.signs) == cases.generic_count(count, min(dimension, count))
    check_cells(cells, generators)


@pytest.mark.parametrize("seed", range(12))
def test_same_cells_as_linear_programs(seed):
    """Small integers give parallel, coplanar and rank-deficient generators in many ways."""
    generator = np.random.default_rng(seed)
    dimension = 2 + seed % 3
    generators = generator.integers(-1, 2, size=(6, dimension)).astype(float)
    generators = generators[np.any(generators != 0, axis=1)]
    cells = tropical.sign_cells(generators)
    assert set(map(tuple, cells.signs.tolist())) == cases.signs_by_linear_programs(generators)
    check_cells(cells, generators)


def test_zero_parallel_and_scaled_generators_change_no_cell():
    generators = normal(0, 7, 3)
    plain = tropical.sign_cells(generators)
    scales = np.array([1e-300, 1e300, 1.0, 1e-5, 1e8, 3.0, 0.5])[:, None]
    extended = np.concatenate([generators * scales, np.zeros((2, 3)), -2.0 * generators[:3]])
    cells = tropical.sign_cells(extended)
    np.testing.assert_array_equal(cells.signs[:, 7:9], 0)
    np.testing.assert_array_equal(cells.signs[:, 9:], -cells.signs[:, :3])
    assert {*map(tuple, cells.signs[:, :7].tolist())} == {*map(tuple, plain.signs.tolist())}


def test_flat_generators_stay_in_their_span():
    flat = normal(1, 6, 2) @ normal(2, 2, 5)
    cells = tropical.sign_cells(flat)
    assert cells.rank == 2
    assert len(cells.signs) == 12
    check_cells(cells, flat)
    complement = np.linalg.svd(flat)[2][2:]
    np.testing.assert_allclose(cells.rays @ complement.T, 0.0, atol=1e-12)
    np.testing.assert_allclose(cells.witness @ complement.T, 0.0, atol=1e-12)


@pytest.mark.parametrize("generators", [np.zeros((0, 3)), np.zeros((4, 3))])
def test_no_generator_leaves_one_cell(generators):
    cells = tropical.sign_cells(generators)
    assert cells.signs.shape == (1, len(generators))
    assert not cells.signs.any()
    assert cells.rank == 0
    assert cells.margin.tolist() == [np.inf]
    assert cells.indptr.tolist() == [0, 0]


@pytest.mark.parametrize("count", [63, 64, 65, 130])
def test_any_number_of_generators(count):
    generators = normal(count, count, 3)
    cells = tropical.sign_cells(generators)
    assert len(cells.signs) == cases.generic_count(count, 3)
    assert len(np.unique(cells.signs, axis=0)) == len(cells.signs)
    assert cells.margin.min() > 0


def test_keys_that_are_too_narrow_would_be_noticed(monkeypatch):
    """Broken on purpose: 64 bits for 70 generators take different cells for one."""
    pack = _subsets.pack

    def narrow(bits):
        words = pack(bits)
        words[:, 1:] = 0
        return words

    generators = normal(70, 70, 3)
    assert len(tropical.sign_cells(generators).signs) == cases.generic_count(70, 3)
    monkeypatch.setattr(_subsets, "pack", narrow)
    assert len(tropical.sign_cells(generators).signs) != cases.generic_count(70, 3)


def test_the_witness_is_what_rejects_spurious_cells(monkeypatch):
    """Broken on purpose: a tolerance below the rounding takes coplanar generators for others.

    Turned into float coordinates the permutohedron is degenerate only up to rounding. The signs
    are then those of no arrangement, but no cell passes that is not one of the 24.
    """
    turned = cases.permutohedron(4) @ np.linalg.qr(normal(0, 3, 3))[0]
    cells = tropical.sign_cells(turned)
    true = set(map(tuple, cells.signs.tolist()))
    assert len(true) == 24
    units = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    passed = set(map(tuple, _arrangement.half_cells(units, 1e-18).signs.tolist()))
    assert passed <= true
    monkeypatch.setattr(_generic_cells, "ROUNDING", -np.inf)
    unchecked = set(map(tuple, _arrangement.half_cells(units, 1e-18).signs.tolist()))
    assert not unchecked <= true


def test_a_linear_function_is_extremal_at_the_rays():
    """The recipe of the docstring, against the values at many points of the cells."""
    generators = normal(3, 8, 3)
    cells = tropical.sign_cells(generators)
    weights = normal(4, 8)

    def function(vectors):
        return np.maximum(vectors @ generators.T, 0.0) @ weights

    values = function(cells.rays)[cells.indices]
    crosses = (np.minimum.reduceat(values, cells.indptr[:-1]) < 0) & (
        np.maximum.reduceat(values, cells.indptr[:-1]) > 0
    )
    points = normal(5, 20_000, 3)
    signs = np.sign(points @ generators.T).astype(np.int8)
    positive = function(points) > 0
    number = {tuple(s): i for i, s in enumerate(cells.signs.tolist())}
    cell_of = np.array([number[tuple(s)] for s in signs.tolist()])
    seen = np.zeros((len(cells.signs), 2), bool)
    seen[cell_of, positive.astype(int)] = True
    assert not np.any(seen.all(axis=1) & ~crosses)
    assert np.sum(seen.all(axis=1)) > 0.5 * np.sum(crosses) > 5


@pytest.mark.parametrize(
    ("function", "wrap"),
    [
        (tropical.sign_cells, lambda g: g),
        (tropical.vertices, lambda g: tropical.Zonotope(np.zeros(g.shape[1]), g)),
        (tropical.facets, lambda g: tropical.Zonotope(np.zeros(g.shape[1]), g)),
    ],
)
def test_the_cost_is_said_before_it_starts_and_is_not_too_low(function, wrap):
    huge = wrap(normal(0, 200, 12))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"max_bytes=8589934592, got 200 distinct .* GiB"):
        function(huge)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    for dimension, count in ((3, 100), (5, 20), (4, 30)):
        argument = wrap(normal(1, count, dimension))
        with pytest.raises(ValueError, match="GiB") as error:
            function(argument, max_bytes=1)
        said = float(re.search(r"about (\S+) GiB", str(error.value)).group(1)) * 2**30
        tracemalloc.start()
        function(argument)
        assert tracemalloc.get_traced_memory()[1] < said
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("generators", "settings", "error", "message"),
    [
        ([[1.0, np.nan]], {}, ValueError, "generators must be finite, .* rows \\[0\\]"),
        ([[1.0, 0.0], [np.inf, 0.0]], {}, ValueError, "rows \\[1\\]"),
        ([1.0, 2.0], {}, ValueError, "shape \\[m, d\\]"),
        (np.zeros((3, 0)), {}, ValueError, "d >= 1"),
        ([[1j, 0.0]], {}, TypeError, "real numbers, got complex"),
        ([["a", "b"]], {}, TypeError, "real numbers"),
        ([[1.0, 0.0]], {"tolerance": 0.0}, ValueError, "tolerance must lie"),
        ([[1.0, 0.0]], {"max_bytes": 0}, ValueError, "max_bytes must lie"),
    ],
)
def test_bad_input(generators, settings, error, message):
    with pytest.raises(error, match=message):
        tropical.sign_cells(generators, **settings)


def test_traced_generators_are_refused():
    with pytest.raises(TypeError, match="generators must be concrete"):
        jax.jit(lambda g: tropical.sign_cells(g).margin)(np.eye(2))


def test_subsets_are_numbered_without_gaps():
    everything = _subsets.combinations(7, 3, 0, 35)
    assert len({tuple(s) for s in everything.tolist()}) == 35
    assert np.all(np.diff(everything, axis=1) > 0)
    assert everything.max() == 6
    np.testing.assert_array_equal(_subsets.combinations(7, 3, 11, 20), everything[11:20])
    assert _subsets.combinations(4, 0, 0, 1).shape == (1, 0)


def test_packed_bits_come_back():
    bits = normal(0, 9, 131) > 0
    np.testing.assert_array_equal(_subsets.unpack(_subsets.pack(bits), 131), bits)
    np.testing.assert_array_equal(_subsets.pack_columns(bits.T), _subsets.pack(bits))
    repeated = _subsets.pack(np.concatenate([bits, bits[4:5]]))
    assert _subsets.has_repeated(repeated)
    assert not _subsets.has_repeated(repeated[:-1])
