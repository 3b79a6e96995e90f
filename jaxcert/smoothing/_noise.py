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
from jaxcert.smoothing import _grid, _quantiles
from jaxcert.smoothing._random_words import random_words
from jaxcert.smoothing._rounding import RADIUS_MARGIN, round_down


@dataclasses.dataclass(frozen=True)
class _Family:
    """One shape of noise at unit scale."""

    norm: str
    # None for noise on a grid, which `_grid` samples in integers.
    magnitude: Callable[[jax.Array], jax.Array] | None
    unit_radius: Callable[[np.ndarray], np.ndarray]
    scale_name: str


def _grid_unit_radius(p_lower: np.ndarray) -> np.ndarray:
    # A step down of 2**-53 exceeds the 2**-61 by which a probability under the sampled noise can
    # differ from one under the exact noise.
    return special.ndtri(np.nextafter(p_lower, 0.0))


def _laplace_unit_radius(p_lower: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -np.log(2.0 * (1.0 - p_lower))


_FAMILIES = {
    "gaussian": _Family("l2", _quantiles.normal_magnitude, special.ndtri, "sigma"),
    "laplace": _Family("l1", _quantiles.laplace_magnitude, _laplace_unit_radius, "scale"),
    "uniform": _Family("l1", _quantiles.uniform_magnitude, lambda p: 2.0 * (p - 0.5), "half_width"),
    "discrete_gaussian": _Family("l2", None, _grid_unit_radius, "sigma"),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noise:
    """Additive noise with independent coordinates, of one family and scale.

    A pytree: `scale` is its only leaf, so it can be traced, mapped over and differentiated. Made by
    `gaussian`, `laplace`, `uniform` and `discrete_gaussian`, which check their argument.

    Attributes:
      family: `"gaussian"`, `"laplace"`, `"uniform"` or `"discrete_gaussian"`.
      scale: float32, a scalar or one value an input `[b]`, in the units of the input.
      grid: for `"discrete_gaussian"` the sigma and the levels, known when a program is compiled;
        else None. `scale` then only repeats sigma; `dataclasses.replace` keeps the grid.

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
    grid: _grid.Grid | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def norm(self) -> str:
        """The norm of the certified ball: `"l2"` for both kinds of Gaussian noise, else `"l1"`."""
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
        if self.grid is not None:
            indices = _grid.sample_indices(key, math.prod(shape), grid=self.grid)
            return _grid.to_inputs(indices, self.grid.levels).reshape(*key.shape, *shape)
        magnitude = _FAMILIES[self.family].magnitude
        if magnitude is None:
            raise ValueError(f"noise of family {self.family!r} must have a grid, got None")
        words = random_words(key, math.prod(shape))
        scale = scale.reshape(*scale.shape, *[1] * (words.ndim - scale.ndim))
        noise = _quantiles.with_sign_of(words, scale * magnitude(words))
        return noise.reshape(*key.shape, *shape)

    def radius(self, p_lower: ArrayLike) -> np.ndarray:
        r"""Certified radius for a lower bound on the probability of the top class.

        .. math::
            R_{gaussian} = R_{discrete} = \sigma \Phi^{-1}(p), \quad
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
          For noise on a grid `p_lower` bounds the probability under the sampled noise; how far that
          is from the exact distribution is subtracted here.

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
        scale = np.asarray(self.scale, dtype=np.float32).astype(np.float64)
        if self.grid is not None:
            scale = np.full_like(scale, self.grid.sigma)
        return np.where(above_half, round_down(scale * unit, RADIUS_MARGIN), 0.0)

    def __str__(self) -> str:
        if self.grid is not None:
            levels = "" if self.grid.levels == 255 else f", levels={self.grid.levels}"
            return f"{self.family}({np.float32(self.grid.sigma)}{levels})"
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


def discrete_gaussian(sigma: float, *, levels: int = 255) -> Noise:
    r"""Gaussian noise rounded to a grid, for certificates that hold for the arithmetic that runs.

    .. math::
        x + \mathrm{round}(\epsilon L) / L = \mathrm{round}((x + \epsilon) L) / L, \quad
        \epsilon \sim N(0, \sigma^2 I), \quad L x \in \mathbb{Z}^d

    L being `levels`. For an input x on the grid, adding rounded noise is the same as rounding the
    sum with real noise. So what is smoothed is `f(round(.))`, one fixed function on real inputs,
    under exact Gaussian noise, and Cohen's radius applies to it. Noise and sum are integers; the
    network, whatever its rounding errors, is a function of them.

    Args:
      sigma: standard deviation before rounding, above 0, a number that is not traced; at most about
        700 steps of the grid.
      levels: the grid holds the multiples of `1 / levels`; 255 for 8-bit images in [0, 1].

    Returns:
      A `Noise`. With it `class_counts`, and all that counts by it, demands inputs on the grid (of
      traced ones that are off it no sample is a vote), and each sigma compiles anew.

    Raises:
      TypeError: if `sigma` is not a real number, or `levels` not an integer.
      ValueError: if `sigma` is not finite and above 0 in float32, or too wide for the grid, or
        `levels` is below 1.

    Guarantee:
      Sound, without the assumption of exact arithmetic, for all inputs on the grid that lie within
      the radius; it says nothing about inputs between its points. It assumes random words that are
      uniform and independent, inputs of at most `2**20` coordinates, and a network whose scores for
      a row depend on that row alone. The noise is sampled by comparing 95 random bits with exactly
      computed cumulative probabilities; what this leaves in total variation, below `2**-61` an
      input, is subtracted from the probability by `Noise.radius`.

    Example:
      >>> import jax
      >>> from jaxcert import smoothing
      >>> noise = smoothing.discrete_gaussian(0.25)
      >>> print(noise, noise.norm, noise.radius(0.99).round(6))
      discrete_gaussian(0.25) l2 0.581587
      >>> (255 * noise.sample(jax.random.key(7), (4,))).round()
      Array([-26., 108.,   7.,  -9.], dtype=float32)

    References:
      Voracek, Hein, "Sound Randomized Smoothing in Floating-Point Arithmetics", 2022,
      arXiv:2207.07209.
    """
    levels = _checks.positive_integer("levels", levels, maximum=2**16)
    if not _checks.is_concrete(sigma):
        raise TypeError("sigma must be known when the noise is made, got a traced value")
    with jax.ensure_compile_time_eval():
        noise = _noise("discrete_gaussian", sigma)
    if noise.scale.ndim:
        raise ValueError(f"sigma must be one number for noise on a grid, got {noise.scale}")
    grid = _grid.Grid(float(noise.scale), levels)
    _grid.thresholds(grid)
    return dataclasses.replace(noise, grid=grid)


def add_noise(noise: Noise, inputs: jax.Array, drawn: jax.Array) -> jax.Array:
    """Add what `noise.sample` drew to inputs, in the dtype of the inputs.

    On a grid the sum is one of integers, so that the result depends on nothing but its index; an
    input off the grid, which only a traced one can be here, gives NaN.
    """
    if noise.grid is not None:
        levels = noise.grid.levels
        indices = _grid.to_indices(inputs, levels) + _grid.to_indices(drawn, levels)
        noisy = jnp.where(
            _grid.is_on_grid(inputs, levels), _grid.to_inputs(indices, levels), np.float32(np.nan)
        )
        return noisy.astype(inputs.dtype)
    wide = jnp.float64 if inputs.dtype == jnp.float64 else jnp.float32
    return (inputs.astype(wide) + drawn.astype(wide)).astype(inputs.dtype)


def check_inputs(name: str, inputs: jax.Array, noise: Noise) -> None:
    """Raise unless the noise can certify such inputs: they must lie on its grid, if it has one."""
    if not isinstance(noise, Noise):
        raise TypeError(
            f"noise must be a Noise such as smoothing.gaussian(0.25), got {type(noise).__name__}"
        )
    if noise.grid is not None:
        _grid.check_on_grid(name, inputs, levels=noise.grid.levels)


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
    match = re.fullmatch(
        r"\s*(\w+)\(\s*(\[?)([^\[\]()]*?)(\]?)(?:,\s*levels=(\d+)\s*)?\s*\)\s*", text
    )
    if match is None or match[1] not in _FAMILIES or bool(match[2]) != bool(match[4]):
        families = ", ".join(f"{name}(...)" for name in _FAMILIES)
        raise ValueError(f"noise must be one of {families}, got {text!r}")
    try:
        values = [float(value) for value in match[3].split(",")]
    except ValueError:
        raise ValueError(f"noise must have a number as its scale, got {text!r}") from None
    if not match[2] and len(values) != 1:
        raise ValueError(f"noise must have one scale, or a list in [...], got {text!r}")
    if match[1] == "discrete_gaussian" and not match[2]:
        return discrete_gaussian(values[0], levels=int(match[5] or 255))
    if match[1] == "discrete_gaussian" or match[5]:
        raise ValueError(f"noise must be one sigma on one grid, or have no levels, got {text!r}")
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
