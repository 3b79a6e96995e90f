"""How far weights that a layer computes may depend on what it is compiled with."""

# A layer's bound is proved of the weights that it computes by itself. Compiled together with other
# layers it may round them otherwise: relative to the bound, no more than this. An allowance, not a
# proof; tests/models/test_computed_weights.py measures what there is to allow for.
ALLOWANCE = 4e-6
