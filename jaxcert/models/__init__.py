"""Networks, and adapters that turn them into classifiers.

The only place that knows Flax: an MLP, a LeNet-size CNN and the CIFAR-style ResNets, with Gabor
layers too, with input normalisation inside the network, so that noise lives in pixel units;
`from_nnx` and `from_linen` return a `jax.tree_util.Partial`, always in evaluation mode; `save` and
`restore` keep networks in self-describing, checksummed folders through Orbax.
"""

from ._adapters import fingerprint as fingerprint
from ._adapters import from_linen as from_linen
from ._adapters import from_nnx as from_nnx
from ._block_reflector import BROConv as BROConv
from ._block_reflector import BROLinear as BROLinear
from ._cayley import CayleyConv as CayleyConv
from ._cayley import CayleyLinear as CayleyLinear
from ._cayley import SandwichConv as SandwichConv
from ._cayley import SandwichLinear as SandwichLinear
from ._checkpoint import restore as restore
from ._checkpoint import save as save
from ._convex_potential import CPLConv as CPLConv
from ._convex_potential import CPLLinear as CPLLinear
from ._create import create as create
from ._create import pixel_statistics as pixel_statistics
from ._dominance import AOLConv as AOLConv
from ._dominance import AOLLinear as AOLLinear
from ._dominance import SLLConv as SLLConv
from ._dominance import SLLLinear as SLLLinear
from ._gabor import GaborConv as GaborConv
from ._gabor import gabor_filters as gabor_filters
from ._gabor_networks import GaborLeNet as GaborLeNet
from ._gabor_networks import GaborResNet as GaborResNet
from ._lipschitz_networks import LipschitzCNN as LipschitzCNN
from ._lipschitz_networks import LipschitzMLP as LipschitzMLP
from ._lipschitz_networks import NormalizedLinear as NormalizedLinear
from ._lmi_stacks import GershgorinStack as GershgorinStack
from ._lmi_stacks import LDLTStack as LDLTStack
from ._networks import MLP as MLP
from ._networks import InputStatistic as InputStatistic
from ._networks import LeNet as LeNet
from ._residual_linear import LiResNetConv as LiResNetConv
from ._residual_linear import LiResNetLinear as LiResNetLinear
from ._resnet import ResNet as ResNet
from ._skew_exponential import SOCConv as SOCConv
from ._skew_exponential import SOCLinear as SOCLinear
