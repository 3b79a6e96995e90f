"""Gabor layers: convolutions whose filters are a few parameters each."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from jaxcert import _checks, lipschitz
from jaxcert.models._initializers import he_normal

PARAMETERS = (
    "inverse_width",
    "aspect_ratio",
    "frequency",
    "phase",
    "amplitude",
    "orientation",
)


class GaborConstant(nnx.Variable):
    """A parameter of a Gabor layer that is kept fixed: saved with the weights, never trained."""


def gabor_filters(
    inverse_width: ArrayLike,
    aspect_ratio: ArrayLike,
    frequency: ArrayLike,
    phase: ArrayLike,
    amplitude: ArrayLike,
    orientation: ArrayLike,
    *,
    kernel_size: int,
) -> jax.Array:
    r"""Sample Gabor filters at k by k equidistant points of [-1, 1] x [-1, 1].

    .. math::
        g(x, y) = \alpha e^{-\sigma^2 (x'^2 + \gamma^2 y'^2)} \cos(\lambda x' + \psi), \quad
        x' = x \cos\theta - y \sin\theta, \quad y' = x \sin\theta + y \cos\theta

    Args:
      inverse_width: sigma.
      aspect_ratio: gamma.
      frequency: lambda, in radians per half a kernel.
      phase: psi, in radians.
      amplitude: alpha.
      orientation: theta, in radians; the six are broadcast to `[*shape]`.
      kernel_size: points k on each axis; one point is at 0.

    Returns:
      `[k, k, *shape]`, y along the first axis and x along the second.

    Raises:
      ValueError: if `kernel_size` is below 1.

    Example:
      >>> from jaxcert import models
      >>> models.gabor_filters(2.0, 1.0, 0.0, 0.0, 1.0, 0.3, kernel_size=3)[1].round(3)
      Array([0.018, 1.   , 0.018], dtype=float32)

    References:
      Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
      Robustness", 2020, arXiv:1912.05661.
    """
    taps = _checks.positive_integer("kernel_size", kernel_size)
    values = (inverse_width, aspect_ratio, frequency, phase, amplitude, orientation)
    sigma, aspect, wave, shift, alpha, angle = jnp.broadcast_arrays(*map(jnp.asarray, values))
    points = jnp.linspace(-1.0, 1.0, taps, dtype=sigma.dtype) if taps > 1 else jnp.zeros(1)
    x = points.reshape(1, taps, *[1] * sigma.ndim)
    y = points.reshape(taps, 1, *[1] * sigma.ndim)
    along = x * jnp.cos(angle) - y * jnp.sin(angle)
    across = x * jnp.sin(angle) + y * jnp.cos(angle)
    envelope = jnp.exp(-(sigma**2) * (along**2 + (aspect * across) ** 2))
    return alpha * envelope * jnp.cos(wave * along + shift)


class GaborConv(nnx.Module):
    """A bank of Gabor filters on each channel, a ReLU, and a 1 by 1 convolution without bias.

    Each family has an inverse width, an aspect ratio, a frequency and a phase, and is turned to
    each orientation; each of these responses has an amplitude. The same bank is applied to every
    input channel, so that the layer has very few parameters beside the 1 by 1 convolution.

    Args:
      inputs: input channels.
      outputs: output channels.
      families: number of Gabor families.
      orientations: number of orientations, which start at `2 pi o / orientations`.
      kernel_size: taps on each axis.
      strides: pixels between outputs, on both axes.
      padding: zeros on each side; None takes half of the kernel.
      fixed: names of the parameters that are not trained, out of `inverse_width`, `aspect_ratio`,
        `frequency`, `phase`, `amplitude` and `orientation`.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.GaborConv(3, 16, families=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.zeros((5, 32, 32, 3))).shape
      (5, 32, 32, 16)

    References:
      Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
      Robustness", 2020, arXiv:1912.05661.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        families: int,
        orientations: int = 8,
        kernel_size: int = 5,
        strides: int = 1,
        padding: int | None = None,
        fixed: Sequence[str] = ("orientation",),
        rngs: nnx.Rngs,
    ):
        self.inputs = _checks.positive_integer("inputs", inputs)
        self.outputs = _checks.positive_integer("outputs", outputs)
        self.families = _checks.positive_integer("families", families)
        self.orientations = _checks.positive_integer("orientations", orientations)
        self.kernel_size = _checks.positive_integer("kernel_size", kernel_size)
        self.strides = _checks.positive_integer("strides", strides)
        self.padding = (
            self.kernel_size // 2
            if padding is None
            else _checks.positive_integer("padding", padding, minimum=0)
        )
        self.fixed = check_fixed(fixed)
        shapes = dict.fromkeys(PARAMETERS, (self.families, 1))
        shapes["amplitude"] = (self.families, self.orientations)
        for name in PARAMETERS:
            if name == "orientation":
                values = jnp.arange(self.orientations) * (2.0 * math.pi / self.orientations)
            else:
                values = jax.random.normal(rngs.params(), shapes[name])
            kind = GaborConstant if name in self.fixed else nnx.Param
            setattr(self, name, kind(values))
        responses = self.inputs * self.families * self.orientations
        self.mixing = nnx.Param(he_normal(rngs.params(), (responses, self.outputs)))

    def filters(self) -> jax.Array:
        """The bank: `[k, k, families * orientations]`."""
        layer: Any = self
        values = (getattr(layer, name)[...] for name in PARAMETERS)
        bank = gabor_filters(*values, kernel_size=self.kernel_size)
        return bank.reshape(self.kernel_size, self.kernel_size, -1)

    def lipschitz_upper(self, image_size: Sequence[int]) -> jax.Array:
        """Upper bound on the Lipschitz constant of the layer on images `(height, width)`."""
        return jnp.asarray(
            lipschitz.gabor_layer_lipschitz_upper(
                self.filters(),
                input_shape=(*image_size, self.inputs),
                mixing=self.mixing[...],
                strides=self.strides,
                padding=self.padding,
            )
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, height, width, inputs]` to `[n, ..., ..., outputs]`."""
        batch, height, width, channels = x.shape
        if channels != self.inputs:
            raise ValueError(f"x must have {self.inputs} channels, got shape {x.shape}")
        # All channels meet the same filters, so they can stand in the batch: one plain convolution.
        single = x.transpose(0, 3, 1, 2).reshape(batch * channels, height, width, 1)
        responses = jax.nn.relu(
            jax.lax.conv_general_dilated(
                single,
                self.filters()[:, :, None, :].astype(x.dtype),
                (self.strides, self.strides),
                [(self.padding, self.padding)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        )
        mixing = self.mixing[...].reshape(channels, responses.shape[-1], self.outputs)
        responses = responses.reshape(batch, channels, *responses.shape[1:])
        return jnp.einsum("nchwr,cro->nhwo", responses, mixing)


def check_fixed(fixed: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the fixed parameters, in their order, or raise."""
    if isinstance(fixed, str) or not set(fixed) <= set(PARAMETERS):
        raise ValueError(f"fixed must be names out of {', '.join(PARAMETERS)}, got {fixed!r}")
    return tuple(name for name in PARAMETERS if name in fixed)
