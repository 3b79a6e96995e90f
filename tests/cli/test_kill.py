"""A certification that is killed again and again ends with the log of one that was not."""

import random
import signal
import time

import pytest

from jaxcert.report import read_log, read_manifest, recheck

# Launches of 5 images each, so that kills fall between launches, within them and between rows.
SETTINGS = ("--count", "150", "--num-samples", "20000")
DEADLINE = 600.0


def without_time(path):
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [fields[:5] + fields[6:] for fields in rows]


def num_lines(path):
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def kill_at_random(process, log, generator):
    """Kill within the first second, or some rows later than the log has now; say if it was alive.

    The kill comes up to two milliseconds after the row that it waits for, about the time in which
    the next row is written and flushed.
    """
    began = time.monotonic()
    if generator.random() < 0.2:
        process_is_done = wait(process, generator.uniform(0.0, 1.0))
    else:
        target = num_lines(log) + generator.randint(1, 6)
        process_is_done = False
        while not process_is_done and num_lines(log) < target:
            assert time.monotonic() - began < DEADLINE
            process_is_done = wait(process, 0.001)
        time.sleep(generator.uniform(0.0, 0.002))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def wait(process, seconds):
    time.sleep(seconds)
    return process.poll() is not None


def finish(process):
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_run_continues_to_the_uninterrupted_log(start, tmp_path, num_kills):
    finish(start(tmp_path / "whole", *SETTINGS))
    generator = random.Random(num_kills)
    log = tmp_path / "killed" / "log.tsv"
    grown = []
    for _ in range(num_kills):
        assert kill_at_random(start(tmp_path / "killed", *SETTINGS), log, generator)
        grown.append(num_lines(log))
    finish(start(tmp_path / "killed", *SETTINGS))
    # Kills fell where rows had been written and where rows were still to come.
    assert 0 < grown[-1] < num_lines(log)
    assert len(set(grown)) >= num_kills // 2
    assert without_time(log) == without_time(tmp_path / "whole" / "log.tsv")
    assert len(read_log(log).rows) == 150
    assert recheck(log).problems == ()
    assert len(read_manifest(log.parent)["launches"]) <= num_kills + 1
    print(f"\nlines in the log after each kill: {grown}")
