"""Runs whose radii margins and Lipschitz constants certify, and what a recheck sees in them."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

from jaxcert import cli, lipschitz, report

LOG = report._reader.LOG_NAME


def weights_of(classify):
    return np.asarray(classify.args[0], np.float64)


def pairs_of(classify):
    return lipschitz.pairwise_lipschitz_upper([weights_of(classify).T])


@pytest.fixture
def certify(classify, dataset, tmp_path):
    """Certify the data set; any setting may be changed."""

    def run(**changes):
        settings = {"folder": tmp_path / "run", "lipschitz": pairs_of(classify), "batch_size": 3}
        settings |= changes
        return report.certify_margins(settings.pop("classify", classify), dataset, **settings)

    return run


def distances(classify, dataset):
    """Exact distance of each image to the decision boundary of the linear classifier."""
    weights = weights_of(classify)
    scores = dataset.images.reshape(len(dataset.images), -1).astype(np.float64) @ weights
    label = scores.argmax(axis=1)
    norms = np.linalg.norm(weights[:, label].T[:, :, None] - weights[None], axis=1)
    gaps = np.where(norms > 0, (scores.max(axis=1)[:, None] - scores) / np.maximum(norms, 1e-9), 9)
    return gaps.min(axis=1), label


def test_radii_are_below_the_exact_distance_and_near_it(certify, classify, dataset):
    log = certify()
    exact, label = distances(classify, dataset)
    assert [row.index for row in log.rows] == dataset.ids.tolist()
    assert [row.predict for row in log.rows] == label.tolist()
    assert np.all(log.radii < exact)
    np.testing.assert_allclose(log.radii, exact, atol=2e-4)
    # Without the slack for rounding they are nearer; by a scalar constant, smaller.
    joint = certify(folder=log.path + "_joint", lipschitz=np.linalg.norm(weights_of(classify), 2))
    assert np.all(joint.radii < log.radii)
    assert np.all(joint.radii > 0.3 * log.radii)


def test_the_same_report_states_certified_accuracy(certify, capsys, tmp_path):
    log = certify()
    summary = report.summarize(report.read_log(tmp_path / "run"), radii=[0.0, 0.05])
    right = [row for row in log.rows if row.predict == row.label]
    assert 0 < len(right) < len(log.rows)
    assert summary.clean_accuracy == len(right) / len(log.rows)
    assert summary.average_radius == pytest.approx(sum(r.radius for r in right) / len(log.rows))
    assert summary.num_certified.tolist() == [len(right), sum(r.radius >= 0.05 for r in right)]
    assert summary.norm == "l2"
    assert summary.is_deterministic
    assert summary.seconds > 0
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert "hold with certainty, if their Lipschitz constants do: run" in capsys.readouterr().out
    assert cli.main(["recheck", str(tmp_path / "run")]) == 0
    assert "7 rows, 7 radii derived again from margins, no problems" in capsys.readouterr().out


def test_a_run_that_was_cut_short_continues(certify, tmp_path):
    whole = certify().rows
    path = tmp_path / "run" / LOG
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:30])
    assert len(report.read_log(path).rows) == 3
    again = certify()
    for one, other in zip(again.rows, whole, strict=True):
        assert dataclasses.replace(one, time=0.0, line=other.line) == dataclasses.replace(
            other, time=0.0
        )
    for changed in ({"lipschitz": 9.0}, {"rounding": 0.0}, {"norm": "linf"}):
        with pytest.raises(report.ManifestError, match=f"settings.{next(iter(changed))}"):
            certify(**changed)


@pytest.mark.parametrize(
    ("field", "column", "change"),
    [
        ("radius", 3, lambda text: repr(float(text) * 1.001)),
        ("predict", 2, lambda text: str((int(text) + 1) % 3)),
        ("slack", 8, lambda text: "0.0"),
        ("lipschitz", 7, lambda text: ",".join(repr(float(v) / 2) for v in text.split(","))),
        ("norm", 9, lambda text: "linf"),
        ("scores", 6, lambda text: text.rsplit(",", 1)[0]),
    ],
)
def test_recheck_flags_every_field_that_was_changed(certify, tmp_path, field, column, change):
    certify()
    path = tmp_path / "run" / LOG
    lines = path.read_text().splitlines()
    fields = lines[2].split("\t")
    fields[column] = change(fields[column])
    lines[2] = "\t".join(fields)
    path.write_text("\n".join(lines) + "\n")
    problems = report.recheck(tmp_path / "run").problems
    assert {problem.line for problem in problems} == {3}
    assert field in {problem.field for problem in problems}
    # A copy without its manifest still derives radii from what the row says.
    shutil.copy(path, tmp_path / "alone.tsv")
    alone = {problem.field for problem in report.recheck(tmp_path / "alone.tsv").problems}
    assert ("radius" in alone) == (field in ("radius", "slack", "lipschitz"))


def test_a_score_within_the_rounding_certifies_nothing(certify, classify):
    log = certify(rounding=10.0)
    np.testing.assert_array_equal(log.radii, 0.0)
    assert all(row.predict == max(range(3), key=row.margin.scores.__getitem__) for row in log.rows)
    assert report.recheck(log).problems == ()


def test_rows_read_back_as_they_were_written(certify):
    log = certify()
    again = report.read_log(log.path)
    for one, other in zip(log.rows, again.rows, strict=True):
        assert one.margin == other.margin
        assert one.radius == other.radius
    torn = report.read_log(log.path)
    assert torn.notes == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lipschitz": np.ones((2, 2))}, "lipschitz must be a scalar or of shape"),
        ({"lipschitz": 0.0}, "lipschitz must be finite and above 0"),
        ({"lipschitz": math.inf}, "lipschitz must be finite and above 0"),
        ({"norm": "l3"}, "norm must be one of l2, linf, l1"),
        ({"rounding": -1.0}, "rounding must be finite"),
        ({"classify": lambda x: x.reshape(len(x), -1), "model_fingerprint": "a"}, "must return sc"),
        ({"classify": lambda x: x[:, 0, 0] + np.nan * np.ones(3), "model_fingerprint": "a"},
         "finite scores, got others for image 0"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(certify, changes, message):
    with pytest.raises(ValueError, match=message):
        certify(**changes)
    if "model_fingerprint" in changes:
        with pytest.raises(TypeError, match="must be a jax.tree_util.Partial"):
            certify(classify=changes["classify"])
