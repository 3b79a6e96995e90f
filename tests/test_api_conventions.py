"""The conventions of the public interface; each is also shown to catch a planted violation."""

import ast
import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import jaxcert

SUBPACKAGES = sorted(m.name for m in pkgutil.iter_modules(jaxcert.__path__) if m.ispkg)

# Names that would make a second convention beside `key`; `rngs` is Flax's word for its own kind.
OTHER_KEYS = {"rng", "rng_key", "prng", "prng_key", "random_key"}


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what a package offers: its names without underscore that are not modules."""
    for name, value in sorted(vars(module).items()):
        if not name.startswith("_") and not inspect.ismodule(value):
            yield name, value


def is_record(value: Any) -> bool:
    """Whether `value` is a class whose constructor is not written by hand."""
    if not inspect.isclass(value):
        return False
    named_tuple = issubclass(value, tuple) and hasattr(value, "_fields")
    return (
        named_tuple
        or hasattr(value, "__dataclass_fields__")
        or issubclass(value, BaseException | enum.Enum)
        or getattr(value, "_is_protocol", False)
    )


def is_function(value: Any) -> bool:
    """Whether `value` is a function, jitted or not; a type alias or a constant is none."""
    return callable(value) and inspect.isfunction(inspect.unwrap(value))


def callables(name: str, value: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield a public function, or the constructor and public methods that a class defines."""
    if inspect.isclass(value):
        for method_name, method in sorted(vars(value).items()):
            method = getattr(method, "__func__", method)
            inherited_signature = method_name == "__init__" and is_record(value)
            wanted = method_name == "__init__" or not method_name.startswith("_")
            if wanted and not inherited_signature and inspect.isfunction(method):
                generated = is_record(value) and method_name in {"replace", "tree_flatten"}
                if not generated:
                    yield f"{name}.{method_name}", method
    elif is_function(value):
        yield name, value


def signature_violations(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """Say where a signature departs from: key, then arrays, then `*`, then settings."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    for position, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_KEYWORD:
            yield f"{name}: takes **{parameter.name}"
        if parameter.name in OTHER_KEYS:
            yield f"{name}: calls its key {parameter.name}"
        if parameter.name == "key":
            if position != 0 or parameter.kind is parameter.KEYWORD_ONLY:
                yield f"{name}: key does not come first"
            if parameter.default is not parameter.empty:
                yield f"{name}: key has a default"
        has_default = parameter.default is not parameter.empty
        if has_default and parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        ):
            yield f"{name}: setting {parameter.name} is not keyword-only"


def docstring_violations(name: str, value: Any) -> Iterator[str]:
    """Say which section a public docstring lacks."""
    if not inspect.isclass(value) and not is_function(value):
        return
    text = inspect.getdoc(value)
    # A record without a docstring shows its generated signature; that is no documentation.
    generated = inspect.isclass(value) and (text or "").startswith(f"{value.__name__}(")
    if not text or generated:
        yield f"{name}: no docstring"
        return
    if inspect.isclass(value):
        return
    signature = inspect.signature(value)
    if signature.parameters and "Args:" not in text:
        yield f"{name}: no Args section"
    if (
        signature.return_annotation not in (None, "None", signature.empty)
        and "Returns:" not in text
    ):
        yield f"{name}: no Returns section"
    if not re.search(r"^Examples?:", text, re.MULTILINE) or ">>>" not in text:
        yield f"{name}: no runnable Example"
    if re.search(r"(_lower|_upper|radius)$", name) and not re.search(
        r"^Guarantee:", text, re.MULTILINE
    ):
        yield f"{name}: no Guarantee line"


def api_violations(module: ModuleType) -> list[str]:
    """List all departures of a package's public names."""
    found = []
    for name, value in public_names(module):
        found += docstring_violations(name, value)
        for label, function in callables(name, value):
            found += signature_violations(label, function)
    return found


def reexport_violations(source: str) -> list[str]:
    """List the statements of a package's `__init__` that do more than re-export."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["no package docstring"]
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        explicit = (
            isinstance(node, ast.ImportFrom)
            and node.level == 1
            and (node.module or "").startswith("_")
            and all(alias.asname == alias.name for alias in node.names)
        )
        if not explicit:
            found.append(f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}")
    return found


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_public_interface_keeps_the_conventions(package):
    assert api_violations(importlib.import_module(f"jaxcert.{package}")) == []


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_package_only_reexports(package):
    module = importlib.import_module(f"jaxcert.{package}")
    assert module.__file__ is not None
    assert reexport_violations(Path(module.__file__).read_text(encoding="utf-8")) == []


def test_every_package_offers_something():
    assert "smoothing" in SUBPACKAGES
    for package in SUBPACKAGES:
        assert list(public_names(importlib.import_module(f"jaxcert.{package}"))), package


GOOD = '''
def radius(key, inputs, *, alpha: float = 0.1) -> float:
    """Give a radius.

    Args:
        key: a typed key.
        inputs: `[b, d]`.
        alpha: the failure probability.

    Returns:
        The radius.

    Example:
        >>> 1 + 1
        2

    Guarantee: a lower bound, rounded down.
    """
'''


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), None),
        (("key, inputs", "inputs, key"), "key does not come first"),
        (("key, inputs, *", "inputs, *, key"), "key does not come first"),
        (("key, inputs", "key=None, inputs=None"), "key has a default"),
        (("key, inputs", "rng, inputs"), "calls its key rng"),
        (("*, alpha: float = 0.1", "alpha: float = 0.1"), "setting alpha is not keyword-only"),
        (("alpha: float = 0.1", "alpha: float = 0.1, **options"), "takes **options"),
        (("Args:", "Arguments"), "no Args section"),
        (("Returns:", "Gives"), "no Returns section"),
        (("Example:", "For instance"), "no runnable Example"),
        ((">>> 1 + 1", "1 + 1"), "no runnable Example"),
        (("Guarantee:", "Perhaps"), "no Guarantee line"),
        (('"""Give a radius.', 'f"""Give a radius.'), "no docstring"),
    ],
)
def test_planted_function_is_found(change, expected):
    module = ModuleType("planted")
    exec(GOOD.replace(*change), vars(module))
    found = api_violations(module)
    if expected is None:
        assert found == []
    else:
        assert f"radius: {expected}" in found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class Net:\n    '''A net.'''\n    def __init__(self, depth=3): ...", "Net.__init__"),
        ("class Net:\n    '''A net.'''\n    def apply(self, x, **kwargs): ...", "Net.apply"),
        ("class Net: ...", "Net: no docstring"),
        ("from typing import NamedTuple\nclass Result(NamedTuple):\n    x: int", "Result: no doc"),
    ],
)
def test_planted_class_is_found(source, expected):
    module = ModuleType("planted")
    exec(source, vars(module))
    vars(module).pop("NamedTuple", None)
    assert any(line.startswith(expected) for line in api_violations(module))


@pytest.mark.parametrize(
    "line",
    [
        "def helper(): ...",
        "from ._noise import gaussian",
        "from ._noise import gaussian as normal",
        "import numpy as np",
        "from jaxcert._checks import probability as probability",
        "from .noise import gaussian as gaussian",
        "CONSTANT = 3",
    ],
)
def test_planted_statement_in_init_is_found(line):
    good = '"""A package."""\nfrom ._noise import laplace as laplace\n'
    assert reexport_violations(good) == []
    assert len(reexport_violations(good + line)) == 1
