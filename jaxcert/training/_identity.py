"""Names of functions by which a checkpoint tells one training from another."""

import functools
import sys
from typing import Any


def identify(argument: str, function: Any) -> str:
    """The importable name of `function`, the same in every process, with what a `partial` binds.

    Raises:
      ValueError: if another function could have the same name, or if what is bound is not plain.
    """
    if isinstance(function, functools.partial):
        values = [*function.args, *function.keywords.values()]
        if not all(
            value is None or isinstance(value, bool | int | float | str) for value in values
        ):
            raise _unidentified(argument, function)
        bound = ", ".join(
            [*map(repr, function.args), *(f"{k}={v!r}" for k, v in function.keywords.items())]
        )
        return f"{identify(argument, function.func)}({bound})"
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if module is None or name is None:
        raise _unidentified(argument, function)
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        # Fails at the `<locals>` and `<lambda>` of functions that no other process can find.
        found = getattr(found, part, None)
    # A method found in its class is equal to the given one only if it is bound to nothing else.
    if found is None or found != function:
        raise _unidentified(argument, function)
    return f"{module}.{name}"


def _unidentified(argument: str, function: Any) -> ValueError:
    return ValueError(
        f"{argument} must be a function that can be imported by its name, or a functools.partial "
        "of one with plain numbers and strings, so that checkpoint_dir can tell it from another, "
        f"got {function!r}; define it at the top level of a module, or train without checkpoint_dir"
    )
