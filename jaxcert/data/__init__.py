"""Labelled images by name, as NumPy arrays ready to certify.

`load` reads every set through TensorFlow Datasets (TFDS), without TensorFlow: the standard sets
from an already prepared directory, the bundled handwritten `digits` with nothing to fetch, and
MNIST-format or CIFAR-10 files that you put into a directory yourself.
"""

from ._dataset import Dataset as Dataset
from ._dataset import evenly_spaced as evenly_spaced
from ._dataset import fingerprint as fingerprint
from ._load import load as load
