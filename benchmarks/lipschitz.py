"""Cases about Lipschitz bounds. Importing this module registers them."""

import functools
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg

from benchmarks.registry import Aim, Case, UnavailableError, register
from jaxcert import lipschitz

# Kernels of residual networks on 32 by 32 and 56 by 56 pixels: size, input and output channels.
_KERNELS = ((32, 16, 16), (16, 32, 32), (32, 64, 64), (56, 64, 64))
# A solver that takes longer is recorded as not finished.
_SOLVER_SECONDS = 30.0
# Solvers are asked up to this many hidden neurons (Clarabel wanted more than 24 GB for 400), and
# timed again if they took less than this.
_SOLVER_NEURONS = 200
_AGAIN_SECONDS = 5.0


def _norm_case(size: int, quick: bool) -> Case:
    """The proved spectral norm of a random matrix beside SciPy's singular values."""
    matrix = np.random.default_rng(0).standard_normal((size, size))
    exact = float(scipy.linalg.svdvals(matrix)[0]) if size <= 1024 else None
    found = float(lipschitz.spectral_norm_upper(matrix))
    return Case(
        variants={
            "spectral_norm_upper": lambda: lipschitz.spectral_norm_upper(matrix),
            "scipy svdvals": lambda: scipy.linalg.svdvals(matrix),
        },
        aims=(Aim("scipy svdvals", "spectral_norm_upper", at_least=1.0),),
        settings={
            "size": size,
            "dtype": "float64",
            "relative_excess": None if exact is None else found / exact - 1.0,
        },
        items=1,
        unit="matrix",
        repetitions=1 if size >= 2048 else 3 if quick else 5,
    )


def _conv_case(size: int, inputs: int, outputs: int, quick: bool) -> Case:
    """The bound of a zero-padded convolution beside all singular values of its transform."""
    kernel = np.random.default_rng(0).standard_normal((3, 3, inputs, outputs))
    torus = size + 1

    def transform() -> float:
        blocks = np.fft.fft2(kernel, (torus, torus), axes=(0, 1))
        return float(np.linalg.svd(blocks, compute_uv=False).max())

    def bound() -> float:
        return float(lipschitz.conv_spectral_norm_upper(kernel, input_shape=(size, size, inputs)))

    return Case(
        variants={"conv_spectral_norm_upper": bound, "fft and svd": transform},
        aims=(Aim("fft and svd", "conv_spectral_norm_upper", at_least=10.0),),
        settings={
            "size": size, "inputs": inputs, "outputs": outputs, "kernel": 3, "dtype": "float64",
            "relative_excess_over_transform": bound() / transform() - 1.0,
        },
        items=1,
        unit="kernel",
        repetitions=2 if size * outputs > 2048 else 3 if quick else 5,
    )  # fmt: skip


def random_network(width: int, layers: int) -> list[np.ndarray]:
    """Random weights of spectral norm 1, 4 inputs and 1 output."""
    rng = np.random.default_rng(width * 1000 + layers)
    widths = [4, *[width] * (layers - 1), 1]
    weights = [rng.standard_normal((b, a)) for a, b in itertools.pairwise(widths)]
    return [weight / np.linalg.norm(weight, 2) for weight in weights]


def semidefinite_program(
    weights: Sequence[np.ndarray], solver: str, seconds: float
) -> tuple[float | None, float]:
    """LipSDP-Neuron by cvxpy: its value, None if it did not finish, and the seconds it took."""
    try:
        import cvxpy
    except ImportError as error:
        raise UnavailableError(
            f"cvxpy is not installed ({error}); install the extra: pip install 'jaxcert[bench]'"
        ) from error
    started = time.perf_counter()
    squared = cvxpy.Variable(nonneg=True)
    hidden = [cvxpy.Variable(len(weight), nonneg=True) for weight in weights[:-1]]
    count = len(weights)
    blocks: list[list[object]] = [
        [np.zeros((a, b)) for b in _widths(weights)] for a in _widths(weights)
    ]
    blocks[0][0] = squared * np.eye(weights[0].shape[1])
    for index, (weight, multiplier) in enumerate(zip(weights, hidden, strict=False), start=1):
        off = -cvxpy.diag(multiplier) @ weight
        blocks[index][index] = 2 * cvxpy.diag(multiplier)
        blocks[index][index - 1], blocks[index - 1][index] = off, off.T
    blocks[count - 1][count - 1] -= weights[-1].T @ weights[-1]  # type: ignore[operator]
    problem = cvxpy.Problem(cvxpy.Minimize(squared), [cvxpy.bmat(blocks) >> 0])
    limits = {"CLARABEL": {"time_limit": seconds}, "SCS": {"time_limit_secs": seconds}}
    try:
        problem.solve(solver=solver, **limits[solver])
    except cvxpy.error.SolverError:
        return None, time.perf_counter() - started
    finished = problem.status in ("optimal", "optimal_inaccurate")
    value = float(np.sqrt(squared.value)) if finished and squared.value is not None else None
    return value, time.perf_counter() - started


def _widths(weights: Sequence[np.ndarray]) -> list[int]:
    return [weights[0].shape[1], *(len(weight) for weight in weights[:-1])]


def _sdp_case(width: int, layers: int, quick: bool) -> Case:
    """`"lipsdp"` beside the same program handed to conic solvers."""
    weights = random_network(width, layers)

    def solve() -> float:
        return lipschitz.network_lipschitz_upper(weights, method="lipsdp")

    started = time.perf_counter()
    values: dict[str, float | None] = {"lipsdp": solve()}
    # One call each, the first of all.
    once = {"lipsdp": time.perf_counter() - started}
    for method in ("product", "eclipse_fast"):
        values[method] = lipschitz.network_lipschitz_upper(weights, method=method)
    variants: dict[str, Callable[[], object]] = {"lipsdp": solve}
    aims = []
    for solver in ("CLARABEL", "SCS"):
        name = solver.lower()
        limit = 5.0 if quick else _SOLVER_SECONDS
        values[name] = None
        if width * (layers - 1) <= _SOLVER_NEURONS:
            values[name], once[name] = semidefinite_program(weights, solver, limit)
        # Only what finishes soon is timed again beside the others.
        if values[name] is not None and once[name] < _AGAIN_SECONDS:
            variants[name] = functools.partial(semidefinite_program, weights, solver, limit)
            aims.append(Aim(name, "lipsdp", at_least=10.0))
    return Case(
        variants=variants,
        aims=tuple(aims),
        settings={
            "width": width,
            "layers": layers,
            "values": values,
            "seconds_of_one_call": once,
        },
        items=1,
        unit="network",
        repetitions=5 if once["lipsdp"] < _AGAIN_SECONDS else 1,
    )


for _size in (512, 1024, 2048, 4096):
    register(f"spectral-norm-{_size}")(functools.partial(_norm_case, _size))
for _shape in _KERNELS:
    register("conv-norm-{}x{}x{}".format(*_shape))(functools.partial(_conv_case, *_shape))
for _width, _layers in ((20, 2), (20, 5), (40, 5), (20, 20), (100, 5), (500, 5)):
    register(f"lipsdp-{_width}x{_layers}")(functools.partial(_sdp_case, _width, _layers))
