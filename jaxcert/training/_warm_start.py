"""Beginning with the weights of another network."""

import numpy as np
from flax import nnx


def warm_start(module: nnx.Module, pretrained: nnx.Module) -> list[str]:
    """Set the weights that two networks share by name and shape to those of the pretrained one.

    An encoder begins so with the hidden layers of a classifier, and keeps its own last layer.

    Args:
      module: the network to be trained next; changed in place.
      pretrained: the network whose weights are copied; not changed.

    Returns:
      The names of what was copied, sorted.

    Raises:
      ValueError: if the networks share nothing.

    Example:
      >>> from flax import nnx
      >>> from jaxcert import models, training
      >>> shape = {"input_shape": (8, 8, 1), "mean": 0.3, "std": 0.4, "hidden": (16,)}
      >>> classifier = models.MLP(num_classes=10, rngs=nnx.Rngs(0), **shape)
      >>> encoder = models.MLP(num_classes=32, rngs=nnx.Rngs(1), **shape)
      >>> training.warm_start(encoder, classifier)
      ['layers/0/bias', 'layers/0/kernel', 'normalisation/inverse_std', 'normalisation/mean']
    """
    known = dict(nnx.to_flat_state(nnx.state(pretrained)))
    shared = []
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        other = known.get(path)
        if other is None:
            continue
        old, new = variable.get_value(), other.get_value()
        if (np.shape(old), old.dtype) == (np.shape(new), new.dtype):
            variable.set_value(new)
            shared.append("/".join(map(str, path)))
    if not shared:
        raise ValueError(
            "module must share weights with pretrained by name and shape, got "
            f"{type(module).__name__} and {type(pretrained).__name__}, which share none"
        )
    return sorted(shared)
