"""Runs whose sample sizes are chosen by image, and the check that no peeking chose them."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from jaxcert import report, smoothing
from jaxcert.report import Log, ManifestError, recheck
from jaxcert.report._rows import format_row
from tests.report.test_run import Killed, stop_after, timeless

SETTINGS = {"tolerance": 0.1, "num_samples": 3000}


@pytest.fixture
def adaptive(run):
    return lambda **changes: run(**SETTINGS, **changes)


def test_log_holds_the_certificates_of_certify_adaptive(adaptive, classify, dataset, tmp_path):
    log = adaptive()
    certificate = smoothing.certify_adaptive(
        jax.random.key(11), classify, dataset.images, noise=smoothing.gaussian(0.25),
        num_classes=3, tolerance=0.1, max_samples=3000, selection_samples=10, ids=dataset.ids,
    )  # fmt: skip
    assert [row.predict for row in log.rows] == certificate.label.tolist()
    assert [row.radius for row in log.rows] == certificate.radius.tolist()
    assert [row.samples for row in log.rows] == certificate.counts.sum(axis=1).tolist()
    spent = [row.samples + sum(row.selection.values()) for row in log.rows]
    assert spent == certificate.num_samples.tolist()
    assert len(set(spent)) > 3
    assert {row.predict for row in log.rows} > {-1}
    assert recheck(tmp_path / "run") == (7, 7, (), 0)
    assert report.read_manifest(tmp_path / "run")["settings"]["tolerance"] == 0.1


def test_stopped_run_continues_to_the_same_log(adaptive, tmp_path, monkeypatch):
    whole = adaptive(folder=tmp_path / "whole")
    for num_rows in (2, 0, 3):
        with monkeypatch.context() as patch:
            stop_after(patch, num_rows)
            with pytest.raises(Killed):
                adaptive()
    assert timeless(adaptive()) == timeless(whole)


def test_fixed_and_adaptive_runs_do_not_mix(run, adaptive):
    adaptive()
    with pytest.raises(
        ManifestError, match=r"settings.tolerance: the folder has 0\.1, this run has"
    ):
        run(num_samples=3000)
    with pytest.raises(
        ManifestError, match=r"settings.tolerance: the folder has 0\.1, .* has 0\.2"
    ):
        run(num_samples=3000, tolerance=0.2)
    with pytest.raises(ValueError, match="tolerance must lie"):
        run(tolerance=1.5)


def rewrite(log, changed):
    """Put a row in the place of the one of the same image."""
    path = pathlib.Path(log.path)
    lines = path.read_text().splitlines(keepends=True)
    lines[changed.line - 1] = format_row(changed) + "\n"
    path.write_text("".join(lines))


def test_sample_size_that_the_votes_chose_is_flagged(adaptive):
    """Stopping at the best moment gives a radius that its counts confirm; the size betrays it."""
    log = report.read_log(adaptive().path)
    row = max(log.rows, key=lambda row: row.radius)
    counts = {row.predict: row.samples - 7}
    certificate = smoothing.certificate_from_counts(
        [[row.selection.get(label, 0) for label in range(3)]],
        [[counts.get(label, 0) for label in range(3)]],
        noise=smoothing.gaussian(0.25), alpha=row.alpha,
    )  # fmt: skip
    peeked = dataclasses.replace(
        row, counts=counts, samples=row.samples - 7, radius=float(certificate.radius[0])
    )
    rewrite(log, peeked)
    (problem,) = recheck(log.path).problems
    assert (problem.field, problem.line) == ("samples", row.line)
    assert problem.message == (
        f"the selection votes call for {row.samples}, the row {row.samples - 7}"
    )


def test_too_few_selection_samples_are_flagged(adaptive, tmp_path):
    log = adaptive()
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["selection_samples"] = 10_000
    path.write_text(json.dumps(manifest))
    problems = recheck(log.path).problems
    assert {problem.field for problem in problems} == {"selection"}
    assert len(problems) == 7
    del manifest["settings"]["num_samples"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="no sample size follows from its settings"):
        recheck(log.path)


def test_row_without_estimation_samples_certifies_nothing(make_row):
    empty = make_row(counts={}, samples=0, predict=-1, radius=0.0, correct=False)
    assert recheck(Log("log.tsv", (empty,))) == (1, 1, (), 0)
    claims = dataclasses.replace(empty, predict=7, radius=0.1, correct=True)
    fields = {problem.field for problem in recheck(Log("log.tsv", (claims,))).problems}
    assert fields == {"predict", "radius"}


def test_planned_samples_are_those_that_were_taken(key):
    noise = smoothing.gaussian(np.array([0.25, 0.5], np.float32))
    inputs = np.array([[0.1], [0.9]], np.float32)

    def classify(x):
        return jax.numpy.stack([-x[:, 0], x[:, 0]], axis=1)

    for relative_to in ("infinite_samples", "max_samples"):
        settings = {"tolerance": 0.1, "max_samples": 5000, "relative_to": relative_to}
        found = smoothing.certify_adaptive(
            key, classify, inputs, noise=noise, num_classes=2, **settings
        )
        planned = smoothing.planned_samples(
            found.selection_counts, noise=noise, alpha=0.001, **settings
        )
        assert planned.tolist() == found.counts.sum(axis=1).tolist()
    with pytest.raises(ValueError, match="relative_to must be one of"):
        smoothing.planned_samples(
            found.selection_counts, noise=noise, alpha=0.001, tolerance=0.1, max_samples=9,
            relative_to="nothing",
        )  # fmt: skip
