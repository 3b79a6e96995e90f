"""Noise distributions: how to sample them and what they certify."""

import dataclasses
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import special

from jaxcert import _checks
from jaxcert.smoothing import _quantiles
from jaxcert.smoothing._random_words import random_words
from jaxcert.smoothing._rounding import RADIUS_MARGIN, round_down


@dataclasses.dataclass(frozen=True)
class _Family:
    """One shape of noise at unit scale."""

    norm: str
    magnitude: Callable[[jax.Array], jax.Array]
    unit_radius: Callable[[np.ndarray], np.ndarray]
    scale_name: str


def _laplace_unit_radius(p_lower: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -np.log(2.0 * (1.0 - p_lower))


_FAMILIES = {
    "gaussian": _Family("l2", _quantiles.normal_magnitude, special.ndtri, "sigma"),
    "laplace": _Family("l1", _quantiles.laplace_magnitude, _laplace_unit_radius, "scale"),
    "uniform": _Family("l1", _quantiles.uniform_magnitude, lambda p: 2.0 * (p - 0.5), "half_width"),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noise:
    """Additive noise with independent coordinates, of one family and scale.

    A pytree: `scale` is its only leaf, so it can be traced, mapped over and differentiated. Made by
    `gaussian`, `laplace` and `uniform`, which check their argument.

    Attributes:
      family: `"gaussian"`, `"laplace"` or `"uniform"`.
      scale: float32, a scalar or one value an input `[b]`, in the units of the input.

    Example:
      >>> import jax
      >>> from jaxcert import smoothing
      >>> noise = smoothing.gaussian(0.5)
      >>> noise.sample(jax.random.key(7), (28, 28, 1)).shape
      (28, 28, 1)
      >>> print(noise, noise.norm, noise.radius(0.99).round(6))
      gaussian(0.5) l2 1.163174
    """

    family: str = dataclasses.field(metadata={"static": True})
    scale: jax.Array

    @property
    def norm(self) -> str:
        """The norm of the certified ball: `"l2"` for Gaussian noise, else `"l1"`."""
        return _FAMILIES[self.family].norm

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw one noise array for each key.

        Args:
          key: a typed threefry key, or several `[...]`.
          shape: shape of one input.

        Returns:
          float32 `[..., *shape]`. A scale for each input `[b]` belongs to the first axis of the
          keys. `class_counts` adds exactly this array, with the key `fold_in(fold_in(key, j), i)`,
          to sample i of input j: the same bits for every shape of keys.

        Raises:
          TypeError: if `key` is not a typed key.
          ValueError: if `key` is not a threefry key, or its first axis disagrees with `scale`.
        """
        key = _checks.typed_keys("key", key)
        scale = jnp.asarray(self.scale)
        if scale.shape != key.shape[: scale.ndim]:
            raise ValueError(
                f"key must have the shape {scale.shape} of the scale as its first axes, "
                f"got shape {key.shape}"
            )
        words = random_words(key, math.prod(shape))
        scale = scale.reshape(*scale.shape, *[1] * (words.ndim - scale.ndim))
        noise = _quantiles.with_sign_of(words, scale * _FAMILIES[self.family].magnitude(words))
        return noise.reshape(*key.shape, *shape)

    def radius(self, p_lower: ArrayLike) -> np.ndarray:
        r"""Certified radius for a lower bound on the probability of the top class.

        .. math::
            R_{gaussian} = \sigma \Phi^{-1}(p), \quad
            R_{laplace} = -\lambda \log(2 (1 - p)), \quad
            R_{uniform} = 2 \lambda (p - 1/2)

        in l2 for Gaussian noise of standard deviation sigma, in l1 for Laplace noise of density
        proportional to `exp(-abs(x) / scale)` and for uniform noise on `[-half_width, half_width]`.

        Args:
          p_lower: probabilities `[...]` in [0, 1]; they broadcast against `scale`.

        Returns:
          float64 `[...]` in the units of the input; 0 where `p_lower <= 1/2`.

        Raises:
          ValueError: if a probability is outside [0, 1] or NaN.

        Guarantee:
          Sound and tight among all classifiers with that probability; rounded down. The scale that
          counts is the float32 value that multiplied the noise, not the number that was asked for.

        Example:
          >>> from jaxcert import smoothing
          >>> smoothing.laplace(1.0).radius([0.4, 0.9]).round(6)
          array([0.      , 1.609438])

        References:
          Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing",
          2019, arXiv:1902.02918. Teng, Lee, Yuan, "l1 Adversarial Robustness Certificates: a
          Randomized Smoothing Approach", 2020. Yang et al., "Randomized Smoothing of All Shapes
          and Sizes", 2020, arXiv:2002.08118.
        """
        probability = np.asarray(p_lower, dtype=np.float64)
        if not np.all((probability >= 0.0) & (probability <= 1.0)):
            raise ValueError(f"p_lower must lie in [0, 1], got {probability}")
        above_half = probability > 0.5
        unit = _FAMILIES[self.family].unit_radius(np.where(above_half, probability, 0.75))
        scale = np.asarray(self.scale, dtype=np.float64)
        return np.where(above_half, round_down(scale * unit, RADIUS_MARGIN), 0.0)

    def __str__(self) -> str:
        scale = np.asarray(self.scale, dtype=np.float32)
        # The shortest decimal that gives back the same float32.
        values = ", ".join(str(value) for value in scale.ravel())
        return f"{self.family}({values if scale.ndim == 0 else f'[{values}]'})"


def gaussian(sigma: ArrayLike) -> Noise:
    """Gaussian noise, which certifies in l2.

    Args:
      sigma: standard deviation, above 0, in the units of the input: a scalar or one value an input.

    Returns:
      A `Noise`.

    Raises:
      TypeError: if `sigma` is not a real number or array.
      ValueError: if `sigma` is not finite and above 0, or has more than one axis.

    Example:
      >>> from jaxcert import smoothing
      >>> smoothing.gaussian(0.25).norm
      'l2'
    """
    return _noise("gaussian", sigma)


def laplace(scale: ArrayLike) -> Noise:
    """Laplace noise of density proportional to `exp(-abs(x) / scale)`, which certifies in l1.

    Args:
      scale: above 0, in the units of the input: a scalar or one value an input. The standard
        deviation is `sqrt(2) * scale`.

    Returns:
      A `Noise`.

    Raises:
      TypeError: if `scale` is not a real number or array.
      ValueError: if `scale` is not finite and above 0, or has more than one axis.

    Example:
      >>> from jaxcert import smoothing
      >>> smoothing.laplace(0.25).norm
      'l1'
    """
    return _noise("laplace", scale)


def uniform(half_width: ArrayLike) -> Noise:
    """Uniform noise on `[-half_width, half_width]`, which certifies in l1.

    Args:
      half_width: above 0, in the units of the input: a scalar or one value an input. The standard
        deviation is `half_width / sqrt(3)`.

    Returns:
      A `Noise`.

    Raises:
      TypeError: if `half_width` is not a real number or array.
      ValueError: if `half_width` is not finite and above 0, or has more than one axis.

    Example:
      >>> from jaxcert import smoothing
      >>> float(smoothing.uniform(0.5).radius(1.0).round(6))
      0.5
    """
    return _noise("uniform", half_width)


def parse_noise(text: str) -> Noise:
    """Read back what `str` of a `Noise` wrote, exactly.

    Args:
      text: such as `"gaussian(0.25)"`.

    Returns:
      The `Noise`, with the same float32 scale.

    Raises:
      ValueError: if `text` does not name a family and a positive scale.

    Example:
      >>> from jaxcert import smoothing
      >>> print(smoothing.parse_noise("uniform(0.5)"))
      uniform(0.5)
    """
    match = re.fullmatch(r"\s*(\w+)\(\s*(\[?)([^\[\]()]*)(\]?)\s*\)\s*", text)
    if match is None or match[1] not in _FAMILIES or bool(match[2]) != bool(match[4]):
        families = ", ".join(f"{name}(...)" for name in _FAMILIES)
        raise ValueError(f"noise must be one of {families}, got {text!r}")
    try:
        values = [float(value) for value in match[3].split(",")]
    except ValueError:
        raise ValueError(f"noise must have a number as its scale, got {text!r}") from None
    if not match[2] and len(values) != 1:
        raise ValueError(f"noise must have one scale, or a list in [...], got {text!r}")
    return _noise(match[1], np.asarray(values if match[2] else values[0]))


def _noise(family: str, scale: ArrayLike) -> Noise:
    name = _FAMILIES[family].scale_name
    if not isinstance(scale, jax.Array):
        try:
            scale = np.asarray(scale, dtype=np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be a real number or array, got {scale!r}") from None
    scale = jnp.asarray(scale, dtype=jnp.float32)
    if scale.ndim > 1:
        raise ValueError(f"{name} must be a scalar or one value an input, got shape {scale.shape}")
    if _checks.is_concrete(scale):
        values = np.asarray(scale)
        if not np.all(np.isfinite(values) & (values > 0.0)):
            raise ValueError(f"{name} must be finite and above 0 in float32, got {values}")
    return Noise(family=family, scale=scale)
