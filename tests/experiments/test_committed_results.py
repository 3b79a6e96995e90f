"""The committed logs support the committed table, number by number."""

import json
import shlex
from pathlib import Path

import pytest

from experiments import cohen
from jaxcert import report

RESULTS = Path(cohen.__file__).parent / "results"
MNIST = cohen.PRESETS["mnist"]


@pytest.fixture(params=MNIST.sigmas)
def sigma(request):
    return request.param


@pytest.fixture
def log(sigma):
    return report.read_log(RESULTS / f"cohen_mnist_sigma_{sigma}.tsv")


def test_every_committed_radius_follows_from_its_counts(log):
    result = report.recheck(log)
    assert result.problems == ()
    assert result.num_rederived == MNIST.num_images


def test_committed_logs_were_made_as_the_preset_says(log, sigma):
    assert [row.index for row in log.rows] == list(range(0, 10_000, 50))
    assert {(row.samples, row.alpha, row.noise) for row in log.rows} == {
        (100_000, 0.001, f"gaussian({sigma})")
    }


def test_committed_numbers_are_those_of_the_logs_and_near_the_published(log, sigma):
    result = json.loads((RESULTS / "cohen_mnist.json").read_text())
    (run,) = [run for run in result["runs"] if run["sigma"] == sigma]
    summary = report.summarize(log)
    assert run["average_radius"] == summary.average_radius
    assert run["average_radius_error"] == summary.average_radius_error
    comparison = cohen.compare(MNIST, sigma, summary)
    assert comparison["is_near"]
    assert run["published"] == MNIST.published[sigma]
    table = (RESULTS / "cohen_mnist.md").read_text()
    assert f"{summary.average_radius:.4f} ± {summary.average_radius_error:.4f}" in table
    assert result["command"].startswith("python -m experiments.cohen --preset mnist")
    assert result["command"] in table
    assert not any(Path(word).is_absolute() for word in shlex.split(result["command"]))
    assert cohen.times(result["runs"], note=result["note"]).split("\n", 1)[1] in table
    assert f", {result['note']}:\n" in table
