"""Magnitude pruning, the baselines that tropical pruning is compared with."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks

from ._layers import floating

_SCHEMES = ("class_blind", "class_uniform", "class_distribution")


def magnitude_prune(
    weights: Sequence[ArrayLike], *, num_weights: int, scheme: str
) -> list[jax.Array]:
    r"""Keep the largest weights of a network, exactly so many, and set the others to 0.

    .. math::
        |w| \ge \tau \quad\text{(class-blind)}, \qquad |w| \ge \tau_m \quad\text{(class-uniform)},
        \qquad |w| \ge \lambda\, \sigma_m \quad\text{(class-distribution)}

    A class is a weight matrix m, with standard deviation sigma_m. Class-uniform keeps the same
    share of each matrix; the other two have one threshold for all. Of equal weights the first stay.

    Args:
      weights: floating arrays of any shapes, one a class.
      num_weights: how many weights stay, in all.
      scheme: `"class_blind"`, `"class_uniform"` or `"class_distribution"`.

    Returns:
      Arrays of the given shapes and dtypes.

    Raises:
      TypeError: if an array is not floating point or `num_weights` not an integer.
      ValueError: if there is no array, a number is not finite, there are fewer than `num_weights`
        weights, or the scheme is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> weights = [jnp.array([5.0, -4.0, 3.0]), jnp.array([0.2, -0.1, 0.3])]
      >>> tropical.magnitude_prune(weights, num_weights=4, scheme="class_uniform")
      [Array([ 5., -4., 0.], dtype=float32), Array([0.2, 0. , 0.3], dtype=float32)]

    References:
      See, Luong, Manning, "Compression of Neural Machine Translation Models via Pruning", 2016,
      arXiv:1606.09274. Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient
      Neural Networks", 2015, arXiv:1506.02626.
    """
    if not weights:
        raise ValueError("weights must not be empty")
    arrays = [floating(f"weights[{place}]", value) for place, value in enumerate(weights)]
    sizes = [int(array.size) for array in arrays]
    num_weights = _checks.positive_integer("num_weights", num_weights, minimum=0)
    if num_weights > sum(sizes):
        raise ValueError(f"num_weights must be at most {sum(sizes)}, got {num_weights}")
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}, got {scheme!r}")
    magnitudes = [jnp.abs(array).ravel() for array in arrays]
    if scheme == "class_uniform":
        masks = [
            _largest(magnitude, count)
            for magnitude, count in zip(magnitudes, _shares(sizes, num_weights), strict=True)
        ]
    else:
        if scheme == "class_distribution":
            # A matrix of equal entries has no scale of its own; its entries are dropped last.
            magnitudes = [
                magnitude / jnp.std(array)
                for magnitude, array in zip(magnitudes, arrays, strict=True)
            ]
        mask = _largest(jnp.concatenate(magnitudes), num_weights)
        masks = jnp.split(mask, np.cumsum(sizes)[:-1])
    return [
        jnp.where(mask.reshape(array.shape), array, 0)
        for mask, array in zip(masks, arrays, strict=True)
    ]


def _largest(values: jax.Array, count: int) -> jax.Array:
    """A mask of the `count` largest values, the first of equal ones, NaN counted as the largest."""
    order = jnp.argsort(-values, stable=True)
    return jnp.zeros(values.shape, bool).at[order[:count]].set(True)


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Split `total` in proportion to the sizes; what rounding leaves goes to the largest rests."""
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    rests = [total * size % whole for size in sizes]
    for place in sorted(range(len(sizes)), key=lambda place: -rests[place])[: total - sum(shares)]:
        shares[place] += 1
    return shares
