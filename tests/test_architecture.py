"""The house rules of the source tree; each rule is also shown to catch a planted violation."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
THEMES = {"smoothing", "tropical", "lipschitz", "batching", "prototypes"}
OUTSIDE = {"theory", "experiments", "benchmarks"}
HEAVY = {"flax", "tensorflow", "tensorflow_datasets", "matplotlib"}
LINE_LIMIT = 400

# Files that may be longer than the limit, each with the reason.
LONG_FILES: dict[str, str] = {}

SKIPPED_FOLDERS = {".git", "runs", "build", "dist", "_build", "__pycache__"}
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".rst",
    ".toml",
    ".json",
    ".tsv",
    ".txt",
    ".cfg",
    ".yml",
    ".yaml",
    "",
}
# The homes, mounts and scratch folders of some machine; a document may name none of them.
ABSOLUTE_PATH = re.compile(r"(?<![\w.~)}-])/(?:home|root|mnt|work|farm|tmp|Users|private)/\w")


def sources(root: Path, *, suffixes: set[str]) -> Iterator[Path]:
    """Yield the files below `root` that belong to the project."""
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        hidden = any(part in SKIPPED_FOLDERS or part.startswith(".venv") for part in inside.parts)
        cache = any(part.endswith("_cache") for part in inside.parts)
        if not hidden and not cache and path.is_file() and path.suffix in suffixes:
            yield path


def imports(path: Path, root: Path) -> Iterator[str]:
    """Yield the dotted name of every module that `path` may import, wherever it does so."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            if called == "import_module" and isinstance(node.args[0].value, str):
                yield node.args[0].value


def layering_violations(root: Path) -> list[str]:
    """List every import between themes, out of jaxcert, or between the folders around it."""
    found = []
    for path in sources(root, suffixes={".py"}):
        inside = path.relative_to(root)
        top = inside.parts[0]
        theme = inside.parts[1] if top == "jaxcert" and len(inside.parts) > 2 else None
        for name in sorted(set(imports(path, root))):
            parts = name.split(".")
            target_theme = parts[1] if parts[0] == "jaxcert" and len(parts) > 1 else None
            if theme in THEMES and target_theme in THEMES - {theme}:
                found.append(f"{inside}: theme {theme} imports theme {target_theme}")
            if top in OUTSIDE | {"jaxcert"} and parts[0] in OUTSIDE - {top}:
                found.append(f"{inside}: {top} imports {parts[0]}")
    return found


def long_files(root: Path) -> list[str]:
    """List the Python files over the line limit that are not excused."""
    lengths = {
        path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(root, suffixes={".py"})
    }
    return [f"{n}: {c}" for n, c in lengths.items() if c > LINE_LIMIT and n not in LONG_FILES]


def absolute_paths(root: Path) -> list[str]:
    """List the lines that name a place on one particular machine."""
    found = []
    for path in sources(root, suffixes=TEXT_SUFFIXES):
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        ):
            if ABSOLUTE_PATH.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()[:80]}")
    return found


IMPORT_PROBE = """
import json, sys
import jax
before = dict(jax.config.values)
loaded = set(sys.modules)
import {module}
changed = [name for name, value in jax.config.values.items() if before.get(name) != value]
heavy = sorted({{name.split(".")[0] for name in set(sys.modules) - loaded}} & {heavy!r})
print(json.dumps({{"changed": changed, "heavy": heavy}}))
"""


def import_effects(module: str, root: Path) -> dict[str, list[str]]:
    """Import `module` from `root` in a new interpreter; say what came with it."""
    probe = IMPORT_PROBE.format(module=module, heavy=HEAVY)
    # -P keeps the current folder out of the way; the tree under test comes first on the path.
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n{probe}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def plant(root: Path, files: dict[str, str]) -> None:
    """Write a small tree of files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_imports_keep_to_the_layers():
    assert layering_violations(ROOT) == []


def test_files_stay_short():
    assert long_files(ROOT) == []


def test_no_file_names_a_place_on_one_machine():
    assert absolute_paths(ROOT) == []


@pytest.mark.parametrize("module", ["jaxcert", "jaxcert.smoothing"])
def test_import_is_light_and_sets_no_flag(module):
    assert import_effects(module, ROOT) == {"changed": [], "heavy": []}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("jaxcert/smoothing/_noise.py", "from jaxcert import tropical", "theme tropical"),
        ("jaxcert/smoothing/_noise.py", "from ..tropical import Zonotope", "theme tropical"),
        ("jaxcert/smoothing/_noise.py", "from .. import lipschitz", "theme lipschitz"),
        ("jaxcert/batching/__init__.py", "import jaxcert.prototypes._distance", "theme prototypes"),
        (
            "jaxcert/smoothing/_noise.py",
            "def f():\n    import importlib\n    importlib.import_module('jaxcert.tropical')",
            "theme tropical",
        ),
        ("jaxcert/report/_rows.py", "import theory", "imports theory"),
        ("jaxcert/cli.py", "def main():\n    from experiments import cohen", "imports experiments"),
        ("theory/binomial.py", "import benchmarks.run", "imports benchmarks"),
        ("experiments/cohen.py", "from theory import ledger", "imports theory"),
        ("benchmarks/__main__.py", "from experiments.cohen import main", "imports experiments"),
    ],
)
def test_planted_import_is_found(tmp_path, name, text, expected):
    plant(tmp_path, {name: text})
    (violation,) = {v for v in layering_violations(tmp_path) if expected in v}
    assert violation.startswith(name)


def test_allowed_imports_pass(tmp_path):
    plant(
        tmp_path,
        {
            "jaxcert/smoothing/_noise.py": "from .. import _checks\nfrom . import _statistics",
            "jaxcert/training/_loop.py": "from jaxcert import smoothing, tropical",
            "theory/smoothing.py": "from jaxcert import smoothing\nimport theory.ledger",
            "tests/test_all.py": "import theory, experiments, benchmarks",
        },
    )
    assert layering_violations(tmp_path) == []


def test_planted_long_file_is_found(tmp_path):
    plant(tmp_path, {"a.py": "x = 1\n" * LINE_LIMIT, "jaxcert/b.py": "x = 1\n" * (LINE_LIMIT + 1)})
    assert long_files(tmp_path) == [f"jaxcert/b.py: {LINE_LIMIT + 1}"]


@pytest.mark.parametrize("folder", ["work", "root", "home", "tmp"])
def test_planted_absolute_path_is_found(tmp_path, folder):
    place = "/".join(["", folder, "someone", "data"])
    plant(tmp_path, {"README.md": f"data lie in {place}\n", "ok.md": f"https://x.org{place} a/b\n"})
    assert [line.split(":")[0] for line in absolute_paths(tmp_path)] == ["README.md"]


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        ("import flax", {"changed": [], "heavy": ["flax"]}),
        (
            "import jax\njax.config.update('jax_enable_x64', True)",
            {"changed": ["jax_enable_x64"], "heavy": []},
        ),
    ],
)
def test_planted_import_effect_is_found(tmp_path, text, effect):
    plant(tmp_path, {"planted_package/__init__.py": text})
    assert import_effects("planted_package", tmp_path) == effect
