"""What identifies the weights of a classifier."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def fingerprint(classify: jax.tree_util.Partial) -> str:
    """SHA-256 of a classifier's function and weights; see `jaxcert.models.fingerprint`."""
    if not isinstance(classify, jax.tree_util.Partial):
        raise TypeError(
            "classify must be a jax.tree_util.Partial, as from_nnx and from_linen return, got "
            f"{type(classify).__name__}"
        )
    function = classify.func
    # Adapters of modules carry the module's name; of their arguments the first is the weights.
    name = getattr(function, "name", None)
    if isinstance(name, str):
        return hash_arrays(name, classify.args[0])
    name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
    return hash_arrays(name, (classify.args, dict(classify.keywords)))


def hash_arrays(name: str, tree: Any) -> str:
    """SHA-256 of `name` and of the path, type, shape and bytes of each array of `tree`."""
    digest = hashlib.sha256(name.encode())
    lines = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        lines.append(f"{place} {array.dtype.name} {array.shape} {content}")
    digest.update("\n".join(sorted(lines)).encode())
    return digest.hexdigest()
