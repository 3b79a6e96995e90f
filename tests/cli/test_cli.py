import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxcert import data, models, report, training
from jaxcert.cli import main


@pytest.fixture
def certify(model_dir, data_dir, tmp_path):
    """Run `jaxcert certify` in this process on three digits, with further arguments last."""

    def certify(*arguments, output="run", model=model_dir):
        return main(
            [
                *("certify", "--quiet", "--model", str(model), "--data-dir", str(data_dir)),
                *("--sigma", "0.25", "--count", "3", "--num-samples", "100"),
                *("--output", str(tmp_path / output), *arguments),
            ]
        )

    return certify


def fails(capsys, *arguments):
    """Run a command that must fail on bad input, and give its one line of complaint."""
    assert main([*arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"jaxcert {arguments[0]}: error: ")
    return line


def test_train_certify_report_recheck(tmp_path, data_dir, capsys):
    model, run, plot = (str(tmp_path / name) for name in ("model", "run", "curve.png"))
    digits = ["--dataset", "digits", "--data-dir", str(data_dir), "--quiet"]
    assert main(["train", *digits, "--model", "lenet", "--sigma", "0.25", "--epochs", "2",
                 "--output", model]) == 0  # fmt: skip
    assert main(["certify", *digits, "--model", model, "--sigma", "0.25", "--count", "4",
                 "--num-samples", "1000", "--output", run]) == 0  # fmt: skip
    assert capsys.readouterr().out.splitlines()[2].split()[1] == "4"
    assert main(["report", run, "--plot", plot, "--title", "digits", "--names", "mine"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[1].startswith("mine")
    assert output.err == f"wrote {plot}\n"
    assert os.path.getsize(plot) > 10_000
    assert main(["recheck", run]) == 0
    assert "4 rows, 4 radii derived again from counts, no problems" in capsys.readouterr().out
    # The network was saved whole, and what training needed to resume is gone.
    assert sorted(os.listdir(tmp_path)) == ["curve.png", "model", "run"]
    assert models.restore(model).num_classes == 10


def test_train_takes_its_settings_from_the_command_line(tmp_path, data_dir, monkeypatch):
    calls = []

    def train(key, module, dataset, **settings):
        calls.append((dataset.split, str(settings["noise"]), settings))
        return training.TrainResult(module, [])

    monkeypatch.setattr(training, "train", train)
    command = ["train", "--model", "lenet", "--data-dir", str(data_dir), "--output"]
    settings = ["--epochs", "3", "--batch-size", "7", "--learning-rate", "0.5",
                "--weight-decay", "0.25", "--noise", "uniform(0.5)"]  # fmt: skip
    assert main([*command, str(tmp_path / "a"), *settings]) == 0
    assert main([*command, str(tmp_path / "b"), "--split", "test"]) == 0
    (split, noise, given), (other_split, no_noise, _) = calls
    assert (split, noise, other_split, no_noise) == ("train", "uniform(0.5)", "test", "None")
    assert (given["num_epochs"], given["batch_size"]) == (3, 7)
    assert (given["learning_rate"], given["weight_decay"]) == (0.5, 0.25)


def test_trained_model_is_not_overwritten_by_accident(model_dir, data_dir, capsys):
    before = models.fingerprint(models.from_nnx(models.restore(model_dir)))
    message = fails(capsys, "train", "--data-dir", str(data_dir), "--output", str(model_dir))
    assert "exists; choose another --output, or --overwrite" in message
    assert models.fingerprint(models.from_nnx(models.restore(model_dir))) == before


def test_certify_resumes_and_refuses_other_settings(certify, tmp_path, capsys):
    assert certify() == 0
    log = (tmp_path / "run" / "log.tsv").read_bytes()
    assert certify() == 0
    assert (tmp_path / "run" / "log.tsv").read_bytes() == log
    capsys.readouterr()
    assert certify("--seed", "1") == 2
    assert "key.data: the folder has [0, 0], this run has [0, 1]" in capsys.readouterr().err
    assert certify("--sigma", "0.5") == 2
    assert "settings.noise: the folder has gaussian(0.25)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (("--count", "5"), [0, 71, 142, 213, 284]),
        (("--every", "100"), [0, 100, 200, 300]),
        (("--indices", "7,3,100:120:10"), [7, 3, 100, 110]),
    ],
)
def test_images_are_chosen_by_count_step_or_index(model_dir, data_dir, capsys, selection, expected):
    assert main(["predict", "--model", str(model_dir), "--data-dir", str(data_dir),
                 "--sigma", "0.25", "--num-samples", "50", *selection]) == 0  # fmt: skip
    output = capsys.readouterr()
    rows = [line.split("\t") for line in output.out.splitlines()]
    assert rows[0] == ["idx", "label", "predict", "correct", "p_value"]
    assert [int(row[0]) for row in rows[1:]] == expected
    labels = data.load("digits", "test", data_dir=data_dir).labels
    assert [int(row[1]) for row in rows[1:]] == labels[expected].tolist()
    right = sum(int(row[3]) for row in rows[1:])
    abstained = sum(row[2] == "-1" for row in rows[1:])
    assert output.err == f"{right} of {len(expected)} right, {abstained} abstained\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sigma", "0"], "sigma must be finite and above 0"),
        (["--sigma", "-1"], "sigma must be finite and above 0"),
        (["--alpha", "0"], "alpha must lie strictly between 0 and 1"),
        (["--alpha", "1"], "alpha must lie strictly between 0 and 1"),
        (["--num-samples", "0"], "num_samples must lie in"),
        (["--num-samples", "9"], "num_samples must be at least 10"),
        (["--dataset", "nonsense"], "nonsense"),
        (["--split", "nonsense"], "nonsense"),
        (["--model", "no/such/model"], "no checkpoint at"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(certify, tmp_path, capsys, arguments, message):
    assert certify(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxcert certify: error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", "0"], "--every must be at least 1"),
        (["--indices", "9999"], "indices must lie in"),
        (["--indices", "a"], "indices must be numbers"),
        (["--count", "0"], "num_images must lie in"),
        (["--noise", "cauchy(1)", "--every", "9"], "noise must be one of"),
    ],
)
def test_bad_choice_of_images_or_noise_is_named(model_dir, data_dir, capsys, arguments, message):
    noise = [] if "--noise" in arguments else ["--sigma", "1"]
    model = ["predict", "--model", str(model_dir), "--data-dir", str(data_dir)]
    assert message in fails(capsys, *model, *noise, *arguments)


def test_truncated_model_is_named(certify, model_dir, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(model_dir, copy)
    # The weights lie in files whose names Orbax makes up; each of them loses its end.
    weights = [path for path in copy.rglob("d/*") if path.is_file()]
    assert weights
    for path in weights:
        path.write_bytes(path.read_bytes()[:-100])
    assert certify(model=copy) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is damaged" in line


def test_model_of_other_images_is_named(certify, data_dir, tmp_path, capsys):
    network = models.create(
        "lenet", input_shape=(28, 28, 1), num_classes=10, mean=0.1, std=0.3, seed=0
    )
    models.save(tmp_path / "lenet", network)
    assert certify(model=tmp_path / "lenet") == 2
    assert capsys.readouterr().err.startswith("jaxcert certify: error: ")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(OSError, match="no-such-run"):
        main(["--debug", "report", str(tmp_path / "no-such-run")])


def test_corrupt_row_is_named_by_every_command(certify, tmp_path, capsys):
    assert certify() == 0
    path = tmp_path / "run" / "log.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace("gaussian", "gossiping"), *lines[2:]]))
    capsys.readouterr()
    for status, run in (
        (2, certify),
        (2, lambda: main(["report", str(tmp_path / "run")])),
        (1, lambda: main(["recheck", str(tmp_path / "run")])),
    ):
        assert run() == status
        output = capsys.readouterr()
        assert "log.tsv, line 2, field noise: expected a noise" in output.out + output.err


def test_recheck_finds_a_raised_radius(certify, tmp_path, capsys):
    assert certify() == 0
    path = tmp_path / "run" / "log.tsv"
    row = max(report.read_log(path).rows, key=lambda row: row.radius)
    assert row.radius > 0
    path.write_text(path.read_text().replace(repr(row.radius), "9.75"))
    capsys.readouterr()
    assert main(["recheck", str(tmp_path / "run")]) == 1
    output = capsys.readouterr().out
    assert f"line {row.line} (image {row.index}), field radius: claims 9.75" in output
    assert "1 problems" in output


def test_report_says_how_far_a_run_is(certify, tmp_path, capsys):
    assert certify() == 0
    path = tmp_path / "run" / "log.tsv"
    path.write_bytes(path.read_bytes()[:-3])
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    output = capsys.readouterr()
    assert "line 4: a torn last row was left out" in output.err
    assert "2 of 3 images so far" in output.err
    (summary,) = json.loads(output.out)
    assert summary["num_images"] == 2
    np.testing.assert_array_equal(
        summary["certified_accuracy"], np.array(summary["num_certified"]) / 2
    )


def test_adaptive_run_says_what_it_spent_and_is_rechecked(certify, tmp_path, capsys):
    arguments = ("--adaptive", "0.1", "--num-samples", "3000")
    assert certify(*arguments) == 0
    log = report.read_log(tmp_path / "run")
    spent = np.mean([row.samples + sum(row.selection.values()) for row in log.rows])
    assert f"{spent:,.0f} samples an image, {spent / 3000:.3f} of 3,000" in capsys.readouterr().err
    assert len({row.samples for row in log.rows}) > 1
    assert main(["recheck", str(tmp_path / "run")]) == 0
    assert certify() == 2
    assert "settings.tolerance: the folder has 0.1, this run has nothing" in capsys.readouterr().err


def test_decide_prints_verdicts_that_no_log_reader_takes_for_radii(
    model_dir, data_dir, tmp_path, capsys
):
    command = ["--model", str(model_dir), "--data-dir", str(data_dir), "--sigma", "0.25"]
    count = ["--count", "6", "--num-samples", "2000"]
    assert main(["decide", *command, *count, "--radius", "0.1"]) == 0
    output = capsys.readouterr()
    header, *rows = [line.split("\t") for line in output.out.splitlines()]
    assert header == ["idx", "label", "predict", "verdict", "correct", "samples"]
    assert {row[3] for row in rows} >= {"certified", "refuted"}
    for _, label, predict, verdict, correct, samples in rows:
        assert (predict == "-1") == (verdict != "certified")
        assert (correct == "1") == (predict == label)
        assert 100 < int(samples) <= 2100
    right = sum(row[4] == "1" for row in rows)
    assert output.err.startswith(f"{right} of 6 right and certified at radius 0.1, ")
    path = tmp_path / "verdicts.tsv"
    path.write_text(output.out)
    assert "field radius: expected a number, got " in fails(capsys, "report", str(path))
    assert main(["recheck", str(path)]) == 1
    assert "field radius: expected a number, got " in capsys.readouterr().out
    message = fails(capsys, "decide", *command, *count, "--radius", "5")
    assert "radius must be one that max_samples=2000 votes can certify" in message


def test_report_of_a_published_log_in_markdown(tmp_path, capsys):
    path = tmp_path / "published.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.378\t1\t15.4\n")
    assert main(["report", str(path), "--markdown", "--radii", "0.25", "0.5"]) == 0
    assert "| published |      1 |   1/1 |" in capsys.readouterr().out
    given = ["--sigma", "0.1", "--num-samples", "1000", "--alpha", "0.001"]
    assert main(["recheck", str(path), *given]) == 1
    assert "the largest that 1000 samples at alpha 0.001 give is 0.246" in capsys.readouterr().out
    assert "must be given together" in fails(capsys, "recheck", str(path), "--sigma", "0.1")


def test_missing_and_empty_logs_are_one_line(tmp_path, capsys):
    assert "No such file" in fails(capsys, "report", str(tmp_path / "nothing"))
    assert "No such file" in fails(capsys, "recheck", str(tmp_path / "nothing"))
    (tmp_path / "log.tsv").write_text("")
    assert "is empty" in fails(capsys, "report", str(tmp_path))


@pytest.mark.parametrize("arguments", [[], ["fly"], ["certify"], ["train", "--epochs", "x"]])
def test_wrong_usage_exits_with_two(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "command", [[], *[[c] for c in ("train", "certify", "predict", "decide", "report", "recheck")]]
)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert f"jaxcert {' '.join(command)}".strip() in capsys.readouterr().out.partition("example")[2]


def test_closed_pipe_is_no_error(tmp_path):
    path = tmp_path / "published.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.378\t1\t15.4\n")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jaxcert.cli", "report", str(path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_full_disk_is_one_line_and_the_run_goes_on(start, tmp_path):
    settings = ("--count", "40", "--num-samples", "2000")
    # No file may grow beyond six blocks of 512 bytes.
    limit = ["sh", "-c", 'ulimit -f 6; exec "$@"', "sh"]
    process = start(tmp_path / "run", *settings, under=limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "File too large" in errors
    assert "the same command resumes" in errors
    kept = len(report.read_log(tmp_path / "run").rows)
    assert 5 < kept < 40
    process = start(tmp_path / "run", *settings)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert report.recheck(tmp_path / "run") == (40, 40, (), 0)


def test_interrupt_keeps_what_is_done(certify, monkeypatch, tmp_path, capsys):
    append, left = report.RunLog.append, iter(range(2))

    def interrupted(self, row):
        if next(left, None) is None:
            raise KeyboardInterrupt
        append(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(report.RunLog, "append", interrupted)
        assert certify() == 130
    assert "the same command continues it" in capsys.readouterr().err
    assert len(report.read_log(tmp_path / "run").rows) == 2
    assert certify() == 0
    assert len(report.read_log(tmp_path / "run").rows) == 3
