"""Loading in the face of faults and rivals, and without a trace in the program around it."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jaxcert import data


def copy_tree(source, target):
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_bits(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 5] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage", "message"),
    [
        ("*-test.array_record*", truncate, "is damaged; delete it"),
        ("*-test.array_record*", flip_bits, "is damaged; delete it"),
        ("*-test.array_record*", Path.unlink, "is damaged; delete it"),
        ("dataset_info.json", truncate, "is damaged; delete it"),
        ("features.json", Path.unlink, "is damaged; delete it"),
        ("dataset_info.json", Path.unlink, "is not a whole TFDS set; delete it"),
    ],
)
def test_damaged_prepared_set_is_a_clear_error(prepared, tmp_path, pattern, damage, message):
    copy_tree(prepared / "digits", tmp_path / "digits")
    (path,) = (tmp_path / "digits" / "1.0.0").glob(pattern)
    damage(path)
    with pytest.raises(ValueError, match=message):
        data.load("digits", "test", data_dir=tmp_path)


def test_set_prepared_in_another_format_says_how_to_prepare(prepared, tmp_path):
    copy_tree(prepared / "digits", tmp_path / "mnist")
    info = tmp_path / "mnist" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"must hold array_record files.*tfds.builder\(\"mnist\""):
        data.load("mnist", "test", data_dir=tmp_path)


def run_python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_preparation_leaves_nothing_that_is_used(tmp_path, prepared):
    # A preparation that has written some records and then stands still, to be killed there.
    process = run_python(
        """
        import sys, time
        from jaxcert import data
        from jaxcert.data import _builders

        generate = _builders.ArrayBuilder._generate_examples

        def stall(self, split):
            for i, example in enumerate(generate(self, split)):
                if i == 200:
                    sys.__stdout__.write("stalled\\n")
                    sys.__stdout__.flush()
                    time.sleep(600)
                yield example

        _builders.ArrayBuilder._generate_examples = stall
        data.load("digits", "test")
        """,
        TFDS_DATA_DIR=str(tmp_path),
    )
    try:
        assert process.stdout.readline() == "stalled\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(list((tmp_path / "digits").glob("incomplete.*"))) == 1
    test = data.load("digits", "test", data_dir=tmp_path)
    assert data.fingerprint(test) == data.fingerprint(
        data.load("digits", "test", data_dir=prepared)
    )


def load_at(barrier, root, results):
    import tensorflow_datasets  # noqa: F401  # so that the processes meet at the preparation

    from jaxcert import data
    from jaxcert.data import _builders  # noqa: F401

    barrier.wait(120)
    results.put(data.fingerprint(data.load("digits", "test", data_dir=root)))


@pytest.mark.slow
def test_processes_may_prepare_at_once(tmp_path, prepared):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    rivals = [context.Process(target=load_at, args=(barrier, tmp_path, results)) for _ in range(3)]
    for rival in rivals:
        rival.start()
    fingerprints = {results.get(timeout=120) for _ in rivals}
    for rival in rivals:
        rival.join(60)
        assert rival.exitcode == 0
    expected = data.load("digits", "test", data_dir=prepared)
    assert fingerprints == {data.fingerprint(expected)}
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_losing_the_race_to_prepare_is_no_error(tmp_path, prepared, monkeypatch):
    from jaxcert.data import _builders

    generate = _builders.ArrayBuilder._generate_examples

    def overtaken(self, split):
        yield from generate(self, split)
        if not (tmp_path / "digits" / "1.0.0").exists():
            copy_tree(prepared / "digits", tmp_path / "digits")

    monkeypatch.setattr(_builders.ArrayBuilder, "_generate_examples", overtaken)
    assert data.load("digits", "test", data_dir=tmp_path).num_images == 355
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_failed_write_is_an_error_and_the_next_load_works(tmp_path, monkeypatch):
    from jaxcert.data import _builders

    def full_disk(self, split):
        raise OSError(28, "No space left on device")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(_builders.ArrayBuilder, "_generate_examples", full_disk)
        with pytest.raises(OSError, match="No space left"):
            data.load("digits", "test", data_dir=tmp_path)
    assert data.load("digits", "test", data_dir=tmp_path).num_images == 355


# Manners.


def test_nothing_is_said_and_all_is_left_as_it_was(tmp_path, capfd, caplog, monkeypatch):
    from jaxcert.data import _builders

    generate = _builders.ArrayBuilder._generate_examples
    logger = logging.getLogger("absl")
    level, out, err = logger.level, sys.stdout, sys.stderr

    def talkative(self, split):
        print("said by TFDS")
        print("said by TFDS", file=sys.stderr)
        logger.warning("said by TFDS")
        yield from generate(self, split)

    monkeypatch.setattr(_builders.ArrayBuilder, "_generate_examples", talkative)
    data.load("digits", "test", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
    assert (logger.level, sys.stdout, sys.stderr) == (level, out, err)


def test_later_log_messages_of_the_program_are_seen(tmp_path):
    process = run_python(
        """
        import logging
        from jaxcert import data
        data.load("digits", "test")
        assert logging.root.handlers == []
        logging.getLogger("program").warning("seen")
        """,
        TFDS_DATA_DIR=str(tmp_path),
    )
    assert process.communicate(timeout=120) == ("", "seen\n")


def test_no_tensorflow_is_imported_even_if_it_is_installed(tmp_path):
    # A decoy that leaves a trace when it is imported stands in for an installed TensorFlow.
    decoy = tmp_path / "site" / "tensorflow"
    decoy.mkdir(parents=True)
    witness = tmp_path / "imported"
    (decoy / "__init__.py").write_text(
        f"open({str(witness)!r}, 'w').close()\nraise ImportError('decoy')\n"
    )
    process = run_python(
        """
        import sys
        import jaxcert.data
        assert "tensorflow_datasets" not in sys.modules, "imported before it is needed"
        print(jaxcert.data.load("digits", "test").images.shape)
        """,
        PYTHONPATH=os.pathsep.join([str(decoy.parent), *sys.path]),
        TFDS_DATA_DIR=str(tmp_path / "prepared"),
    )
    out, err = process.communicate(timeout=120)
    assert (out, err, process.returncode) == ("(355, 8, 8, 1)\n", "", 0)
    assert not witness.exists()
