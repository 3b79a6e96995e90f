"""Randomized smoothing: noise, counts, statistics, certificate.

A classifier under noise is sampled on the device, which returns integer counts; exact binomial
bounds turn counts into certified radii on the host. Each step is a function of its own, so counts
can be kept and certified again at another failure probability.
"""

from ._binomial import clopper_pearson_lower as clopper_pearson_lower
from ._binomial import clopper_pearson_upper as clopper_pearson_upper
from ._certificate import ABSTAIN as ABSTAIN
from ._certificate import Certificate as Certificate
from ._certificate import certificate_from_counts as certificate_from_counts
from ._certificate import max_radius as max_radius
from ._certify import NonFiniteScoresError as NonFiniteScoresError
from ._certify import Prediction as Prediction
from ._certify import certify as certify
from ._certify import predict as predict
from ._noise import Noise as Noise
from ._noise import gaussian as gaussian
from ._noise import laplace as laplace
from ._noise import parse_noise as parse_noise
from ._noise import uniform as uniform
from ._sampling import class_counts as class_counts
