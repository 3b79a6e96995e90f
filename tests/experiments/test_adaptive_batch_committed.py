"""What the committed tables of the adaptive batches claim, on the committed numbers."""

import json

import numpy as np
import pytest

from experiments import adaptive_batch, adaptive_batch_mnist_report, adaptive_batch_report


@pytest.fixture(scope="module")
def committed():
    return json.loads((adaptive_batch.RESULTS / "adaptive_batch.json").read_text())


def start_of(result, name, kind):
    (found,) = [data for data in result["results"] if data["name"] == name]
    (start,) = [start for start in found["starts"] if start["start"] == kind]
    return start


def column(start, name="passes"):
    return {row["name"]: row[name] for row in start["rows"]}


def test_table_is_that_of_the_committed_numbers(committed):
    table = (adaptive_batch.RESULTS / "adaptive_batch.md").read_text()
    assert table == adaptive_batch_report.markdown(
        committed["results"], committed["seconds"], committed["samplings"], committed["command"]
    )
    assert len({result["name"] for result in committed["results"]}) >= 6
    for result in committed["results"]:
        assert [start["start"] for start in result["starts"]] == ["far", "near"]
        for start in result["starts"]:
            few = {f"fixed {result['n']}", f"tuned {result['n']} x2", "adaptive, second moment"}
            assert all(row["seeds"] == 10 for row in start["rows"] if row["name"] not in few)


# Passes to 1e-2, 1e-3 and 1e-4 of the squared distance, of an independent simulation of the ridge
# regression on bodyfat from a start at a squared distance of 11.438.
FIXED = {
    1: (469.5, 708.8, 948.7),
    25: (424.6, 640.9, 857.8),
    74: (332.7, 502.2, 672.3),
    75: (332.4, 501.8, 671.7),
    150: (664.9, 1003.7, 1343.1),
    252: (1117.0, 1686.0, 2256.0),
}
ADAPTIVE = {
    "adaptive, table": (637.4, 819.5, 991.6),
    "adaptive, exact mean square": (636.0, 818.1, 990.5),
    "adaptive, exact variance": (627.0, 808.2, 980.2),
    "adaptive, second moment": (852.2, 1102.8, 1308.6),
}
# And to the first two on a1a.
LOGISTIC = {
    "fixed 1": (141.3, 217.6),
    "fixed 1024": (50.9, 78.5),
    "fixed 1605": (79.0, 121.0),
    "adaptive, table": (52.2, 79.7),
    "adaptive, exact mean square": (52.4, 80.3),
    "adaptive, exact variance": (52.4, 79.5),
    "adaptive, second moment": (155.6, 208.7),
}


def test_bodyfat_from_afar_is_the_reference(committed):
    start = start_of(committed, "bodyfat", "far")
    assert start["distance_sq"] == pytest.approx(11.438, abs=5e-4)
    found = column(start)
    for size, wanted in FIXED.items():
        np.testing.assert_allclose(found[f"fixed {size}"], wanted, rtol=0.01)
    order = [found[f"fixed {size}"][2] for size in (74, 25, 1, 150, 252)]
    assert order == sorted(order)
    for name, wanted in ADAPTIVE.items():
        # The last has two seeds.
        np.testing.assert_allclose(found[name], wanted, rtol=0.015)
    # Refreshing at every step costs 3.3 times as much, and loses to full gradients.
    everything = column(start, "all_passes")["adaptive, exact mean square"][2]
    assert everything == pytest.approx(3270, rel=0.01)
    assert everything > found["fixed 252"][2]
    # From afar the published rule is behind batches of one; from nearby it is ahead of them.
    assert found["adaptive, table"][2] > found["fixed 1"][2]
    near = column(start_of(committed, "bodyfat", "near"))
    assert near["fixed 75"][1] < near["adaptive, table"][1] < near["fixed 1"][1]


def test_a1a_from_afar_is_the_reference(committed):
    start = start_of(committed, "a1a", "far")
    assert start["distance_sq"] == pytest.approx(123.32, abs=5e-3)
    assert start["optimal_batch_size"] == pytest.approx(1024.8, abs=0.05)
    found = column(start)
    for name, wanted in LOGISTIC.items():
        np.testing.assert_allclose(found[name][:2], wanted, rtol=0.03, err_msg=name)
    best = found["fixed 1024"][1]
    assert best < found["adaptive, table"][1] < 1.03 * best


def test_the_rule_that_follows_the_distance_is_never_behind_the_best_fixed_batch(committed):
    """All evaluations counted, the first full pass too, from near and far, on every data set."""
    for result in committed["results"]:
        for start in result["starts"]:
            ratios = adaptive_batch_report.ratios(start)
            behind = [name for name in ratios if name.startswith("distance") and ratios[name] > 1]
            # Without that pass the first step is planned before any noise was seen.
            blind = (result["name"], start["start"]) == ("diabetes", "near")
            assert behind == (["distance, known"] if blind else []), (result["name"], ratios)


def test_samplings_side_by_side_are_the_closed_forms_on_bodyfat(committed):
    (found,) = [each for each in committed["samplings"] if each["name"] == "bodyfat"]
    rows = found["samplings"]
    sizes = {name: row["optimal_batch_size"] for name, row in rows.items()}
    assert sizes["nice"] == pytest.approx(74.7506, abs=1e-3)
    assert sizes["independent"] == pytest.approx(74.0444, abs=1e-3)
    # The theorem's passes at the better neighbour of 74.75, by the same independent computation.
    assert rows["nice"]["least_passes"] == pytest.approx(1502, abs=1)
    assert sizes["2 parts, nice"] == pytest.approx(78.6, abs=0.06)
    assert rows["2 parts, nice"]["without_parts"] == pytest.approx(57.77, abs=0.01)
    assert rows["3 parts, nice"]["without_parts"] == pytest.approx(47.04, abs=0.01)


def test_seconds_stand_beside_the_passes_of_the_same_runs(committed):
    by_name = {result["name"]: result for result in committed["results"]}
    assert len(committed["seconds"]) >= 4
    for timed in committed["seconds"]:
        for start in by_name[timed["name"]]["starts"]:
            rows = timed["starts"][start["start"]]
            level = adaptive_batch_report.LEVELS.index(start["target"])
            for name, wanted in column(start, "all_passes").items():
                if rows.get(name) is not None and wanted[level] is not None:
                    # Other keys, and five of them.
                    assert rows[name]["passes"] == pytest.approx(wanted[level], rel=0.2, abs=0.5)


def test_means_count_only_where_all_seeds_arrived():
    def run(size, seed, *points):
        curve = [{"evaluations": e, "seconds": e / 10, "accuracy": a} for e, a in points]
        return {"name": "fixed", "size": size, "rate": 0.1, "seed": seed, "curve": curve}

    result = {"runs": [run(8, 0, (10, 0.9), (20, 0.96)), run(8, 1, (10, 0.96), (20, 0.99)),
                       run(16, 0, (10, 0.97)), run(16, 1, (10, 0.9))]}  # fmt: skip
    found = adaptive_batch_mnist_report.means(result, 0.95, "evaluations")
    assert found == {("fixed 8", 0.1): 15.0}
    assert adaptive_batch_mnist_report.means(result, 0.95, "seconds") == {("fixed 8", 0.1): 1.5}


def test_mnist_table_is_that_of_the_committed_numbers():
    result = json.loads((adaptive_batch.RESULTS / "adaptive_batch_mnist.json").read_text())
    table = (adaptive_batch.RESULTS / "adaptive_batch_mnist.md").read_text()
    assert table == adaptive_batch_mnist_report.markdown(result)
    names = {adaptive_batch_mnist_report.label(run) for run in result["runs"]}
    assert len([name for name in names if name.startswith("fixed")]) == 5
    # The norm test needs fewer evaluations than the best of the five, from 95 % on.
    for level in adaptive_batch_mnist_report.LEVELS[1:]:
        found = adaptive_batch_mnist_report.means(result, level, "evaluations")
        fixed = [value for (name, _), value in found.items() if name.startswith("fixed")]
        ours = [value for (name, _), value in found.items() if name == "norm test"]
        assert min(ours) < min(fixed, default=np.inf)
