"""Pruning a network by shrinking the zonotopes that are dual to its decision boundary."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks

from ._layers import Layers, checked_layers, floating, lifted_norms
from ._pruning_objective import checked_penalty, objective, pruning_scores
from ._shrinkage import alternate, shrink, shrink_pair

_METHODS = ("closed_form", "alternating")


class PrunedNetwork(NamedTuple):
    """A pruned (Affine, ReLU, Affine) network, a pytree of the shapes that were given.

    Attributes:
      w1: `[h, d]`; the row of a neuron that is gone is 0.
      b1: `[h]`, likewise.
      w2: `[classes, h]`; the column of a neuron that is gone is 0.
      b2: `[classes]`, as given.
      objective: the value of `pruning_objective`, a scalar.
    """

    w1: jax.Array
    b1: jax.Array
    w2: jax.Array
    b2: jax.Array
    objective: jax.Array


def prune(
    w1: ArrayLike,
    b1: ArrayLike,
    w2: ArrayLike,
    b2: ArrayLike,
    *,
    penalty: ArrayLike,
    method: str = "closed_form",
    num_rounds: int = 100,
) -> PrunedNetwork:
    r"""Remove neurons and weights so that the zonotopes of the decision boundary change least.

    .. math::
        \min_{\tilde A, \tilde B} \sum_{i \ne j} \tfrac12 \|\tilde G_{ij} - G_{ij}\|_F^2
        + \lambda \|\tilde G_{ij}\|_{2,1}, \qquad
        G_{ij} = \mathrm{diag}(B^+_i + B^-_j)\, [A, c]

    where A, c are `w1` and `b1`, and B^+ and B^- are the positive and negative parts of `w2`. The
    rows of `G_ij` generate one of the two zonotopes that are dual to the boundary between classes i
    and j; the penalty is the sum of the rows' lengths, so whole neurons go.

    All rows of a neuron are non-negative multiples of one vector, so the problem is a convex one in
    a few non-negative numbers for each neuron, and has a closed form (`"closed_form"`). For two
    classes it is soft-thresholding of the rows of each zonotope. For k classes, with
    `a = |(A_r, c_r)|`, each positive weight falls to `(a B_i - s)_+ / a` and each negative one
    to `-(a |B_i| - t)_+ / a`, where

    .. math::
        s = \lambda - \frac{1}{k - 1} \sum_{B_i < 0} \min(t, a |B_i|), \qquad
        t = \lambda - \frac{1}{k - 1} \sum_{B_i > 0} \min(s, a B_i)

    The neurons that stay keep their row of `w1`. `"alternating"` is the method of the paper, which
    minimises over A, B^+ and B^- in turn, each in closed form; it never ends below the closed form,
    and can end above it, because a neuron that one step drops is lost.

    Usable under `jit`, `vmap` (over penalties, say) and `grad`.

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.
      b2: `[classes]`.
      penalty: lambda, at least 0, in units of a generator's length. For two classes it may be
        `[2]`, one for each zonotope: of `B^+_0 + B^-_1` and of `B^+_1 + B^-_0`.
      method: `"closed_form"` or `"alternating"`.
      num_rounds: rounds of `"alternating"`.

    Returns:
      A `PrunedNetwork`.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, a number is not finite, the penalty is negative, or the
        method is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> w1 = jnp.array([[3.0, 4.0], [0.1, 0.0]])
      >>> w2 = jnp.array([[1.0, 1.0], [-1.0, 0.0]])
      >>> pruned = tropical.prune(w1, jnp.zeros(2), w2, jnp.zeros(2), penalty=1.0)
      >>> pruned.w1
      Array([[3., 4.], [0., 0.]], dtype=float32)
      >>> pruned.w2
      Array([[ 0.9,  0. ], [-0.9,  0. ]], dtype=float32)

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
    """
    layers = checked_layers(w1, b1, w2, b2)
    num_rounds = _checks.positive_integer("num_rounds", num_rounds)
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    penalties = checked_penalty(penalty, layers)
    return _prune(layers, penalties, method=method, num_rounds=num_rounds)


@functools.partial(jax.jit, static_argnames=("method", "num_rounds"))
def _prune(layers: Layers, penalties: jax.Array, *, method: str, num_rounds: int) -> PrunedNetwork:
    lengths = lifted_norms(layers)
    scaled = (layers.w2 * lengths[None]).T
    if method == "alternating":
        row_factor, kept = alternate(scaled, penalties, num_rounds)
    elif layers.w2.shape[0] == 2:
        row_factor, kept = jnp.ones_like(lengths), shrink_pair(scaled, penalties)
    else:
        row_factor, kept = jnp.ones_like(lengths), jax.vmap(shrink, (0, None))(scaled, penalties)
    # `kept` is the part of each weight that stays, 1 where nothing was taken away.
    w2 = layers.w2 * kept.T
    alive = jnp.any(w2 != 0, axis=0) & (row_factor > 0)
    row_factor = jnp.where(alive, row_factor, 0)
    w1, b1 = layers.w1 * row_factor[:, None], layers.b1 * row_factor
    w2 = jnp.where(alive[None], w2, 0)
    value = objective(layers, Layers(w1, b1, w2, layers.b2), penalties)
    return PrunedNetwork(w1, b1, w2, layers.b2, value)


def penalty_for_weights(w1: ArrayLike, b1: ArrayLike, w2: ArrayLike, *, num_weights: int) -> float:
    r"""Find the least penalty at which `prune` leaves at most so many weights.

    .. math::
        \inf \{ \lambda : \|\tilde A\|_0 + \|\tilde B\|_0 \le n \}

    The number of weights never grows with the penalty, so bisection finds it, on the host.

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.
      num_weights: how many non-zero entries `w1` and `w2` may keep together.

    Returns:
      The penalty, 0 if there are no more weights than that already.

    Raises:
      TypeError: if an array is not floating point or `num_weights` not an integer.
      ValueError: if shapes do not fit or a number is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> w1 = jnp.array([[3.0, 4.0], [1.0, 1.0], [0.0, 2.0]])
      >>> w2 = jnp.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 0.0]])
      >>> penalty = tropical.penalty_for_weights(w1, jnp.zeros(3), w2, num_weights=6)
      >>> pruned = tropical.prune(w1, jnp.zeros(3), w2, jnp.zeros(2), penalty=penalty)
      >>> int(jnp.count_nonzero(pruned.w1) + jnp.count_nonzero(pruned.w2))
      6
    """
    num_weights = _checks.positive_integer("num_weights", num_weights, minimum=0)
    w2 = floating("w2", w2)
    layers = checked_layers(w1, b1, w2, jnp.zeros(w2.shape[:1], w2.dtype))

    def count(penalty: float) -> int:
        return int(_count_weights(layers, jnp.full((layers.w2.shape[0],), penalty, w2.dtype)))

    low, high = 0.0, float(jnp.max(pruning_scores(*layers[:3])))
    if count(low) <= num_weights:
        return low
    # Rounding may keep a last weight alive at the score itself.
    while count(high) > num_weights:
        high = high * (1 + 1e-6)
    while True:
        middle = float(w2.dtype.type((low + high) / 2))
        if not low < middle < high:
            return high
        low, high = (middle, high) if count(middle) > num_weights else (low, middle)


@jax.jit
def _count_weights(layers: Layers, penalties: jax.Array) -> jax.Array:
    pruned = _prune(layers, penalties, method="closed_form", num_rounds=1)
    return jnp.count_nonzero(pruned.w1) + jnp.count_nonzero(pruned.w2)


def prune_blocks(
    layers: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    penalties: Sequence[ArrayLike],
    method: str = "closed_form",
    num_rounds: int = 100,
) -> list[tuple[jax.Array, jax.Array]]:
    """Prune a deeper ReLU network block by block, each two adjacent layers being one block.

    The outputs of a block's second layer are its classes. Blocks are taken from the input on, each
    as the earlier ones left it.

    Args:
      layers: `(weight [out, in], bias [out])` of each layer, with ReLU between them.
      penalties: one for each block, that is one fewer than layers.
      method: as for `prune`.
      num_rounds: as for `prune`.

    Returns:
      The pruned layers, in the shapes that were given.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, or penalties are not one a block.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> layers = [(jnp.eye(3), jnp.zeros(3)), (jnp.eye(3), jnp.zeros(3)),
      ...           (jnp.ones((2, 3)), jnp.zeros(2))]
      >>> pruned = tropical.prune_blocks(layers, penalties=[0.1, 0.1])
      >>> [int(jnp.count_nonzero(weight)) for weight, _ in pruned]
      [3, 3, 6]
    """
    if len(layers) < 2:
        raise ValueError(f"layers must be at least two, got {len(layers)}")
    if len(penalties) != len(layers) - 1:
        raise ValueError(
            f"penalties must be one for each of {len(layers) - 1} blocks, got {len(penalties)}"
        )
    result = [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in layers]
    for block, penalty in enumerate(penalties):
        pruned = prune(
            *result[block], *result[block + 1],
            penalty=penalty, method=method, num_rounds=num_rounds,
        )  # fmt: skip
        result[block : block + 2] = [(pruned.w1, pruned.b1), (pruned.w2, pruned.b2)]
    return result
