"""How many linear pieces a network has: counted, and bounded by its widths."""

import math
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.tropical import _lines, _network, _polygons
from jaxcert.tropical._arrangement import sign_cells
from jaxcert.tropical._network import Layers

# Bends of the output below this, relative to the terms they are summed from, cancel.
_TOLERANCE = 1e-12


def num_linear_regions(
    w1: ArrayLike, b1: ArrayLike | None, w2: ArrayLike, *, max_bytes: int = 2**33
) -> int:
    r"""Count the linear regions of a network with one hidden layer, all over the input space.

    .. math::
        x \mapsto W_2 \max(W_1 x + b_1, 0)

    is affine between the hyperplanes along which it bends: those of the hidden units, except where
    the bends of units with the same hyperplane cancel in all outputs, or no output listens.

    Args:
      w1: W_1, `[h, d]`.
      b1: b_1, `[h]`, or None.
      w2: W_2, `[out, h]`.
      max_bytes: memory that the count may take.

    Returns:
      The number of the largest connected open sets on which the network is affine.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the memory does not suffice;
        nothing has been computed then.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> tropical.num_linear_regions(np.eye(2), None, np.ones((1, 2)))
      4
      >>> tropical.num_linear_regions(  # relu(x) - relu(-x) = x has no bend
      ...     np.array([[1.0], [-1.0]]), None, np.array([[1.0, -1.0]]))
      1

    References:
      Zhang, Naitzat, Lim, "Tropical Geometry of Deep Neural Networks", 2018, arXiv:1805.07091.
    """
    (first, shift), (second, _) = _network.one_hidden_layer(w1, b1, w2, None)
    lifted = np.concatenate([first, shift[:, None]], axis=1)
    # A unit that sees no input is constant.
    seeing = np.any(first != 0.0, axis=1)
    lifted, second = lifted[seeing], second[:, seeing]
    if lifted.shape[0] == 0:
        return 1
    lines = _lines.distinct_lines("w1", lifted, tolerance=1e-9)
    lengths = np.linalg.norm(lifted, axis=1)
    count = lines.units.shape[0]
    bend, size = np.zeros((count, second.shape[0])), np.zeros((count, second.shape[0]))
    # relu(s t) bends by |s| whatever the sign of s, so units of one line add up.
    np.add.at(bend, lines.line_of, (second * lengths).T)
    np.add.at(size, lines.line_of, (np.abs(second) * lengths).T)
    bends = np.any(np.abs(bend) > _TOLERANCE * size, axis=1)
    if not np.any(bends):
        return 1
    up = np.zeros((1, lifted.shape[1]))
    up[0, -1] = 1.0
    walls = lines.units[bends] @ lines.basis
    cells = sign_cells(np.concatenate([walls, up]), max_bytes=max_bytes)
    return int(np.sum(cells.signs[:, -1] > 0))


def num_activation_regions(layers: Layers, *, box: ArrayLike) -> int:
    r"""Count the activation regions of a ReLU network with two inputs inside a box, at any depth.

    An activation region is a largest open set on which every hidden unit keeps its sign; it is
    convex, and the network is affine on it. There may be fewer linear regions.

    Args:
      layers: pairs of a weight `[out, in]` and a bias `[out]` or None, a ReLU between them.
      box: `[2, 2]`, the lower and the upper corner.

    Returns:
      The number of regions that meet the box, up to slivers that rounding cannot tell from none.

    Raises:
      TypeError: if an array is not real, or is traced.
      ValueError: if a shape does not fit, a number is not finite, or the box is empty.

    Example:
      >>> import numpy as np
      >>> from jaxcert import tropical
      >>> layers = [(np.eye(2), None), (np.array([[1.0, -1.0]]), None), (np.ones((1, 1)), None)]
      >>> tropical.num_activation_regions(layers, box=np.array([[-1.0, -1.0], [1.0, 1.0]]))
      5
    """
    network = _network.host_layers("layers", layers)
    if network[0][0].shape[1] != 2:
        raise ValueError(
            f"layers[0][0] must have two columns, one an input, got shape {network[0][0].shape}"
        )
    return int(_polygons.subdivide(network, _network.host_box(box), None).sizes.size)


def generic_num_regions(num_inputs: int, num_units: int) -> int:
    r"""The number of linear regions of one hidden layer in general position, the most there can be.

    .. math::
        \sum_{i=0}^{d} \binom{h}{i}

    With biases; without any, the hyperplanes are central and it is
    :math:`2 \sum_{i<d} \binom{h-1}{i}`, that is twice this for d - 1 inputs and h - 1 units.

    Args:
      num_inputs: d, at least 0.
      num_units: h, at least 0.

    Returns:
      The number, exactly.

    Raises:
      TypeError: if a number is no integer.
      ValueError: if a number is negative.

    Example:
      >>> from jaxcert import tropical
      >>> tropical.generic_num_regions(2, 8)
      37

    References:
      Zaslavsky, "Facing up to arrangements: face-count formulas for partitions of space by
      hyperplanes", Memoirs of the AMS 154, 1975.
    """
    inputs = _checks.positive_integer("num_inputs", num_inputs, minimum=0)
    units = _checks.positive_integer("num_units", num_units, minimum=0)
    return sum(math.comb(units, i) for i in range(min(inputs, units) + 1))


def num_regions_upper(num_inputs: int, widths: Sequence[int]) -> int:
    r"""An upper bound on the linear regions of a ReLU network, from its widths alone.

    .. math::
        \prod_{l=1}^{L} \sum_{i=0}^{d_l} \binom{n_l}{i}, \quad d_l = \min(d, n_1, \dots, n_{l-1})

    The image of a region in layer l - 1 has dimension d_l at most, and there the n_l units of layer
    l cut it into at most that many pieces. A decision boundary has at most one flat piece for each
    region and pair of classes, so this bounds its pieces too.

    Args:
      num_inputs: d.
      widths: n_1, ..., n_L of the hidden layers.

    Returns:
      The bound, an exact integer.

    Raises:
      TypeError: if a number is no integer.
      ValueError: if a number is below 1 or there is no layer.

    Guarantee:
      Upper bound for every network of these widths; no rounding.

    Example:
      >>> from jaxcert import tropical
      >>> tropical.num_regions_upper(2, [8, 8])
      1369

    References:
      Zhang, Naitzat, Lim, "Tropical Geometry of Deep Neural Networks", 2018, arXiv:1805.07091.
      Montufar, "Notes on the number of linear regions of deep neural networks", 2017.
    """
    dimension = _checks.positive_integer("num_inputs", num_inputs)
    if not len(widths):
        raise ValueError("widths must hold at least one hidden layer, got none")
    product = 1
    for place, width in enumerate(widths):
        units = _checks.positive_integer(f"widths[{place}]", width)
        product *= generic_num_regions(dimension, units)
        dimension = min(dimension, units)
    return product
