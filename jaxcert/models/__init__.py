"""Networks, and adapters that turn them into classifiers.

The only place that knows Flax: an MLP, a LeNet-size CNN and the CIFAR-style ResNets with input
normalisation inside the network, so that noise lives in pixel units; `from_nnx` and `from_linen`
return a `jax.tree_util.Partial`, always in evaluation mode; `save` and `restore` keep networks in
self-describing, checksummed folders through Orbax.
"""

from ._adapters import fingerprint as fingerprint
from ._adapters import from_linen as from_linen
from ._adapters import from_nnx as from_nnx
from ._checkpoint import restore as restore
from ._checkpoint import save as save
from ._create import create as create
from ._create import pixel_statistics as pixel_statistics
from ._networks import MLP as MLP
from ._networks import InputStatistic as InputStatistic
from ._networks import LeNet as LeNet
from ._resnet import ResNet as ResNet
