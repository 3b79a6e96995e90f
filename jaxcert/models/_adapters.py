"""Adapters from Flax modules to classifiers: pytrees of weights with a static function."""

import dataclasses
import inspect
from collections.abc import Hashable, Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial

from jaxcert import _fingerprint

# What a module calls the switch between training and evaluation, and its value in evaluation.
_EVALUATION_VALUES = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


class _Static:
    """A hashable function that compares by `key`, with the (costly) hash computed once."""

    def __init__(self, key: Any):
        self.key = key
        self._hash = hash(key)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, type(self)) and self.key == other.key

    def __hash__(self) -> int:
        return self._hash


class _NnxClassifier(_Static):
    """Rebuilds an nnx module from its weights and calls it."""

    def __init__(self, name: str, graphdef: nnx.GraphDef):
        super().__init__(graphdef)
        self.name = name

    def __call__(self, weights: Any, random_state: Any, inputs: jax.Array) -> jax.Array:
        module = nnx.merge(self.key, weights, random_state)
        before = dict(nnx.to_flat_state(nnx.state(module)))
        before = {path: variable.get_value() for path, variable in before.items()}
        scores = module(inputs)  # type: ignore[operator]
        for path, variable in nnx.to_flat_state(nnx.state(module)):
            if variable.get_value() is not before.get(path):
                raise ValueError(
                    f"the module {self.name} changes its state {'/'.join(map(str, path))} when it "
                    "is called in evaluation mode; a classifier must be one fixed function, so "
                    "use running averages and no dropout once `eval()` was called"
                )
        return scores


class _LinenClassifier(_Static):
    """Applies a Linen module to its variables."""

    def __init__(self, module: nn.Module, arguments: tuple[tuple[str, Hashable], ...]):
        super().__init__((module, arguments))
        self.name = type(module).__qualname__

    def __call__(self, variables: Any, inputs: jax.Array) -> jax.Array:
        module, arguments = self.key
        try:
            return module.apply(variables, inputs, **dict(arguments))
        except (flax.errors.ModifyScopeVariableError, flax.errors.InvalidRngError) as error:
            raise ValueError(
                f"the module {self.name} is not in evaluation mode: it updates batch statistics or "
                "asks for random numbers; pass what switches it off, such as "
                f"arguments={{'train': False}} ({_first_line(error)})"
            ) from error
        except flax.errors.ScopeCollectionNotFound as error:
            raise ValueError(
                f"variables lacks a collection that the module {self.name} needs, such as "
                f"batch_stats, got {sorted(variables)} ({_first_line(error)})"
            ) from error


def from_nnx(module: nnx.Module) -> Partial:
    """Turn a `flax.nnx` module into a classifier, in evaluation mode.

    The classifier holds a snapshot of the weights: training the module further does not change it.
    Its function compares equal for equal architectures, so that other weights reuse the compiled
    program. An initialiser that is a new closure in each module makes two modules differ.

    Args:
      module: an `nnx.Module` that maps `[n, *shape]` to scores `[n, classes]`. It is not changed.

    Returns:
      A `jax.tree_util.Partial`, a pytree whose leaves are the weights. When it is traced it raises
      `ValueError` if the module changes its state (batch statistics, random number counters).

    Raises:
      TypeError: if `module` is no `nnx.Module`, or holds settings that cannot be compared.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import models
      >>> network = models.create("lenet", input_shape=(8, 8, 1), num_classes=10,
      ...                         mean=0.3, std=0.4, seed=0)
      >>> classify = models.from_nnx(network)
      >>> classify(jnp.zeros((5, 8, 8, 1))).shape
      (5, 10)
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(f"module must be a flax.nnx.Module, got {type(module).__name__}")
    module = nnx.clone(module)
    module.eval()
    graphdef, state = nnx.split(module)
    random_state, weights = nnx.split_state(state, nnx.RngState, ...)
    try:
        static = _NnxClassifier(type(module).__qualname__, graphdef)
    except TypeError as error:
        raise TypeError(
            f"module {type(module).__qualname__} holds a setting that cannot be hashed, such as "
            f"a list or an array outside a Variable ({error})"
        ) from error
    return Partial(static, _snapshot(weights), _snapshot(random_state))


def from_linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    arguments: Mapping[str, Hashable] | None = None,
) -> Partial:
    """Turn a `flax.linen` module and its variables into a classifier, in evaluation mode.

    The usual switches (`train`, `training`, `is_training`, `deterministic`, `use_running_average`)
    are set to evaluation where the module has such a field or its `__call__` such an argument.

    Args:
      module: an unbound `flax.linen.Module` that maps `[n, *shape]` to scores `[n, classes]`.
      variables: its variables, with `"params"` and, where it has batch normalisation,
        `"batch_stats"`; snapshotted.
      arguments: further keyword arguments of `__call__`, hashable; they win over the switches.

    Returns:
      A `jax.tree_util.Partial`, a pytree whose leaves are the variables. When it is traced it
      raises `ValueError` if the module would update batch statistics or draw random numbers.

    Raises:
      TypeError: if `module` is no `flax.linen.Module`, or holds fields that cannot be hashed.
      ValueError: if `variables` has no `"params"`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from jaxcert import models
      >>> module = nn.Dense(10)
      >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 4)))
      >>> models.from_linen(module, variables)(jnp.zeros((5, 4))).shape
      (5, 10)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a flax.linen.Module, got {type(module).__name__}")
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(f"variables must have the collection 'params', got {got}")
    fields = {field.name for field in dataclasses.fields(module)}
    evaluation: dict[str, Any] = {k: v for k, v in _EVALUATION_VALUES.items() if k in fields}
    module = module.clone(**evaluation)
    accepted = inspect.signature(type(module).__call__).parameters
    switches: dict[str, Hashable] = {
        name: value
        for name, value in _EVALUATION_VALUES.items()
        if name in accepted and name not in fields
    }
    switches.update(arguments or {})
    try:
        static = _LinenClassifier(module, tuple(sorted(switches.items())))
    except TypeError as error:
        raise TypeError(
            f"module {type(module).__qualname__} and arguments must be hashable ({error})"
        ) from error
    return Partial(static, _snapshot(dict(variables)))


def fingerprint(classify: Partial) -> str:
    """Identify the weights of a classifier.

    Args:
      classify: a `Partial` from `from_nnx` or `from_linen`, or any `jax.tree_util.Partial` whose
        arguments are its weights.

    Returns:
      The SHA-256, in hexadecimal, of the name of the function or module and of the path, type,
      shape and bytes of each weight. Normalisation constants and running averages count too.

    Raises:
      TypeError: if `classify` is not a `Partial`: the weights of a plain closure cannot be seen.

    Example:
      >>> from jaxcert import models
      >>> network = models.create("mlp", input_shape=(8, 8, 1), num_classes=10,
      ...                         mean=0.3, std=0.4, seed=0)
      >>> len(models.fingerprint(models.from_nnx(network)))
      64
    """
    return _fingerprint.fingerprint(classify)


def _snapshot(state: Any) -> Any:
    """Copy the arrays of `state` into plain dictionaries, safe from donation and later updates."""
    pure = nnx.to_pure_dict(state) if isinstance(state, nnx.State) else state
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), pure)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
