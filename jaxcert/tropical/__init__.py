"""Tropical algebra, zonotopes, and the decision boundaries of networks."""

from ._arrangement import SignCells as SignCells
from ._arrangement import sign_cells as sign_cells
