"""Tropical algebra, zonotopes, and the decision boundaries of networks."""

from ._arrangement import SignCells as SignCells
from ._arrangement import sign_cells as sign_cells
from ._semiring import ONE as ONE
from ._semiring import ZERO as ZERO
from ._semiring import add as add
from ._semiring import divide as divide
from ._semiring import identity as identity
from ._semiring import matmul as matmul
from ._semiring import matrix_power as matrix_power
from ._semiring import multiply as multiply
from ._semiring import power as power
from ._zonotope import Zonotope as Zonotope
from ._zonotope import affine_image as affine_image
from ._zonotope import from_center as from_center
from ._zonotope import minkowski_sum as minkowski_sum
from ._zonotope import sample_vertices as sample_vertices
from ._zonotope import support as support
from ._zonotope import support_vertex as support_vertex
