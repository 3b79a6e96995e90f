"""Certifying a data set into a run folder, so that a killed run loses nothing."""

from __future__ import annotations

import datetime
import math
import os
import pathlib
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from jaxcert import _checks, smoothing
from jaxcert._classifier import Classifier
from jaxcert.data import Dataset
from jaxcert.data import fingerprint as data_fingerprint

from ._launch import Launcher
from ._manifest import ManifestError, compact_indices, environment, open_manifest
from ._reader import Log, log_files, log_name, read_log
from ._recheck import recheck
from ._rows import LogError, Row
from ._run_log import RunLog

# Enough samples in a launch to hide its overhead, few enough that a kill costs little.
_SAMPLES_A_LAUNCH = 100_000
_IMAGES_A_LAUNCH = 64
# Of the samples that an image may have, it takes a part where it is given what it deserves.
_ADAPTIVE_FACTOR = 8


def certify_run(
    key: jax.Array,
    classify: Classifier,
    dataset: Dataset,
    *,
    folder: str | os.PathLike[str],
    noise: smoothing.Noise,
    num_samples: int = 100_000,
    selection_samples: int = 100,
    alpha: float = 0.001,
    tolerance: float | None = None,
    model_fingerprint: str | None = None,
    images_per_launch: int | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
    disconnect: bool = False,
) -> Log:
    """Certify every image of a data set, durably; called again, continue where it stopped.

    The folder holds `manifest.json`, which says what decides the results (settings, key,
    fingerprints of data and model) and what each launch ran on, and `log.tsv`, to which each
    finished image is appended and flushed to the disk. The noise of an image depends on the key
    and on its id in the data set alone, and a launch always groups the same images, so the log of
    a run that was killed and continued equals that of an uninterrupted run but for the `time`
    column (on the same kind of device and the same versions: another may round scores otherwise,
    which can move a near-tie vote; such a change is warned of, and the certificates hold either
    way).

    Under `jax.distributed` each process owns a share of the images, on devices of its own, and
    appends to a log of its own in the one folder. The processes agree on the manifest, or fail
    together, and then need each other no more. Images that any earlier process logged are not
    repeated, so losing a process loses only what it had not logged, and a later call, on another
    number of processes too, finishes the rest.

    Args:
        key: A typed key, such as `jax.random.key(0)`.
        classify: From a batch `[n, *shape]` to scores `[n, classes]`.
        dataset: Images in [0, 1], labels, and the ids that the log's `idx` column shows. To
            certify a part, pass `dataset.take(...)`.
        folder: The run folder, made when it does not exist.
        noise: Noise in pixel units; its scale is a scalar or one value an image.
        num_samples: Estimation samples for each image; with `tolerance`, the most for each.
        selection_samples: Selection samples for each image; with `tolerance`, the fewest.
        alpha: One-sided failure probability of each image's radius.
        tolerance: Choose the sample size of each image by itself, with this relative loss of
            radius in mind, as `smoothing.certify_adaptive` does; the log says what each spent.
        model_fingerprint: What identifies the classifier's weights; by default
            `models.fingerprint(classify)`, which needs a `jax.tree_util.Partial`.
        images_per_launch: Images whose samples share a launch and that are logged together. By
            default as many as make 100,000 samples, 800,000 with `tolerance`, at most 64.
        chunk_size: Noisy inputs classified at once, as in `smoothing.certify`.
        mesh: Devices to share the work, as in `smoothing.certify`; of this process alone.
        progress: Whether to show a progress bar on standard error.
        disconnect: Whether to shut `jax.distributed` down once the processes agree, so that the
            loss of one does not stop the others.

    Returns:
        The log, rows of earlier launches included; under several processes, with the rows of the
        others so far.

    Raises:
        TypeError: If `classify` is no `Partial` and there is no `model_fingerprint`.
        ValueError: If two images share an id; or if no image could be certified under these
            settings, whatever the classifier does; the message says how many samples would do.
        ManifestError: If the folder belongs to a run with other settings, naming them.
        LogError: If the log in the folder is corrupt, naming file, line and field.
        BlockingIOError: If another process is writing to the folder.
        OSError: If the disk is full or fails; the rows written so far stay valid.
        NonFiniteScoresError: If the classifier returns NaN or infinity for some noise.

    Guarantee:
        Each row is sound on its own, as `smoothing.certify` says; `recheck` derives it again.

    Example:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp
        >>> from jaxcert import data, report, smoothing
        >>> @jax.tree_util.Partial
        ... def classify(images):
        ...     ink = images.mean(axis=(1, 2, 3))
        ...     return jnp.stack([0.3 - ink, ink - 0.3], axis=1)
        >>> dataset = data.load("digits", "test").take([0, 100])._replace(
        ...     num_classes=2, labels=np.array([1, 0], dtype=np.int32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = report.certify_run(
        ...         jax.random.key(0), classify, dataset, folder=folder,
        ...         noise=smoothing.gaussian(0.25), num_samples=100, progress=False)
        >>> [(row.index, row.samples) for row in log.rows]
        [(0, 100), (100, 100)]
    """
    # The checks return plain numbers, which JSON can hold and NumPy's it cannot.
    num_samples = _checks.positive_integer("num_samples", num_samples)
    alpha = _checks.probability("alpha", alpha)
    _check_settings(noise, num_samples, alpha)
    selection_samples = _checks.positive_integer("selection_samples", selection_samples)
    if tolerance is not None:
        tolerance = _checks.probability("tolerance", tolerance)
    if chunk_size is not None:
        chunk_size = _checks.positive_integer("chunk_size", chunk_size)
    check_ids(dataset)
    if mesh is not None and mesh.is_multi_process:
        raise ValueError("mesh must hold devices of this process alone; images are shared by ids")
    if images_per_launch is None:
        wanted = _SAMPLES_A_LAUNCH * (1 if tolerance is None else _ADAPTIVE_FACTOR)
        images_per_launch = max(1, min(_IMAGES_A_LAUNCH, wanted // num_samples))
    images_per_launch = _checks.positive_integer("images_per_launch", images_per_launch)
    _checks.one_value_per_input("noise.scale", noise.scale, dataset.num_images)
    identity = {
        "settings": {
            "noise": str(noise),
            "num_samples": num_samples,
            "selection_samples": selection_samples,
            "alpha": alpha,
            # Not there when the sample size is fixed, as in folders of before there was a choice.
            **({} if tolerance is None else {"tolerance": tolerance}),
        },
        "key": {
            "kind": str(jax.random.key_impl(_checks.typed_key("key", key))),
            "data": np.asarray(jax.random.key_data(key)).tolist(),
        },
        "data": {
            "images": compact_indices(dataset.ids.tolist()),
            "num_images": dataset.num_images,
            "num_classes": int(dataset.num_classes),
            "fingerprint": data_fingerprint(dataset),
        },
        "model": {"fingerprint": fingerprint_of(classify, model_fingerprint)},
    }
    launch = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "dataset": f"{dataset.name}, {dataset.split}",
        "images_per_launch": images_per_launch,
        "chunk_size": chunk_size,
        "environment": environment(),
    }
    folder = make_folder(folder)
    process, num_processes = jax.process_index(), jax.process_count()
    with RunLog(folder / log_name(process, num_processes)) as log:
        others = [read_log(path) for path in log_files(folder) if path != log.path]
        earlier = [row for other in others for row in other.rows]
        changed = _agree(folder, identity, launch, has_rows=bool(log.rows or earlier))
        if changed:
            warnings.warn(
                f"{folder} was begun in another environment ({'; '.join(changed)}); its "
                "certificates hold, but new rows may differ from those of the first environment",
                stacklevel=2,
            )
        if disconnect and num_processes > 1:
            jax.distributed.shutdown()
        check_rows(Log(str(folder), (*log.rows, *earlier)), dataset)
        launcher = Launcher(
            key, classify, dataset, noise, num_samples, selection_samples, alpha, tolerance,
            chunk_size, mesh,
        )  # fmt: skip
        size = min(images_per_launch, dataset.num_images)
        groups = [
            np.arange(start, min(start + size, dataset.num_images))
            for start in range(0, dataset.num_images, size)
        ]
        mine = groups[process::num_processes]
        _append_missing(log, dataset, launcher, mine, size, earlier, progress)
        if num_processes == 1 and not earlier:
            return Log(str(log.path), tuple(log.rows))
    return read_log(folder) if log_files(folder) else Log(str(folder), ())


def fingerprint_of(classify: Classifier, given: str | None) -> str:
    """The given fingerprint of a classifier, or that of its weights."""
    if given is not None:
        return given
    if not isinstance(classify, jax.tree_util.Partial):
        raise TypeError(
            "classify must be a jax.tree_util.Partial, whose weights can be seen, or come with "
            f"a model_fingerprint; got {type(classify).__name__}"
        )
    from jaxcert import models  # Flax is needed for this alone.

    return models.fingerprint(classify)


def _agree(
    folder: pathlib.Path, identity: Mapping[str, Any], launch: Mapping[str, Any], *, has_rows: bool
) -> list[str]:
    """Write the manifest in the first process; let the others check theirs against it."""
    if jax.process_count() == 1:
        return open_manifest(folder, identity, launch, has_rows=has_rows)
    changed: list[str] = []
    failure: Exception | None = None
    # A process that failed still tells the others, which would wait for it otherwise.
    for is_turn, write in ((jax.process_index() == 0, True), (jax.process_index() > 0, False)):
        if is_turn and failure is None:
            try:
                changed = open_manifest(folder, identity, launch, has_rows=has_rows, write=write)
            except (ValueError, OSError) as error:
                failure = error
        failed = multihost_utils.process_allgather(np.int32(failure is not None))
        if failure is not None:
            raise failure
        if np.any(failed):
            raise ManifestError(
                f"{folder} was refused by process {int(np.argmax(failed))}; its message says why"
            )
    return changed


def _append_missing(
    log: RunLog,
    dataset: Dataset,
    launcher: Launcher,
    groups: Sequence[np.ndarray],
    size: int,
    earlier: Sequence[Row],
    progress: bool,
) -> None:
    """Certify and log what is missing of these groups, in launches of `size` images.

    `earlier` is in other processes' logs. A process may own the short last group alone, so `size`
    is the run's, not the first group's.
    """
    known = {row.index: row.is_right for row in (*log.rows, *earlier)}
    mine = {index for places in groups for index in dataset.ids[places].tolist()}
    done = {index: is_right for index, is_right in known.items() if index in mine}
    with tqdm(total=len(mine), initial=len(done), unit="image", disable=not progress) as bar:
        bar.set_postfix_str(f"certified {sum(done.values())}/{len(done)}")
        for places in groups:
            # A group that a kill cut short runs again as a whole, so that it is the same launch.
            if done.keys() >= set(dataset.ids[places].tolist()):
                continue
            for row in launcher.rows(places, size):
                if row.index in done:
                    continue
                log.append(row)
                done[row.index] = row.is_right
                bar.set_postfix_str(f"certified {sum(done.values())}/{len(done)}", refresh=False)
                bar.update()


def check_ids(dataset: Dataset) -> None:
    """Refuse a data set without images, or whose rows a log could not tell apart."""
    if dataset.num_images == 0:
        raise ValueError("dataset must have at least one image")
    values, counts = np.unique(dataset.ids, return_counts=True)
    if np.any(counts > 1):
        place = int(np.argmax(counts > 1))
        raise ValueError(
            "dataset.ids must name each image once, "
            f"got {int(values[place])} for {int(counts[place])} images"
        )


def _check_settings(noise: smoothing.Noise, num_samples: int, alpha: float) -> None:
    """Refuse settings under which every image must abstain, and say which would do."""
    largest = float(np.min(smoothing.max_radius(noise, num_samples=num_samples, alpha=alpha)))
    if largest > 0:
        return
    enough = max(1, int(math.log(alpha) / math.log(0.5)))
    while np.min(smoothing.max_radius(noise, num_samples=enough, alpha=alpha)) <= 0:
        enough += 1
    usual = max(100_000, 100 * enough)
    reach = float(np.min(smoothing.max_radius(noise, num_samples=usual, alpha=alpha)))
    raise ValueError(
        f"num_samples={num_samples} certifies nothing at alpha={alpha}: even if all samples "
        f"agreed, every image would abstain; num_samples must be at least {enough}, "
        f"and {usual:,} reach a radius of {reach:.3g} with {noise}"
    )


def check_rows(log: Log, dataset: Dataset) -> None:
    """Refuse a log whose rows are not this data set's, or contradict themselves."""
    labels = dict(zip(dataset.ids.tolist(), dataset.labels.tolist(), strict=True))
    for row in log.rows:
        if labels.get(row.index) != row.label:
            wanted = labels.get(row.index, "no such image in this run")
            raise LogError(
                f"{row.path}, line {row.line}, field label: image {row.index} has label "
                f"{row.label} in the log, expected {wanted}"
            )
    problems = recheck(log).problems
    if problems:
        raise LogError(f"{problems[0]} ({len(problems)} problems in all)")


def make_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"folder must be a directory, got the file {path}") from None
    return path
