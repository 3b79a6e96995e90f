"""The manifest of a run: everything that decides its results, written down before the first one."""

from __future__ import annotations

import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

import jaxcert

from ._run_log import sync_folder

FORMAT = 1
MANIFEST_NAME = "manifest.json"

# Flags that change noise or rounding.
_FLAGS = ("jax_threefry_partitionable", "jax_default_matmul_precision", "jax_enable_x64")

# The parts that are read back, with the types that a reader relies on.
_FIELDS: dict[str, dict[str, tuple[tuple[type, ...], str]]] = {
    "settings": {
        "noise": ((str,), "text"),
        "num_samples": ((int,), "an integer"),
        "selection_samples": ((int,), "an integer"),
        "alpha": ((int, float), "a number"),
        "tolerance": ((int, float), "a number"),
    },
    "data": {
        "images": ((str,), "text"),
        "num_images": ((int,), "an integer"),
        "num_classes": ((int,), "an integer"),
    },
}


class ManifestError(ValueError):
    """A run folder that belongs to another run; the message names the fields that differ."""


def environment() -> dict[str, str]:
    """Versions and device that a run depends on, but that leave its certificates valid.

    Returns:
        Names to versions, with the platform and kind of the first device.
    """
    device = jax.devices()[0]
    return {
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "scipy")},
        "jaxcert": jaxcert.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform}: {device.device_kind}",
        **{name: str(getattr(jax.config, name)) for name in _FLAGS},
    }


def open_manifest(
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    launch: Mapping[str, Any],
    *,
    has_rows: bool,
    write: bool = True,
) -> list[str]:
    """Write the manifest of a new run, or check that a started run is the same one.

    A start that failed before its first row decided nothing, so its manifest is replaced.

    Args:
        folder: The run folder.
        identity: What decides the results: settings, key, fingerprints. JSON values only.
        launch: What does not: time, command, versions, device. Added to the list of launches.
        has_rows: Whether the log already holds rows.
        write: Whether to write; of several processes one does, and the others check after it.

    Returns:
        Differences between the environments of this launch and the first, as text; such a run
        is still valid, but its new rows may not be those that the first machine would give.

    Raises:
        ManifestError: If an identity field differs and there are rows, naming it and both values;
            if there are rows but no manifest; or if the file is not a manifest.
        OSError: If the manifest cannot be written.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        if has_rows:
            raise ManifestError(
                f"{folder} holds a log with rows but no {MANIFEST_NAME}, so nothing says which "
                "run they belong to; choose another folder"
            )
        if not write:
            raise ManifestError(f"{path} is not there, though the first process wrote it")
        write_json(path, {"format": FORMAT, **identity, "launches": [launch]})
        return []
    stored = read_manifest(folder)
    assert stored is not None
    mine = json.loads(json.dumps({"format": FORMAT, **identity}))
    theirs = {name: value for name, value in stored.items() if name != "launches"}
    differences = _differences(theirs, mine)
    if differences and write and not has_rows:
        write_json(path, {**mine, "launches": [launch]})
        return []
    if differences:
        details = "; ".join(
            f"{name}: the folder has {_short(old)}, this run has {_short(new)}"
            for name, old, new in differences
        )
        raise ManifestError(f"{folder} belongs to another run ({details}); choose another folder")
    launches = stored.get("launches", [])
    if write:
        write_json(path, {**stored, "launches": [*launches, launch]})
    if not launches:
        return []
    changed = _differences(launches[0].get("environment", {}), launch.get("environment", {}))
    return [f"{name} was {_short(old)}, is now {_short(new)}" for name, old, new in changed]


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the manifest of a run folder.

    Args:
        folder: The run folder.

    Returns:
        The manifest, or None where there is none.

    Raises:
        ManifestError: If the file is not a manifest.

    Example:
        >>> read_manifest("no/such/run") is None
        True
    """
    path = pathlib.Path(folder) / MANIFEST_NAME
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ManifestError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(stored, dict):
        raise ManifestError(f"{path} holds {type(stored).__name__}, expected a JSON object")
    _check_types(path, stored)
    return stored


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OSError(
            error.errno, f"cannot write: {os.strerror(error.errno or 0)}", str(path)
        ) from error
    sync_folder(path.parent)


def compact_indices(indices: Sequence[int]) -> str:
    """Write image positions shortly: `start:stop:step` when they are evenly spaced.

    Args:
        indices: Positions in the order in which they are certified.

    Returns:
        Text that `parse_indices` reads.

    Example:
        >>> compact_indices([0, 50, 100]), compact_indices([3, 1])
        ('0:101:50', '3,1')
    """
    values = list(indices)
    if len(values) > 2:
        step = values[1] - values[0]
        if step > 0 and values == list(range(values[0], values[-1] + 1, step)):
            return f"{values[0]}:{values[-1] + 1}:{step}"
    return ",".join(map(str, values))


def parse_indices(text: str, *, length: int) -> list[int]:
    """Read image positions: slices and numbers joined by commas.

    Args:
        text: Such as `0:10000:50`, `:200` or `3,17,4`.
        length: Number of images in the data set.

    Returns:
        Positions, in the order given.

    Raises:
        ValueError: If the text is malformed, a position lies outside the data set, or one repeats.

    Example:
        >>> parse_indices("0:200:50,7", length=10_000)
        [0, 50, 100, 150, 7]
    """
    result: list[int] = []
    for part in text.split(","):
        try:
            if ":" in part:
                numbers = [int(number) if number.strip() else None for number in part.split(":")]
                if len(numbers) > 3:
                    raise ValueError(part)
                result.extend(range(length)[slice(*numbers)])
            else:
                result.append(int(part))
        except (ValueError, TypeError):
            raise ValueError(
                f"indices must be numbers or start:stop:step joined by commas, got {text!r}"
            ) from None
    outside = [index for index in result if not 0 <= index < length]
    if outside:
        raise ValueError(f"indices must lie in [0, {length}), got {outside[0]}")
    if len(set(result)) != len(result):
        raise ValueError(f"indices must not repeat, got {text!r}")
    if not result:
        raise ValueError(f"indices must name at least one of {length} images, got {text!r}")
    return result


def _check_types(path: pathlib.Path, stored: Mapping[str, Any]) -> None:
    """Raise unless each part that is read back has its type; absent parts are left to readers."""

    def check(name: str, value: Any, kinds: tuple[type, ...], wanted: str) -> None:
        # To Python, true and false are integers.
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ManifestError(f"{path}, field {name}: expected {wanted}, got {_short(value)!r}")

    for section, fields in _FIELDS.items():
        values = stored.get(section, {})
        check(section, values, (dict,), "an object")
        for name, (kinds, wanted) in fields.items():
            if name in values:
                check(f"{section}.{name}", values[name], kinds, wanted)
    launches = stored.get("launches", [])
    check("launches", launches, (list,), "a list of objects")
    for place, launch in enumerate(launches):
        check(f"launches[{place}]", launch, (dict,), "an object")
        check(f"launches[{place}].environment", launch.get("environment", {}), (dict,), "an object")


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{name}.{key}" if name else str(key)
            found += _differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [(name, old, new)]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
