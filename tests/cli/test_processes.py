"""A run that several processes share: each logs its own images, and none is lost or repeated."""

import signal
import socket
import time

import pytest

from jaxcert.report import read_log, read_manifest, recheck

DEADLINE = 180.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_all(start, folder, *settings, num_processes=2):
    address = f"127.0.0.1:{free_port()}"
    return [
        start(
            folder, *settings, "--coordinator", address,
            "--num-processes", str(num_processes), "--process-id", str(process),
        )
        for process in range(num_processes)
    ]  # fmt: skip


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors


def lines_without_time(*logs):
    """Rows of one run, in the order of their images, without the time they took."""
    rows = [line.split("\t") for log in logs for line in log.read_text().splitlines()[1:]]
    return sorted([fields[:5] + fields[6:] for fields in rows], key=lambda fields: int(fields[0]))


def wait_for_rows(log, count, *processes):
    began = time.monotonic()
    while not log.exists() or log.read_bytes().count(b"\n") <= count:
        assert time.monotonic() - began < DEADLINE
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)


def test_two_processes_give_the_log_of_one(start, tmp_path):
    settings = ("--count", "23", "--num-samples", "20000")
    alone = start(tmp_path / "alone", *settings)
    finish(*start_all(start, tmp_path / "shared", *settings))
    finish(alone)
    shards = [tmp_path / "shared" / f"log-0000{process}.tsv" for process in range(2)]
    assert [len(read_log(shard).rows) for shard in shards] == [13, 10]
    assert lines_without_time(*shards) == lines_without_time(tmp_path / "alone" / "log.tsv")
    merged = read_log(tmp_path / "shared")
    assert [row.index for row in merged.rows] == sorted(row.index for row in merged.rows)
    assert merged.name == "shared"
    assert recheck(tmp_path / "shared").problems == ()
    assert len(read_manifest(tmp_path / "shared")["launches"]) == 1


def lose_one(processes, shards):
    """Kill the second process when it has logged a few rows; the other finishes its share."""
    wait_for_rows(shards[1], 3, *processes)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].communicate(timeout=DEADLINE)
    finish(processes[0])


@pytest.mark.parametrize(
    ("count", "num_processes"), [(60, 1), pytest.param(200, 2, marks=pytest.mark.slow)]
)
def test_a_lost_process_loses_only_what_it_had_not_logged(start, tmp_path, count, num_processes):
    settings = ("--count", str(count), "--num-samples", "20000")
    folder = tmp_path / "shared"
    shards = [folder / f"log-0000{process}.tsv" for process in range(2)]
    lose_one(start_all(start, folder, *settings), shards)
    kept = [shard.read_text() for shard in shards]
    assert kept[0].count("\n") == 1 + count // 2
    assert 3 <= kept[1].count("\n") < 1 + count // 2
    # One process alone, or again two: what was logged stays as it is and is not repeated.
    if num_processes == 1:
        finish(start(folder, *settings))
    else:
        finish(*start_all(start, folder, *settings, num_processes=num_processes))
    assert shards[0].read_text() == kept[0]
    assert shards[1].read_text().startswith(kept[1].rpartition("\n")[0])
    assert len({row.index for row in read_log(folder).rows}) == len(read_log(folder).rows) == count
    assert recheck(folder).problems == ()
    finish(start(tmp_path / "alone", *settings))
    logs = sorted(folder.glob("log*.tsv"))
    assert lines_without_time(*logs) == lines_without_time(tmp_path / "alone" / "log.tsv")


@pytest.mark.slow
def test_a_share_that_outlasts_the_patience_with_a_lost_process(start, tmp_path):
    """The processes part when they have agreed, so that no time-out of the lost one matters."""
    folder = tmp_path / "shared"
    shards = [folder / f"log-0000{process}.tsv" for process in range(2)]
    processes = start_all(start, folder, "--count", "160", "--num-samples", "300000")
    wait_for_rows(shards[1], 3, *processes)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].communicate(timeout=DEADLINE)
    # Slowed down, so that the share outlasts the 30 seconds of patience on any machine.
    lost = time.monotonic()
    while time.monotonic() - lost < 45.0:
        processes[0].send_signal(signal.SIGSTOP)
        time.sleep(0.97)
        processes[0].send_signal(signal.SIGCONT)
        time.sleep(0.03)
    assert processes[0].poll() is None, "the share must be long for this test to say anything"
    finish(processes[0])
    assert shards[0].read_text().count("\n") == 81


def test_processes_are_refused_together(start, tmp_path):
    finish(start(tmp_path / "run", "--count", "2", "--num-samples", "100"))
    processes = start_all(start, tmp_path / "run", "--count", "2", "--num-samples", "200")
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "belongs to another run" in errors or "refused by process 0" in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num-processes", "2"), "--coordinator, --process-id must be given too"),
        (
            ("--coordinator", "127.0.0.1:1", "--num-processes", "2", "--process-id", "2"),
            "--process-id must lie in [0, 2), got 2",
        ),
    ],
)
def test_flags_that_do_not_fit(start, tmp_path, flags, message):
    process = start(tmp_path / "run", *flags)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert message in errors
