"""Networks as tropical rational maps, and their decision boundaries in a hypersurface."""

import functools
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.tropical import _lines, _network, _zonotope
from jaxcert.tropical._active import prune_monomials
from jaxcert.tropical._arrangement import sign_cells
from jaxcert.tropical._decision import decision_zonotopes
from jaxcert.tropical._network import Layers
from jaxcert.tropical._polynomial import RationalMap, TropicalPolynomial
from jaxcert.tropical._zonotope import Zonotope


def rational_map(layers: Layers, *, max_monomials: int = 1_000_000) -> RationalMap:
    r"""A ReLU network of any depth as a tropical rational map.

    .. math::
        H = A^+ F + A^- G + b, \quad G' = A^+ G + A^- F, \quad F' = \max(H, G')

    for each layer, starting from F = x and G = 0: sums of polynomials are tropical products, sums
    of multiples products of powers, and the last layer, which has no ReLU, ends with H and G'.
    Monomials that never attain the maximum are dropped after every product; without that, their
    number grows doubly exponentially with depth, and with it, still as the number of regions does.
    Each dropping may change the function by 1e-9 of the range of its coefficients. For the
    boundary alone, `network_boundary_segments` needs no polynomials.

    Args:
      layers: pairs of a weight `[out, in]` and a bias `[out]` or None, a ReLU between them.
      max_monomials: the most that a product may have before it is pruned.

    Returns:
      A `RationalMap` with one component an output, of NumPy float64 arrays.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or a product would have more than
        `max_monomials`.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> absolute = [(np.array([[1.0], [-1.0]]), None), (np.array([[1.0, 1.0]]), None)]
      >>> found = tropical.rational_map(absolute)
      >>> np.asarray(tropical.evaluate(found, np.array([[-3.0], [2.0]]))).ravel()
      array([3., 2.], dtype=float32)
      >>> found.numerators[0].exponents.ravel(), found.denominators[0].exponents.ravel()
      (array([2., 0.]), array([1.]))

    References:
      Zhang, Naitzat, Lim, "Tropical Geometry of Deep Neural Networks", 2018, arXiv:1805.07091.
    """
    network = _network.host_layers("layers", layers)
    max_monomials = _checks.positive_integer("max_monomials", max_monomials)
    inputs = network[0][0].shape[1]
    tops = [TropicalPolynomial(np.zeros(1), row[None]) for row in np.eye(inputs)]
    bottoms = [TropicalPolynomial(np.zeros(1), np.zeros((1, inputs))) for _ in range(inputs)]
    for number, (weight, bias) in enumerate(network):
        heights, grounds = [], []
        for row, shift in zip(weight, bias, strict=True):
            plus, minus = np.maximum(row, 0.0), np.maximum(-row, 0.0)
            height = _combination(plus, tops, minus, bottoms, max_monomials)
            heights.append(TropicalPolynomial(height.coefficients + shift, height.exponents))
            grounds.append(_combination(plus, bottoms, minus, tops, max_monomials))
        last = number == len(network) - 1
        tops = heights if last else [_larger(*pair) for pair in zip(heights, grounds, strict=True)]
        bottoms = grounds
    return RationalMap(tuple(tops), tuple(bottoms))


def zonotope_polynomial(zonotope: Zonotope, *, max_bytes: int = 2**33) -> TropicalPolynomial:
    r"""The tropical polynomial whose lifted polytope is a zonotope.

    .. math::
        x \mapsto h_Z(x, 1) = \max_{(a, c) \in Z} \, (\langle a, x \rangle + c)

    The last coordinate of the zonotope holds the coefficients; its upper vertices, the only ones
    that count, become the monomials, each once and all of them active.

    Args:
      zonotope: in R^(n+1).
      max_bytes: memory that the enumeration may take.

    Returns:
      A polynomial in n variables, of NumPy float64 arrays.

    Raises:
      TypeError: if the zonotope is traced.
      ValueError: if a shape does not fit, a number is not finite, n is 0, or the memory does not
        suffice; nothing has been computed then.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> segment = tropical.Zonotope(np.zeros(2), np.array([[2.0, 1.0]]))
      >>> relu = tropical.zonotope_polynomial(segment)
      >>> relu.exponents.ravel(), relu.coefficients
      (array([0., 2.]), array([0., 1.]))
    """
    base = np.asarray(_lines.finite_matrix("base", np.asarray(zonotope.base)[None])[0])
    generators = _lines.finite_matrix("generators", zonotope.generators)
    _zonotope.check_shapes(base.shape, generators.shape)
    if base.size < 2:
        raise ValueError(f"zonotope must lie in R^2 or higher, got base of shape {base.shape}")
    up = np.zeros((1, base.size))
    up[0, -1] = 1.0
    # Where only the last coordinate is moved, the upper end always wins.
    vertical = ~np.any(generators[:, :-1] != 0.0, axis=1)
    base = base + np.maximum(generators[vertical], 0.0).sum(axis=0)
    slanted = generators[~vertical]
    cells = sign_cells(np.concatenate([slanted, up]), max_bytes=max_bytes)
    active = cells.signs[cells.signs[:, -1] > 0, :-1] > 0
    active = active[np.lexsort(active.T[::-1])] if slanted.size else active
    points = base + active @ slanted
    return TropicalPolynomial(points[:, -1], points[:, :-1])


def decision_polynomial(
    w1: ArrayLike,
    b1: ArrayLike | None,
    w2: ArrayLike,
    b2: ArrayLike | None,
    *,
    classes: Any,
    cancel: bool = True,
    max_bytes: int = 2**33,
) -> tuple[TropicalPolynomial, np.ndarray]:
    r"""The tropical polynomial whose hypersurface contains the decision boundary.

    .. math::
        R(x) = \max_i h_{P_i}(x, 1), \quad
        \{ x : \text{two classes tie ahead of the others} \} \subseteq T(R)

    with the `decision_zonotopes` P_i. The boundary is only that part of the hypersurface where
    monomials of two classes tie; elsewhere a single class wins, with a bend. Its dual subdivision
    is the one in the paper's pictures.

    Args:
      w1: W_1, `[h, d]`.
      b1: b_1, `[h]`, or None.
      w2: W_2, `[classes, h]`.
      b2: b_2, `[classes]`, or None.
      classes: the classes that compete, a sequence of at least two, or None for all of them.
      cancel: leave out what all classes share; False gives the polynomial of the paper.
      max_bytes: memory that the enumeration may take.

    Returns:
      The polynomial in d variables, with the active monomials of every class, and for each monomial
      the class it belongs to, int64 `[k]`.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the memory does not suffice.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> found, classes = tropical.decision_polynomial(
      ...     np.eye(2), None, np.eye(2), None, classes=(0, 1))
      >>> found.exponents, classes
      (array([[0., 0.],
             [1., 0.],
             [0., 0.],
             [0., 1.]]), array([0, 0, 1, 1]))

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
    """
    (first, shift), (second, last) = _network.one_hidden_layer(w1, b1, w2, b2)
    chosen = _network.class_indices(classes, second.shape[0])
    with jax.enable_x64(True):
        zonotopes = decision_zonotopes(first, shift, second, last, classes=chosen, cancel=cancel)
        host = jax.tree.map(np.asarray, zonotopes)
    parts = [zonotope_polynomial(zonotope, max_bytes=max_bytes) for zonotope in host]
    polynomial = TropicalPolynomial(
        np.concatenate([part.coefficients for part in parts]),
        np.concatenate([part.exponents for part in parts]),
    )
    return polynomial, np.repeat(chosen, [part.coefficients.size for part in parts])


def _combination(
    first: np.ndarray,
    tops: list[TropicalPolynomial],
    second: np.ndarray,
    bottoms: list[TropicalPolynomial],
    max_monomials: int,
) -> TropicalPolynomial:
    """The sum of non-negative multiples of polynomials, pruned after each product."""
    terms = [
        TropicalPolynomial(factor * part.coefficients, factor * part.exponents)
        for factors, parts in ((first, tops), (second, bottoms))
        for factor, part in zip(factors, parts, strict=True)
        if factor != 0.0
    ]
    inputs = tops[0].exponents.shape[1]
    zero = TropicalPolynomial(np.zeros(1), np.zeros((1, inputs)))
    # Small ones first: a product costs the product of the sizes.
    terms.sort(key=lambda term: term.coefficients.size)
    return functools.reduce(functools.partial(_product, max_monomials=max_monomials), terms, zero)


def _product(
    left: TropicalPolynomial, right: TropicalPolynomial, *, max_monomials: int
) -> TropicalPolynomial:
    size = left.coefficients.size * right.coefficients.size
    if size > max_monomials:
        raise ValueError(
            f"layers must give products of at most max_monomials={max_monomials} monomials, "
            f"got one of {left.coefficients.size} x {right.coefficients.size}"
        )
    product = TropicalPolynomial(
        (left.coefficients[:, None] + right.coefficients).reshape(-1),
        (left.exponents[:, None] + right.exponents).reshape(-1, left.exponents.shape[1]),
    )
    # A monomial times a polynomial has none to drop.
    smallest = min(left.coefficients.size, right.coefficients.size)
    return product if smallest == 1 else prune_monomials(product)


def _larger(one: TropicalPolynomial, other: TropicalPolynomial) -> TropicalPolynomial:
    return prune_monomials(
        TropicalPolynomial(
            np.concatenate([one.coefficients, other.coefficients]),
            np.concatenate([one.exponents, other.exponents]),
        )
    )
