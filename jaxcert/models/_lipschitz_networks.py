"""1-Lipschitz networks of equal size for each family of layers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import _checks, _compiled_weights
from jaxcert.models._block_reflector import BROConv, BROLinear
from jaxcert.models._cayley import CayleyConv, CayleyLinear, SandwichConv, SandwichLinear
from jaxcert.models._convex_potential import CPLConv, CPLLinear
from jaxcert.models._dominance import AOLConv, AOLLinear, SLLConv, SLLLinear
from jaxcert.models._initializers import he_normal
from jaxcert.models._linear_maps import min_max, multiply
from jaxcert.models._lmi_stacks import GershgorinStack, LDLTStack
from jaxcert.models._networks import ImageClassifier, check_image_shape
from jaxcert.models._residual_linear import LiResNetConv, LiResNetLinear
from jaxcert.models._skew_exponential import SOCConv, SOCLinear

_Layer = Callable[..., nnx.Module]
# Name, dense layer, convolution, and whether MinMax follows: the others hold their activation.
_LAYERS: dict[str, tuple[_Layer, _Layer, bool]] = {
    "aol": (
        lambda size, depth, rngs: AOLLinear(size, size, rngs=rngs),
        lambda size, depth, rngs: AOLConv(size, size, rngs=rngs),
        True,
    ),
    "sll": (
        lambda size, depth, rngs: SLLLinear(size, rngs=rngs),
        lambda size, depth, rngs: SLLConv(size, rngs=rngs),
        False,
    ),
    "cpl": (
        lambda size, depth, rngs: CPLLinear(size, rngs=rngs),
        lambda size, depth, rngs: CPLConv(size, rngs=rngs),
        False,
    ),
    "cayley": (
        lambda size, depth, rngs: CayleyLinear(size, size, rngs=rngs),
        lambda size, depth, rngs: CayleyConv(size, rngs=rngs),
        True,
    ),
    "sandwich": (
        lambda size, depth, rngs: SandwichLinear(size, size, rngs=rngs),
        lambda size, depth, rngs: SandwichConv(size, rngs=rngs),
        False,
    ),
    "soc": (
        lambda size, depth, rngs: SOCLinear(size, rngs=rngs),
        lambda size, depth, rngs: SOCConv(size, rngs=rngs),
        True,
    ),
    "bro": (
        lambda size, depth, rngs: BROLinear(size, size, rngs=rngs),
        lambda size, depth, rngs: BROConv(size, rngs=rngs),
        True,
    ),
    "liresnet": (
        lambda size, depth, rngs: LiResNetLinear(size, depth=depth, rngs=rngs),
        lambda size, depth, rngs: LiResNetConv(size, depth=depth, rngs=rngs),
        True,
    ),
}
_STACKS: dict[str, Callable[..., nnx.Module]] = {"gershgorin": GershgorinStack, "ldlt": LDLTStack}


class NormalizedLinear(nnx.Module):
    """Last layer whose weights for each class have norm 1.

    The map as a whole may have a norm above 1: what counts for a margin are the differences of the
    weights of two classes, whose norm can reach 2, not the square root of 2.

    Args:
      inputs: input features.
      outputs: number of scores.
      rngs: keys for the initial weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> layer = models.NormalizedLinear(4, 3, rngs=nnx.Rngs(0))
      >>> jnp.linalg.norm(layer.weight(), axis=0).round(4)
      Array([1., 1., 1.], dtype=float32)

    References:
      Singla, Singla, Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", 2022,
      arXiv:2108.04062.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(he_normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def weight(self) -> jax.Array:
        """The normalised weights `[inputs, outputs]`."""
        kernel = self.kernel[...]
        return kernel * jax.lax.rsqrt(jnp.sum(kernel**2, axis=0) + 1e-12)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[n, inputs]` to `[n, outputs]`."""
        return multiply(x, self.weight()) + self.bias[...]


class _LipschitzNetwork(ImageClassifier):
    """What the two networks share: a head, and the constants that certify margins."""

    neck: CayleyLinear
    layers: Any
    head: NormalizedLinear | None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores `[n, num_classes]`, or features `[n, width]` where `head` is false.

        Args:
          images: `[n, *input_shape]` in pixel units.
        """
        features = self.features(images)
        return features if self.head is None else self.head(features)

    def features(self, images: jax.Array) -> jax.Array:
        """What the last layer is applied to, `[n, width]`."""
        raise NotImplementedError

    def features_lipschitz_upper(self) -> float:
        """Bound on the Lipschitz constant from pixels to the features before the last layer.

        Each layer is bounded from the weights that it computes, with a proof in float64.
        """
        parts = [1.0 / min(self.std), *self._layers_upper()]
        return math.prod(parts) * (1.0 + len(parts) * _compiled_weights.ALLOWANCE)

    def pairwise_lipschitz_upper(self) -> np.ndarray:
        """Bounds on the Lipschitz constants of all differences of scores, float64: `[c, c]`.

        The l2 radius min_j (f_y - f_j) / bound[y, j] is certified.
        """
        weight = np.asarray(self._existing_head().weight(), np.float64)
        squares = np.sum((weight[:, :, None] - weight[:, None, :]) ** 2, axis=0)
        return (
            self.features_lipschitz_upper() * np.sqrt(squares) * (1.0 + _compiled_weights.ALLOWANCE)
        )

    def pairwise_lipschitz_estimate(self) -> jax.Array:
        """The same in the dtype of the weights, with layers of norm 1, for losses: `[c, c]`."""
        weight = self._existing_head().weight()
        squares = jnp.sum((weight[:, :, None] - weight[:, None, :]) ** 2, axis=0)
        return jnp.sqrt(squares + 1e-12) / min(self.std)

    def _existing_head(self) -> NormalizedLinear:
        if self.head is None:
            raise ValueError("head must be true: a network without one has no scores to compare")
        return self.head

    def _layers_upper(self) -> list[float]:
        raise NotImplementedError


class LipschitzMLP(_LipschitzNetwork):
    """A 1-Lipschitz multi-layer perceptron, in units of the normalised input.

    An orthonormal matrix to `width` features, `depth` layers of one family, and a last layer with
    normalised weights. MinMax follows the layers that have no activation of their own.

    Args:
      input_shape: shape of one input, such as `(28, 28, 1)`; flattened.
      num_classes: number of scores.
      mean: subtracted from the input, one value or one a channel, in pixel units.
      std: what the difference is divided by; the constant is divided by the smallest.
      family: `"aol"`, `"sll"`, `"cpl"`, `"cayley"`, `"sandwich"`, `"soc"`, `"bro"`, `"liresnet"`,
        `"gershgorin"` or `"ldlt"`.
      width: features of each layer, even.
      depth: layers of the family, at least 2.
      head: whether there is a last layer; without it the network is an encoder from inputs to
        `width` features with the constant `features_lipschitz_upper()`, and `num_classes` has no
        effect.
      rngs: keys for the initial weights.

    Raises:
      ValueError: if `family` is unknown or a number is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.LipschitzMLP(input_shape=(8, 8, 1), num_classes=3, mean=0.3, std=1.0,
      ...                               family="cayley", width=16, depth=2, rngs=nnx.Rngs(0))
      >>> network(jnp.zeros((5, 8, 8, 1))).shape
      (5, 3)
      >>> round(network.features_lipschitz_upper(), 4)
      1.0
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        family: str = "sll",
        width: int = 128,
        depth: int = 4,
        head: bool = True,
        rngs: nnx.Rngs,
    ):
        super().__init__(input_shape=input_shape, num_classes=num_classes, mean=mean, std=std)
        self.family = _check_family(family, (*_LAYERS, *_STACKS))
        self.width = _even("width", width)
        self.depth = _checks.positive_integer("depth", depth, minimum=2)
        self.neck = CayleyLinear(math.prod(self.input_shape), self.width, rngs=rngs)
        if self.family in _STACKS:
            stack = _STACKS[self.family]([self.width] * (self.depth + 1), rngs=rngs)
            self.layers = nnx.List([stack])
        else:
            build = _LAYERS[self.family][0]
            self.layers = nnx.List([build(self.width, depth, rngs) for _ in range(self.depth)])
        self.head = NormalizedLinear(self.width, self.num_classes, rngs=rngs) if head else None

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {
            **super().settings,
            "family": self.family,
            "width": self.width,
            "depth": self.depth,
            "head": self.head is not None,
        }

    def _layers_upper(self) -> list[float]:
        return [layer.lipschitz_upper() for layer in (self.neck, *self.layers)]

    def features(self, images: jax.Array) -> jax.Array:
        """What the last layer is applied to, `[n, width]`, of images `[n, *input_shape]`."""
        x = self._normalised(images)
        x = self.neck(x.reshape(x.shape[0], -1))
        activate = self.family in _LAYERS and _LAYERS[self.family][2]
        for layer in self.layers:
            x = min_max(layer(x)) if activate else layer(x)
        return x


class LipschitzCNN(_LipschitzNetwork):
    """A 1-Lipschitz convolutional network, in units of the normalised input.

    Patches of pixels become channels and zero channels are added, which keeps all distances; then
    `depth` convolutions of one family, an orthonormal matrix to `width` features, MinMax, and a
    last layer with normalised weights.

    Args:
      input_shape: `(height, width, channels)`, sides that `patch` divides.
      num_classes: number of scores.
      mean: subtracted from the input, one value or one a channel, in pixel units.
      std: what the difference is divided by; the constant is divided by the smallest.
      family: `"aol"`, `"sll"`, `"cpl"`, `"cayley"`, `"sandwich"`, `"soc"`, `"bro"` or
        `"liresnet"`.
      channels: channels of the convolutions, even, at least those of a patch.
      depth: convolutions of the family.
      width: features of the dense layer before the scores, even.
      patch: side of the patches.
      head: whether there is a last layer, as in `LipschitzMLP`.
      rngs: keys for the initial weights.

    Raises:
      ValueError: if `family` is unknown or a number is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.LipschitzCNN(input_shape=(8, 8, 1), num_classes=3, mean=0.3, std=1.0,
      ...                               family="sll", channels=8, depth=2, width=16, patch=2,
      ...                               rngs=nnx.Rngs(0))
      >>> network(jnp.zeros((5, 8, 8, 1))).shape
      (5, 3)
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        family: str = "sll",
        channels: int = 64,
        depth: int = 4,
        width: int = 128,
        patch: int = 4,
        head: bool = True,
        rngs: nnx.Rngs,
    ):
        super().__init__(input_shape=input_shape, num_classes=num_classes, mean=mean, std=std)
        self.patch = _checks.positive_integer("patch", patch)
        check_image_shape(self.input_shape, minimum=3 * self.patch)
        self.family = _check_family(family, tuple(_LAYERS))
        self.depth = _checks.positive_integer("depth", depth)
        self.width = _even("width", width)
        height, breadth, colours = self.input_shape
        if height % self.patch or breadth % self.patch:
            raise ValueError(f"patch must divide the sides of {self.input_shape}, got {patch}")
        self.channels = _even("channels", channels, minimum=self.patch**2 * colours)
        self.image_size = (height // self.patch, breadth // self.patch)
        build = _LAYERS[self.family][1]
        self.layers = nnx.List([build(self.channels, depth, rngs) for _ in range(self.depth)])
        features = math.prod(self.image_size) * self.channels
        self.neck = CayleyLinear(features, self.width, rngs=rngs)
        self.head = NormalizedLinear(self.width, self.num_classes, rngs=rngs) if head else None

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments, beside `rngs`, that build a module of this architecture."""
        return {
            **super().settings,
            "family": self.family,
            "channels": self.channels,
            "depth": self.depth,
            "width": self.width,
            "patch": self.patch,
            "head": self.head is not None,
        }

    def _layers_upper(self) -> list[float]:
        bounds = [layer.lipschitz_upper(self.image_size) for layer in self.layers]
        return [*bounds, self.neck.lipschitz_upper()]

    def features(self, images: jax.Array) -> jax.Array:
        """What the last layer is applied to, `[n, width]`, of images in pixel units."""
        x = self._normalised(images)
        batch, (height, breadth), patch = x.shape[0], self.image_size, self.patch
        x = x.reshape(batch, height, patch, breadth, patch, -1).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, height, breadth, -1)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])))
        for layer in self.layers:
            x = min_max(layer(x)) if _LAYERS[self.family][2] else layer(x)
        return min_max(self.neck(x.reshape(batch, -1)))


def _check_family(family: str, names: tuple[str, ...]) -> str:
    if family not in names:
        raise ValueError(f"family must be one of {', '.join(names)}, got {family!r}")
    return family


def _even(name: str, value: int, *, minimum: int = 2) -> int:
    number = _checks.positive_integer(name, value, minimum=minimum)
    if number % 2:
        raise ValueError(f"{name} must be even, for MinMax, got {number}")
    return number
