"""What a measurement was taken on: hardware, versions, revision."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "torch")


def describe() -> dict[str, Any]:
    """Hardware, versions and the revision of the sources."""
    return {
        "hardware": {
            "cpu": _cpu_model(),
            "cores": _usable_cores(),
            "platform": jax.default_backend(),
            "accelerators": [
                device.device_kind for device in jax.devices() if device.platform != "cpu"
            ],
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "revision": revision(Path(__file__).resolve().parent.parent),
        "load_before": round(os.getloadavg()[0], 2),
    }


def revision(folder: Path) -> dict[str, Any]:
    """Commit of the working tree and whether tracked files differ from it; None without Git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name", platform.machine())
    numbers = [f"{k} {fields[k]}" for k in ("cpu family", "model") if k in fields]
    return f"{model} ({', '.join(numbers)})" if numbers else model


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
