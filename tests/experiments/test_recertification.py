import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import recertification
from jaxcert import data, models, report, smoothing


def test_pruning_and_quantising_change_kernels_alone():
    weights = {"kernel": jnp.linspace(-1.0, 1.0, 200).reshape(20, 10), "bias": jnp.ones(10)}
    pruned = recertification.pruned(weights, 0.1)
    assert int((pruned["kernel"] == 0).sum()) == 20
    assert float(jnp.abs(pruned["kernel"] - weights["kernel"]).max()) < 0.11
    quantised = recertification.quantised(weights, 8)
    scale = np.abs(np.asarray(weights["kernel"])).max(axis=0) / 127
    levels = np.asarray(quantised["kernel"]) / scale
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert np.all(np.abs(quantised["kernel"] - weights["kernel"]) <= 0.51 * scale)
    for changed in (pruned, quantised):
        np.testing.assert_array_equal(changed["bias"], weights["bias"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run over a few digits, on the grid of their 16 levels, by a network that leans to 3."""
    folder = tmp_path_factory.mktemp("recertification")
    module = models.MLP(
        input_shape=(8, 8, 1), num_classes=10, mean=(0.3,), std=(0.4,), hidden=(16,),
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    models.save(folder / "model", module)
    report.certify_run(
        jax.random.key(0), models.from_nnx(module), data.load("digits", "test", num_images=12),
        folder=folder / "run", noise=smoothing.discrete_gaussian(0.25, levels=16),
        num_samples=4000,
    )  # fmt: skip
    return folder


def test_run_is_read_and_its_network_recognised(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recertification, "RESULTS", tmp_path / "results")
    code = recertification.main(
        ["--run", str(run / "run"), "--model", str(run / "model"), "--dataset", "digits"]
        + ["--share", "0.02", "--num-samples", "400", "--output", str(tmp_path / "result.json")]
        + ["--publish"]
    )
    assert code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["noise"] == "discrete_gaussian(0.25, levels=16)"
    assert result["num_images"] == 12
    assert result["samples"] == 400 <= result["runs_of_a_network"] <= 800
    assert 0 < result["average_radius"] <= result["earlier_average_radius"]
    assert "| the smallest 2% pruned | 12 |" in capsys.readouterr().out
    for _ in range(2):
        recertification.publish(result, tmp_path / "results")
    assert json.loads((tmp_path / "results" / "recertification.json").read_text()) == [result]
    table = (tmp_path / "results" / "recertification.md").read_text()
    assert recertification.format_table([result]) in table
    log = report.read_log(run / "run")
    assert not report.recheck(run / "run").problems
    _, earlier, _, _ = recertification.earlier_run(
        run / "run", models.fingerprint(models.from_nnx(models.restore(run / "model"))), limit=None
    )
    np.testing.assert_array_equal(earlier.radius, [row.radius for row in log.rows])


def test_radius_out_of_reach_is_null_and_said(run, tmp_path, monkeypatch, capsys):
    def out_of_reach(target, *arguments, **settings):
        return plain_samples_for(99.0, *arguments, **settings)

    plain_samples_for = recertification.plain_samples_for
    monkeypatch.setattr(recertification, "plain_samples_for", out_of_reach)
    path = tmp_path / "result.json"
    recertification.main(
        ["--run", str(run / "run"), "--model", str(run / "model"), "--dataset", "digits"]
        + ["--num-samples", "2000", "--count", "3", "--output", str(path)]
    )
    assert "Infinity" not in path.read_text()
    result = json.loads(path.read_text())
    assert [samples for samples, _ in result["plain_curve"]] == [2000, 4000]
    for name in ("plain_samples_for_the_same", "fewer_samples", "fewer_runs"):
        assert result[name] is None
    assert "| not reached | not reached | not reached |" in capsys.readouterr().out


def test_log_of_another_network_is_refused(run):
    with pytest.raises(ValueError, match="the log is of the network"):
        recertification.earlier_run(run / "run", "0" * 64, limit=None)
    with pytest.raises(ValueError, match="holds no run"):
        recertification.earlier_run(run, "0" * 64, limit=None)


def test_committed_table_is_that_of_the_committed_numbers():
    kept = json.loads((recertification.RESULTS / "recertification.json").read_text())
    table = (recertification.RESULTS / "recertification.md").read_text()
    assert recertification.format_table(kept) in table
    for row in kept:
        assert row["command"] in table
        (before, below), (after, above) = [[0, 0.0], *row["plain_curve"]][-2:]
        assert below < row["average_radius"] <= above
        assert before < row["plain_samples_for_the_same"] <= after
        assert row["fewer_samples"] == row["plain_samples_for_the_same"] / row["samples"]
        assert row["fewer_runs"] == row["plain_samples_for_the_same"] / row["runs_of_a_network"]
    best = [row for row in kept if row["noise"] == "gaussian(1.0)" and "5%" in row["change"]]
    assert best[0]["fewer_samples"] >= 3
