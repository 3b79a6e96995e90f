import numpy as np
import pytest

from jaxcert import tropical
from tests.tropical.networks import arguments, inner_radius, patterns, random_network


@pytest.mark.parametrize(("num_inputs", "num_units"), [(1, 7), (2, 4), (2, 8), (3, 7), (4, 6)])
def test_generic_layers_match_the_formula(num_inputs, num_units):
    w1, b1, w2, _ = arguments(random_network(0, (num_inputs, num_units, 2)))
    expected = {(2, 4): 11, (2, 8): 37, (3, 7): 64}
    count = tropical.generic_num_regions(num_inputs, num_units)
    assert count == expected.get((num_inputs, num_units), count)
    assert tropical.num_linear_regions(w1, b1, w2) == count
    central = tropical.num_linear_regions(w1, None, w2)
    assert central == 2 * tropical.generic_num_regions(num_inputs - 1, num_units - 1)


def test_units_that_do_not_bend_the_output():
    w1, b1, w2, _ = arguments(random_network(0, (2, 5, 2)))
    plain = tropical.num_linear_regions(w1, b1, w2)
    silent = w2.copy()
    silent[:, 0] = 0.0
    assert tropical.num_linear_regions(w1, b1, silent) == tropical.generic_num_regions(2, 4)
    # The opposite of a unit cancels its bend when it is subtracted, and doubles it when added.
    twice = np.concatenate([w1, -2.0 * w1[:1]]), np.append(b1, -2.0 * b1[0])
    cancelled = np.concatenate([w2, -w2[:, :1] / 2.0], axis=1)
    assert tropical.num_linear_regions(*twice, cancelled) == tropical.generic_num_regions(2, 4)
    assert tropical.num_linear_regions(*twice, np.abs(cancelled)) == plain
    # A unit that sees nothing.
    blind = np.concatenate([w1, np.zeros((1, 2))]), np.append(b1, 3.0)
    assert tropical.num_linear_regions(*blind, np.concatenate([w2, w2[:, :1]], axis=1)) == plain
    assert tropical.num_linear_regions(np.zeros((2, 2)), b1[:2], w2[:, :2]) == 1


def patterns_in_box(layers, box):
    """Sign patterns of both hidden layers with an open cell in a box, by linear programs."""
    (w1, b1), (w2, b2), _ = layers
    found = 0
    for first in patterns(len(b1)):
        sign = 1.0 - 2.0 * first
        rows, limits = sign[:, None] * w1, -sign * b1
        if inner_radius(rows, limits, box=box) < 1e-9:
            continue
        slope, offset = (w2 * first) @ w1, (w2 * first) @ b1 + b2
        for second in patterns(len(b2)):
            turn = 1.0 - 2.0 * second
            both = np.concatenate([rows, turn[:, None] * slope])
            found += inner_radius(both, np.concatenate([limits, -turn * offset]), box=box) > 1e-9
    return found


@pytest.mark.parametrize("seed", range(3))
def test_activation_regions_in_a_box_match_linear_programs(seed):
    layers = random_network(seed, (2, 4, 3, 2))
    count = tropical.num_activation_regions(layers, box=[[-4, -4], [4, 4]])
    assert count == patterns_in_box(layers, 4.0)
    assert 4 < count <= tropical.num_regions_upper(2, [4, 3])


def test_one_hidden_layer_in_a_large_box_is_the_whole_arrangement():
    layers = random_network(3, (2, 12, 2))
    count = tropical.num_activation_regions(layers, box=[[-1e5, -1e5], [1e5, 1e5]])
    assert count == tropical.generic_num_regions(2, 12)


def test_upper_bound_by_hand():
    assert tropical.num_regions_upper(1, [3]) == 4
    assert tropical.num_regions_upper(2, [8, 8]) == 37 * 37
    # A layer of one unit leaves one dimension.
    assert tropical.num_regions_upper(5, [1, 8]) == 2 * 9
    assert tropical.num_regions_upper(784, [1000, 1000]) > 10**500


def test_bad_input():
    with pytest.raises(ValueError, match="one column a hidden unit"):
        tropical.num_linear_regions(np.ones((2, 2)), None, np.ones((1, 3)))
    with pytest.raises(ValueError, match="max_bytes=10"):
        tropical.num_linear_regions(np.eye(2), None, np.ones((1, 2)), max_bytes=10)
    with pytest.raises(ValueError, match="two columns"):
        tropical.num_activation_regions(random_network(0, (3, 4, 2)), box=np.eye(2))
    with pytest.raises(ValueError, match="at least one hidden layer"):
        tropical.num_regions_upper(2, [])
    with pytest.raises(ValueError, match=r"widths\[1\]"):
        tropical.num_regions_upper(2, [3, 0])
    with pytest.raises(TypeError, match="num_inputs"):
        tropical.generic_num_regions(2.0, 3)
