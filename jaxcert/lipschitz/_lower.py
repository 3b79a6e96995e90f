"""Lower bounds on what the bounds of whole networks bound: the worst pattern of slopes."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxcert import _checks
from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._reading import read_network
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._verified import singular_value_upper


def network_lipschitz_lower(
    key: jax.Array,
    network: Any,
    *,
    activation: Any = "relu",
    input_shape: Sequence[int] | None = None,
    starts: int = 64,
    steps: int = 100,
) -> float:
    r"""Lower bound on the largest Lipschitz constant that some biases give to these weights.

    .. math::
        \sup_b L(f_b) \ge \max_D \|W_N D_{N-1} W_{N-1} \cdots D_1 W_1\|_2

    over diagonal matrices D with the extreme slopes of the activation. Biases that put every
    neuron where its slope is the wanted one always exist (or come as close as one likes), so this
    is what a bound for all biases cannot go below: the other side of `network_lipschitz_upper`.
    For a network with its own biases see `local_lipschitz_lower`.

    The search alternates between the singular vectors u, v of the product and the slopes of one
    layer that are best for them, neuron by neuron; the norm never falls.

    Args:
      key: a typed key, for the first slopes.
      network: as in `network_lipschitz_upper`, layers that alternate with one activation.
      activation: likewise.
      input_shape: likewise.
      starts: random starts, beside the one with all slopes largest.
      steps: sweeps over all layers, at most.

    Returns:
      The bound, a Python float.

    Raises:
      TypeError: if the network or one of its layers is not understood.
      ValueError: as `network_lipschitz_upper`.

    Guarantee:
      Sound: never above the supremum over all biases, in exact arithmetic; the rounding of the
      product and of the norm is taken off.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> weights = [np.array([[2.0, 2.0], [2.0, 1.0]]), np.array([[-1.0, 1.0]])]
      >>> round(lipschitz.network_lipschitz_lower(jax.random.key(0), weights), 4)
      2.8284

    References:
      Bhowmick, D'Souza, Raghavan, "LipBaB: Computing Exact Lipschitz Constant of ReLU Networks",
      2021, arXiv:2105.05495.
    """
    key = _checks.typed_key("key", key)
    starts = _checks.positive_integer("starts", starts, minimum=0)
    steps = _checks.positive_integer("steps", steps)
    matrices, slopes, _, _ = read_network(network, activation, input_shape)
    weights = matrices()
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    sizes = [singular_value_upper(weight) for weight in weights]
    best = 0.0
    for start in range(starts + 1):
        ends = np.array([slopes.low, slopes.high])
        patterns = [
            np.full(len(weight), slopes.high) if start == 0 else rng.choice(ends, len(weight))
            for weight in weights[:-1]
        ]
        best = max(best, _climb(weights, patterns, slopes, steps, sizes))
    return best


def _climb(
    weights: list[np.ndarray],
    patterns: list[np.ndarray],
    slopes: SlopeRange,
    steps: int,
    sizes: list[float],
) -> float:
    """The norm, rounded down, of the product with the slopes that the search arrives at."""
    reached = 0.0
    for _ in range(steps):
        product, error = _product(weights, patterns, sizes)
        left, values, right = np.linalg.svd(product, full_matrices=False)
        if values[0] <= reached * (1.0 + 1e-12):
            break
        reached = float(values[0])
        improved = _best_patterns(weights, patterns, left[:, 0], right[0], slopes)
        if all(np.array_equal(a, b) for a, b in zip(improved, patterns, strict=True)):
            break
        patterns = improved
    product, error = _product(weights, patterns, sizes)
    vector = np.linalg.svd(product, full_matrices=False)[2][0]
    terms = gamma(sum(product.shape))
    # For any vector, |P v| / |v| is below the norm of P, and P is off by `error` at most.
    image = np.linalg.norm(product @ vector) - terms * np.linalg.norm(product)
    return max(0.0, float(image / np.linalg.norm(vector) * (1.0 - terms) - error))


def _best_patterns(
    weights: list[np.ndarray],
    patterns: list[np.ndarray],
    left: np.ndarray,
    right: np.ndarray,
    slopes: SlopeRange,
) -> list[np.ndarray]:
    """Slopes that raise u' W_N D ... D W_1 v, chosen from the first layer to the last."""
    # u' W_N D ... W_{i+1}, from the last layer down, with the slopes as they are.
    behind = [left @ weights[-1]]
    for weight, pattern in zip(weights[-2:0:-1], patterns[:0:-1], strict=True):
        behind.append((behind[-1] * pattern) @ weight)
    behind.reverse()
    ahead, chosen = weights[0] @ right, []
    for index in range(len(patterns)):
        raises = behind[index] * ahead > 0.0
        chosen.append(np.where(raises, slopes.high, slopes.low))
        ahead = weights[index + 1] @ (chosen[-1] * ahead)
    return chosen


def _product(
    weights: list[np.ndarray], patterns: list[np.ndarray], sizes: list[float]
) -> tuple[np.ndarray, float]:
    """W_N D ... D W_1, from the left, and a bound on the norm of its rounding errors."""
    product, error = weights[-1], 0.0
    for weight, pattern, size in zip(weights[-2::-1], patterns[::-1], sizes[-2::-1], strict=True):
        scaled = product * pattern
        rounding = gamma(scaled.shape[1]) * np.linalg.norm(scaled) * np.linalg.norm(weight)
        error = 1.01 * (error * float(np.max(np.abs(pattern))) * size + float(rounding))
        product = scaled @ weight
    return product, error
