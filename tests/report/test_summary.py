import json
import math

import numpy as np
import pytest

from jaxcert.report import (
    Log,
    Row,
    certified_accuracy_curve,
    default_radii,
    format_table,
    read_log,
    summarize,
    summary_to_dict,
)


def row(index, label, predict, radius):
    return Row(index, label, predict, radius, predict == label, 1.0)


# Two right, one wrong with a large radius, one abstained whose label is the last class.
LOG = Log("mixed", (row(0, 3, 3, 0.5), row(1, 2, 2, 1.0), row(2, 1, 0, 9.0), row(3, 9, -1, 0.0)))


def test_wrong_and_abstained_count_as_zero_over_all_images():
    summary = summarize(LOG, radii=[0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    assert summary.num_images == 4
    assert summary.clean_accuracy == 0.5
    assert summary.abstain_rate == 0.25
    assert summary.average_radius == 1.5 / 4
    assert summary.num_certified.tolist() == [2, 2, 2, 1, 1, 0]
    assert summary.certified_accuracy.tolist() == [0.5, 0.5, 0.5, 0.25, 0.25, 0.0]
    assert summary.seconds == 4.0


def test_radius_equal_to_the_asked_one_counts():
    largest = 0.25 * 3.8114565629
    log = Log("full", tuple(row(index, 1, 1, largest) for index in range(10)))
    just_above = float(np.nextafter(largest, 1))
    assert summarize(log, radii=[largest, just_above]).num_certified.tolist() == [10, 0]


def test_standard_errors_are_those_of_means():
    summary = summarize(LOG, radii=[0.75])
    credited = np.array([0.5, 1.0, 0.0, 0.0])
    assert summary.average_radius_error == pytest.approx(credited.std(ddof=1) / 2)
    assert summary.certified_accuracy_error[0] == pytest.approx(math.sqrt(0.25 * 0.75 / 4))


def test_standard_error_covers_the_true_average_radius():
    # Means of 50 skewed radii lie within two standard errors about 95% of the time; outside 90..98%
    # of 1000 has a false-alarm rate below 1e-5 by the binomial tail at 95%.
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        radii = generator.uniform(size=50)
        summary = summarize(Log("x", tuple(row(i, 1, 1, r) for i, r in enumerate(radii))))
        covered += abs(summary.average_radius - 0.5) <= 2 * summary.average_radius_error
    assert 900 <= covered <= 980


def test_correct_column_of_another_convention_is_not_believed():
    right_at_zero = Row(0, 3, 3, 0.0, False, 1.0)
    abstained_but_correct = Row(1, 3, -1, 0.0, True, 1.0)
    assert summarize(Log("x", (right_at_zero, abstained_but_correct))).clean_accuracy == 0.5


def test_curve_agrees_with_the_summary_at_every_radius():
    generator = np.random.default_rng(2)
    log = Log(
        "random",
        tuple(row(i, 0, int(generator.integers(-1, 2)), r) for i, r in
              enumerate(generator.uniform(size=40).round(1))),
    )  # fmt: skip
    radii, accuracy = certified_accuracy_curve(log)
    assert radii[0] == 0
    assert np.all(np.diff(radii) > 0)
    np.testing.assert_array_equal(summarize(log, radii=radii).certified_accuracy, accuracy)


def test_reachable_radius_comes_from_the_logs_own_settings(run):
    summary = summarize(run())
    # z(0.001 ** (1 / 200)) = 1.8163...
    assert summary.reachable_radius == pytest.approx(0.25 * 1.8216, abs=2e-3)
    assert summary.noise == "gaussian(0.25)"
    assert summary.norm == "l2"


@pytest.mark.parametrize("radii", [[-0.1], [math.nan], [math.inf]])
def test_bad_radii_are_refused(radii):
    with pytest.raises(ValueError, match="radii must be finite"):
        summarize(LOG, radii=radii)


def test_empty_log_is_refused():
    with pytest.raises(ValueError, match="empty has no rows"):
        summarize(Log("empty", ()))


@pytest.mark.parametrize("largest", [0.01, 0.3, 0.95, 3.8, 40.0, 1000.0])
def test_default_radii_are_few_and_reach_far(largest):
    radii = default_radii([Log("x", (row(0, 1, 1, largest),))])
    assert 1 <= radii.size <= 9
    assert radii[0] == 0
    assert radii[-1] <= largest
    if largest > 0.2:
        assert radii[-1] > largest / 2


def test_table_prints_denominators():
    text = format_table([summarize(LOG, radii=[0.0, 0.5])])
    header, line = text.splitlines()[:2]
    assert header.split() == [
        "run",
        "images",
        "right",
        "abstain",
        "ACR",
        "±",
        "error",
        "r≥0",
        "r≥0.5",
    ]
    assert line.split()[:4] == ["mixed", "4", "2/4", "1/4"]
    assert "radius >= x" in text


def test_markdown_table_has_one_cell_a_column():
    lines = format_table([summarize(LOG, radii=[0.0, 0.5])] * 2, markdown=True).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert set(lines[1]) <= set("|-: ")
    assert all(line.lstrip().startswith("- ") for line in lines[5:])


def test_tables_of_different_radii_are_refused():
    with pytest.raises(ValueError, match="same radii"):
        format_table([summarize(LOG, radii=[0.0]), summarize(LOG, radii=[0.5])])


def test_summary_is_json_even_of_one_image():
    text = json.dumps(summary_to_dict(summarize(Log("one", (row(0, 1, 1, 0.5),)))), allow_nan=False)
    assert json.loads(text)["average_radius_error"] is None


# Section "vary noise" of the tables published with the logs: accuracy at 0, .25, .5, ...; then the
# average certified radius and the share of abstentions over the 500 images.
PUBLISHED = {
    "0.12": ([0.814, 0.586, 0.0], 0.2701, 0.038),
    "0.25": ([0.748, 0.600, 0.428, 0.266], 0.4289, 0.086),
    "0.50": ([0.652, 0.546, 0.414, 0.320, 0.234, 0.152, 0.094, 0.052], 0.5375, 0.166),
    "1.00": ([0.472, 0.392, 0.340, 0.278, 0.216, 0.174, 0.140, 0.118, 0.100, 0.076], 0.5417, 0.29),
}


@pytest.mark.parametrize("sigma", PUBLISHED)
def test_published_table_is_reproduced(real_data_dir, sigma):
    folder = real_data_dir / "rs_published_logs" / "cohen2019"
    log = read_log(folder / f"cifar10_resnet110_noise_{sigma}_test_sigma_{sigma}.tsv")
    accuracy, average_radius, abstain_rate = PUBLISHED[sigma]
    summary = summarize(log, radii=0.25 * np.arange(len(accuracy)))
    assert summary.num_images == 500
    assert summary.certified_accuracy.tolist() == accuracy
    assert summary.average_radius == pytest.approx(average_radius, abs=5e-5)
    assert summary.abstain_rate == abstain_rate
