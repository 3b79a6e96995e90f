"""The regulariser of Gabor layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcert import models
from jaxcert.smoothing import Noise
from jaxcert.training._losses import cross_entropy


def gabor_penalty(module: nnx.Module) -> jax.Array:
    r"""How wide the envelopes of a network's Gabor layers are, as a number to be minimised.

    .. math::
        -\frac{1}{L} \sum_{l} \frac{1}{F_l} \sum_{f} \sigma_{l f}^2

    A large sigma makes the envelope narrow and the closed-form Lipschitz bound of the layer small.

    Args:
      module: a network that holds `models.GaborConv` layers.

    Returns:
      A scalar, at most 0.

    Raises:
      ValueError: if the network has no Gabor layer.

    Example:
      >>> from flax import nnx
      >>> from jaxcert import models, training
      >>> layer = models.GaborConv(1, 4, families=2, rngs=nnx.Rngs(0))
      >>> layer.inverse_width[...] = layer.inverse_width[...] * 0 + 3.0
      >>> float(training.gabor_penalty(layer))
      -9.0

    References:
      Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
      Robustness", 2020, arXiv:1912.05661.
    """
    layers = [node for _, node in nnx.iter_graph(module) if isinstance(node, models.GaborConv)]
    if not layers:
        raise ValueError(f"module must hold GaborConv layers, got {type(module).__name__} without")
    squares = [jnp.mean(jnp.square(_values(layer))) for layer in layers]
    return -jnp.mean(jnp.stack(squares))


def gabor_cross_entropy(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy and the penalty on wide Gabor envelopes.

    .. math::
        \mathrm{CE} - \beta \, \overline{\sigma^2}

    Args:
      key: this step's key.
      classify: the network, a module that holds `models.GaborConv` layers.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image; None for clean training.
      weight: beta of the penalty.

    Returns:
      The loss and the metrics `accuracy` and `mean_squared_inverse_width`.

    Raises:
      ValueError: if the network has no Gabor layer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxcert import models, training
      >>> network = models.GaborLeNet(input_shape=(8, 8, 1), num_classes=2, mean=0.0, std=1.0,
      ...                             channels=(4,), hidden=8, families=1, rngs=nnx.Rngs(0))
      >>> value, metrics = training.gabor_cross_entropy(
      ...     jax.random.key(0), network, jnp.ones((2, 8, 8, 1)), jnp.array([0, 1]), noise=None,
      ...     weight=0.1)
      >>> sorted(metrics)
      ['accuracy', 'mean_squared_inverse_width']

    References:
      Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
      Robustness", 2020, arXiv:1912.05661.
    """
    network: Any = classify
    penalty = gabor_penalty(network)
    loss, metrics = cross_entropy(key, classify, images, labels, noise=noise)
    return loss + weight * penalty, {**metrics, "mean_squared_inverse_width": -penalty}


def _values(layer: Any) -> jax.Array:
    return layer.inverse_width[...]
