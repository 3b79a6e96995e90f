import matplotlib.image
import numpy as np
import pytest

from jaxcert.report import Log, Row, plot_curves


def log(name, radii):
    rows = tuple(
        Row(i, 1, 1, r, True, 1.0, {1: 100}, 100, 0.001, "gaussian(1.0)", {1: 10})
        for i, r in enumerate(radii)
    )
    return Log(f"{name}.tsv", rows)


def test_picture_shows_each_curve_in_its_color(tmp_path):
    generator = np.random.default_rng(0)
    logs = [log("a", generator.uniform(0, 1.5, 50)), log("b", generator.uniform(0, 0.5, 50))]
    plot_curves(logs, tmp_path / "curve.png", title="Two runs")
    picture = matplotlib.image.imread(tmp_path / "curve.png")[..., :3]
    assert picture.shape[1] > 1000
    for color in ("#0072B2", "#D55E00"):
        wanted = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        drawn = np.all(np.abs(picture - wanted) < 0.01, axis=-1)
        assert drawn.sum() > 500


def test_vector_picture_holds_axis_labels_legend_and_reach(tmp_path):
    plot_curves([log("curve", [0.3, 0.5])], tmp_path / "curve.svg", names=["my run"])
    text = (tmp_path / "curve.svg").read_text()
    # Letters become shapes, but matplotlib keeps each text as a comment.
    for words in ("certified accuracy", "pixels in [0, 1]", "my run: ACR 0.400, n = 2, reach 1.50"):
        assert words in text
    # Nothing was certified near the reach, so it is stated but not marked.
    assert "the samples allow no more" not in text


def test_reach_is_marked_where_the_curve_meets_it(tmp_path):
    plot_curves([log("curve", [0.3, 1.5004])], tmp_path / "curve.svg")
    assert "the samples allow no more" in (tmp_path / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("logs", "name", "names", "message"),
    [
        ([], "a.png", None, "logs must not be empty"),
        ([log("a", [])], "a.png", None, "has no rows"),
        ([log("a", [0.5])], "a.txt", None, "must end in one of"),
        ([log("a", [0.5])], "a", None, "must end in one of"),
        ([log("a", [0.5])], "a.png", ["x", "y"], "names must be one a log"),
    ],
)
def test_bad_arguments_are_named(tmp_path, logs, name, names, message):
    with pytest.raises(ValueError, match=message):
        plot_curves(logs, tmp_path / name, names=names)
