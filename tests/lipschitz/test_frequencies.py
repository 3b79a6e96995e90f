"""Norms of convolutions on a torus, against singular values of a fast transform."""

import numpy as np
import pytest

from jaxcert import lipschitz
from jaxcert.lipschitz import _frequencies
from jaxcert.lipschitz._geometry import axes_of
from jaxcert.lipschitz._verified import factorisation_error


def torus_norm(kernel, size):
    """The largest singular value of the circular convolution of `size` by `size` pixels."""
    transformed = np.fft.fft2(kernel.astype(np.float64), (size, size), axes=(0, 1))
    return float(np.linalg.svd(transformed, compute_uv=False).max())


def circular_bound(kernel, size, **settings):
    shape = (size, size, kernel.shape[2])
    return float(
        lipschitz.conv_spectral_norm_upper(
            kernel, input_shape=shape, padding="CIRCULAR", **settings
        )
    )


def taps_of(kernel, size, stride=1):
    axes, groups = axes_of(kernel.shape, (size, size, kernel.shape[2]), stride, "CIRCULAR", 1, 1)
    return _frequencies.polyphase(kernel, axes, groups)


def kernels(rng, count):
    """Random kernels of many kinds, and the size of their torus."""
    for index in range(count):
        side = int(rng.integers(1, 5))
        inputs, outputs = rng.integers(1, 13, size=2)
        kernel = rng.standard_normal((side, int(rng.integers(1, 4)), inputs, outputs))
        kind = index % 6
        if kind == 1:
            kernel = kernel**5
        elif kind == 2:  # All taps of rank 1.
            kernel = kernel[..., :1] * rng.standard_normal(outputs)
        elif kind == 3:  # One frequency far above the others.
            kernel = np.abs(kernel)
        elif kind == 4:
            kernel = kernel.astype(np.float32)
        elif kind == 5:
            kernel = kernel * (rng.random(kernel.shape) < 0.3)
        yield kernel, int(rng.integers(4, 12))


def test_bounds_are_above_the_norm_and_tight_on_random_kernels():
    for kernel, size in kernels(np.random.default_rng(0), 900):
        exact = torus_norm(kernel, size)
        assert exact * (1 - 1e-15) <= circular_bound(kernel, size) <= exact * (1 + 6e-5)


@pytest.mark.slow
def test_bounds_are_above_the_norm_and_tight_on_thousands_of_random_kernels():
    for kernel, size in kernels(np.random.default_rng(1), 20_000):
        exact = torus_norm(kernel, size)
        assert exact * (1 - 1e-15) <= circular_bound(kernel, size) <= exact * (1 + 6e-5)


def test_bounds_scale_with_the_kernel_down_to_the_smallest_numbers():
    kernel = np.random.default_rng(2).standard_normal((3, 3, 2, 9))
    exact = torus_norm(kernel, 8)
    for exponent in (-1000, -60, 60, 1000):
        bound = circular_bound(np.ldexp(kernel, exponent), 8)
        assert exact <= np.ldexp(bound, -exponent) <= exact * (1 + 6e-5)
    assert circular_bound(np.zeros((3, 3, 2, 9)), 8) == 0.0
    assert circular_bound(np.full((1, 1, 1, 1), 5e-324), 8) >= 5e-324


def orthogonal_kernel(channels):
    """A circular convolution that is orthogonal: three products of rotations and shifts."""
    rng = np.random.default_rng(channels)
    kernel = np.linalg.qr(rng.standard_normal((channels, channels)))[0][None, None]
    for axis in (0, 1):
        basis = np.linalg.qr(rng.standard_normal((channels, channels)))[0]
        moved = basis[:, : channels // 2] @ basis[:, : channels // 2].T
        pads = [(0, 0)] * 4
        pads[axis] = (0, 1)
        # What lies in a subspace is moved by a pixel, the rest stays.
        stays = np.pad(kernel @ (np.eye(channels) - moved), pads)
        pads[axis] = (1, 0)
        kernel = stays + np.pad(kernel @ moved, pads)
    return kernel


def test_equal_norms_at_all_frequencies_cost_few_eigenvalues(monkeypatch):
    estimates = []
    honest = _frequencies.largest_eigenvalue_estimate
    monkeypatch.setattr(
        _frequencies,
        "largest_eigenvalue_estimate",
        lambda *given: estimates.append(given) or honest(*given),
    )
    for kernel in (orthogonal_kernel(12), np.eye(6)[None, None], np.ones((1, 1, 3, 5))):
        estimates.clear()
        exact = torus_norm(kernel, 16)
        assert exact * (1 - 1e-15) <= circular_bound(kernel, 16) <= exact * (1 + 1e-7)
        assert len(estimates) <= 2


def test_estimated_eigenvalues_are_not_trusted(monkeypatch):
    rng = np.random.default_rng(3)
    kernel = rng.standard_normal((3, 3, 10, 10))
    exact = torus_norm(kernel, 9)
    honest = _frequencies.largest_eigenvalue_estimate
    for factor in (0.99, 1 - 1e-12):
        monkeypatch.setattr(
            _frequencies, "largest_eigenvalue_estimate", lambda *given, f=factor: f * honest(*given)
        )
        assert circular_bound(kernel, 9) >= exact
    # Without the factorisation the same value would be returned, and is below the norm.
    monkeypatch.setattr(
        _frequencies, "largest_eigenvalue_estimate", lambda *given: 0.9 * honest(*given)
    )
    monkeypatch.setattr(_frequencies, "_first_failure", lambda matrices: None)
    assert circular_bound(kernel, 9) < 0.99 * exact


def test_factorisation_accepts_what_only_its_budget_makes_sound():
    rng = np.random.default_rng(6)
    accepted = 0
    for size in (3, 5, 8, 9, 12, 16, 24):
        for _ in range(20):
            # Integers of rank size - 1, and one unit less on the diagonal: an eigenvalue below 0.
            factor = rng.integers(-5, 6, (size, size - 1))
            matrix = (factor @ factor.T).astype(np.complex128)
            last = matrix[-1, -1].real
            matrix[-1, -1] = np.nextafter(last, 0.0)
            missing = last - matrix[-1, -1].real
            trace = float(np.trace(matrix).real)
            if _frequencies._first_failure(matrix[None].copy()) is None:
                accepted += 1
                assert missing < factorisation_error(size, trace / size, matrix.dtype)
            # Where the budget is exceeded nothing is accepted.
            matrix[-1, -1] = last * (1.0 - 1e-9)
            good = np.eye(size, dtype=np.complex128)
            assert _frequencies._first_failure(np.stack([good, good, matrix, good])) == 2
    assert accepted > 10


@pytest.mark.parametrize("size", [1, 4, 12])
def test_what_is_not_a_number_is_not_accepted(size):
    matrix = np.eye(size, dtype=np.complex128)[None]
    assert _frequencies._first_failure(matrix.copy()) is None
    for place in {(0, 0), (0, size - 1), (size - 1, size - 1)}:
        broken = matrix.copy()
        broken[0][place] = broken[0][place[::-1]] = np.nan
        assert _frequencies._first_failure(broken) == 0


@pytest.mark.parametrize(("size", "correlates"), [(12, True), (3, False)])
def test_matrices_of_both_ways_lie_within_their_budget(size, correlates):
    # Five taps on three pixels have more differences than the torus has frequencies.
    rng = np.random.default_rng(4)
    kernel = rng.standard_normal((5, 5, 6, 4))
    grams = _frequencies.Grams(taps_of(kernel, size))
    assert (grams._minus_even is not None) == correlates
    frequencies = _frequencies._frequencies(size, size)
    found = grams.differences(50.0, frequencies)
    # The same in a longer format, written out.
    turns = (
        np.arange(5)[:, None] * frequencies[:, 0] % size,
        (np.arange(5)[:, None] * frequencies[:, 1] % size),
    )
    angles = (turns[0][:, None] + turns[1]) % size * (2 * np.arccos(np.longdouble(-1)) / size)
    waves = np.cos(angles) + 1j * np.sin(angles)
    transfer = np.einsum("ijf,ijab->fba", waves, kernel.astype(np.longdouble))
    exact = 50.0 * np.eye(4) - transfer @ transfer.conj().mT
    errors = np.linalg.norm((found - exact).astype(np.complex128), axis=(1, 2))
    assert 0.0 < errors.max() <= grams.error


def test_blocks_of_long_kernels_with_few_channels_stay_small(monkeypatch):
    rng = np.random.default_rng(7)
    kernel = rng.standard_normal((15, 15, 1, 1))
    lengths = []
    honest = _frequencies.Grams.differences
    monkeypatch.setattr(
        _frequencies.Grams,
        "differences",
        lambda *given: lengths.append(len(given[2])) or honest(*given),
    )
    exact = torus_norm(kernel, 64)
    assert exact * (1 - 1e-15) <= circular_bound(kernel, 64) <= exact * (1 + 1e-4)
    # 29 by 29 differences, one of each and its opposite.
    assert 1 < max(lengths) <= _frequencies._BLOCK_BYTES // (16 * 421)


def test_one_of_each_conjugate_pair_of_frequencies_is_enough():
    for height, width in ((1, 1), (1, 6), (4, 5), (5, 4), (6, 6), (7, 7), (2, 1)):
        chosen = {tuple(pair) for pair in _frequencies._frequencies(height, width).tolist()}
        opposite = {(-u % height, -v % width) for u, v in chosen}
        assert chosen | opposite == {(u, v) for u in range(height) for v in range(width)}
        own = [(u, v) for u, v in chosen if (-u % height, -v % width) == (u, v)]
        assert 2 * len(chosen) == height * width + len(own)


def test_strides_and_their_residues_keep_singular_values():
    rng = np.random.default_rng(5)
    for stride in (2, 3):
        kernel = rng.standard_normal((3, 4, 2, 9))
        grams = _frequencies.Grams(taps_of(kernel, 12, stride))
        waves = np.exp(2j * np.pi / 12 * np.outer(np.arange(12), np.arange(4)))
        whole = np.einsum("ui,vj,ijab->uvba", waves[:, :3], waves, kernel)
        part = 12 // stride
        for u, v in ((0, 0), (1, 2), (3, 1)):
            aliases = [
                whole[u + part * a, v + part * b] for a in range(stride) for b in range(stride)
            ]
            expected = np.linalg.norm(np.concatenate(aliases, axis=1), 2) ** 2 / stride**2
            gram = -grams.differences(0.0, np.array([[u, v]]))[0]
            assert np.linalg.eigvalsh(gram)[-1] == pytest.approx(expected, rel=1e-12)
