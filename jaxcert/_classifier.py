"""What a classifier is, and how one is handed to a compiled function."""

from collections.abc import Callable

import jax

# From a batch `[n, *shape]` to scores `[n, classes]`, each row from its own input alone.
Classifier = Callable[[jax.Array], jax.Array]


def as_partial(classify: Classifier) -> jax.tree_util.Partial:
    """Return `classify` as a pytree of its arrays, so that new weights compile nothing anew."""
    if isinstance(classify, jax.tree_util.Partial):
        return classify
    if not callable(classify):
        raise TypeError(f"classify must be callable, got {type(classify).__name__}")
    if _is_flax_module(classify):
        raise TypeError(
            "classify must be a function of a batch, got a Flax module, whose weights would be "
            "frozen at the first call; pass jaxcert.models.from_nnx(module)"
        )
    return jax.tree_util.Partial(classify)


def _is_flax_module(value: object) -> bool:
    return any(cls.__module__.startswith("flax.") for cls in type(value).__mro__)
