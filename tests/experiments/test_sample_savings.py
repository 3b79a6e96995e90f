"""The replay of published logs: inversion of radii, and the committed table."""

import json

import numpy as np
import pytest

from experiments import sample_savings
from jaxcert import report


@pytest.fixture
def small(monkeypatch):
    """Logs of 1000 samples instead of 100,000."""
    monkeypatch.setattr(sample_savings, "NUM_SAMPLES", 1000)
    sample_savings.lower_bounds.cache_clear()
    yield
    sample_savings.lower_bounds.cache_clear()


def log_of(counts, sigma, alpha, path):
    """A log as the field's tools print it, with radii of three digits."""
    lines = ["idx\tlabel\tpredict\tradius\tcorrect\ttime"]
    radii = sample_savings.certified_radii(sigma, alpha)[counts]
    for index, radius in enumerate(radii):
        predict = 3 if radius > 0 else -1
        lines.append(f"{index}\t3\t{predict}\t{radius:.3}\t{int(radius > 0)}\t1.0")
    path.write_text("\n".join(lines) + "\n")
    return report.read_log(path)


def test_radii_give_their_counts_back(small, tmp_path):
    counts = np.array([400, 560, 700, 853, 990, 999, 1000])
    log = log_of(counts, 0.5, 0.01, tmp_path / "published.tsv")
    success = sample_savings.probabilities(log, 0.5, 0.01)
    assert success[0] == 0.5
    np.testing.assert_allclose(success[1:], (counts[1:] + 0.5) / 1001, atol=1e-3)


def test_only_the_alpha_that_made_a_log_fits_it(small, tmp_path):
    log = log_of(np.arange(900, 1001, 4), 0.5, 0.01, tmp_path / "published.tsv")
    assert sample_savings.misfits(log, 0.5, 0.01) == 0
    assert sample_savings.misfits(log, 0.5, 0.001) > 5


def test_replay_on_a_few_images(small):
    success = np.array([0.5, 0.7, 0.9, 0.99, 0.9995])
    rows = sample_savings.replay_decisions(success, 0.5, 0.25, alpha=0.001, repeats=1)
    assert [(row["rule"], row["give_up"]) for row in rows] == list(sample_savings.TESTS)
    for row in rows:
        assert 0.1 < row["spent"] < 1.1
        assert 0.2 <= row["certified"] <= 0.8
    known = sample_savings.with_known_probabilities(success, 0.5, 0.05, 0.001)
    assert known["average"] <= known["each"] < 1


def test_committed_table_is_that_of_the_committed_numbers():
    """The margins that the project set itself: a quarter above a rule that knows p."""
    result = json.loads((sample_savings.RESULTS / "sample_savings.json").read_text())
    table = (sample_savings.RESULTS / "sample_savings.md").read_text()
    assert table == sample_savings.markdown(result)
    assert result["command"].startswith("python -m experiments.sample_savings")
    for row in result["adaptive"]:
        assert row["spent"] < 1.25 * row["known_for_loss"], row
        assert row["loss"] < 1.15 * row["tolerance"], row
    tests = {}
    for row in result["decisions"]:
        tests.setdefault((row["rule"], row["give_up"]), []).append(row)
    spent = {test: np.array([row["spent"] for row in rows]) for test, rows in tests.items()}
    default, betting = spent["spending", 0.1], spent["betting", 0.0]
    assert np.all(default < 0.85 * betting)
    assert np.all(spent["spending", 0.0] < betting)
    for row in tests["spending", 0.1]:
        assert row["certified"] > row["certified_by_fixed"] - 0.005
    fits = {row["log"]: row["misfits"] for row in result["alphas"]}
    assert len(fits) == 13
    assert sum(fit["0.01"] == 0 and fit["0.001"] > 0 for fit in fits.values()) == 9
