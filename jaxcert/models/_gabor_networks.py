"""A LeNet and a residual network whose first layers are Gabor layers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from jaxcert import _checks
from jaxcert.models._gabor import GaborConv, check_fixed
from jaxcert.models._initializers import he_normal
from jaxcert.models._networks import (
    ImageClassifier,
    check_image_shape,
    hidden_linear,
    output_linear,
)
from jaxcert.models._resnet import ResNet

_KERNEL = 5


class GaborLeNet(ImageClassifier):
    """A LeNet-size CNN of 5 by 5 layers of stride 2, the first of which are Gabor layers.

    With `gabor_layers=0` it is the network with ordinary convolutions in their place, of equal
    shapes: the one to compare with.

    Args:
      input_shape: `(height, width, channels)`, each side at least 8.
      num_classes: number of scores.
      mean: subtracted from the input, one value or one a channel, in pixel units.
      std: what the difference is divided by, likewise.
      channels: output channels of the two or more 5 by 5 layers.
      hidden: width of the dense layer before the scores.
      gabor_layers: how many layers are Gabor layers, from the first; None for all of `channels`.
      families: Gabor families of each such layer.
      orientations: orientations of each family.
      fixed: names of the parameters that are not trained, as in `GaborConv`.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.GaborLeNet(input_shape=(28, 28, 1), num_classes=10, mean=0.13, std=0.31,
      ...                             gabor_layers=1, rngs=nnx.Rngs(0))
      >>> network(jnp.zeros((5, 28, 28, 1))).shape
      (5, 10)

    References:
      Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
      Robustness", 2020, arXiv:1912.05661.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        channels: Sequence[int] = (16, 32),
        hidden: int = 128,
        gabor_layers: int | None = None,
        families: int = 3,
        orientations: int = 8,
        fixed: Sequence[str] = ("orientation",),
        rngs: nnx.Rngs,
    ):
        super().__init__(input_shape=input_shape, num_classes=num_classes, mean=mean, std=std)
        self.channels = tuple(_checks.positive_integer("channels", width) for width in channels)
        self.hidden = _checks.positive_integer("hidden", hidden)
        self.gabor_layers = _checks.positive_integer(
            "gabor_layers",
            len(self.channels) if gabor_layers is None else gabor_layers,
            minimum=0,
            maximum=len(self.channels),
        )
        self.families = _checks.positive_integer("families", families)
        self.orientations = _checks.positive_integer("orientations", orientations)
        self.fixed = check_fixed(fixed)
        check_image_shape(self.input_shape, minimum=2 ** (len(self.channels) + 1))
        widths = (self.input_shape[-1], *self.channels)
        size = list(self.input_shape[:2])
        layers: list[nnx.Module] = []
        for index, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            size = [(side + 1) // 2 for side in size]
            if index < self.gabor_layers:
                layers.append(
                    GaborConv(
                        a,
                        b,
                        families=self.families,
                        orientations=self.orientations,
                        kernel_size=_KERNEL,
                        strides=2,
                        fixed=self.fixed,
                        rngs=rngs,
                    )
                )
            else:
                layers.append(
                    nnx.Conv(
                        a,
                        b,
                        (_KERNEL, _KERNEL),
                        strides=2,
                        padding=_KERNEL // 2,
                        kernel_init=he_normal,
                        rngs=rngs,
                    )
                )
        self.layers = nnx.List(layers)
        self.dense = hidden_linear(math.prod(size) * widths[-1], self.hidden, rngs=rngs)
        self.head = output_linear(self.hidden, self.num_classes, rngs=rngs)

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {
            **super().settings,
            "channels": list(self.channels),
            "hidden": self.hidden,
            "gabor_layers": self.gabor_layers,
            "families": self.families,
            "orientations": self.orientations,
            "fixed": list(self.fixed),
        }

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores `[n, num_classes]` of images `[n, height, width, channels]` in pixel units."""
        x = self._normalised(images)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        x = jax.nn.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.head(x)


class GaborResNet(ResNet):
    """The CIFAR-style residual network with a 5 by 5 Gabor layer as its first layer.

    Args:
      input_shape: `(height, width, channels)`, each side at least 4.
      num_classes: number of scores.
      mean: subtracted from the input, one value or one a channel, in pixel units.
      std: what the difference is divided by, likewise.
      depth: number of layers with weights, `6 k + 2`, such as 8 or 20.
      families: Gabor families.
      orientations: orientations of each family.
      fixed: names of the parameters that are not trained, as in `GaborConv`.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.GaborResNet(input_shape=(32, 32, 3), num_classes=10, mean=0.45,
      ...                              std=0.25, depth=8, rngs=nnx.Rngs(0))
      >>> network.stem.families
      3

    References:
      Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
      Robustness", 2020, arXiv:1912.05661.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        depth: int = 20,
        families: int = 3,
        orientations: int = 8,
        fixed: Sequence[str] = ("orientation",),
        rngs: nnx.Rngs,
    ):
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            mean=mean,
            std=std,
            depth=depth,
            rngs=rngs,
        )
        self.families = _checks.positive_integer("families", families)
        self.orientations = _checks.positive_integer("orientations", orientations)
        self.fixed = check_fixed(fixed)
        self.stem = GaborConv(  # type: ignore[assignment]
            self.input_shape[-1],
            16,
            families=self.families,
            orientations=self.orientations,
            kernel_size=_KERNEL,
            fixed=self.fixed,
            rngs=rngs,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {
            **super().settings,
            "families": self.families,
            "orientations": self.orientations,
            "fixed": list(self.fixed),
        }

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores `[n, num_classes]` of images `[n, height, width, channels]` in pixel units."""
        return self._scores(self._normalised(images))
