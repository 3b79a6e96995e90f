"""Claims about upper bounds of Lipschitz constants, against constants known by enumeration."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcert import lipschitz
from theory.ledger import Claim, Verdict

# An exact value from LAPACK is itself good to a few units in the last place.
TOLERANCE = 1e-14


class _Least:
    """The case in which a bound is nearest to what it bounds."""

    def __init__(self) -> None:
        self.slack, self.tightness, self.trials, self.witness = math.inf, math.inf, 0, ""
        self.measured: list[tuple[float, float]] = []

    def add(self, bound: float, exact: float, witness: str) -> None:
        self.trials += 1
        slack = bound / exact - 1.0 if exact > 0 else bound
        if slack < self.slack:
            self.slack, self.witness = slack, witness
        self.tightness = min(self.tightness, exact / bound if bound > 0 else 1.0)
        if len(self.measured) < 200:
            self.measured.append((bound, exact))

    def verdict(self, seed: int, *, tightness: float = 0.0) -> Verdict:
        holds = self.slack >= -TOLERANCE and self.tightness >= tightness
        return Verdict(
            holds, self.slack, self.tightness if tightness else math.nan, self.trials,
            self.witness, seed, tuple(self.measured),
        )  # fmt: skip


def check_matrices(norm: Callable[[np.ndarray], float], seed: int, count: int) -> Verdict:
    """Compare with the singular value decomposition; the bound must be within a part in 1e6."""
    rng = np.random.default_rng(seed)
    least = _Least()
    for trial in range(count):
        shape = tuple(rng.integers(2, 30, size=2).tolist())
        matrix = rng.normal(size=shape) * 10.0 ** rng.integers(-6, 6)
        if trial % 3 == 1:  # The largest singular values are close to each other.
            left, _, right = np.linalg.svd(matrix, full_matrices=False)
            matrix = left @ np.diag(1.0 - 0.01 * rng.random(len(right))) @ right
        if trial % 3 == 2:  # Most of the matrix is orthogonal to the vector of ones.
            matrix = matrix - 0.95 * matrix.mean(axis=1, keepdims=True)
        exact = float(np.linalg.svd(matrix, compute_uv=False)[0])
        least.add(norm(matrix), exact, f"matrix {trial} of shape {shape}")
    return least.verdict(seed, tightness=1.0 - 1e-6)


def power_iteration(matrix: np.ndarray) -> float:
    vector = np.ones(matrix.shape[1])
    for _ in range(10):
        vector = matrix.T @ (matrix @ vector)
        vector /= np.linalg.norm(vector)
    return float(np.linalg.norm(matrix @ vector))


def convolution_matrix(kernel: np.ndarray, size: int, stride: int) -> np.ndarray:
    """A convolution padded by a pixel of zeros on each side, entry by entry."""
    taps, _, inputs, outputs = kernel.shape
    places = (size + 2 - taps) // stride + 1
    matrix = np.zeros((places, places, outputs, size, size, inputs))
    for p, q, i, j in itertools.product(range(places), range(places), range(taps), range(taps)):
        y, x = p * stride + i - 1, q * stride + j - 1
        if 0 <= y < size and 0 <= x < size:
            matrix[p, q, :, y, x] += kernel[i, j].T
    return matrix.reshape(places * places * outputs, -1)


def check_convolutions(
    norm: Callable[[np.ndarray, int, int], float], seed: int, count: int
) -> Verdict:
    """Compare with the singular values of the matrix of a zero-padded convolution."""
    rng = np.random.default_rng(seed)
    least = _Least()
    for trial in range(count):
        size, stride = int(rng.integers(3, 7)), int(rng.integers(1, 3))
        kernel = rng.normal(size=(3, 3, *rng.integers(1, 4, size=2)))
        if trial == 0:  # The torus of three pixels does not have the frequency of this one.
            size, stride, kernel = 3, 1, np.zeros((3, 3, 1, 1))
            kernel[:, 1, 0, 0] = 1.0, -0.5, 1.0
        exact = float(np.linalg.norm(convolution_matrix(kernel, size, stride), 2))
        least.add(norm(kernel, size, stride), exact, f"{size} pixels, stride {stride}")
    return least.verdict(seed)


def padded_norm(kernel: np.ndarray, size: int, stride: int, exact: bool | None = False) -> float:
    return float(
        lipschitz.conv_spectral_norm_upper(
            kernel, input_shape=(size, size, kernel.shape[2]), strides=stride,
            padding=((1, 1), (1, 1)), exact=exact,
        )
    )  # fmt: skip


def circular_norm(kernel: np.ndarray, size: int, stride: int) -> float:
    """That of a torus of the image's own size, as if zeros at the border could only help."""
    del stride
    return float(np.linalg.norm(np.fft.fft2(kernel, (size, size), axes=(0, 1)), 2, (2, 3)).max())


def reshaped_norm(kernel: np.ndarray, size: int, stride: int) -> float:
    del size, stride
    return float(np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2))


def over_patterns(weights: Sequence[np.ndarray]) -> float:
    """The largest norm over all patterns of active neurons: the constant for the worst biases."""
    widths = [len(weight) for weight in weights[:-1]]
    best = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=sum(widths)):
        product, place = weights[0], 0
        for weight, width in zip(weights[1:], widths, strict=True):
            product = weight @ (np.array(bits[place : place + width])[:, None] * product)
            place += width
        best = max(best, float(np.linalg.norm(product, 2)))
    return best


def check_networks(
    bound: Callable[[list[np.ndarray]], Sequence[float]], seed: int, count: int
) -> Verdict:
    """Compare each of a ladder of bounds with all patterns of small ReLU networks."""
    rng = np.random.default_rng(seed)
    least = _Least()
    # Where neurons differ in sign alone their coupling deceives a program that allows it.
    cases = [[np.array([[2.0, 2.0], [2.0, 1.0]]), np.array([[-1.0, 1.0]])]]
    for _ in range(count):
        widths = [int(rng.integers(1, 4)), *rng.integers(2, 5, size=2).tolist(), 2]
        cases.append([rng.normal(size=(b, a)) for a, b in itertools.pairwise(widths)])
        cases.append([np.abs(weight) for weight in cases[-1]])
    for number, weights in enumerate(cases):
        exact = over_patterns(weights)
        for rung, value in enumerate(bound(weights)):
            least.add(value, exact, f"network {number}, bound {rung}")
    return least.verdict(seed)


def ladder(weights: list[np.ndarray]) -> list[float]:
    return [
        lipschitz.network_lipschitz_upper(weights, method=method)
        for method in ("eclipse_fast", "averaged", "product")
    ]


def without_activations(weights: list[np.ndarray]) -> list[float]:
    """The norm of the product of the matrices: one of the terms that are averaged."""
    return [float(np.linalg.norm(np.linalg.multi_dot(weights[::-1]), 2))]


def half_of_the_square(weights: list[np.ndarray]) -> list[float]:
    """The bound by LipSDP's inequality with the factor of its multiplier left out."""
    return [value / math.sqrt(2.0) for value in ladder(weights)]


def check_gabor(bound: Callable[..., Any], seed: int, count: int) -> Verdict:
    """Compare with transforms of filters at random parameters and every eighth of a turn."""
    rng = np.random.default_rng(seed)
    least = _Least()
    waves = np.exp(2j * np.pi / 32 * np.outer(np.arange(32), np.arange(5)))
    for taps in (2, 3, 4, 5):
        grid = np.linspace(-1.0, 1.0, taps)
        sigma = np.abs(rng.normal(size=count)) * 2.0
        gamma, wave, phase = rng.normal(size=(3, count)) * [[0.5], [1.0], [0.5]]
        angle = rng.integers(0, 8, size=count) * np.pi / 4
        x, y = grid[None, None, :], grid[None, :, None]
        cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        u, v = cosine * x - sine * y, sine * x + cosine * y
        s, g = sigma[:, None, None], gamma[:, None, None]
        filters = np.exp(-((s * u) ** 2) - (s * g * v) ** 2)
        filters = filters * np.cos(wave[:, None, None] * u + phase[:, None, None])
        transformed = np.einsum("ui,nij,vj->nuv", waves[:, :taps], filters, waves[:, :taps])
        norms = np.abs(transformed).max(axis=(1, 2))
        for trial, (value, norm) in enumerate(
            zip(bound(sigma, gamma, taps), norms.tolist(), strict=True)
        ):
            turned = f"{angle[trial] / np.pi:.2f} pi"
            least.add(float(value), norm, f"{taps} taps, sigma {sigma[trial]:.2f}, turned {turned}")
    return least.verdict(seed)


def closed_form(sigma: np.ndarray, gamma: np.ndarray, taps: int) -> np.ndarray:
    return np.asarray(lipschitz.gabor_lipschitz_upper(sigma, gamma, 1.0, kernel_size=taps))


def unrotated_form(sigma: np.ndarray, gamma: np.ndarray, taps: int) -> np.ndarray:
    """One factor for each axis of the grid, as if no filter were turned."""
    step = 2.0 / (taps - 1)
    first, second = (np.exp(-((width * step) ** 2)) for width in (sigma, sigma * gamma))
    return (1.0 + (taps - 1) * first) * (1.0 + (taps - 1) * second)


CLAIMS = (
    Claim(
        name="spectral-norm",
        statement="The bound of a matrix is at least its largest singular value, and within 1e-6.",
        reference=(
            "Delattre, Barthélemy, Araujo, Allauzen, Efficient Bound of Lipschitz Constant for "
            "Convolutional Layers by Gram Iteration, 2023, arXiv:2305.16173"
        ),
        hypotheses=("float64 matrices of 2 to 29 rows and columns, at many scales",),
        check=check_matrices,
        formula=lambda matrix: float(lipschitz.spectral_norm_upper(matrix)),
        twins={
            "ten steps of power iteration from ones": power_iteration,
            "rounded to float32": lambda matrix: float(
                np.linalg.svd(matrix.astype(np.float32), compute_uv=False)[0]
            ),
        },
        trials=200,
        axes=("bound", "largest singular value"),
    ),
    Claim(
        name="zero-padded-convolution",
        statement=(
            "A zero-padded, strided convolution is at most as long as the circular one on a torus "
            "of as many pixels more as it pads."
        ),
        reference=(
            "Sedghi, Gupta, Long, The Singular Values of Convolutional Layers, 2019, "
            "arXiv:1805.10408"
        ),
        hypotheses=("3 by 3 taps, 1 to 3 channels, 3 to 6 pixels, strides 1 and 2",),
        check=check_convolutions,
        formula=padded_norm,
        twins={
            "a torus of the image's own size": circular_norm,
            "the norm of the reshaped kernel": reshaped_norm,
        },
        trials=40,
        axes=("bound", "largest singular value of the whole map"),
    ),
    Claim(
        name="network-bounds",
        statement=(
            "ECLipsE-Fast, averaged activations and the product of norms are at least the constant "
            "of a ReLU network for its worst biases."
        ),
        reference=(
            "Fazlyab, Robey, Hassani, Morari, Pappas, Efficient and Accurate Estimation of "
            "Lipschitz Constants for Deep Neural Networks, 2019, arXiv:1906.04893; Combettes, "
            "Pesquet, 2020, arXiv:1903.01014; Xu, Sivaranjani, 2024, arXiv:2404.04375"
        ),
        hypotheses=("ReLU networks of two hidden layers of 2 to 4 neurons, all patterns tried",),
        check=check_networks,
        formula=ladder,
        twins={
            "the product of the matrices alone": without_activations,
            "divided by the root of 2": half_of_the_square,
        },
        trials=12,
        axes=("bound", "largest norm over all patterns"),
    ),
    Claim(
        name="gabor-closed-form",
        statement="The closed form of a Gabor filter bounds its norm for every angle and phase.",
        reference=(
            "Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, Gabor Layers Enhance "
            "Network Robustness, 2020, arXiv:1912.05661"
        ),
        hypotheses=("2 to 5 taps, turned by eighths, circular at 32 pixels",),
        check=check_gabor,
        formula=closed_form,
        twins={
            "without the rotation": unrotated_form,
            "with the width squared once more": lambda sigma, gamma, taps: closed_form(
                sigma**2, gamma, taps
            ),
        },
        trials=400,
        axes=("closed form", "largest modulus of the transform"),
    ),
)
