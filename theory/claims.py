"""All claims of the ledger, in the order in which it lists them."""

from theory import (
    binomial_bounds,
    grid_noise,
    prediction,
    smoothing_radii,
    stopping,
    tropical_boundary,
    tropical_pruning,
)

CLAIMS = (
    *smoothing_radii.CLAIMS,
    *grid_noise.CLAIMS,
    *binomial_bounds.CLAIMS,
    *prediction.CLAIMS,
    *stopping.CLAIMS,
    *tropical_boundary.CLAIMS,
    *tropical_pruning.CLAIMS,
)
