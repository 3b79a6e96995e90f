"""Attacks: upper bounds on the distance to another answer, against which certificates are checked.

An attack that succeeds proves that no certificate of that radius is true; one that fails proves
nothing. `pgd` searches a ball, `deepfool` looks for a near boundary, `shrink` moves a success
closer to its input, and `smoothed_scores` turns a network under noise into a classifier that can
be attacked by its gradient.
"""

from ._deepfool import deepfool as deepfool
from ._pgd import pgd as pgd
from ._result import Attack as Attack
from ._shrink import shrink as shrink
from ._smoothed import smoothed_scores as smoothed_scores
