"""The zonotopes that are dual to the decision boundary of a network with one hidden layer."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert.tropical import _network
from jaxcert.tropical._zonotope import Zonotope


def decision_zonotopes(
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
    cancel: bool = True,
) -> tuple[Zonotope, ...]:
    r"""The zonotopes, one a class, whose convex hull is dual to the decision boundary.

    For :math:`f(x) = W_2 \max(W_1 x + b_1, 0) + b_2` and two classes, they are the P_i with

    .. math::
        P_i = \beta_i + \sum_j [0, 1]\, w^i_j\, (W_{1,j}, b_{1,j}), \qquad
        h_{P_1}(x, 1) - h_{P_2}(x, 1) = f_1(x) - f_2(x)

    as in the paper with :math:`w^1_j = B^+_{1j} + B^-_{2j}`, :math:`w^2_j = B^+_{2j} + B^-_{1j}`,
    B^+ and B^- the positive and negative parts of W_2. The boundary lies in the hypersurface of the
    tropical polynomial :math:`\max(h_{P_1}, h_{P_2})`, and is the part of it that is dual to the
    edges between a vertex of the one and a vertex of the other zonotope. A summand that both share
    adds nothing but further false pieces to the hypersurface; `cancel` leaves it out, and then each
    hidden unit is a generator of at most one of the two.

    For more classes there is one zonotope each, with weights
    :math:`B^+_{ij} + \sum_{l \ne i} B^-_{lj}`, cancelled :math:`B_{ij} - \min_l B_{lj}`, and the
    largest support function names the class.

    Biases lift everything into one more dimension, where only upper faces count. Without any bias
    (both None) the zonotopes lie in the space of the inputs and the whole hull counts.

    Works under `jit`, `vmap` and `grad`, in the dtype of the arguments.

    Args:
      w1: W_1, floating `[h, d]`.
      b1: b_1, floating `[h]`, or None.
      w2: W_2, floating `[classes, h]`.
      b2: b_2, floating `[classes]`, or None.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      cancel: leave out the common summand; False gives the zonotopes of the paper.

    Returns:
      One `Zonotope` a class, in the order of `classes`, in R^(d+1), or in R^d without biases.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if a shape or a class does not fit, or a number is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> w1, w2 = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 1.0], [-1.0, 3.0]])
      >>> first, second = tropical.decision_zonotopes(w1, None, w2, None, classes=(0, 1))
      >>> first.generators, second.generators
      (Array([[2., 0.],
             [0., 0.]], dtype=float32), Array([[0., 0.],
             [0., 4.]], dtype=float32))

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
      Zhang, Naitzat, Lim, "Tropical Geometry of Deep Neural Networks", 2018, arXiv:1805.07091.
    """
    if not isinstance(cancel, bool):
        raise TypeError(f"cancel must be a bool, got {type(cancel).__name__}")
    first = _network.floating_array("w1", w1)
    second = _network.floating_array("w2", w2)
    shift_1 = None if b1 is None else _network.floating_array("b1", b1)
    shift_2 = None if b2 is None else _network.floating_array("b2", b2)
    _network.check_one_hidden_layer(first, shift_1, second, shift_2)
    chosen = jnp.asarray(_network.class_indices(classes, second.shape[0]))
    lifts = None
    if shift_1 is not None or shift_2 is not None:
        column = jnp.zeros(first.shape[:1], first.dtype) if shift_1 is None else shift_1
        first = jnp.concatenate([first, column[:, None]], axis=1)
        lifts = jnp.zeros(second.shape[:1], second.dtype) if shift_2 is None else shift_2
        lifts = lifts[chosen]
    second = second[chosen]
    base = jnp.zeros(first.shape[1:], jnp.result_type(first, second))
    if cancel:
        weights = second - jnp.min(second, axis=0, keepdims=True)
    else:
        positive, negative = jax.nn.relu(second), jax.nn.relu(-second)
        weights = positive + jnp.sum(negative, axis=0, keepdims=True) - negative
        # The scores are split into convex parts with max(z, 0) = max(z+, z-) - z-.
        slopes = jax.nn.relu(-first) if lifts is None else jax.nn.relu(-first[:, :-1])
        common = jnp.sum(jnp.abs(second), axis=0) @ slopes
        base = base.at[: common.size].set(common)
    zonotopes = []
    for number, weight in enumerate(weights):
        start = base if lifts is None else base.at[-1].set(lifts[number])
        zonotopes.append(Zonotope(start, weight[:, None] * first))
    return tuple(zonotopes)
