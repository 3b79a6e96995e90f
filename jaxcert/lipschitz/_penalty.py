"""The semidefinite bound as a function that trains: arrays in, a proved bound out."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import _checks
from jaxcert.lipschitz._activations import slope_range
from jaxcert.lipschitz._chain import completion, diagonal_shift, widths_of
from jaxcert.lipschitz._gram import gram_upper
from jaxcert.lipschitz._multipliers import next_factor, solve_right
from jaxcert.lipschitz._rounding import gamma
from jaxcert.lipschitz._spectral import finite, floating

# Squarings of the Gram iterations: within 0.3% of the norm at rank 256.
_SQUARINGS = 10


class LipsdpParameters(NamedTuple):
    """What is free in the multipliers of LipSDP-Neuron; every choice gives a bound.

    Attributes:
      scales: q, one array `[d_i]` for each hidden layer; only differences within a layer count.
      levels: c, one number for each hidden layer.
    """

    scales: tuple[jax.Array, ...]
    levels: tuple[jax.Array, ...]


def lipsdp_parameters(weights: Sequence[Any]) -> LipsdpParameters:
    """Parameters to start from, all 0, which give the bound ECLipsE-Fast.

    Args:
      weights: floating `[out, in]`, one or more.

    Returns:
      The parameters, in the dtype of each layer's weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import lipschitz
      >>> parameters = lipschitz.lipsdp_parameters([jnp.ones((3, 2)), jnp.ones((1, 3))])
      >>> parameters.scales[0].shape, parameters.levels[0].shape
      ((3,), ())
    """
    hidden = _checked(weights)[:-1]
    return LipsdpParameters(
        tuple(jnp.zeros(len(weight), weight.dtype) for weight in hidden),
        tuple(jnp.zeros((), weight.dtype) for weight in hidden),
    )


def lipsdp_upper(
    weights: Sequence[Any], parameters: LipsdpParameters, *, activation: Any = "relu"
) -> jax.Array:
    r"""Upper bound on the Lipschitz constant of a network, differentiable in everything.

    With :math:`Y_1 = W_1`, and for each hidden layer, s = exp(q / 2),

    .. math::
        \lambda \ge \lambda_{max}(S Y_i Y_i^T S), \quad
        \Lambda = \frac{4 \sigma(c)}{\lambda} S^2, \quad
        \Lambda - \tfrac14 \Lambda Y_i Y_i^T \Lambda = C C^T, \quad Y_{i+1} = W_{i+1} C^{-T}

    the bound is the norm of the last Y (written for ReLU). It holds for all parameters, so it may
    be minimised over them, or serve as a training penalty in the weights and parameters together.

    Args:
      weights: floating `[out, in]`, one or more, of one dtype.
      parameters: as `lipsdp_parameters` makes them.
      activation: what `slope_range` takes.

    Returns:
      The bound, a scalar of the dtype of the weights; infinity where rounding leaves no proof.

    Raises:
      TypeError: if weights are not floating point.
      ValueError: if shapes do not fit each other, weights at hand are not finite, or the
        activation has no known slopes.

    Guarantee:
      Sound in its own dtype: the diagonal of the matrix that must be positive semidefinite is
      shrunk by the budget of its factorisation beforehand, for triangular solves by substitution.
      The budget grows with the widths: at width 100 about 1% in float32 and 1e-11 in float64.
      `network_lipschitz_upper` minimises the same bound, in float64.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import lipschitz
      >>> weights = [jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.array([[1.0, 1.0]])]
      >>> parameters = lipschitz.lipsdp_parameters(weights)
      >>> float(jax.jit(lipschitz.lipsdp_upper)(weights, parameters)) < 2.01
      True
      >>> gradient = jax.grad(lipschitz.lipsdp_upper)(weights, parameters)
      >>> [layer.shape for layer in gradient]
      [(2, 2), (1, 2)]

    References:
      Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz
      Constants for Deep Neural Networks", 2019, arXiv:1906.04893. Xu, Sivaranjani, "ECLipsE:
      Efficient Compositional Lipschitz Constant Estimation for Deep Neural Networks", 2024,
      arXiv:2404.04375.
    """
    matrices = _checked(weights)
    slopes = slope_range(activation)
    if len(matrices) > 1 and (slopes.half_width == 0.0 or slopes.low * slopes.high != 0.0):
        raise ValueError(
            "activation must have 0 as one end of its slopes here, as ReLU has; "
            f"network_lipschitz_upper takes others, got {slopes}"
        )
    _check_parameters(parameters, matrices)
    dtype = matrices[0].dtype
    shift = diagonal_shift(widths_of(matrices), dtype)
    if not shift < 0.1:
        raise ValueError(
            f"weights must be float64 at widths {widths_of(matrices)}: the rounding budget of "
            f"{np.dtype(dtype).name} leaves no bound"
        )
    # The first block is (1 - shift) I.
    factor = matrices[0] / math.sqrt(1.0 - shift)

    def eigenvalue_of(matrix: jax.Array) -> jax.Array:
        return gram_upper(matrix, iterations=_SQUARINGS) ** 2

    with jax.default_matmul_precision("highest"):
        for weight, scale, level in zip(
            matrices[1:], parameters.scales, parameters.levels, strict=True
        ):
            _, triangle = next_factor(
                factor, scale, jax.nn.sigmoid(level), slopes, eigenvalue_of, shift
            )
            factor = solve_right(weight, triangle)
        slack = completion(len(matrices[-1]), matrices[-1].shape[1], shift, dtype) * (
            1.0 + gamma(8, dtype)
        )
        bound = gram_upper(factor, iterations=_SQUARINGS) * slack
    return jnp.where(jnp.isfinite(bound), bound, jnp.asarray(jnp.inf, dtype))


def _checked(weights: Any) -> list[jax.Array]:
    if not isinstance(weights, (list, tuple)) or not weights:
        raise TypeError(f"weights must be a list of matrices, got {type(weights).__name__}")
    matrices: list[jax.Array] = []
    for index, weight in enumerate(weights):
        name = f"weights[{index}]"
        value = floating(name, weight)
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(f"{name} must have shape [out, in], got shape {value.shape}")
        if jnp.finfo(value.dtype).bits < 32:
            raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")
        if not isinstance(value, jax.Array):
            # Rounding weights to another dtype would bound another network.
            array = jnp.asarray(value)
            if array.dtype != value.dtype:
                raise TypeError(f"{name} must be float32 where 64 bits are off, got {value.dtype}")
            value = array
        if matrices and value.dtype != matrices[0].dtype:
            raise TypeError(f"{name} must be {matrices[0].dtype} like the first, got {value.dtype}")
        if matrices and value.shape[1] != matrices[-1].shape[0]:
            raise ValueError(
                f"{name} must take the {matrices[-1].shape[0]} outputs of the matrix before it, "
                f"[out, in], got shape {value.shape}"
            )
        if _checks.is_concrete(value):
            finite(name, value)
        matrices.append(value)
    return matrices


def _check_parameters(parameters: Any, matrices: Sequence[jax.Array]) -> None:
    if not isinstance(parameters, LipsdpParameters):
        raise TypeError(f"parameters must be LipsdpParameters, got {type(parameters).__name__}")
    wanted = [(len(matrix),) for matrix in matrices[:-1]]
    found = [jnp.shape(scale) for scale in parameters.scales]
    if found != wanted or [jnp.shape(level) for level in parameters.levels] != [()] * len(wanted):
        raise ValueError(
            f"parameters must hold scales of shapes {wanted} and as many levels, got {found} and "
            f"{len(parameters.levels)}"
        )
