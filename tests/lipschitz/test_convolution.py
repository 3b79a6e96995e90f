"""Norms of convolutions, against singular values of the exact sparse matrix."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import trained_networks
from jaxcert import lipschitz
from jaxcert.lipschitz import _banded
from tests.lipschitz.convolution_operator import sparse_operator, spectral_norm

PADDINGS = ["SAME", "VALID", "CIRCULAR", ((1, 0), (0, 2)), ((3, 2), (2, 2))]


def geometries():
    """Every mix of sizes, taps, strides, paddings, groups and dilations whose kernel fits."""
    for size, taps, stride, padding, groups, dilation in itertools.product(
        [(3, 4), (5, 5), (8, 6)], [(1, 2), (2, 2), (3, 3), (5, 4)], [1, 2, 3], PADDINGS, [1, 2],
        [1, 2],
    ):  # fmt: skip
        if padding == "VALID" and any(
            (k - 1) * dilation + 1 > n for k, n in zip(taps, size, strict=True)
        ):
            continue
        if isinstance(padding, tuple) and any(
            (k - 1) * dilation + 1 > n + sum(pad)
            for k, n, pad in zip(taps, size, padding, strict=True)
        ):
            continue
        yield size, taps, stride, padding, groups, dilation


def test_sparse_operator_is_the_convolution_of_lax():
    rng = np.random.default_rng(0)
    for index, (size, taps, stride, padding, groups, dilation) in enumerate(geometries()):
        if padding == "CIRCULAR" or index % 40:
            continue
        kernel = rng.standard_normal((*taps, 4 // groups, 2))
        image = rng.standard_normal((1, *size, 4))
        with jax.enable_x64(True):
            expected = jax.lax.conv_general_dilated(
                jnp.asarray(image), jnp.asarray(kernel), (stride, stride), padding,
                rhs_dilation=(dilation, dilation), feature_group_count=groups,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
        matrix = sparse_operator(
            kernel, (*size, 4), strides=stride, padding=padding, groups=groups, dilation=dilation
        )
        np.testing.assert_allclose(matrix @ image.ravel(), np.ravel(expected), atol=1e-12)


def test_bounds_are_above_the_exact_norms_for_every_geometry():
    rng = np.random.default_rng(1)
    count, exact_circular = 0, 0
    for size, taps, stride, padding, groups, dilation in geometries():
        kernel = rng.standard_normal((*taps, 4 // groups, 2)) * 10.0 ** rng.integers(-8, 8)
        settings = {"strides": stride, "padding": padding, "groups": groups, "dilation": dilation}
        matrix = sparse_operator(kernel, (*size, 4), **settings)
        dense = matrix.toarray()
        exact = float(np.linalg.norm(dense, 2))
        shape = (*size, 4)
        bound = float(
            lipschitz.conv_spectral_norm_upper(kernel, input_shape=shape, exact=False, **settings)
        )
        assert bound >= exact * (1 - 1e-15), (size, taps, settings)
        wraps = padding == "CIRCULAR" and any(
            (k - 1) * dilation + 1 > n for k, n in zip(taps, size, strict=True)
        )
        if padding == "CIRCULAR" and all(n % stride == 0 for n in size):
            assert bound <= exact * (1 + 1e-4)
            exact_circular += 1
        for order in (1, math.inf):
            value = np.linalg.norm(dense, order)
            found = float(
                lipschitz.conv_operator_norm_upper(
                    kernel, input_shape=shape, order=order, **settings
                )
            )
            assert value <= found
            assert wraps or found <= value * (1 + 1e-12)
        count += 1
    assert count > 600
    assert exact_circular > 50


def test_exact_bounds_are_above_the_norm_and_tight_for_every_geometry():
    rng = np.random.default_rng(7)
    for index, (size, taps, stride, padding, groups, dilation) in enumerate(geometries()):
        if index % 16:
            continue
        kernel = rng.standard_normal((*taps, 4 // groups, 2))
        settings = {"strides": stride, "padding": padding, "groups": groups, "dilation": dilation}
        exact = spectral_norm(sparse_operator(kernel, (*size, 4), **settings))
        # Where something is padded the border counts by default on images as small as these.
        whole = None if padding != "CIRCULAR" and index % 32 else True
        bound = float(
            lipschitz.conv_spectral_norm_upper(
                kernel, input_shape=(*size, 4), exact=whole, **settings
            )
        )
        assert exact * (1 - 1e-15) <= bound <= exact * (1 + 1e-6), (size, taps, settings)


def test_border_counts_by_default_on_small_images_that_are_not_too_wide():
    kernel = np.random.default_rng(9).standard_normal((3, 3, 1, 1))
    for size, channels, is_exact in ((15, 1, True), (16, 1, False), (8, 130, False)):
        wide = np.tile(kernel, (1, 1, channels, 1))
        found, torus, exact = (
            float(
                lipschitz.conv_spectral_norm_upper(
                    wide, input_shape=(size, size, channels), exact=whole
                )
            )
            for whole in (None, False, channels == 1)
        )
        assert found == pytest.approx(exact if is_exact else torus, rel=1e-12)
        assert channels > 1 or exact < torus * 0.999


def test_exact_bound_does_not_trust_its_proposal(monkeypatch):
    kernel = np.random.default_rng(8).standard_normal((3, 3, 2, 2))
    exact = spectral_norm(sparse_operator(kernel, (5, 5, 2)))
    honest = _banded._largest_singular_value
    for factor in (0.1, 0.99, 1 - 1e-7):
        monkeypatch.setattr(_banded, "_largest_singular_value", lambda *a, f=factor: f * honest(*a))
        found = lipschitz.conv_spectral_norm_upper(kernel, input_shape=(5, 5, 2), exact=True)
        assert float(found) >= exact
    monkeypatch.setattr(_banded, "_completes", lambda *arguments: True)
    monkeypatch.setattr(_banded, "_largest_singular_value", lambda *a: 0.9 * honest(*a))
    found = lipschitz.conv_spectral_norm_upper(kernel, input_shape=(5, 5, 2), exact=True)
    assert float(found) < exact


def test_kernels_that_meet_padding_alone_have_norm_zero():
    outermost = np.zeros((5, 4, 3))
    outermost[-1] = 1.0
    # Five taps around one pixel, and one tap two pixels before it.
    for kernel, settings in (
        (outermost, {"input_shape": (1, 4)}),
        (
            np.ones((1, 1, 4, 3)),
            {"input_shape": (1, 1, 4), "padding": ((2, 0), (2, 0)), "strides": 5},
        ),
    ):
        assert 0.0 <= lipschitz.conv_spectral_norm_upper(kernel, **settings) < 1e-100


def test_one_dimensional_convolutions():
    rng = np.random.default_rng(2)
    for size, taps, stride, padding, dilation in itertools.product(
        [4, 7, 12], [1, 2, 3, 4], [1, 2], ["SAME", "CIRCULAR", ((1, 2),)], [1, 2]
    ):
        if (taps - 1) * dilation + 1 > size + 3:
            continue
        kernel = rng.standard_normal((taps, 2, 3))
        settings = {"strides": stride, "padding": padding, "dilation": dilation}
        given = dict(settings)
        if isinstance(padding, tuple):
            given["padding"] = ((0, 0), *padding)
        exact = spectral_norm(sparse_operator(kernel, (size, 2), **given))
        bound = float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=(size, 2), **settings))
        assert bound >= exact * (1 - 1e-15)


def test_closed_forms_where_the_circular_norm_is_no_bound():
    first = np.array([1.0, -0.5, 1.0]).reshape(3, 1, 1)
    second = np.array([1.0, 0.0, 0.0, 0.0, -1.0]).reshape(5, 1, 1)
    for kernel, size, circular, zero in ((first, 3, 1.5, 0.5 + math.sqrt(2)), (second, 4, 0, 1)):
        norms = {
            padding: float(
                lipschitz.conv_spectral_norm_upper(
                    kernel, input_shape=(size, 1), padding=padding, exact=False
                )
            )
            for padding in ("CIRCULAR", "SAME")
        }
        assert norms["CIRCULAR"] == pytest.approx(circular, abs=1e-6)
        exact = spectral_norm(sparse_operator(kernel, (size, 1)))
        assert exact == pytest.approx(zero, abs=1e-12)
        assert norms["CIRCULAR"] < exact <= norms["SAME"]


def test_fourier_transform_that_cuts_the_kernel_off_is_no_bound():
    # Every output is the pixel beside it: the tap that does this lies beyond the input's length.
    kernel = np.zeros((7, 1, 1))
    kernel[4] = 1.0
    assert spectral_norm(sparse_operator(kernel, (3, 1))) == pytest.approx(1.0)
    assert np.abs(np.fft.fft(kernel[:, 0, 0], 3)).max() == 0.0
    bound = float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=(3, 1)))
    assert 1.0 <= bound <= 1.0 + 1e-3


def test_reshaped_kernel_is_no_bound():
    kernel = np.random.default_rng(4).standard_normal((3, 3, 8, 8))
    exact = spectral_norm(sparse_operator(kernel, (6, 6, 8)))
    reshaped = np.linalg.norm(kernel.reshape(-1, 8), 2)
    assert reshaped < 0.8 * exact
    assert exact <= float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=(6, 6, 8)))


def test_power_iteration_on_a_convolution_is_no_bound():
    # Ten steps from a constant image, as public certification code has it.
    rng = np.random.default_rng(5)
    below = 0
    for _ in range(10):
        kernel = rng.standard_normal((3, 3, 4, 4))
        matrix = sparse_operator(kernel, (8, 8, 4))
        vector = np.ones(matrix.shape[1])
        for _ in range(10):
            vector = matrix.T @ (matrix @ vector)
            vector /= np.linalg.norm(vector)
        exact = spectral_norm(matrix)
        below += np.linalg.norm(matrix @ vector) < exact * 0.999
        assert exact <= float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=(8, 8, 4)))
    assert below >= 5


def test_groups_take_the_largest_norm_and_not_the_product():
    kernel = np.full((1, 1, 1, 8), 0.5)
    bound = float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=(4, 4, 8), groups=8))
    assert bound == pytest.approx(0.5, abs=1e-6)
    assert 0.5**8 < 0.5 <= bound


def test_average_overlap_is_no_bound():
    # Dividing the reshaped kernel by the average number of times a pixel is read.
    size, kernel = 16, np.ones((3, 3, 1, 1)) / 9.0
    average = (3 * size - 2) ** 2 / size**2
    wrong = np.linalg.norm(kernel.reshape(-1, 1), 2) * math.sqrt(average)
    exact = spectral_norm(sparse_operator(kernel, (size, size, 1)))
    full = np.linalg.norm(kernel.reshape(-1, 1), 2) * math.sqrt(9)
    assert exact <= float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=(16, 16, 1)))
    assert wrong < exact <= full


def test_traced_bound_is_sound_compiles_once_and_differentiates():
    def bound(kernel):
        return lipschitz.conv_spectral_norm_upper(kernel, input_shape=(6, 6, 4), strides=2)

    # Values and gradients, batched and compiled, by one program.
    both = jax.jit(jax.vmap(jax.value_and_grad(chex.assert_max_traces(bound, n=1))))
    rng = np.random.default_rng(6)
    scales = np.array([1.0, 1e-12, 1e12]).reshape(3, 1, 1, 1, 1)
    for _ in range(2):
        kernels = (rng.standard_normal((3, 3, 3, 4, 5)) * scales).astype(np.float32)
        values, gradients = both(kernels)
        for kernel, value, gradient in zip(kernels, values, gradients, strict=True):
            exact = spectral_norm(sparse_operator(kernel, (6, 6, 4), strides=2))
            torus = float(
                lipschitz.conv_spectral_norm_upper(
                    kernel, input_shape=(6, 6, 4), strides=2, exact=False
                )
            )
            assert exact <= float(bound(kernel)) <= torus
            assert exact <= float(value) <= torus * 1.03
            # The norm is homogeneous of degree one.
            assert float(np.vdot(gradient, kernel)) == pytest.approx(float(value), rel=1e-3)


@pytest.mark.slow
def test_trained_convolutions_with_zero_padding_are_within_two_percent(real_data_dir):
    path = real_data_dir / "resnet_cifar10" / "resnet20-12fca82f.th"
    state = trained_networks.read_state_dicts(path)["state_dict"]
    ratios = []
    for name, weight in state.items():
        if not name.endswith(("conv1.weight", "conv2.weight")):
            continue
        kernel = weight.transpose(2, 3, 1, 0)
        inputs, outputs = kernel.shape[2:]
        size = {3: 32, 16: 32, 32: 16, 64: 8}[inputs]
        stride = 2 if outputs == 2 * inputs else 1
        settings = {"strides": stride, "padding": ((1, 1), (1, 1))}
        shape = (size, size, inputs)
        exact = spectral_norm(sparse_operator(kernel, shape, **settings))
        bound = float(
            lipschitz.conv_spectral_norm_upper(
                kernel.astype(np.float64), input_shape=shape, **settings
            )
        )
        single = float(
            lipschitz.conv_spectral_norm_upper(jnp.asarray(kernel), input_shape=shape, **settings)
        )
        assert exact <= bound <= single <= bound * (1 + 1e-6)
        ratios.append(bound / exact)
    assert len(ratios) == 19
    assert max(ratios) < 1.02


@pytest.mark.parametrize(
    ("kernel", "settings", "message"),
    [
        (np.ones((3, 3, 2, 4)), {"input_shape": (8, 8, 3)}, "kernel must have the axes"),
        (np.ones((4, 2, 3, 3)), {"input_shape": (8, 8, 2)}, "kernel must have the axes"),
        (np.ones((3, 3, 2, 4)), {"input_shape": (8, 8)}, "input_shape must be"),
        (np.ones((3, 3)), {"input_shape": (8, 8, 3)}, "kernel must have shape"),
        (
            np.ones((3, 3, 2, 4)),
            {"input_shape": (8, 8, 2), "padding": "REFLECT"},
            "padding must be",
        ),
        (np.ones((3, 3, 2, 4)), {"input_shape": (8, 8, 2), "padding": (1,)}, "padding must hold 2"),
        (np.ones((3, 3, 2, 4)), {"input_shape": (8, 8, 2), "padding": -1}, "padding must lie in"),
        (np.ones((3, 3, 2, 4)), {"input_shape": (8, 8, 2), "strides": 0}, "strides must lie in"),
        (
            np.ones((3, 3, 2, 4)),
            {"input_shape": (8, 8, 2), "strides": (1, 1, 1)},
            "strides must be",
        ),
        (np.ones((3, 3, 2, 3)), {"input_shape": (8, 8, 4), "groups": 2}, "groups must divide"),
        (np.ones((9, 9, 2, 4)), {"input_shape": (8, 8, 2), "padding": "VALID"}, "must fit"),
        (np.full((3, 3, 2, 4), np.nan), {"input_shape": (8, 8, 2)}, "kernel must be finite"),
    ],
)
def test_bad_convolutions_are_refused(kernel, settings, message):
    with pytest.raises(ValueError, match=message):
        lipschitz.conv_spectral_norm_upper(kernel, **settings)
    with pytest.raises(ValueError, match=message):
        lipschitz.conv_operator_norm_upper(kernel, order=1, **settings)


def test_integer_kernels_are_refused():
    with pytest.raises(TypeError, match="kernel must be floating point, got int64"):
        lipschitz.conv_spectral_norm_upper(np.ones((3, 3, 1, 1), int), input_shape=(8, 8, 1))
