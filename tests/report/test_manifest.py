import errno
import json
import os

import pytest

from jaxcert.report import ManifestError, parse_indices, read_manifest
from jaxcert.report._manifest import compact_indices, environment, open_manifest, write_json

IDENTITY = {"settings": {"noise": "gaussian(0.25)", "alpha": 0.001}, "key": {"data": [0, 7]}}


def launch(**changes):
    return {"command": "jaxcert certify", "environment": {**environment(), **changes}}


def test_manifest_is_written_once_and_launches_are_added(tmp_path):
    assert open_manifest(tmp_path, IDENTITY, launch(), has_rows=False) == []
    assert open_manifest(tmp_path, IDENTITY, launch(), has_rows=True) == []
    stored = read_manifest(tmp_path)
    assert stored["settings"] == IDENTITY["settings"]
    assert len(stored["launches"]) == 2
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"settings": {"noise": "gaussian(0.5)", "alpha": 0.001}},
            r"settings\.noise: the folder has gaussian\(0\.25\), this run has gaussian\(0\.5\)",
        ),
        ({"key": {"data": [0, 8]}}, r"key\.data: the folder has \[0, 7\], this run has \[0, 8\]"),
        ({"model": "a"}, r"model: the folder has nothing, this run has a"),
        ({"settings": {"noise": "gaussian(0.25)"}}, r"settings\.alpha: .* this run has nothing"),
    ],
)
def test_difference_is_refused_naming_field_and_both_values(tmp_path, changed, message):
    open_manifest(tmp_path, IDENTITY, launch(), has_rows=False)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ManifestError, match=message):
        open_manifest(tmp_path, IDENTITY | changed, launch(), has_rows=True)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_other_versions_are_reported_and_recorded(tmp_path):
    open_manifest(tmp_path, IDENTITY, launch(), has_rows=False)
    changed = open_manifest(tmp_path, IDENTITY, launch(jax="99.0"), has_rows=True)
    assert changed == [f"jax was {environment()['jax']}, is now 99.0"]
    assert read_manifest(tmp_path)["launches"][1]["environment"]["jax"] == "99.0"


def test_rows_without_a_manifest_are_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"rows but no manifest\.json"):
        open_manifest(tmp_path, IDENTITY, launch(), has_rows=True)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        open_manifest(tmp_path, IDENTITY, launch(), has_rows=False)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    write_json(path, {"a": 1})

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"cannot write: No space left.*manifest\.json"):
            write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([0, 50, 100], "0:101:50"),
        ([5], "5"),
        ([1, 2], "1,2"),
        ([2, 1, 0], "2,1,0"),
        ([0, 1, 3], "0,1,3"),
    ],
)
def test_indices_are_written_shortly_and_read_back(indices, text):
    assert compact_indices(indices) == text
    assert parse_indices(text, length=200) == indices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "numbers or start:stop:step"),
        ("1:2:3:4", "numbers or start:stop:step"),
        ("::0", "numbers or start:stop:step"),
        ("a", "numbers or start:stop:step"),
        ("10", r"must lie in \[0, 10\), got 10"),
        ("-1", r"must lie in \[0, 10\), got -1"),
        ("0:4,3", "must not repeat"),
        ("5:5", "at least one"),
    ],
)
def test_bad_indices_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_indices(text, length=10)


def test_start_that_failed_before_its_first_row_locks_nothing(tmp_path):
    open_manifest(tmp_path, IDENTITY, launch(), has_rows=False)
    other = IDENTITY | {"key": {"data": [0, 8]}}
    # Of several processes the first writes; the others must find what it wrote.
    with pytest.raises(ManifestError, match=r"key\.data"):
        open_manifest(tmp_path, other, launch(), has_rows=False, write=False)
    assert open_manifest(tmp_path, other, launch(), has_rows=False) == []
    stored = read_manifest(tmp_path)
    assert stored["key"] == {"data": [0, 8]}
    assert len(stored["launches"]) == 1
    with pytest.raises(ManifestError, match=r"key\.data"):
        open_manifest(tmp_path, IDENTITY, launch(), has_rows=True)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"data": []}, "data: expected an object"),
        ({"settings": "none"}, "settings: expected an object"),
        ({"settings": {"noise": 3}}, r"settings\.noise: expected text, got '3'"),
        ({"settings": {"num_samples": True}}, r"settings\.num_samples: expected an integer"),
        ({"data": {"images": [0, 1]}}, r"data\.images: expected text"),
        ({"launches": {}}, "launches: expected a list"),
        ({"launches": [3]}, r"launches\[0\]: expected an object"),
        ({"launches": [{"environment": []}]}, r"launches\[0\]\.environment: expected an object"),
    ],
)
def test_part_of_another_type_is_named(tmp_path, content, field):
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=rf"manifest\.json, field {field}"):
        read_manifest(tmp_path)


def test_value_that_is_no_json_leaves_no_partial_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "manifest.json", {"a": object()})
    assert os.listdir(tmp_path) == []
