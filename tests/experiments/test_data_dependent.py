"""Fixed against data-dependent sigma: the pieces run and resume, and the committed numbers hold."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import (
    _data_dependent_attack,
    _data_dependent_runs,
    _data_dependent_tables,
    data_dependent,
)
from jaxcert import report, smoothing


@pytest.fixture
def tiny(monkeypatch):
    """The smoke preset with one way of training, four images and one attack."""
    smoke = data_dependent.PRESETS["smoke"]
    preset = dataclasses.replace(
        smoke,
        schemes={"gaussian": smoke.schemes["gaussian"]},
        num_images=4,
        search=dict(smoke.search) | {"num_steps": 8, "num_samples": 20},
        num_attacked=1,
    )
    monkeypatch.setitem(data_dependent.PRESETS, "smoke", preset)
    return preset


def test_all_stages_run_and_a_second_run_repeats_nothing(tiny, tmp_path, capsys):
    arguments = ["--preset", "smoke", "--output", str(tmp_path)]
    assert data_dependent.main(arguments) == 0
    first = json.loads((tmp_path / "result.json").read_text())
    (numbers,) = first["schemes"]
    assert numbers["num_images"] == 4
    # Both attacks were counted; within the certified radius no answer changed.
    assert [found["attacked"] for found in numbers["attacks"]] == [1, 1]
    assert numbers["attacks"][0]["memory"] == 0
    # A joint failure probability costs radius.
    radii = {kind: found["average_radius"] for kind, found in numbers["summaries"].items()}
    assert 0 < radii["joint"] < radii["memory"] <= radii["chosen"]
    assert (tmp_path / "curve.png").stat().st_size > 5000
    table = (tmp_path / "table.md").read_text()
    assert f"{radii['memory']:.4f}" in table

    files = ["attack_gaussian.jsonl", "chosen_gaussian_1/log.tsv", "fixed_gaussian_0/log.tsv"]
    before = [(tmp_path / name).read_bytes() for name in files]
    assert data_dependent.main(arguments) == 0
    assert [(tmp_path / name).read_bytes() for name in files] == before
    assert json.loads((tmp_path / "result.json").read_text()) == first


def row(index, label, votes):
    return report.Row(
        index=index, label=label, predict=label, radius=0.1, correct=True, time=0.1,
        counts=votes, samples=1000, alpha=0.001, noise="gaussian(4.0)",
        selection=votes,
    )  # fmt: skip


def test_a_memory_cuts_and_overrides_what_certificates_claim(monkeypatch):
    """Three images closer to each other than their radii."""
    preset = data_dependent.PRESETS["smoke"]
    dataset = _data_dependent_runs.images_of(preset)._replace(
        images=np.array([0.0, 0.1, 9.0], np.float32).reshape(3, 1, 1, 1),
        labels=np.array([3, 5, 5], np.int32),
        positions=np.array([0, 1, 2]),
    )
    monkeypatch.setattr(_data_dependent_runs, "images_of", lambda preset: dataset)
    log = report.Log("log", (row(0, 3, {3: 1000}), row(1, 5, {5: 1000}), row(2, 5, {5: 1000})))
    found = _data_dependent_runs.remember(preset, log, fingerprint="a model", alpha=0.001)
    largest = float(smoothing.max_radius(smoothing.gaussian(4.0), num_samples=1000, alpha=0.001))
    assert 9.0 < largest < 18.0
    assert found.answer.overridden.tolist() == [False, True, True]
    numbers = data_dependent.of_memory(preset, found)
    assert numbers["overridden"] == 2
    assert [one.predict for one in found.log.rows] == [3, 3, 3]
    assert found.log.rows[2].radius < largest
    weak = row(0, 3, {3: 700, 5: 300})
    cut = _data_dependent_runs.remember(
        preset, report.Log("log", (weak, row(2, 5, {5: 1000}))), fingerprint="a model", alpha=0.001
    )
    numbers = data_dependent.of_memory(preset, cut)
    assert numbers["shrunk"] == 1
    assert 0 <= numbers["least_room"] < 1e-6


def test_only_another_class_counts_as_a_change():
    outcomes = [
        _data_dependent_attack.Outcome(0, 1.5, 0.5, 3, memory=memory, smoothed=3, unremembered=5)
        for memory in (3, 5, smoothing.ABSTAIN)
    ]
    found = _data_dependent_attack.tally(outcomes, 1.5)
    assert (found["attacked"], found["memory"], found["smoothed"]) == (3, 1, 0)
    assert found["unremembered"] == 3
    assert _data_dependent_attack.tally(outcomes, 1.0)["attacked"] == 0


@pytest.fixture(scope="module")
def committed():
    return json.loads((data_dependent.RESULTS / "data_dependent_paper.json").read_text())


def committed_log(kind, scheme):
    preset = data_dependent.PRESETS["paper"]
    pattern = f"data_dependent_paper_{kind}_{scheme}_*.tsv"
    logs = [report.read_log(path) for path in sorted(data_dependent.RESULTS.glob(pattern))]
    if kind == "fixed" and scheme in preset.committed:
        logs = [report.read_log(preset.committed[scheme])]
    return report.Log(kind, tuple(row for log in logs for row in log.rows))


def test_committed_numbers_are_those_of_the_committed_logs(committed):
    assert [found["scheme"] for found in committed["schemes"]] == [
        "gaussian", "smooth_adv", "macer", "consistency",
    ]  # fmt: skip
    known = json.loads((data_dependent.RESULTS / "cohen_mnist.json").read_text())["runs"][0]
    # The fixed certificates of the first scheme are those of the other experiment's network.
    assert committed["schemes"][0]["model_fingerprint"] == known["model_fingerprint"]
    for found in committed["schemes"]:
        fixed, chosen = (committed_log(kind, found["scheme"]) for kind in ("fixed", "chosen"))
        assert {(row.samples, row.alpha) for row in (*fixed.rows, *chosen.rows)} == {
            (100_000, 0.001)
        }
        assert report.recheck(chosen).problems == ()
        both = {row.index for row in fixed.rows} & {row.index for row in chosen.rows}
        assert found["num_images"] == len(both) >= 40
        for kind, log in (("fixed", fixed), ("chosen", chosen)):
            summary = report.summarize(data_dependent.on_images(log, both))
            assert found["summaries"][kind]["average_radius"] == pytest.approx(
                summary.average_radius, rel=1e-12
            )


def test_committed_table_is_that_of_the_committed_numbers(committed):
    table = (data_dependent.RESULTS / "data_dependent_paper.md").read_text()
    for write in (
        _data_dependent_tables.comparison,
        _data_dependent_tables.radii_table,
        _data_dependent_tables.of_memories,
        _data_dependent_tables.of_attacks,
    ):
        assert write(committed["schemes"]) in table


def test_committed_numbers_show_what_was_set_out(committed):
    """Fixed sigma is near the published radii, a chosen sigma beats it, no certificate fell."""
    attacked = broken = 0
    for found in committed["schemes"]:
        fixed = found["summaries"]["fixed"]
        near = _data_dependent_tables.TOLERANCE + 2 * fixed["average_radius_error"]
        assert abs(fixed["average_radius"] - found["published"]) <= near
        assert found["gain"] > 3 * found["gain_error"]
        within, beyond = found["attacks"]
        assert (within["memory"], within["smoothed"]) == (0, 0)
        attacked += within["attacked"]
        broken += beyond["memory"]
        assert found["memory"]["least_room"] >= 0
    assert attacked >= 100
    assert broken > 0
