"""Vectorised certification of neural networks, and the theory behind it, in JAX.

Subpackages load on first use, so that `import jaxcert` stays light: it sets no JAX flag and pulls
in neither Flax, TensorFlow Datasets nor matplotlib.
"""

import importlib
import importlib.metadata
from types import ModuleType

__version__ = importlib.metadata.version("jaxcert")

_SUBPACKAGES = ("batching", "data", "models", "report", "smoothing", "training", "tropical")


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"jaxcert.{name}")
    raise AttributeError(f"module 'jaxcert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES])
