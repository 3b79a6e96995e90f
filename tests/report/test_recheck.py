import dataclasses
import json
import pathlib

import pytest

from jaxcert import smoothing
from jaxcert.report import Log, ManifestError, Row, read_log, recheck


def problems(*rows):
    return [(found.field, found.message) for found in recheck(Log("log.tsv", rows)).problems]


def test_good_rows_pass_and_are_all_derived_again(make_row):
    result = recheck(Log("log.tsv", tuple(make_row(index) for index in range(5))))
    assert result == (5, 5, (), 0)


def test_finished_run_passes(run):
    log = run()
    assert recheck(log) == (7, 7, (), 0)
    assert recheck(log.path) == (7, 7, (), 0)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"predict": 3, "correct": False}, "predict", "says 3, but the counts decide for 7"),
        ({"predict": -1, "correct": False}, "predict", "says -1, but the counts decide for 7"),
        ({"correct": False}, "correct", "says 0, but predict 7, label 7"),
        ({"counts": {3: 10, 7: 191}}, "counts", "sum to 201, but samples says 200"),
        ({"counts": {3: 10}}, "counts", "sum to 10, but samples says 200"),
        ({"samples": 100_000}, "counts", "sum to 200, but samples says 100000"),
        ({"selection": {3: 6, 7: 4}}, "predict", "says 7, but the counts decide for -1"),
        ({"selection": {}}, "selection", "holds no votes"),
        ({"counts": {3: 110, 7: 90}}, "predict", "says 7, but the counts decide for -1"),
        ({"counts": {3: 11, 7: 189}}, "radius", "but the counts certify"),
        ({"alpha": 1e-4}, "radius", "but the counts certify"),
        ({"noise": "gaussian(0.2)"}, "radius", "but the counts certify"),
        ({"counts": {3: 9, 7: 191}}, "radius", "less than the counts'"),
        ({"alpha": 0.01}, "radius", "less than the counts'"),
    ],
)
def test_planted_fault_is_flagged(make_row, changes, field, message):
    good = make_row(0)
    bad = dataclasses.replace(make_row(1), line=3, **changes)
    result = recheck(Log("log.tsv", (good, bad)))
    assert any(f.field == field and message in f.message for f in result.problems)
    assert {(f.index, f.line) for f in result.problems} == {(1, 3)}


@pytest.mark.parametrize("factor", [1 + 1e-9, 1.001, 2.0])
def test_radius_that_claims_more_is_flagged(make_row, factor):
    radius = make_row().radius
    ((field, message),) = problems(make_row(radius=radius * factor))
    assert field == "radius"
    assert message == f"claims {radius * factor!r}, but the counts certify {radius!r}"


def test_radius_at_an_abstention_is_flagged(make_row):
    row = make_row(counts={3: 100, 7: 100}, predict=-1, correct=False, radius=0.1)
    assert [field for field, _ in problems(row)] == ["radius", "radius"]
    assert problems(dataclasses.replace(row, radius=0.0)) == []


def test_image_that_appears_twice_is_flagged(make_row):
    rows = [dataclasses.replace(make_row(index), line=line) for line, index in [(2, 4), (3, 4)]]
    assert problems(*rows) == [("idx", "image 4 is already in line 2")]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("gaussian(0.25)", "gaussian(0.5)", "noise"),
        ("\t200\t", "\t400\t", "samples"),
        ("\t0.001\t", "\t0.002\t", "alpha"),
    ],
)
def test_row_that_disagrees_with_the_manifest_is_flagged(run, old, new, field):
    log = run()
    path = pathlib.Path(log.path)
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace(old, new)
    path.write_text("".join(lines))
    found = [problem for problem in recheck(log.path).problems if "manifest" in problem.message]
    assert [(problem.field, problem.line) for problem in found] == [(field, 4)]
    assert new.strip() in found[0].message


def damage_manifest(path, section, name, value):
    path = pathlib.Path(path).parent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[section][name] = value
    path.write_text(json.dumps(manifest))


def test_image_that_the_manifest_does_not_name_is_flagged(run):
    log = run()
    damage_manifest(log.path, "data", "images", "0:51:10")
    (problem,) = recheck(log.path).problems
    assert (problem.field, problem.index) == ("idx", 60)
    assert problem.message == "image 60 is not in the manifest's 0:51:10"


def test_class_that_the_manifest_does_not_have_is_flagged(make_row, tmp_path):
    log = Log(str(tmp_path / "log.tsv"), (make_row(),))
    for num_classes, fields in [(8, []), (7, ["label", "predict", "counts", "selection"])]:
        (tmp_path / "manifest.json").write_text(json.dumps({"data": {"num_classes": num_classes}}))
        found = recheck(log).problems
        assert [problem.field for problem in found] == fields
        assert all("has class 7, but the manifest says 7" in problem.message for problem in found)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("settings", "noise", "pink(1)"), ("data", "images", "a:b"), ("data", "images", "")],
)
def test_manifest_that_cannot_be_used_is_named(run, section, name, value):
    log = run()
    damage_manifest(log.path, section, name, value)
    with pytest.raises(ManifestError, match=r"manifest\.json: "):
        recheck(log.path)


def test_rows_of_a_thousand_classes_go_in_blocks(make_row):
    rows = [make_row(index, counts={3: 10, 7: 190, 999: 0}) for index in range(3)]
    wide = make_row(3, counts={7: 190, 4_000_000: 10})
    assert problems(*rows, wide) == []


NOISE = {"noise": smoothing.gaussian(0.25), "num_samples": 1000, "alpha": 0.001}


def published(*radii, resolution=5e-4):
    return Log("x", tuple(Row(i, 1, 1, r, True, 1.0, resolution=resolution) for i, r in
                          enumerate(radii)))  # fmt: skip


def test_published_radius_must_be_one_that_a_count_gives():
    counts = [600, 900, 999, 1000]
    exact = NOISE["noise"].radius(smoothing.clopper_pearson_lower(counts, 1000, alpha=0.001))
    printed = [float(f"{radius:.3}") for radius in exact]
    assert recheck(published(*printed), **NOISE).problems == ()
    # Between the two largest radii there is a gap of 0.02 that no count fills.
    between = recheck(published((exact[2] + exact[3]) / 2), **NOISE).problems
    assert "no count out of 1000 gives it" in between[0].message
    above = recheck(published(exact[3] + 0.001), **NOISE).problems
    assert "the largest that 1000 samples at alpha 0.001 give is 0.61581" in above[0].message


def test_rows_that_nothing_could_check_are_counted(make_row):
    foreign = published(0.1, 0.2)
    assert recheck(foreign) == (2, 0, (), 2)
    counts = smoothing.clopper_pearson_lower([900], 1000, alpha=0.001)
    exact = published(*NOISE["noise"].radius(counts).tolist())
    assert recheck(exact, **NOISE) == (1, 0, (), 0)
    mixed = Log("x", (make_row(5), *foreign.rows))
    assert recheck(mixed) == (3, 1, (), 2)


def test_settings_of_a_published_log_come_together():
    with pytest.raises(ValueError, match="must be given together"):
        recheck(published(0.1), noise=smoothing.gaussian(0.25))


# The one-sided alpha that each published log was made with is in no file; the gaps between the
# largest radii tell. N = 100,000 throughout.
PUBLISHED_ALPHA = {
    "cifar10_resnet110_noise_0.12_test_sigma_0.12": (0.001, 0.01),
    "cifar10_resnet110_noise_0.25_test_sigma_0.25": (0.01, 0.001),
    "cifar10_resnet110_noise_0.50_test_sigma_0.50": (0.01, 0.001),
    "cifar10_resnet110_noise_1.00_test_sigma_1.00": (0.01, 0.001),
    "imagenet_resnet50_noise_0.25_test_sigma_0.25": (0.01, 0.001),
    "imagenet_resnet50_noise_0.50_test_sigma_0.50": (0.01, 0.001),
    "imagenet_resnet50_noise_1.00_test_sigma_1.00": (0.01, 0.001),
}


@pytest.mark.parametrize("name", PUBLISHED_ALPHA)
def test_published_radii_come_from_counts_at_one_alpha_only(real_data_dir, name):
    log = read_log(real_data_dir / "rs_published_logs" / "cohen2019" / f"{name}.tsv")
    noise = smoothing.gaussian(float(name.rpartition("_")[2]))
    right, wrong = PUBLISHED_ALPHA[name]
    assert recheck(log, noise=noise, num_samples=100_000, alpha=right).problems == ()
    assert len(recheck(log, noise=noise, num_samples=100_000, alpha=wrong).problems) >= 5
