"""Sphinx settings; `make docs` builds with warnings as errors."""

import collections
import importlib.metadata
import inspect
from typing import Any

import sphinx.application
from jax.typing import ArrayLike
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import stringify_annotation

project = "jaxcert"
author = "The jaxcert developers"
copyright = author
version = release = importlib.metadata.version("jaxcert")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"jaxcert {version}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "member-order": "bysource",
    "exclude-members": "__new__, __init__",
}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Guarantee", ("Reference", "References")]


def skip_plain_fields(
    app: sphinx.application.Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of a record, which its Attributes section explains."""
    plain = isinstance(obj, collections._tuplegetter)  # type: ignore[attr-defined]
    return True if plain else None


def readable_signature(
    app: sphinx.application.Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """Show the constructor behind a metaclass, and `ArrayLike` for the union behind it."""
    if what == "class" and inspect.isfunction(vars(obj).get("__init__")):
        signature = stringify_signature(inspect.signature(obj.__init__))
        signature = signature.replace("(self, ", "(").removesuffix(" -> None")
    union = stringify_annotation(ArrayLike, "smart")
    return (
        signature and signature.replace(union, "ArrayLike"),
        result and result.replace(union, "ArrayLike"),
    )


def setup(app: sphinx.application.Sphinx) -> None:
    app.connect("autodoc-skip-member", skip_plain_fields)
    app.connect("autodoc-process-signature", readable_signature)
