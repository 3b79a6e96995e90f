"""Lipschitz bounds: operator norms, layers, networks, and the margin certificates they give."""

from ._balls import Ball as Ball
from ._balls import ball as ball
from ._convolution import conv_operator_norm_upper as conv_operator_norm_upper
from ._convolution import conv_spectral_norm_upper as conv_spectral_norm_upper
from ._interval import Interval as Interval
from ._interval import interval_bounds as interval_bounds
from ._linear_relaxation import linear_bounds as linear_bounds
from ._margins import margin_lower as margin_lower
from ._sequential import Conv as Conv
from ._sequential import Dense as Dense
from ._sequential import Flatten as Flatten
from ._sequential import Layer as Layer
from ._sequential import Relu as Relu
from ._sequential import apply_layers as apply_layers
from ._gabor import gabor_layer_lipschitz_upper as gabor_layer_lipschitz_upper
from ._gabor import gabor_lipschitz_upper as gabor_lipschitz_upper
from ._spectral import operator_norm_upper as operator_norm_upper
from ._spectral import spectral_norm_estimate as spectral_norm_estimate
from ._spectral import spectral_norm_upper as spectral_norm_upper
