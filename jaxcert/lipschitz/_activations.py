"""Slope ranges of activations: the least and the largest slope that each can have."""

import math
from typing import Any, NamedTuple


class SlopeRange(NamedTuple):
    """Slopes of an activation that acts on each coordinate: `low <= (f(x) - f(y)) / (x - y)`.

    Attributes:
      low: no slope is below it.
      high: no slope is above it.
    """

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Half of the sum of both."""
        return (self.low + self.high) / 2.0

    @property
    def half_width(self) -> float:
        """Half of the difference of both."""
        return (self.high - self.low) / 2.0

    @property
    def lipschitz(self) -> float:
        """The largest magnitude of a slope."""
        return max(abs(self.low), abs(self.high))


# Ends that are no exact numbers are rounded outwards in the last digit given; the extreme slopes of
# GELU lie at x = -+sqrt(2), those of SiLU where x tanh(x / 2) = 2.
_RANGES = {
    "relu": SlopeRange(0.0, 1.0),
    "identity": SlopeRange(1.0, 1.0),
    "abs": SlopeRange(-1.0, 1.0),
    "tanh": SlopeRange(0.0, 1.0),
    "sigmoid": SlopeRange(0.0, 0.25),
    "softplus": SlopeRange(0.0, 1.0),
    "elu": SlopeRange(0.0, 1.0),
    "softsign": SlopeRange(0.0, 1.0),
    "hard_tanh": SlopeRange(0.0, 1.0),
    "relu6": SlopeRange(0.0, 1.0),
    "log_sigmoid": SlopeRange(0.0, 1.0),
    "gelu": SlopeRange(-0.12890415, 1.12890415),
    # The form with tanh differs from the exact one and has slopes of its own.
    "gelu_tanh": SlopeRange(-0.12899307, 1.12899307),
    "silu": SlopeRange(-0.09983933, 1.09983933),
}
# Maps of several coordinates at once that keep distances from growing, but have no slopes.
_ONE_LIPSCHITZ = ("max_min", "group_sort", "householder")


def slope_range(activation: Any, *, negative_slope: float = 0.01) -> SlopeRange:
    r"""The least and the largest slope of an activation.

    .. math::
        \alpha \le \frac{\phi(x) - \phi(y)}{x - y} \le \beta

    Args:
      activation: a name: relu, leaky_relu, identity, abs, tanh, sigmoid, softplus, elu, softsign,
        hard_tanh, relu6, log_sigmoid, gelu (exact), gelu_tanh (the approximation), silu; or a
        `SlopeRange` of your own.
      negative_slope: slope of leaky_relu below 0.

    Returns:
      The range, ends rounded outwards.

    Raises:
      ValueError: if the activation is not one of these; max_min, group_sort and householder are
        1-Lipschitz but have no slope a coordinate.

    Example:
      >>> from jaxcert import lipschitz
      >>> lipschitz.slope_range("relu")
      SlopeRange(low=0.0, high=1.0)
    """
    if isinstance(activation, SlopeRange):
        low, high = activation
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                f"activation must be a finite range with low <= high, got {activation}"
            )
        return activation
    if activation == "leaky_relu":
        if isinstance(negative_slope, bool) or not math.isfinite(negative_slope):
            raise ValueError(f"negative_slope must be finite, got {negative_slope}")
        slope = float(negative_slope)
        return SlopeRange(min(slope, 1.0), max(slope, 1.0))
    if isinstance(activation, str) and activation in _RANGES:
        return _RANGES[activation]
    known = ", ".join([*_RANGES, "leaky_relu"])
    raise ValueError(f"activation must be a SlopeRange or one of {known}, got {activation!r}")


def activation_lipschitz(activation: Any, *, negative_slope: float = 0.01) -> float:
    """The l2 Lipschitz constant of an activation, sorting and reflecting ones included."""
    if isinstance(activation, str) and activation in _ONE_LIPSCHITZ:
        return 1.0
    return slope_range(activation, negative_slope=negative_slope).lipschitz
