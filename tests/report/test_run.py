import dataclasses
import errno
import functools
import json
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcert import report, smoothing
from jaxcert.report import LogError, ManifestError, RunLog, _run


def timeless(log):
    return [dataclasses.replace(row, time=0.0, line=0) for row in log.rows]


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def stop_after(monkeypatch, num_rows):
    """Let a run die when it is about to append one row too many."""
    append, left = RunLog.append, iter(range(num_rows))

    def stopping(self, row):
        if next(left, None) is None:
            raise Killed
        append(self, row)

    monkeypatch.setattr(RunLog, "append", stopping)


def test_log_holds_the_certificates_of_certify(run, classify, dataset):
    log = run()
    certificate = smoothing.certify(
        jax.random.key(11),
        classify,
        dataset.images,
        noise=smoothing.gaussian(0.25),
        num_classes=3,
        num_samples=200,
        selection_samples=10,
        ids=dataset.ids,
    )
    assert [row.index for row in log.rows] == dataset.ids.tolist()
    assert [row.label for row in log.rows] == dataset.labels.tolist()
    assert [row.predict for row in log.rows] == certificate.label.tolist()
    assert [row.radius for row in log.rows] == certificate.radius.tolist()
    for row, counts in zip(log.rows, certificate.counts, strict=True):
        assert row.counts == {label: int(count) for label, count in enumerate(counts) if count}
    # Something is certified and something is not, or the comparison would say little.
    assert {row.predict for row in log.rows} > {-1}
    assert timeless(report.read_log(log.path)) == timeless(log)


@pytest.mark.parametrize("stops", [[0], [1], [2], [3], [5], [6], [1, 1, 1, 1, 1, 1], [4, 0, 2]])
def test_stopped_run_continues_to_the_same_log(run, tmp_path, monkeypatch, stops):
    whole = run(folder=tmp_path / "whole")
    for num_rows in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, num_rows)
            with pytest.raises(Killed):
                run()
    log = run()
    assert timeless(log) == timeless(whole)
    assert timeless(report.read_log(log.path)) == timeless(whole)
    manifest = report.read_manifest(tmp_path / "run")
    assert len(manifest["launches"]) == len(stops) + 1


@pytest.mark.parametrize("images_per_launch", [1, 2, 7, 100])
def test_grouping_of_images_does_not_matter(run, tmp_path, images_per_launch):
    whole = run(folder=tmp_path / "whole")
    assert timeless(run(images_per_launch=images_per_launch)) == timeless(whole)


def test_subset_gives_each_image_the_same_row(run, tmp_path, dataset):
    whole = {row.index: row for row in timeless(run(folder=tmp_path / "whole"))}
    part = run(dataset=dataset.take([5, 2]))
    assert timeless(part) == [whole[50], whole[20]]


def test_finished_run_samples_nothing(run, monkeypatch):
    whole = run()
    monkeypatch.setattr(smoothing, "certify", None)
    assert timeless(run()) == timeless(whole)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"noise": smoothing.gaussian(0.5)}, r"settings\.noise: .*\(0\.25\), .*gaussian\(0\.5\)"),
        ({"noise": smoothing.laplace(0.25)}, r"settings\.noise"),
        ({"num_samples": 201}, r"settings\.num_samples: the folder has 200, this run has 201"),
        ({"selection_samples": 11}, r"settings\.selection_samples"),
        ({"alpha": 0.01}, r"settings\.alpha"),
        ({"key": jax.random.key(12)}, r"key\.data: .* has \[0, 11\], .* has \[0, 12\]"),
        ({"model_fingerprint": "other"}, r"model\.fingerprint: .* this run has other"),
    ],
)  # fmt: skip
def test_other_settings_are_refused(run, changes, field):
    log = run()
    before = pathlib.Path(log.path).read_bytes()
    with pytest.raises(ManifestError, match=field):
        run(**changes)
    assert pathlib.Path(log.path).read_bytes() == before


def test_other_data_are_refused(run, dataset):
    run()
    with pytest.raises(ManifestError, match=r"data\.images: the folder has 0:61:10"):
        run(dataset=dataset.take([0, 1]))
    brighter = dataset._replace(images=dataset.images + np.float32(0.001))
    with pytest.raises(ManifestError, match=r"data\.fingerprint"):
        run(dataset=brighter)


def test_other_weights_are_refused(run, classify):
    run()
    other = jax.tree.map(lambda leaf: leaf + 0.001, classify)
    with pytest.raises(ManifestError, match=r"model\.fingerprint"):
        run(classify=other)


def test_what_does_not_change_results_is_accepted(run, dataset):
    whole = run()
    renamed = dataset._replace(split="test[:70]")
    assert timeless(run(dataset=renamed, chunk_size=50, images_per_launch=2)) == timeless(whole)


def test_other_environment_is_warned_of(run, tmp_path):
    run()
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["launches"][0]["environment"]["jax"] = "0.0.1"
    path.write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=r"jax was 0\.0\.1, is now"):
        run()


def test_settings_that_certify_nothing_are_refused_with_advice(run, tmp_path):
    with pytest.raises(ValueError, match=r"num_samples must be at least (\d+)") as caught:
        run(num_samples=9)
    assert "num_samples=9 certifies nothing at alpha=0.001" in str(caught.value)
    assert "100,000 reach a radius of 0.953 with gaussian(0.25)" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert "at least 10;" not in str(caught.value)
    enough = int(str(caught.value).partition("at least ")[2].partition(",")[0])
    noise = smoothing.gaussian(0.25)
    assert smoothing.max_radius(noise, num_samples=enough, alpha=0.001) > 0
    assert smoothing.max_radius(noise, num_samples=enough - 1, alpha=0.001) == 0


def test_corrupt_row_is_refused(run):
    path = pathlib.Path(run().path)
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace("\t1\t", "\tyes\t", 1).replace("\t0\t", "\tyes\t", 1)
    path.write_text("".join(lines))
    with pytest.raises(LogError, match=r"log\.tsv, line 3, field"):
        run()


def test_row_that_claims_more_is_refused(run):
    log = run()
    row = next(row for row in log.rows if row.radius > 0)
    path = pathlib.Path(log.path)
    path.write_text(path.read_text().replace(repr(row.radius), repr(row.radius * 2)))
    with pytest.raises(LogError, match=rf"image {row.index}\), field radius: claims"):
        run()


def test_label_of_other_data_is_refused(run, dataset):
    path = pathlib.Path(run().path)
    first, label = dataset.ids[0], dataset.labels[0]
    other = (label + 1) % 3
    path.write_text(path.read_text().replace(f"\n{first}\t{label}\t", f"\n{first}\t{other}\t"))
    with pytest.raises(LogError, match=r"line 2, field label: image 0 has label"):
        run()


def test_full_disk_stops_clearly_and_the_run_goes_on(run, tmp_path, monkeypatch):
    whole = run(folder=tmp_path / "whole")
    write, left = os.write, iter(range(4))

    def fail(descriptor, content):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match=r"row of image 30: No space left.* 3 rows before it"):
            run()
    assert timeless(run()) == timeless(whole)


def test_scores_that_are_not_finite_stop_the_run_between_rows(run, tmp_path, dataset):
    @jax.tree_util.Partial
    def classify(images):
        # Only a bright image, not the noise alone, gives NaN.
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([total, jnp.where(total > 20, jnp.nan, 0.0), 0 * total], axis=1)

    dark = dataset.images.copy()
    dark[5] += 10
    with pytest.raises(smoothing.NonFiniteScoresError):
        run(classify=classify, dataset=dataset._replace(images=dark))
    assert len(report.read_log(tmp_path / "run").rows) == 3


def test_one_noise_scale_an_image(run, monkeypatch):
    scales = np.linspace(0.1, 0.4, 7, dtype=np.float32)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Killed):
            run(noise=smoothing.gaussian(scales))
    log = run(noise=smoothing.gaussian(scales))
    assert [smoothing.parse_noise(row.noise).scale.item() for row in log.rows] == scales.tolist()
    assert report.recheck(log).problems == ()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"alpha": 0.0}, ValueError, "alpha"),
        ({"alpha": 1.0}, ValueError, "alpha"),
        ({"num_samples": 0}, ValueError, "num_samples"),
        ({"selection_samples": 0}, ValueError, "selection_samples"),
        ({"images_per_launch": 0}, ValueError, "images_per_launch"),
        ({"key": 0}, TypeError, "key must be a typed key"),
        ({"classify": lambda images: images}, TypeError, "model_fingerprint"),
        ({"noise": smoothing.gaussian([0.1, 0.2])}, ValueError, "scale"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(run, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(**changes)
    assert not (tmp_path / "run").exists()


def test_images_that_are_not_numbers_stop_the_run_between_rows(run, tmp_path, dataset):
    images = dataset.images.copy()
    images[4, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="inputs"):
        run(dataset=dataset._replace(images=images))
    assert len(report.read_log(tmp_path / "run").rows) == 3


def test_classes_that_disagree_with_the_scores_are_named(run, dataset):
    with pytest.raises(ValueError, match="num_classes"):
        run(dataset=dataset._replace(num_classes=4))


def test_images_of_one_id_are_refused_before_anything_is_written(run, tmp_path, dataset):
    twice = dataset._replace(positions=np.array([0, 10, 20, 10, 40, 50, 60]))
    with pytest.raises(ValueError, match=r"dataset\.ids must name each image once, got 10 for 2"):
        run(dataset=twice)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_the_same_settings(run, dataset):
    whole = run(alpha=np.float64(0.001), num_samples=np.int64(200), chunk_size=np.int32(40),
                selection_samples=np.int16(10), images_per_launch=np.uint8(3),
                dataset=dataset._replace(num_classes=np.int64(3)))  # fmt: skip
    assert timeless(run()) == timeless(whole)


def test_process_that_owns_the_short_last_group_launches_the_same_shape(run, tmp_path, monkeypatch):
    whole = {row.index: row for row in timeless(run(folder=tmp_path / "whole"))}
    sizes, certify = [], smoothing.certify

    def recording(key, classify, inputs, **settings):
        sizes.append(len(inputs))
        return certify(key, classify, inputs, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(smoothing, "certify", recording)
        launch = functools.partial(_run._append_missing, progress=False)
        patch.setattr(
            _run,
            "_append_missing",
            # Of the groups 0-2, 3-5 and 6, the third of three processes owns the last.
            lambda log, dataset, launcher, groups, *rest: launch(
                log, dataset, launcher, groups[2::3], *rest[:-1]
            ),
        )
        log = run()
    assert sizes == [3]
    assert timeless(log) == [whole[60]]


def test_start_that_fails_before_its_first_row_locks_nothing(run, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        with pytest.raises(Killed):
            run(num_samples=300)
    assert {row.samples for row in run().rows} == {200}


def test_empty_data_set_is_refused(run, dataset):
    with pytest.raises(ValueError, match="at least one image"):
        run(dataset=dataset.take([]))


def test_folder_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="folder must be a directory"):
        run(folder=tmp_path / "file")


def test_folder_in_use_is_refused(run, tmp_path):
    run()
    with RunLog(tmp_path / "run" / "log.tsv"), pytest.raises(BlockingIOError, match="in use"):
        run()


def test_progress_shows_images_and_certified(run, capsys):
    with warnings.catch_warnings():
        log = run(progress=True)
    shown = capsys.readouterr().err
    right = sum(row.is_right for row in log.rows)
    assert "7/7" in shown
    assert f"certified {right}/7" in shown
    assert "image/s" in shown
