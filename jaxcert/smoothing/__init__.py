"""Randomized smoothing: noise, counts, statistics, certificate.

A classifier under noise is sampled on the device, which returns integer counts; exact binomial
bounds turn counts into certified radii on the host. Each step is a function of its own, so counts
can be kept and certified again at another failure probability.
"""

from ._adaptive import AdaptiveCertificate as AdaptiveCertificate
from ._adaptive import certify_adaptive as certify_adaptive
from ._adaptive import planned_samples as planned_samples
from ._anisotropic import AnisotropicNoise as AnisotropicNoise
from ._anisotropic import anisotropic_class_counts as anisotropic_class_counts
from ._anisotropic import certify_anisotropic as certify_anisotropic
from ._binomial import clopper_pearson_lower as clopper_pearson_lower
from ._binomial import clopper_pearson_upper as clopper_pearson_upper
from ._certificate import ABSTAIN as ABSTAIN
from ._certificate import Certificate as Certificate
from ._certificate import certificate_from_counts as certificate_from_counts
from ._certificate import max_radius as max_radius
from ._certify import Prediction as Prediction
from ._certify import certify as certify
from ._certify import predict as predict
from ._certify_with_memory import MemoryCertificate as MemoryCertificate
from ._certify_with_memory import certify_with_memory as certify_with_memory
from ._certify_with_memory import predict_with_memory as predict_with_memory
from ._decide import Decision as Decision
from ._decide import decide_radius as decide_radius
from ._noise import Noise as Noise
from ._noise import discrete_gaussian as discrete_gaussian
from ._noise import gaussian as gaussian
from ._noise import laplace as laplace
from ._noise import parse_noise as parse_noise
from ._noise import uniform as uniform
from ._optimize_anisotropic import optimize_anisotropic as optimize_anisotropic
from ._optimize_sigma import optimize_sigma as optimize_sigma
from ._pmap import pmap_class_counts as pmap_class_counts
from ._recertify import Recertification as Recertification
from ._recertify import disagreement_counts as disagreement_counts
from ._recertify import recertify as recertify
from ._region_answer import RegionAnswer as RegionAnswer
from ._region_memory import RegionMemory as RegionMemory
from ._sampling import class_counts as class_counts
from ._selector import SelectedCertificate as SelectedCertificate
from ._selector import certify_with_selector as certify_with_selector
from ._sequential import SequentialTest as SequentialTest
from ._sequential import Verdict as Verdict
from ._sequential import confidence_sequence_lower as confidence_sequence_lower
from ._sequential import confidence_sequence_upper as confidence_sequence_upper
from ._sequential import sequential_test as sequential_test
from ._soft_radius import soft_radius_estimate as soft_radius_estimate
from ._votes import NonFiniteScoresError as NonFiniteScoresError
