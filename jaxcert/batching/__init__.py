"""Batch samplings, their expected smoothness and noise, and SGD that learns its batch size.

A sampling knows in closed form how smooth and how noisy its gradient estimates are, and from that
the batch size of least work. A rule plans the next batch and step from what it has seen, before the
batch is drawn; as an optax transformation it then makes the step.
"""

from ._adaptive import AdaptiveBatchState as AdaptiveBatchState
from ._adaptive import adaptive_batch_sgd as adaptive_batch_sgd
from ._constructors import independent as independent
from ._constructors import nice as nice
from ._constructors import partition_independent as partition_independent
from ._constructors import partition_nice as partition_nice
from ._constructors import with_replacement as with_replacement
from ._distance import DistanceAwareState as DistanceAwareState
from ._distance import distance_aware_sgd as distance_aware_sgd
from ._draw import Batch as Batch
from ._estimates import NoiseEstimate as NoiseEstimate
from ._features import binary_labels as binary_labels
from ._features import read_libsvm as read_libsvm
from ._features import unit_rows as unit_rows
from ._layers import conv as conv
from ._layers import dense as dense
from ._losses import ExampleLosses as ExampleLosses
from ._losses import batch_inner_products as batch_inner_products
from ._losses import example_losses as example_losses
from ._losses import layered_losses as layered_losses
from ._minimize import BatchGradient as BatchGradient
from ._minimize import History as History
from ._minimize import Objective as Objective
from ._minimize import batch_gradient as batch_gradient
from ._minimize import minimize as minimize
from ._norms import SquaredNorms as SquaredNorms
from ._norms import squared_norms as squared_norms
from ._optimizer import BatchSizeRule as BatchSizeRule
from ._optimizer import Plan as Plan
from ._problems import Problem as Problem
from ._problems import logistic as logistic
from ._problems import ridge as ridge
from ._progress import StepSizeBounds as StepSizeBounds
from ._progress import expected_distance_sq as expected_distance_sq
from ._progress import one_step_at_optimum_upper as one_step_at_optimum_upper
from ._progress import one_step_upper as one_step_upper
from ._progress import step_size_bounds as step_size_bounds
from ._rules import GradientTestState as GradientTestState
from ._rules import cabs as cabs
from ._rules import constant_batch as constant_batch
from ._rules import gradient_noise_scale as gradient_noise_scale
from ._rules import inner_product_test as inner_product_test
from ._rules import norm_test as norm_test
from ._sampling import Sampling as Sampling
