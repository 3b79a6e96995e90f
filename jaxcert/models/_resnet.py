"""The CIFAR-style residual networks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcert import _checks
from jaxcert.models import _winograd
from jaxcert.models._initializers import he_normal
from jaxcert.models._networks import ImageClassifier, check_image_shape, output_linear

_ONE_PIXEL = ((1, 1), (1, 1))


class ResNet(ImageClassifier):
    """The CIFAR-style residual network of depth `6 k + 2` with parameter-free (option A) shortcuts.

    A 3 by 3 convolution to 16 channels, three stages of k basic blocks with 16, 32 and 64 channels,
    global average pooling and a dense layer. Where a stage halves the image, the shortcut takes
    every other pixel and pads the channels with zeros on both sides.

    In evaluation mode on a CPU, images whose height is a multiple of 16 and width one of 8 take a
    faster path: convolutions by Winograd's filtering, batch normalisation folded into them. Scores
    differ by rounding alone, about 1e-6 of the largest.

    Args:
      input_shape: `(height, width, channels)`, each side at least 4.
      num_classes: number of scores.
      mean: subtracted from the input, one value or one a channel, in pixel units.
      std: what the difference is divided by, likewise.
      depth: number of layers with weights, `6 k + 2`, such as 20, 56 or 110.
      rngs: keys for the initial weights.

    Raises:
      ValueError: if `depth` is not `6 k + 2`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.ResNet(input_shape=(32, 32, 3), num_classes=10, mean=0.45, std=0.25,
      ...                         depth=20, rngs=nnx.Rngs(0))
      >>> network.eval()
      >>> network(jnp.zeros((2, 32, 32, 3))).shape
      (2, 10)

    References:
      He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, arXiv:1512.03385,
      section 4.2.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        depth: int = 20,
        rngs: nnx.Rngs,
    ):
        super().__init__(input_shape=input_shape, num_classes=num_classes, mean=mean, std=std)
        check_image_shape(self.input_shape, minimum=4)
        self.depth = _checks.positive_integer("depth", depth)
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 k + 2, such as 20, 56 or 110, got {depth}")
        self.stem = _convolution(self.input_shape[-1], 16, rngs=rngs)
        self.stem_norm = _batch_norm(16, rngs=rngs)
        stages = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        self.blocks = nnx.List(
            [
                _BasicBlock(*((a, b, stride) if index == 0 else (b, b, 1)), rngs=rngs)
                for a, b, stride in stages
                for index in range(blocks)
            ]
        )
        self.head = output_linear(64, self.num_classes, rngs=rngs)

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {**super().settings, "depth": self.depth}

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores `[n, num_classes]` of images `[n, height, width, channels]` in pixel units."""
        x = self._normalised(images)
        height, width, _ = self.input_shape
        # Each stage halves the image; `convolve` takes 4 rows and 2 columns at a time.
        if self.stem_norm.use_running_average and height % 16 == 0 and width % 8 == 0:
            return jax.lax.platform_dependent(x, cpu=self._scores_by_rows, default=self._scores)
        return self._scores(x)

    def _scores(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))

    def _scores_by_rows(self, x: jax.Array) -> jax.Array:
        kernel, bias = _folded(self.stem, self.stem_norm)
        x = _winograd.convolve(x.transpose(1, 0, 2, 3), kernel, bias)
        for block in self.blocks:
            x = block.by_rows(x)
        return self.head(x.mean(axis=(0, 2)))


class _BasicBlock(nnx.Module):
    """Two 3 by 3 convolutions with batch normalisation and an option A shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.first = _convolution(inputs, outputs, stride=stride, rngs=rngs)
        self.first_norm = _batch_norm(outputs, rngs=rngs)
        self.second = _convolution(outputs, outputs, rngs=rngs)
        self.second_norm = _batch_norm(outputs, rngs=rngs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return jax.nn.relu(y + self._shortcut(x[:, :: self.stride, :: self.stride]))

    def by_rows(self, x: jax.Array) -> jax.Array:
        """The block in evaluation mode, on activations `[height, n, width, channels]`."""
        kernel, bias = _folded(self.first, self.first_norm)
        if self.stride == 1:
            y = _winograd.convolve(x, kernel, bias)
        else:
            y = jax.lax.conv_general_dilated(
                x.transpose(1, 0, 2, 3),
                kernel,
                (self.stride, self.stride),
                _ONE_PIXEL,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            y = jax.nn.relu(y + bias).transpose(1, 0, 2, 3)
        kernel, bias = _folded(self.second, self.second_norm)
        shortcut = self._shortcut(x[:: self.stride, :, :: self.stride])
        return _winograd.convolve(y, kernel, bias, residual=shortcut)

    def _shortcut(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.padding, self.padding)))


def _convolution(inputs: int, outputs: int, *, stride: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3),
        strides=stride,
        padding=_ONE_PIXEL,
        use_bias=False,
        kernel_init=he_normal,
        rngs=rngs,
    )


def _batch_norm(channels: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


def _folded(convolution: nnx.Conv, norm: nnx.BatchNorm) -> tuple[jax.Array, jax.Array]:
    """Kernel and bias of a convolution followed by batch normalisation with running averages."""
    assert norm.scale is not None
    assert norm.bias is not None
    scale = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.epsilon)
    return convolution.kernel[...] * scale, norm.bias[...] - norm.mean[...] * scale
