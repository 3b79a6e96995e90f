"""Batch samplings, their expected smoothness and noise, and SGD that learns its batch size."""

from ._constructors import independent as independent
from ._constructors import nice as nice
from ._constructors import partition_independent as partition_independent
from ._constructors import partition_nice as partition_nice
from ._constructors import with_replacement as with_replacement
from ._draw import Batch as Batch
from ._norms import SquaredNorms as SquaredNorms
from ._norms import squared_norms as squared_norms
from ._sampling import Sampling as Sampling
