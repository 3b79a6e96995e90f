"""All claims of the ledger, in the order in which it lists them."""

from theory import (
    batch_convergence,
    batch_moments,
    binomial_bounds,
    dimension_ceiling,
    grid_noise,
    law_of_robustness,
    margins,
    prediction,
    recertification,
    smoothed_lipschitz,
    smoothing_radii,
    stopping,
    tropical_boundary,
    tropical_pruning,
    tropical_regions,
    zonotopes,
)

CLAIMS = (
    *smoothing_radii.CLAIMS,
    *grid_noise.CLAIMS,
    *binomial_bounds.CLAIMS,
    *prediction.CLAIMS,
    *stopping.CLAIMS,
    *recertification.CLAIMS,
    *smoothed_lipschitz.CLAIMS,
    *dimension_ceiling.CLAIMS,
    *law_of_robustness.CLAIMS,
    *margins.CLAIMS,
    *zonotopes.CLAIMS,
    *tropical_regions.CLAIMS,
    *tropical_boundary.CLAIMS,
    *tropical_pruning.CLAIMS,
    *batch_moments.CLAIMS,
    *batch_convergence.CLAIMS,
)
