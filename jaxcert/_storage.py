"""Arrays and settings in one self-describing, checksummed folder, written through Orbax."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

_SETTINGS = "settings.json"
_ARRAYS = "arrays"
_VERSION = 1


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write `arrays`, by their "/"-separated names, and `settings` to the folder `path`.

    All is written to a hidden folder beside it and renamed when complete, so that a process that is
    killed leaves either a whole checkpoint at `path` or none. To overwrite takes two renames: a
    kill between them leaves nothing at `path`, and beside it the former checkpoint, whole, as
    `.NAME.*.replaced` and the new one, whole, as `.NAME.*.partial`; rename either back by hand.

    Raises:
      FileExistsError: if `path` exists and `overwrite` is false.
      OSError: if the disk is full or the folder cannot be written.
    """
    folder = Path(path).absolute()
    if folder.exists() and not overwrite:
        raise FileExistsError(
            f"{folder} exists; choose another path, or overwrite it with overwrite=True"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir()
        try:
            # An interrupt reaches the main thread alone, and leaving the pool waits for the writer:
            # Orbax never writes to a folder that has been removed.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(_save_arrays, partial / _ARRAYS, arrays).result()
        except ValueError as error:  # What TensorStore makes of a full disk.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is None:
                raise
            number = int(code[1])
            raise OSError(number, os.strerror(number), str(folder)) from error
        content: dict[str, Any] = {
            "version": _VERSION,
            "settings": dict(settings),
            "arrays_sha256": _hash_arrays(arrays),
            "files_sha256": _hash_files(partial / _ARRAYS),
        }
        content["sha256"] = _hash_json(content)
        with open(partial / _SETTINGS, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        if folder.exists():
            replaced = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.replaced")
            os.rename(folder, replaced)
            try:
                os.rename(partial, folder)
            except BaseException:
                if not folder.exists():
                    os.rename(replaced, folder)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # Imported late: Orbax takes half a second, and reading a model's weights may never be needed.
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(_nest(arrays)))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read back what `write` wrote, as NumPy arrays and settings.

    Raises:
      FileNotFoundError: if there is no folder `path`.
      ValueError: if the folder is incomplete or its content differs from what was written.
    """
    import orbax.checkpoint as ocp

    folder = Path(path).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint at {folder}")
    try:
        content = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        checksum = content.pop("sha256")
        version, settings = content["version"], content["settings"]
        files_sha256, arrays_sha256 = content["files_sha256"], content["arrays_sha256"]
        if checksum != _hash_json(content):
            raise ValueError("it does not match its own SHA-256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{_SETTINGS} cannot be used: {_first_line(error)}") from error
    if version != _VERSION:
        raise ValueError(
            f"the checkpoint at {folder} has version {version}, expected {_VERSION}; "
            "read it with the release of jaxcert that wrote it"
        )
    # Orbax does not notice every flipped byte, and TensorStore leaves threads behind when it meets
    # a damaged file, so the files are checked before either sees them.
    found = _hash_files(folder / _ARRAYS)
    differing = sorted(
        name for name in files_sha256.keys() | found if files_sha256.get(name) != found.get(name)
    )
    if differing:
        raise _damaged(folder, f"{', '.join(differing)} in it is not as it was written")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        shapes = checkpointer.metadata(folder / _ARRAYS).item_metadata.tree
        nested = checkpointer.restore(
            folder / _ARRAYS,
            args=ocp.args.PyTreeRestore(
                restore_args=_map_leaves(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            ),
        )
    arrays = _unnest(nested)
    if _hash_arrays(arrays) != arrays_sha256:
        raise _damaged(folder, "its arrays do not match the SHA-256 in its settings")
    return arrays, settings


def _hash_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_files(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = np.asarray(array)
    return nested


def _unnest(nested: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            arrays.update(_unnest(value, f"{prefix}{name}/"))
        else:
            arrays[f"{prefix}{name}"] = np.asarray(value)
    return arrays


def _map_leaves(function: Any, nested: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _map_leaves(function, value) if isinstance(value, Mapping) else function(value)
        for name, value in nested.items()
    }


def _damaged(folder: Path, reason: str) -> ValueError:
    return ValueError(
        f"the checkpoint at {folder} is damaged: {reason}; restore a good copy of the folder or "
        "write the checkpoint again"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
