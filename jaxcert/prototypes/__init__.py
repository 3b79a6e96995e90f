"""Classifiers that answer with the class of the nearest prototype, and their certificates.

`Prototypes` are labelled centres in the space of an encoder's features. `nearest_scores` and
`soft_scores` classify features, `classifier` puts an encoder before them, `cluster` and
`fit_prototypes` find centres by k-means, and `centroid_certificate` and `soft_certificate` give the
radius within which the answer cannot change, in feature space and, through a Lipschitz constant of
the encoder, in input space.
"""

from ._centroid import CentroidCertificate as CentroidCertificate
from ._centroid import centroid_certificate as centroid_certificate
from ._clusters import Clusters as Clusters
from ._clusters import cluster as cluster
from ._clusters import fit_prototypes as fit_prototypes
from ._prototypes import Prototypes as Prototypes
from ._prototypes import centre_distances as centre_distances
from ._prototypes import classifier as classifier
from ._prototypes import nearest_scores as nearest_scores
from ._prototypes import soft_scores as soft_scores
from ._soft import soft_certificate as soft_certificate
