"""The small networks, a multi-layer perceptron and a LeNet-size CNN, and what all share."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcert import _checks
from jaxcert.models._initializers import he_normal, small_normal


class InputStatistic(nnx.Variable):
    """A per-channel constant of the input normalisation: saved with the weights, never trained."""


class _Normalisation(nnx.Module):
    """`(x - mean) / std` per channel, inside the network: inputs and noise stay in pixel units."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean = InputStatistic(jnp.asarray(mean, dtype=jnp.float32))
        self.inverse_std = InputStatistic(1.0 / jnp.asarray(std, dtype=jnp.float32))

    def __call__(self, images: jax.Array) -> jax.Array:
        return (images - self.mean[...]) * self.inverse_std[...]


class ImageClassifier(nnx.Module):
    """What the networks share: checked settings, the input normalisation and the shape check."""

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ):
        shape = tuple(_checks.positive_integer("input_shape", size) for size in input_shape)
        if not shape:
            raise ValueError(f"input_shape must have at least one axis, got {tuple(input_shape)}")
        self.input_shape = shape
        self.num_classes = _checks.positive_integer("num_classes", num_classes, minimum=2)
        self.mean = _per_channel("mean", mean, shape[-1])
        self.std = _per_channel("std", std, shape[-1])
        if not all(value > 0.0 for value in self.std):
            raise ValueError(f"std must be above 0 in every channel, got {self.std}")
        self.normalisation = _Normalisation(self.mean, self.std)

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def _normalised(self, images: jax.Array) -> jax.Array:
        if images.shape[1:] != self.input_shape:
            expected = ", ".join(str(size) for size in self.input_shape)
            raise ValueError(
                f"images must have shape [n, {expected}] for this "
                f"{type(self).__name__}, got {tuple(images.shape)}"
            )
        return self.normalisation(images)


class MLP(ImageClassifier):
    """A multi-layer perceptron with ReLU activations, input normalisation inside.

    Args:
      input_shape: shape of one input, such as `(28, 28, 1)`; flattened.
      num_classes: number of scores.
      mean: subtracted from the input, one value or one a channel (last axis), in pixel units.
      std: what the difference is divided by, likewise.
      hidden: widths of the hidden layers.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.MLP(input_shape=(8, 8, 1), num_classes=10, mean=0.3, std=0.4,
      ...                      hidden=(32, 32), rngs=nnx.Rngs(0))
      >>> network(jnp.zeros((5, 8, 8, 1))).shape
      (5, 10)
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        hidden: Sequence[int] = (1024, 1024),
        rngs: nnx.Rngs,
    ):
        super().__init__(input_shape=input_shape, num_classes=num_classes, mean=mean, std=std)
        self.hidden = tuple(_checks.positive_integer("hidden", width) for width in hidden)
        widths = (math.prod(self.input_shape), *self.hidden)
        self.layers = nnx.List(
            [hidden_linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.head = output_linear(widths[-1], self.num_classes, rngs=rngs)

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {**super().settings, "hidden": list(self.hidden)}

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores `[n, num_classes]` of images `[n, *input_shape]` in pixel units."""
        x = self._normalised(images)
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.head(x)


class LeNet(ImageClassifier):
    """A LeNet-size CNN: strided convolutions instead of pooling, then one hidden dense layer.

    Each convolution has an even kernel and stride 2, so it filters and halves the image at once: a
    network for certification runs millions of times, and strides save the work at full resolution
    that pooling would discard. At 28 by 28 pixels: 1.1 million multiplications an image.

    Args:
      input_shape: `(height, width, channels)`, each side at least 4.
      num_classes: number of scores.
      mean: subtracted from the input, one value or one a channel, in pixel units.
      std: what the difference is divided by, likewise.
      channels: output channels of the convolutions, 4 by 4 with stride 2.
      hidden: width of the dense layer before the scores.
      padding: zeros on each side of the input of each convolution, 0 or 1; None takes 0 where that
        leaves each convolution at least 4 pixels, else 1.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.LeNet(input_shape=(28, 28, 1), num_classes=10, mean=0.13, std=0.31,
      ...                        rngs=nnx.Rngs(0))
      >>> network(jnp.zeros((5, 28, 28, 1))).shape
      (5, 10)

    References:
      LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
      1998. Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for Simplicity: The All
      Convolutional Net", 2015, arXiv:1412.6806.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        channels: Sequence[int] = (32, 64),
        hidden: int = 128,
        padding: int | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(input_shape=input_shape, num_classes=num_classes, mean=mean, std=std)
        self.channels = tuple(_checks.positive_integer("channels", width) for width in channels)
        self.hidden = _checks.positive_integer("hidden", hidden)
        check_image_shape(self.input_shape, minimum=2 ** len(self.channels))
        height, width, depth = self.input_shape
        if padding is None:
            padding = 0 if _after_strides(min(height, width), len(self.channels), 0) >= 1 else 1
        self.padding = _checks.positive_integer("padding", padding, minimum=0, maximum=1)
        height = _after_strides(height, len(self.channels), self.padding)
        width = _after_strides(width, len(self.channels), self.padding)
        if min(height, width) < 1:
            raise ValueError(f"padding must be 1 for images of shape {self.input_shape}, got 0")
        self.convolutions = nnx.List(
            [
                nnx.Conv(
                    a,
                    b,
                    (4, 4),
                    strides=2,
                    padding=self.padding,
                    kernel_init=he_normal,
                    rngs=rngs,
                )
                for a, b in itertools.pairwise((depth, *self.channels))
            ]
        )
        features = height * width * (depth, *self.channels)[-1]
        self.dense = hidden_linear(features, self.hidden, rngs=rngs)
        self.head = output_linear(self.hidden, self.num_classes, rngs=rngs)

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {
            **super().settings,
            "channels": list(self.channels),
            "hidden": self.hidden,
            "padding": self.padding,
        }

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores `[n, num_classes]` of images `[n, height, width, channels]` in pixel units."""
        x = self._normalised(images)
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        x = jax.nn.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.head(x)


def _after_strides(size: int, convolutions: int, padding: int) -> int:
    """What 4 by 4 convolutions of stride 2 leave of a side; 0 where one does not fit."""
    for _ in range(convolutions):
        size = max(0, (size + 2 * padding - 4) // 2 + 1)
    return size


def hidden_linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer before a ReLU."""
    return nnx.Linear(inputs, outputs, kernel_init=he_normal, rngs=rngs)


def output_linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """The last dense layer: small initial weights, so that the first scores are near 0."""
    return nnx.Linear(inputs, outputs, kernel_init=small_normal, rngs=rngs)


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(float(v) for v in value) if isinstance(value, Sequence) else (float(value),)
    if len(values) == 1:
        values *= channels
    if len(values) != channels or not all(math.isfinite(v) for v in values):
        raise ValueError(
            f"{name} must be one finite number or one for each of {channels} channels, got {value}"
        )
    return values


def check_image_shape(shape: tuple[int, ...], *, minimum: int) -> None:
    """Raise unless `shape` is that of an image with sides of at least `minimum`."""
    if len(shape) != 3 or min(shape[:2]) < minimum:
        raise ValueError(
            f"input_shape must be (height, width, channels) with sides of at least {minimum}, "
            f"got {shape}"
        )
