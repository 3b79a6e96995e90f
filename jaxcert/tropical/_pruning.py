"""Pruning a network by shrinking the zonotopes that are dual to its decision boundary."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks

from ._layers import Layers, checked_layers, floating, lifted_norms

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
    penalties = _checked_penalty(penalty, layers)
    return _prune(layers, penalties, method=method, num_rounds=num_rounds)


@functools.partial(jax.jit, static_argnames=("method", "num_rounds"))
def _prune(layers: Layers, penalties: jax.Array, *, method: str, num_rounds: int) -> PrunedNetwork:
    lengths = lifted_norms(layers)
    scaled = (layers.w2 * lengths[None]).T
    if method == "alternating":
        row_factor, kept = _alternate(scaled, penalties, num_rounds)
    elif layers.w2.shape[0] == 2:
        row_factor, kept = jnp.ones_like(lengths), _shrink_pair(scaled, penalties)
    else:
        row_factor, kept = jnp.ones_like(lengths), jax.vmap(_shrink, (0, None))(scaled, penalties)
    # `kept` is the part of each weight that stays, 1 where nothing was taken away.
    w2 = layers.w2 * kept.T
    alive = jnp.any(w2 != 0, axis=0) & (row_factor > 0)
    row_factor = jnp.where(alive, row_factor, 0)
    w1, b1 = layers.w1 * row_factor[:, None], layers.b1 * row_factor
    w2 = jnp.where(alive[None], w2, 0)
    objective = _objective(layers, Layers(w1, b1, w2, layers.b2), penalties)
    return PrunedNetwork(w1, b1, w2, layers.b2, objective)


def pruning_objective(
    w1: ArrayLike,
    b1: ArrayLike,
    w2: ArrayLike,
    b2: ArrayLike,
    pruned_w1: ArrayLike,
    pruned_b1: ArrayLike,
    pruned_w2: ArrayLike,
    *,
    penalty: ArrayLike,
) -> jax.Array:
    r"""Evaluate what `prune` minimises, for any network of the same shape.

    .. math::
        \sum_{i \ne j} \tfrac12 \|\tilde G_{ij} - G_{ij}\|_F^2 + \lambda \|\tilde G_{ij}\|_{2,1}

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.
      b2: `[classes]`, which the value does not depend on.
      pruned_w1: `[h, d]` of the other network.
      pruned_b1: its `[h]`.
      pruned_w2: its `[classes, h]`.
      penalty: as for `prune`.

    Returns:
      The value, a scalar.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, a number is not finite or the penalty is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> net = jnp.ones((1, 2)), jnp.zeros(1), jnp.array([[1.0], [0.0]]), jnp.zeros(2)
      >>> tropical.pruning_objective(*net, jnp.zeros((1, 2)), jnp.zeros(1), net[2], penalty=0.5)
      Array(1., dtype=float32)
    """
    layers = checked_layers(w1, b1, w2, b2)
    pruned_w2 = floating("pruned_w2", pruned_w2)
    no_bias = jnp.zeros(pruned_w2.shape[:1], pruned_w2.dtype)
    other = checked_layers(pruned_w1, pruned_b1, pruned_w2, no_bias)
    if other.w1.shape != layers.w1.shape or other.w2.shape != layers.w2.shape:
        raise ValueError(
            f"pruned_w1 and pruned_w2 must have shapes {layers.w1.shape} and {layers.w2.shape}, "
            f"got {other.w1.shape} and {other.w2.shape}"
        )
    return _jitted_objective(layers, other, _checked_penalty(penalty, layers))


def pruning_scores(w1: ArrayLike, b1: ArrayLike, w2: ArrayLike) -> jax.Array:
    r"""Compute the least penalty at which `prune` removes each neuron.

    .. math::
        |(A_r, c_r)| \max\Bigl( \max_i B^+_{ir} + \tfrac{1}{k - 1} \sum_j B^-_{jr},\;
        \max_j B^-_{jr} + \tfrac{1}{k - 1} \sum_i B^+_{ir} \Bigr)

    the maximum over i taken only if some weight is positive, that over j only if some is negative.
    For two classes it is the longer of the neuron's two generators.

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.

    Returns:
      `[h]`, in units of a generator's length.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit or a number is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> tropical.pruning_scores(jnp.array([[3.0, 4.0]]), jnp.zeros(1), jnp.array([[1.0], [-1.0]]))
      Array([10.], dtype=float32)
    """
    w2 = floating("w2", w2)
    layers = checked_layers(w1, b1, w2, jnp.zeros(w2.shape[:1], w2.dtype))
    return _scores(layers)


@jax.jit
def _scores(layers: Layers) -> jax.Array:
    positive, negative = jax.nn.relu(layers.w2), jax.nn.relu(-layers.w2)
    others = layers.w2.shape[0] - 1
    # A side without weights has a maximum of 0 and asks for less than the other side does.
    first = jnp.max(positive, axis=0) + jnp.sum(negative, axis=0) / others
    second = jnp.max(negative, axis=0) + jnp.sum(positive, axis=0) / others
    first = jnp.where(jnp.any(positive > 0, axis=0), first, 0)
    second = jnp.where(jnp.any(negative > 0, axis=0), second, 0)
    return lifted_norms(layers) * jnp.maximum(first, second)


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


def _checked_penalty(penalty: ArrayLike, layers: Layers) -> jax.Array:
    """One penalty for each class that adds its positive part: `[classes]`."""
    classes = layers.w2.shape[0]
    array = floating("penalty", float(penalty) if isinstance(penalty, int) else penalty)
    shapes = ((), (2,)) if classes == 2 else ((),)
    if array.shape not in shapes:
        allowed = "a scalar or of shape (2,)" if classes == 2 else f"a scalar for {classes} classes"
        raise ValueError(f"penalty must be {allowed}, got shape {tuple(array.shape)}")
    if _checks.is_concrete(array) and np.any(np.asarray(array) < 0):
        raise ValueError(f"penalty must be at least 0, got {penalty}")
    return jnp.broadcast_to(array.astype(layers.w1.dtype), (classes,))


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, 0 where the denominator is not above 0, with gradients that stay finite."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def _shrink_pair(scaled: jax.Array, penalties: jax.Array) -> jax.Array:
    """Part of each weight `[h, 2]` that stays: soft-thresholding of the two generators."""
    positive, negative = jax.nn.relu(scaled), jax.nn.relu(-scaled)
    generators = positive + negative[:, ::-1]
    factors = _ratio(jax.nn.relu(generators - penalties[None]), generators)
    return jnp.where(scaled > 0, factors, factors[:, ::-1])


def _shrink(scaled: jax.Array, penalties: jax.Array) -> jax.Array:
    """Part of each weight `[k]` of one neuron that stays, for k > 2 classes."""
    positive, negative = jax.nn.relu(scaled), jax.nn.relu(-scaled)
    penalty, others = penalties[0], scaled.shape[0] - 1

    def taken_from_positive(t: jax.Array) -> jax.Array:
        return penalty - jnp.sum(jnp.minimum(t, negative)) / others

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        t = (low + high) / 2
        s = jnp.maximum(taken_from_positive(t), 0)
        above = t + jnp.sum(jnp.minimum(s, positive)) / others > penalty
        return jnp.where(above, low, t), jnp.where(above, t, high)

    # The sum grows with t, so bisection brackets the solution; which weights it removes is then
    # known, and the two equations are linear, which gives exact values and exact gradients.
    bits = jnp.finfo(scaled.dtype).nmant + 3
    low, _ = jax.lax.fori_loop(0, bits, halve, (jnp.zeros_like(penalty), penalty))
    low = jax.lax.stop_gradient(low)
    first, second = positive > taken_from_positive(low), negative > low
    first, second = first & (positive > 0), second & (negative > 0)
    p, n = (jnp.sum(side).astype(scaled.dtype) / others for side in (first, second))
    right_s = penalty - jnp.sum(jnp.where(second, 0, negative)) / others
    right_t = penalty - jnp.sum(jnp.where(first, 0, positive)) / others
    s = jnp.maximum((right_s - n * right_t) / (1 - p * n), 0)
    t = jnp.maximum((right_t - p * right_s) / (1 - p * n), 0)
    return _ratio(jax.nn.relu(positive - s), positive) + _ratio(jax.nn.relu(negative - t), negative)


def _alternate(
    scaled: jax.Array, penalties: jax.Array, num_rounds: int
) -> tuple[jax.Array, jax.Array]:
    """Scale of each neuron's row of `w1` and part of each weight of `w2` that stays.

    All steps keep the rows parallel to those given, so the scale says all. The signs of the
    weights stay those given: a part that was 0 stays 0.
    """
    classes = scaled.shape[1]
    different = 1 - jnp.eye(classes, dtype=scaled.dtype)
    weight = different * penalties[:, None]

    def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        positive, negative = jax.nn.relu(row), jax.nn.relu(-row)
        target = (positive[:, None] + negative[None]) * different

        def step(
            _: int, state: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            p, q = state[1:]
            pair = (p[:, None] + q[None]) * different
            scale = _ratio(
                jax.nn.relu(jnp.sum(pair * target) - jnp.sum(weight * pair)), jnp.sum(pair**2)
            )
            goal = _ratio(target - weight, jnp.broadcast_to(scale, target.shape))
            p = jax.nn.relu(jnp.sum(goal - different * q[None], axis=1) / (classes - 1))
            p = jnp.where((positive > 0) & (scale > 0), p, 0)
            q = jax.nn.relu(jnp.sum(goal - different * p[:, None], axis=0) / (classes - 1))
            q = jnp.where((negative > 0) & (scale > 0), q, 0)
            return scale, p, q

        start = (jnp.ones((), scaled.dtype), positive, negative)
        scale, p, q = jax.lax.fori_loop(0, num_rounds, step, start)
        return scale, _ratio(p, positive) + _ratio(q, negative)

    return jax.vmap(one)(scaled)


def _objective(layers: Layers, pruned: Layers, penalties: jax.Array) -> jax.Array:
    rows = jnp.concatenate([layers.w1, layers.b1[:, None]], axis=1)
    change = jnp.concatenate([pruned.w1, pruned.b1[:, None]], axis=1) - rows
    row_square, change_square = jnp.sum(rows**2, axis=1), jnp.sum(change**2, axis=1)
    product = jnp.sum(rows * change, axis=1)
    length = lifted_norms(pruned)
    different = 1 - jnp.eye(layers.w2.shape[0], dtype=rows.dtype)
    old_negative, new_negative = jax.nn.relu(-layers.w2), jax.nn.relu(-pruned.w2)

    def of_class(
        arguments: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    ) -> jax.Array:
        old_positive, new_positive, penalty, others = arguments
        old, new = old_positive[None] + old_negative, new_positive[None] + new_negative
        # |new (row + change) - old row|^2, without cancellation where only w2 changes.
        square = (
            new**2 * change_square[None]
            + 2 * new * (new - old) * product[None]
            + (new - old) ** 2 * row_square[None]
        )
        return jnp.sum((square / 2 + penalty * new * length[None]) * others[:, None])

    positive = jax.nn.relu(layers.w2), jax.nn.relu(pruned.w2)
    return jnp.sum(jax.lax.map(of_class, (*positive, penalties, different)))


_jitted_objective = jax.jit(_objective)
