"""What experiments that train networks share: networks kept in a folder, numbers in tables."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcert import models

RESULTS = Path(__file__).resolve().parent / "results"


def restored(path: Path, setting: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """The network at `path` and how it was trained; None if there is none yet.

    Raises:
      ValueError: if the network there was trained by another setting.
    """
    about = path.with_suffix(".json")
    if not (path.exists() and about.exists()):
        return None
    known = json.loads(about.read_text(encoding="utf-8"))
    if known["setting"] != json.loads(json.dumps(setting)):
        raise ValueError(f"{path} holds a network of {known['setting']}; give another folder")
    return models.restore(path), known


def keep(path: Path, module: Any, known: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Save a network and how it was trained, last what `restored` looks for; return both."""
    models.save(path, module, overwrite=True)
    path.with_suffix(".json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return module, known


def percent(values: float | Sequence[float]) -> str:
    """A share, or the mean of several, in percent."""
    return f"{100 * float(np.mean(values)):.1f}"


def radius_name(dataset: str, radius: float) -> str:
    """A radius in pixel units; on CIFAR-10 in the 255ths that are usual there."""
    return f"{round(radius * 255)}/255" if dataset.startswith("cifar10") else f"{radius:g}"


def write(
    folder: Path, name: str, result: Mapping[str, Any], table: str, *, publish: Sequence[str] = ()
) -> None:
    """Write numbers and table of a result; copy the files of these endings to the committed."""
    text = json.dumps(result, indent=2) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / f"{name}.md").write_text(table, encoding="utf-8")
    for ending in publish:
        shutil.copy(folder / f"{name}.{ending}", RESULTS)
