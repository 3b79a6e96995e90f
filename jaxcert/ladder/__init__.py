"""Every number about one network and input side by side: what is proved, what is attacked."""

from ._compute import certification_ladder as certification_ladder
from ._layers import layers_of as layers_of
from ._plot import plot_ladder as plot_ladder
from ._records import Ladder as Ladder
from ._records import Rung as Rung
from ._records import format_ladder as format_ladder
from ._records import inversions as inversions
