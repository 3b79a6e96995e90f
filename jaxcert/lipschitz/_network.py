"""Lipschitz constants of whole networks: one question at several prices."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcert import _checks
from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._chain_bounds import matrices_upper, pairs_upper
from jaxcert.lipschitz._layers import folded, layers_upper
from jaxcert.lipschitz._reading import read_network
from jaxcert.lipschitz._rounding import gamma, up
from jaxcert.lipschitz._sequential import Dense
from jaxcert.lipschitz._spectral import Order, norm_order, operator_norm_upper

METHODS = ("product", "averaged", "eclipse_fast", "eclipse", "lipsdp_layer", "lipsdp")


def network_lipschitz_upper(
    network: Any,
    *,
    method: str = "lipsdp",
    activation: Any = "relu",
    input_shape: Sequence[int] | None = None,
    order: Order = 2,
    steps: int = 300,
) -> float:
    r"""Upper bound on the Lipschitz constant of a network, for all its biases at once.

    .. math::
        \|f(x) - f(y)\| \le L \|x - y\| \quad \text{for all } x, y

    One question at several prices, from the cheapest:

    - "product": the product of the constants of the layers, and of residual sums and
      concatenations what their rules give. Any layers, any order.
    - "averaged": the mean over all ways to leave activations out (Combettes and Pesquet), never
      above the product; N^2 / 2 norms for N matrices.
    - "eclipse_fast": one multiplier a layer, in closed form; N factorisations.
    - "eclipse": multipliers a neuron, chosen layer by layer, each for the next layer.
    - "lipsdp_layer", "lipsdp": one multiplier a layer, or a neuron, all chosen together: the value
      of the semidefinite programs LipSDP-Layer and LipSDP-Neuron. Up to 2,000 hidden neurons, an
      interior-point method finds it to 1e-8 or so; beyond, two sweeps of it over as many
      neurons at a time come within a few percent, in the networks measured. Where three layers
      have more than that, or rounding hides the optimum, gradient descent approaches it.

    All but the product take alternating matrices and activations of one kind. The convolutions of
    a small network are written out as matrices for them.

    Args:
      network: a list of weight matrices `[out, in]` with `activation` between them; or a list of
        layers of this package; or a Flax NNX module: an `nnx.Sequential` of known layers, or a
        network of `jaxcert.models`; Gabor and 1-Lipschitz layers, for "product" alone, by the
        bounds that they prove of themselves. What a module does to its input before the first
        layer, such as standardising pixels, is part of the constant.
      method: one of the above.
      activation: for a list of matrices; what `slope_range` takes.
      input_shape: shape of one input; for layers and modules with convolutions or pooling.
      order: norm of inputs and outputs, 1, 2 or `math.inf`; all but 2 need "product".
      steps: gradient steps of "eclipse" (a layer), and of "lipsdp_layer" and "lipsdp" where they
        descend; the interior-point method has a rule of its own for when it is done.

    Returns:
      The bound, a Python float.

    Raises:
      TypeError: if the network or one of its layers is not understood.
      ValueError: if weights are not finite or do not fit each other, an activation has no known
        slopes, or a setting is out of range.
      FloatingPointError: if the weights are too badly scaled, or the range of slopes too narrow,
        for the factorisation in float64; "product" and "averaged" never need it.

    Guarantee:
      Sound: never below the Lipschitz constant of the network in exact arithmetic, whatever its
        biases. Computed in float64 with an explicit rounding budget: whatever chose the multipliers
        of a semidefinite bound, a completed Cholesky factorisation of the whole chain proves it.

    Example:
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> weights = [np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, -1.0]])]
      >>> for method in ("product", "averaged", "eclipse_fast"):
      ...     print(round(lipschitz.network_lipschitz_upper(weights, method=method), 4))
      2.0
      2.0
      2.0

    References:
      Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz
      Constants for Deep Neural Networks", 2019, arXiv:1906.04893. Combettes, Pesquet, "Lipschitz
      Certificates for Layered Network Structures Driven by Averaged Activation Operators", 2020,
      arXiv:1903.01014. Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant
      Estimation for Deep Neural Networks", 2024, arXiv:2404.04375. Wang et al., "On the Scalability
      and Memory Efficiency of Semidefinite Programs for Lipschitz Constant Estimation of Neural
      Networks", 2024 (LipDiff, another first-order form). Nesterov, Nemirovskii, "Interior-Point
      Polynomial Algorithms in Convex Programming", 1994.
    """
    method, order, steps = _settings(method, order, steps)
    matrices, slopes, layers, shape = read_network(network, activation, input_shape)
    if method == "product" and layers is not None:
        return layers_upper(layers, shape, order=order)
    if order != 2:
        if method != "product":
            raise ValueError(f"order must be 2 for method {method!r}, got {order}")
        product = math.prod(float(operator_norm_upper(m, order=order)) for m in matrices())
        return up(product * slopes.lipschitz ** (len(matrices()) - 1), terms=2 * len(matrices()))
    bound = matrices_upper(matrices(), slopes, method=method, steps=steps)
    return bound if layers is None else up(bound + _folding_error(matrices(), slopes))


def pairwise_lipschitz_upper(
    network: Any,
    *,
    method: str = "lipsdp",
    activation: Any = "relu",
    input_shape: Sequence[int] | None = None,
    steps: int = 300,
) -> np.ndarray:
    r"""Upper bounds on the Lipschitz constants of all differences of two outputs, in l2.

    .. math::
        |(f_i - f_j)(x) - (f_i - f_j)(y)| \le L_{ij} \|x - y\|_2

    What a margin is to be divided by: never above sqrt(2) L, and often far below.

    Args:
      network: as in `network_lipschitz_upper`; its last layer must be a matrix.
      method: as in `network_lipschitz_upper`. The multipliers are chosen once for the network, and
        bound each pair by themselves; "lipsdp" and "lipsdp_layer" solve a program for each pair
        where that takes seconds: ten classes up to 200 hidden neurons, 36 classes up to 30.
      activation: as in `network_lipschitz_upper`, like all that follow.
      input_shape: shape of one input.
      steps: as in `network_lipschitz_upper`.

    Returns:
      Symmetric float64 `[classes, classes]`, 0 on the diagonal.

    Raises:
      TypeError: if the network or one of its layers is not understood.
      ValueError: as `network_lipschitz_upper`.
      FloatingPointError: likewise.

    Guarantee:
      Sound, like `network_lipschitz_upper`.

    Example:
      >>> import numpy as np
      >>> from jaxcert import lipschitz
      >>> weights = [np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])]
      >>> lipschitz.pairwise_lipschitz_upper(weights, method="product").round(4)
      array([[0.    , 0.    , 1.4142],
             [0.    , 0.    , 1.4142],
             [1.4142, 1.4142, 0.    ]])

    References:
      Leino, Wang, Fredrikson, "Globally-Robust Neural Networks", 2021, arXiv:2102.08452.
    """
    method, _, steps = _settings(method, 2, steps)
    matrices, slopes, layers, shape = read_network(network, activation, input_shape)
    if method == "product" and layers is not None:
        *features, head = folded(layers, shape)
        if not isinstance(head, Dense):
            raise ValueError(f"network must end in a matrix, got {type(head).__name__}")
        constant = layers_upper(features, shape, order=2)
        last = np.asarray(head.weight).astype(np.float64)
        return pairs_upper([last], slopes, method=method, steps=steps) * (constant * (1 + gamma(4)))
    bounds = pairs_upper(matrices(), slopes, method=method, steps=steps)
    if layers is None:
        return bounds
    error = 2.0 * _folding_error(matrices(), slopes)
    return (bounds + error * (1.0 - np.eye(len(bounds)))) * (1.0 + gamma(1))


def _folding_error(matrices: list[np.ndarray], slopes: SlopeRange) -> float:
    """What a few rounded units in each entry may change: a product for each layer that differs."""
    sizes = math.prod(float(np.linalg.norm(matrix)) for matrix in matrices)
    return gamma(8) * len(matrices) * sizes * slopes.lipschitz ** (len(matrices) - 1) * 1.01


def _settings(method: Any, order: Any, steps: Any) -> tuple[str, Order, int]:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return method, norm_order("order", order), _checks.positive_integer("steps", steps)
