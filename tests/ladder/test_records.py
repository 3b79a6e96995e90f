"""The order of a ladder is checked, and every way to break it is seen."""

import numpy as np
import pytest

from jaxcert.ladder import Ladder, Rung, format_ladder, inversions, plot_ladder


def rung(name, side, values, quantity="distance"):
    return Rung(name, quantity, side, np.array(values, float))


def ladder_of(*rungs):
    count = rungs[0].values.size
    return Ladder(np.zeros(count, int), np.ones(count), np.zeros(count, int), rungs)


PROOF, ATTACK = rung("proof", "lower", [0.5, 0.2]), rung("attack", "upper", [0.5, np.inf])


def test_equal_ends_are_in_order():
    assert inversions(ladder_of(PROOF, ATTACK)) == []


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        (rung("wrong", "lower", [0.6, 0.2]), "input 0: distance 0.6 proved"),
        (rung("wrong", "lower", [0.1, np.inf]), None),
        (rung("wrong", "upper", [0.5, 0.1]), "input 1: distance 0.2 proved"),
        (rung("wrong", "lower", [0.1, np.nan]), "input 1: distance by wrong is no number"),
        (rung("wrong", "lower", [0.5 + 1e-12, 0.1]), "input 0: distance 0.5 proved"),
        # About another classifier, or another quantity.
        (rung("smoothed", "other", [0.9, 0.9]), None),
        (rung("constant", "lower", [7.0, 7.0], "lipschitz"), None),
    ],
)
def test_inversions_are_found_where_one_is_planted(planted, words):
    found = inversions(ladder_of(PROOF, ATTACK, planted))
    if words is None:
        assert found == []
    else:
        assert len(found) == 1
        assert words in found[0]


def test_table_shows_the_ends_and_the_middle():
    lines = format_ladder(ladder_of(rung("proof", "lower", [3.0, 1.0, 2.0]))).splitlines()
    assert lines[-1] == "| distance | lower | proof | 1 | 2 | 3 |"


def test_picture_is_drawn_where_values_are_infinite_or_zero(tmp_path):
    planted = rung("nothing", "lower", [0.0, 0.0])
    path = tmp_path / "ladder.png"
    plot_ladder(ladder_of(PROOF, ATTACK, planted, rung("other", "other", [1, 2])), path)
    assert path.stat().st_size > 5000
