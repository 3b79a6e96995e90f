"""Certifying a data set by margins and Lipschitz constants into a run folder."""

from __future__ import annotations

import datetime
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier
from jaxcert.data import Dataset
from jaxcert.data import fingerprint as data_fingerprint

from ._manifest import compact_indices, environment, open_manifest
from ._margin_rows import NORMS, Margin, radii_of_margins, slack_of
from ._reader import LOG_NAME, Log
from ._rows import MARGIN_COLUMNS, Row
from ._run import check_ids, check_rows, fingerprint_of, make_folder
from ._run_log import RunLog


def certify_margins(
    classify: Classifier,
    dataset: Dataset,
    *,
    folder: str | os.PathLike[str],
    lipschitz: ArrayLike,
    norm: str = "l2",
    rounding: float = 1e-5,
    model_fingerprint: str | None = None,
    batch_size: int = 500,
) -> Log:
    r"""Certify a data set by its margins, durably; called again, continue where it stopped.

    .. math::
        r = \min_{j \ne y} \frac{f_y - f_j - \delta \max_k |f_k|}{L_{yj}}

    The folder is like that of `certify_run`, and is read, summarised, drawn and rechecked by the
    same functions. In the place of votes each row holds the scores and the constants of its class,
    from which `recheck` derives the radius again.

    Args:
        classify: From a batch `[n, *shape]` to scores `[n, classes]`, two classes or more.
        dataset: Images in [0, 1], labels, and the ids that the log's `idx` column shows.
        folder: The run folder, made when it does not exist.
        lipschitz: The constant of all scores together from `norm` to l2, a scalar; or one for each
            difference of two scores, `[classes, classes]`, as `pairwise_lipschitz_upper` gives.
        norm: Norm that the constants measure inputs with: `"l2"`, `"linf"` or `"l1"`.
        rounding: Delta: what the evaluation of the network may have added to a margin, as a part
            of the largest score of the image.
        model_fingerprint: What identifies the classifier's weights; by default
            `models.fingerprint(classify)`, which needs a `jax.tree_util.Partial`.
        batch_size: Images evaluated, and logged, together.

    Returns:
        The log, rows of earlier launches included.

    Raises:
        TypeError: If `classify` is no `Partial` and there is no `model_fingerprint`.
        ValueError: If two images share an id, a score is not finite, or shapes do not fit.
        ManifestError: If the folder belongs to a run with other settings, naming them.
        LogError: If the log in the folder is corrupt, naming file, line and field.
        BlockingIOError: If another process is writing to the folder.
        OSError: If the disk is full or fails; the rows written so far stay valid.

    Guarantee:
        Sound if the constants are, and if no margin errs by more than `rounding` says: radii are
        rounded down. They hold with certainty, not with a probability.

    Example:
        >>> import tempfile
        >>> import jax, jax.numpy as jnp
        >>> from jaxcert import data, report
        >>> @jax.tree_util.Partial
        ... def classify(images):  # Moves by |x - y| / 8 at most: the mean of 64 pixels.
        ...     ink = images.mean(axis=(1, 2, 3))
        ...     return jnp.stack([0.3 - ink, ink - 0.3], axis=1)
        >>> dataset = data.load("digits", "test").take([0, 100])._replace(
        ...     num_classes=2, labels=np.array([1, 0], dtype=np.int32))
        >>> pairs = 2 / 8 * (1 - np.eye(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = report.certify_margins(
        ...         classify, dataset, folder=folder, lipschitz=pairs)
        >>> [0 < row.radius < 2.4 for row in log.rows]
        [True, True]
    """
    batch_size = _checks.positive_integer("batch_size", batch_size)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    rounding = float(rounding)
    if not (math.isfinite(rounding) and rounding >= 0):
        raise ValueError(f"rounding must be finite and at least 0, got {rounding}")
    constants = np.asarray(lipschitz, np.float64)
    classes = int(dataset.num_classes)
    if constants.shape not in ((), (classes, classes)):
        raise ValueError(
            f"lipschitz must be a scalar or of shape {(classes, classes)}, got {constants.shape}"
        )
    off_diagonal = constants if not constants.shape else constants[~np.eye(classes, dtype=bool)]
    if not np.all(np.isfinite(constants)) or not np.all(off_diagonal > 0):
        raise ValueError("lipschitz must be finite and above 0 for any two classes")
    check_ids(dataset)
    identity = {
        "settings": {
            "certificate": "margin",
            "norm": norm,
            "rounding": rounding,
            "lipschitz": constants.tolist(),
        },
        "data": {
            "images": compact_indices(dataset.ids.tolist()),
            "num_images": dataset.num_images,
            "num_classes": classes,
            "fingerprint": data_fingerprint(dataset),
        },
        "model": {"fingerprint": fingerprint_of(classify, model_fingerprint)},
    }
    launch = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "dataset": f"{dataset.name}, {dataset.split}",
        "environment": environment(),
    }
    path = make_folder(folder)
    with RunLog(path / LOG_NAME, columns=MARGIN_COLUMNS) as log:
        open_manifest(path, identity, launch, has_rows=bool(log.rows))
        check_rows(Log(str(log.path), tuple(log.rows)), dataset)
        done = {row.index for row in log.rows}
        missing = np.flatnonzero([index not in done for index in dataset.ids.tolist()])
        for row in _rows(classify, dataset, missing, constants, norm, rounding, batch_size):
            log.append(row)
        return Log(str(log.path), tuple(log.rows))


@jax.jit
def _scores(classify: Classifier, images: jax.Array) -> jax.Array:
    """Scores, with the weights as an argument: as constants they would be folded for minutes."""
    return classify(images)


def _rows(
    classify: Classifier,
    dataset: Dataset,
    places: np.ndarray,
    constants: np.ndarray,
    norm: str,
    rounding: float,
    batch_size: int,
) -> Iterator[Row]:
    function = (
        classify if isinstance(classify, jax.tree_util.Partial) else jax.tree_util.Partial(classify)
    )
    size = min(batch_size, dataset.num_images)
    for start in range(0, len(places), size):
        part = places[start : start + size]
        began = time.perf_counter()
        # The last batch is filled up, so that there is one program.
        filled = np.resize(part, size)
        found = _scores(function, dataset.images[filled])
        scores = np.asarray(found, np.float64)[: len(part)]
        if scores.ndim != 2 or scores.shape[1] != dataset.num_classes or scores.shape[1] < 2:
            raise ValueError(
                f"classify must return scores [n, {dataset.num_classes}], two or more, got "
                f"{scores.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if bad.size:
            index = int(dataset.ids[part[bad[0]]])
            raise ValueError(f"classify must return finite scores, got others for image {index}")
        margins = [
            Margin(
                tuple(row.tolist()),
                (float(constants),)
                if not constants.shape
                else tuple(constants[int(row.argmax())].tolist()),
                slack_of(row, rounding),
                norm,
            )
            for row in scores
        ]
        labels, radii = radii_of_margins(margins)
        seconds = (time.perf_counter() - began) / len(part)
        for place, margin, predict, radius in zip(part, margins, labels, radii, strict=True):
            label = int(dataset.labels[place])
            yield Row(
                index=int(dataset.ids[place]), label=label, predict=predict, radius=radius,
                correct=predict == label, time=seconds, margin=margin,
            )  # fmt: skip
