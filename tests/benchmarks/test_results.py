"""Summaries, comparisons and files of the benchmarks."""

import json
import subprocess
from pathlib import Path

import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import cases, environment, registry, results


def entry(low, median, high, *, at_most=None, at_least=None):
    return {
        "numerator": "a", "denominator": "b", "at_most": at_most, "at_least": at_least,
        "low": low, "median": median, "high": high, "met": None,
    }  # fmt: skip


def report(*entries, hardware=None):
    return {
        "format": results.FORMAT,
        "environment": {"hardware": hardware or {"cpu": "x"}},
        "cases": {"case": {"ratios": list(entries)}},
    }


def summary(case_aims, seconds):
    case = registry.Case(
        variants={}, aims=case_aims, settings={"size": 3}, items=10, unit="sample", repetitions=3
    )
    return results.summarise(case, seconds)


def test_summary_keeps_raw_times_and_judges_the_median():
    seconds = {"a": [1.0, 1.2, 2.0], "b": [1.0, 1.0, 1.0]}
    found = summary((registry.Aim("a", "b", at_most=1.15), registry.Aim("b", "a")), seconds)
    assert found["seconds"] == seconds
    assert found["ratios"][0]["median"] == 1.2
    assert found["ratios"][0]["met"] is False
    assert found["ratios"][1]["met"] is None
    assert summary((registry.Aim("a", "b", at_least=1.2),), seconds)["ratios"][0]["met"] is True


def test_table_gives_times_an_item_and_the_verdict():
    seconds = {"a": [0.02, 0.02, 0.02], "b": [0.01, 0.01, 0.01]}
    lines = results.table("case", summary((registry.Aim("a", "b", at_most=1.5),), seconds))
    text = "\n".join(lines)
    assert "a  2 ms a sample" in text
    assert "b  1 ms a sample" in text
    assert "a / b  2.000 (2.000 .. 2.000)  aim at most 1.5: missed" in text


@pytest.mark.parametrize(
    ("now", "before", "worse"),
    [
        # Quartiles apart and a tenth slower.
        (entry(1.19, 1.2, 1.21, at_most=1.15), entry(1.08, 1.09, 1.1, at_most=1.15), True),
        # As far apart, but the quartiles overlap: noise.
        (entry(1.05, 1.2, 1.4, at_most=1.15), entry(1.0, 1.09, 1.2, at_most=1.15), False),
        # Quartiles apart, but the change is too small to matter.
        (entry(1.10, 1.11, 1.12, at_most=1.15), entry(1.07, 1.08, 1.09, at_most=1.15), False),
        # Better.
        (entry(1.0, 1.01, 1.02, at_most=1.15), entry(1.2, 1.21, 1.22, at_most=1.15), False),
        # For an aim from below the bad direction is down.
        (entry(1.7, 1.8, 1.9, at_least=2.0), entry(2.1, 2.2, 2.3, at_least=2.0), True),
        (entry(2.5, 2.6, 2.7, at_least=2.0), entry(2.1, 2.2, 2.3, at_least=2.0), False),
        # Without an aim no direction is bad.
        (entry(9.0, 9.0, 9.0), entry(1.0, 1.0, 1.0), False),
    ],
)
def test_comparison_flags_only_clear_changes_for_the_worse(now, before, worse):
    lines, count = results.compare(report(now), report(before))
    assert count == int(worse)
    assert ("WORSE" in lines[0]) == worse


def test_comparison_names_other_hardware_and_new_ratios():
    now, before = report(entry(1.0, 1.0, 1.0)), report(hardware={"cpu": "y"})
    lines, count = results.compare(now, before)
    assert count == 0
    assert "other hardware, {'cpu': 'y'}" in lines[0]
    assert "not in the baseline" in lines[1]


def test_files_round_trip_with_lists_on_one_line(tmp_path):
    path = tmp_path / "folder" / "report.json"
    content = report(entry(1.0, 1.23456789, 2.0))
    content["cases"]["case"]["seconds"] = {"a": [0.123456789, 2.0], "b": []}
    results.write(path, content)
    found = results.read(path)
    assert found["cases"]["case"]["seconds"] == {"a": [0.1234568, 2.0], "b": []}
    assert found["cases"]["case"]["ratios"][0]["median"] == 1.234568
    assert '"a": [0.1234568, 2.0]' in path.read_text()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0}', "{"])
def test_reading_something_else_is_an_error(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="report"):
        results.read(path)


def test_an_unknown_case_is_an_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--case", "certify-mpl"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "case must be one of" in message
    assert "got certify-mpl" in message


def test_cases_come_in_the_order_of_registration():
    assert registry.select(["noise", "certify-mlp"]) == ["certify-mlp", "noise"]
    assert registry.select([]) == list(registry.CASES)
    with pytest.raises(ValueError, match="registered already"):
        registry.register("noise")(lambda quick: cases._noise(quick))


def test_the_command_measures_writes_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "CASES", {})

    @registry.register("nothing")
    def _nothing(quick):
        variants = {"a": lambda: None, "b": lambda: None}
        aims = (registry.Aim("a", "b"),)
        return registry.Case(variants, aims, {"quick": quick}, 1, "call", repetitions=2)

    @registry.register("absent")
    def _absent(quick):
        raise registry.UnavailableError("PyTorch is not installed")

    path = tmp_path / "report.json"
    assert command.main(["--quick", "--output", str(path)]) == 0
    found = results.read(path)
    assert found["skipped"] == {"absent": "PyTorch is not installed"}
    assert len(found["cases"]["nothing"]["seconds"]["a"]) == 2
    assert found["environment"]["versions"]["jax"]
    assert found["environment"]["hardware"]["cores"] >= 1
    assert command.main(["--compare", str(path)]) == 0
    assert "skipped: PyTorch is not installed" in capsys.readouterr().out


def test_revision_tells_a_clean_tree_from_a_changed_one(tmp_path):
    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *names, *arguments], check=True, capture_output=True)

    assert environment.revision(tmp_path / "missing") == {"commit": None, "dirty": None}
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    clean = environment.revision(tmp_path)
    assert clean["dirty"] is False
    assert len(clean["commit"]) == 40
    (tmp_path / "file").write_text("two")
    assert environment.revision(tmp_path) == {**clean, "dirty": True}


def test_committed_baselines_are_whole_runs_that_say_what_they_ran_on():
    paths = sorted((Path(benchmarks.__file__).parent / "baselines").glob("*.json"))
    measured = []
    for path in paths:
        found = results.read(path)
        assert found["quick"] is False
        measured += found["cases"]
        # One device is enough for a baseline, PyTorch is not optional.
        assert not [name for name in found["skipped"] if not name.startswith("devices")]
        assert len(found["environment"]["revision"]["commit"]) == 40
        assert found["environment"]["revision"]["dirty"] in (True, False)
        for case in found["cases"].values():
            for ratio in case["ratios"]:
                again = registry.Aim(*(ratio[field] for field in registry.Aim._fields))
                redone = results._ratio(again, case["seconds"])
                for field in ("low", "median", "high"):
                    assert redone[field] == pytest.approx(ratio[field], rel=1e-5)
        assert json.loads(path.read_text()) == found
    # No case is measured twice, and none that is measured has gone.
    assert len(measured) == len(set(measured))
    assert set(measured) <= set(registry.CASES)
