"""Saving and restoring networks."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import _storage
from jaxcert.models._gabor_networks import GaborLeNet, GaborResNet
from jaxcert.models._lipschitz_networks import LipschitzCNN, LipschitzMLP
from jaxcert.models._networks import MLP, ImageClassifier, LeNet
from jaxcert.models._resnet import ResNet

_CLASSES: dict[str, Callable[..., ImageClassifier]] = {
    cls.__name__: cls
    for cls in (MLP, LeNet, ResNet, GaborLeNet, GaborResNet, LipschitzMLP, LipschitzCNN)
}


def save(path: str | os.PathLike[str], module: ImageClassifier, *, overwrite: bool = False) -> None:
    """Save a network with the settings that rebuild it.

    The folder appears complete or not at all, also if the process is killed.

    Args:
      path: the folder to write; its parents are created.
      module: a network of this package.
      overwrite: whether a folder that exists is replaced.

    Raises:
      TypeError: if `module` is of another class, which `restore` could not rebuild.
      FileExistsError: if `path` exists and `overwrite` is false.
      OSError: if the disk is full or the folder cannot be written.

    Example:
      >>> import tempfile
      >>> from jaxcert import models
      >>> network = models.create("lenet", input_shape=(8, 8, 1), num_classes=10,
      ...                         mean=0.3, std=0.4, seed=0)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     models.save(f"{folder}/network", network)
      ...     again = models.restore(f"{folder}/network")
      >>> again.channels == network.channels
      True
    """
    name = type(module).__name__
    if _CLASSES.get(name) is not type(module):
        raise TypeError(
            f"module must be one of {', '.join(_CLASSES)}, got {name}; "
            "save the state of other modules with orbax"
        )
    settings = {"class": name, "settings": module.settings}
    _storage.write(path, arrays_of(nnx.state(module)), settings, overwrite=overwrite)


def restore(path: str | os.PathLike[str]) -> Any:
    """Rebuild the network that `save` wrote.

    Args:
      path: the folder.

    Returns:
      The network, of the class that was saved, with equal settings and bitwise equal weights.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if the checkpoint is truncated, altered or no network; names the path and the
        remedy.

    Example:
      >>> import tempfile
      >>> from flax import nnx
      >>> from jaxcert import models
      >>> network = models.MLP(input_shape=(8, 8, 1), num_classes=10, mean=0.3, std=0.4,
      ...                      hidden=(16,), rngs=nnx.Rngs(0))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     models.save(f"{folder}/network", network)
      ...     again = models.restore(f"{folder}/network")
      >>> models.fingerprint(models.from_nnx(again)) == models.fingerprint(models.from_nnx(network))
      True
    """
    arrays, settings = _storage.read(path)
    cls = _CLASSES.get(settings.get("class", ""))
    if cls is None:
        raise ValueError(
            f"the checkpoint at {path} holds no network of jaxcert, got settings {settings}; "
            "give the folder that models.save wrote"
        )
    # Shapes alone: drawing initial weights, only to replace them, would compile for seconds.
    module = nnx.eval_shape(lambda: cls(**settings["settings"], rngs=nnx.Rngs(0)))
    put_arrays(module, arrays)
    return module


def arrays_of(state: Any) -> dict[str, np.ndarray]:
    """The arrays of an nnx state, by "/"-separated path; keys as their data."""
    arrays = {}
    for path, variable in nnx.to_flat_state(state):
        value = variable.get_value()
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        arrays["/".join(str(part) for part in path)] = np.asarray(value)
    return arrays


def put_arrays(module: nnx.Module, arrays: dict[str, np.ndarray]) -> None:
    """Set the variables of `module` to what `arrays_of` returned."""
    variables = {"/".join(map(str, p)): v for p, v in nnx.to_flat_state(nnx.state(module))}
    if set(variables) != set(arrays):
        raise ValueError(f"expected arrays {sorted(variables)}, got {sorted(arrays)}")
    for name, variable in variables.items():
        old, new = variable.get_value(), jnp.asarray(arrays[name])
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            new = jax.random.wrap_key_data(new, impl=jax.random.key_impl(old))
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"array {name} must be {old.dtype}{old.shape}, got {new.dtype}{new.shape}"
            )
        variable.set_value(new)
