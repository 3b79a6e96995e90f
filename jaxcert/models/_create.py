"""Networks by name."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx

from jaxcert import _checks
from jaxcert.models._gabor_networks import GaborLeNet, GaborResNet
from jaxcert.models._networks import MLP, LeNet
from jaxcert.models._resnet import ResNet

_Builder = Callable[..., nnx.Module]
_NAMES: dict[str, tuple[_Builder, dict[str, int]]] = {
    "mlp": (MLP, {}),
    "lenet": (LeNet, {}),
    "gabor_lenet": (GaborLeNet, {}),
    "resnet20": (ResNet, {"depth": 20}),
    "resnet56": (ResNet, {"depth": 56}),
    "resnet110": (ResNet, {"depth": 110}),
    "gabor_resnet20": (GaborResNet, {"depth": 20}),
}


def create(
    name: str,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    seed: int,
) -> nnx.Module:
    """Build a network with fresh weights by its name.

    Args:
      name: `"mlp"` (1024 and 1024 hidden units), `"lenet"`, `"gabor_lenet"`, `"resnet20"`,
        `"resnet56"`, `"resnet110"` or `"gabor_resnet20"`.
      input_shape: shape of one input, `(height, width, channels)`.
      num_classes: number of scores.
      mean: subtracted from the input inside the network, one value or one a channel, in the units
        of the input; `pixel_statistics` measures it.
      std: what the difference is divided by, likewise.
      seed: of the initial weights.

    Returns:
      A `flax.nnx` module from `[n, *input_shape]` to scores `[n, num_classes]`.

    Raises:
      ValueError: if `name` is unknown or a setting is out of range.

    Example:
      >>> from jaxcert import models
      >>> network = models.create("lenet", input_shape=(28, 28, 1), num_classes=10,
      ...                         mean=0.13, std=0.31, seed=0)
      >>> type(network).__name__
      'LeNet'
    """
    if name not in _NAMES:
        raise ValueError(f"name must be one of {', '.join(_NAMES)}, got {name!r}")
    seed = _checks.positive_integer("seed", seed, minimum=0, maximum=2**63 - 1)
    builder, settings = _NAMES[name]
    return builder(
        input_shape=input_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
        **settings,
        rngs=nnx.Rngs(jax.random.key(seed)),
    )


def pixel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the mean and standard deviation of each channel over a set of images.

    Args:
      images: float `[n, ..., channels]`.

    Returns:
      `(mean, std)`, a tuple of one float a channel each, rounded to four decimals, as `create`
      takes them. A channel that is constant gets the standard deviation 1.

    Raises:
      ValueError: if `images` is empty or has fewer than two axes.

    Example:
      >>> import numpy as np
      >>> from jaxcert import models
      >>> models.pixel_statistics(np.array([[0.0], [0.5], [1.0]]))
      ((0.5,), (0.4082,))
    """
    images = np.asarray(images)
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"images must be a non-empty [n, ..., channels], got {images.shape}")
    axes = tuple(range(images.ndim - 1))
    mean = images.mean(axis=axes, dtype=np.float64)
    std = images.std(axis=axes, dtype=np.float64)
    rounded = [round(float(value), 4) for value in std]
    return (
        tuple(round(float(value), 4) for value in mean),
        tuple(value if value > 0.0 else 1.0 for value in rounded),
    )
