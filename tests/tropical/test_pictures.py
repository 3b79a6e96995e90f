import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from jaxcert import tropical
from tests.tropical.networks import arguments, forward, random_network

BOX = np.array([[-3.0, -3.0], [3.0, 3.0]])


def collections(axes, kind):
    return {item.get_label(): item for item in axes.collections if isinstance(item, kind)}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_drawn_boundary_is_the_exact_one():
    layers = random_network(1, (2, 9, 3))
    points = np.random.default_rng(0).normal(size=(30, 2))
    figure = tropical.plot_decision_boundary(
        *arguments(layers), classes=None, box=BOX, inputs=points,
        labels=forward(layers, points).argmax(axis=1),
    )  # fmt: skip
    (axes,) = figure.axes
    found = tropical.boundary_segments(*arguments(layers), classes=None, box=BOX)
    bends = tropical.hypersurface_segments(*arguments(layers), classes=None, box=BOX)
    lines = collections(axes, LineCollection)
    drawn = np.array(lines["decision boundary"].get_segments())
    np.testing.assert_array_equal(drawn, np.stack([found.start, found.end], axis=1))
    assert len(lines["rest of the hypersurface"].get_segments()) == (~bends.boundary).sum()
    assert (
        lines["decision boundary"].get_linewidths()
        > lines["rest of the hypersurface"].get_linewidths()
    )
    assert axes.get_title(loc="left") == "Decision boundary in the tropical hypersurface"
    assert legend(axes)[-2:] == ["rest of the hypersurface", "decision boundary"]
    assert sum(len(line.get_xdata()) for line in axes.lines) == 30


def test_a_boundary_alone_says_so():
    figure = tropical.plot_decision_boundary(
        *arguments(random_network(1, (2, 9, 3))), classes=(0, 2), box=BOX, hypersurface=False
    )
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "Decision boundary"
    assert legend(axes) == ["class 0", "class 2", "decision boundary"]


def test_a_tie_is_hatched_and_has_no_edges():
    figure = tropical.plot_decision_boundary(
        np.eye(2), None, np.eye(2), None, classes=(0, 1), box=BOX
    )
    (axes,) = figure.axes
    tie = collections(axes, PolyCollection)["tie on a region"]
    assert tie.get_hatch() == "////"
    assert not np.any(tie.get_linewidths())
    (boundary,) = collections(axes, LineCollection)["decision boundary"].get_segments()
    assert boundary.min() >= 0.0


def test_heavy_edges_of_the_dual_are_those_between_classes():
    """One for each crossed cell: the same boundary, counted by another algorithm."""
    layers = random_network(4, (2, 8, 2))
    polynomial, owner = tropical.decision_polynomial(*arguments(layers), classes=None)
    figure = tropical.plot_dual_subdivision(polynomial, owner=owner)
    heavy = collections(figure.axes[0], LineCollection)["between two classes: dual to the boundary"]
    cells = tropical.boundary_cells(*arguments(layers), classes=None)
    assert len(heavy.get_segments()) == len(cells.classes) > 5
    directions = np.array([b - a for a, b in heavy.get_segments()])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    slopes = cells.slope / np.linalg.norm(cells.slope, axis=1, keepdims=True)
    # Each edge is normal to its piece.
    assert np.all(np.abs(directions @ slopes.T).max(axis=1) > 1 - 1e-9)
    plain = tropical.plot_dual_subdivision(polynomial)
    assert legend(plain.axes[0]) == ["active monomial"]


def test_a_shared_corner_of_the_dual_is_ringed():
    polynomial, owner = tropical.decision_polynomial(
        np.eye(2), None, np.eye(2), None, classes=(0, 1)
    )
    figure = tropical.plot_dual_subdivision(polynomial, owner=owner)
    assert "of both: a tie on a whole region" in legend(figure.axes[0])


@pytest.mark.parametrize("bias", [True, False])
def test_zonotopes_and_the_hull_of_their_union(bias):
    w1, b1, w2, b2 = arguments(random_network(0, (2, 6, 2)))
    zonotopes = tropical.decision_zonotopes(
        w1, b1 if bias else None, w2, b2 if bias else None, classes=(0, 1)
    )
    figure = tropical.plot_zonotopes(zonotopes, names=["one", "two"], title="Zonotopes")
    (axes,) = figure.axes
    assert legend(axes) == ["one", "two", "hull of the union"]
    assert axes.get_xlabel() == ("exponents, seen along the lift" if bias else "")
    outline = np.array(axes.lines[-1].get_xydata())
    corners = np.concatenate([line.get_xydata() for line in axes.lines[:-1]])
    step = np.diff(outline, axis=0)
    offset = corners[:, None] - outline[:-1]
    assert (step[:, 0] * offset[..., 1] - step[:, 1] * offset[..., 0]).min() >= -1e-9


def test_pruning_before_and_after(tmp_path):
    before = arguments(random_network(4, (2, 8, 2)))
    pruned = tropical.prune(*(np.asarray(a) for a in before), penalty=0.6)
    after = pruned.w1, pruned.b1, pruned.w2, pruned.b2
    figure = tropical.plot_pruning(before, after, classes=None, box=BOX)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    alive = int(np.sum(np.any(np.asarray(pruned.w1) != 0, axis=1)))
    assert alive < 8
    assert titles == [
        "Before: 8 units",
        f"After: {alive} units; dashed: the boundary before",
        "Before: dual polytopes",
        "After: dual polytopes",
    ]
    assert legend(figure.axes[1])[-1] == "boundary before"
    assert figure.axes[2].get_xlim() == figure.axes[3].get_xlim()
    figure.savefig(tmp_path / "pruning.png")
    assert (tmp_path / "pruning.png").stat().st_size > 10_000


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, jaxcert.tropical; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bad_input():
    square = tropical.Zonotope(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="must not be empty"):
        tropical.plot_zonotopes([])
    with pytest.raises(ValueError, match="names must be one a zonotope"):
        tropical.plot_zonotopes([square], names=["a", "b"])
    with pytest.raises(ValueError, match="all lie in"):
        tropical.plot_zonotopes([square, tropical.Zonotope(np.zeros(3), np.eye(3))])
    polynomial = tropical.TropicalPolynomial(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="owner must have shape"):
        tropical.plot_dual_subdivision(polynomial, owner=[0])
    with pytest.raises(ValueError, match="two variables"):
        tropical.plot_dual_subdivision(tropical.TropicalPolynomial(np.zeros(2), np.eye(2)[:, :1]))
    network = np.eye(2), None, np.eye(2), None
    with pytest.raises(ValueError, match="labels must have shape"):
        tropical.plot_decision_boundary(
            *network, classes=None, box=BOX, inputs=np.zeros((2, 2)), labels=[0]
        )
    with pytest.raises(ValueError, match="after must hold"):
        tropical.plot_pruning(network, network[:3], classes=None, box=BOX)
