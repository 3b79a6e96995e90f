"""Training that makes a network certifiable.

`train` is the loop: optax, noise augmentation, a progress bar, metrics and checkpoints from which a
killed run continues to bitwise the same weights. A training scheme is a `Loss`, such as
`cross_entropy`; `start`, `make_step` and `make_batch_step` are the pure parts of the loop, for
other loops.
"""

from ._adversarial import adversarial_cross_entropy as adversarial_cross_entropy
from ._arrangement import Arrangement as Arrangement
from ._augmentations import flip_randomly as flip_randomly
from ._augmentations import shift_randomly as shift_randomly
from ._cluster_trades import magnet_trades_loss as magnet_trades_loss
from ._clusters import cluster_batches as cluster_batches
from ._clusters import magnet_loss as magnet_loss
from ._consistency import consistency_loss as consistency_loss
from ._gabor_penalty import gabor_cross_entropy as gabor_cross_entropy
from ._gabor_penalty import gabor_penalty as gabor_penalty
from ._interval import cc_ibp_loss as cc_ibp_loss
from ._interval import ibp_loss as ibp_loss
from ._interval import mtl_ibp_loss as mtl_ibp_loss
from ._interval import sabr_loss as sabr_loss
from ._interval import smooth_ramp as smooth_ramp
from ._interval_layers import interval_layers as interval_layers
from ._losses import Loss as Loss
from ._losses import add_noise as add_noise
from ._losses import cross_entropy as cross_entropy
from ._macer import macer_loss as macer_loss
from ._margin import emma_loss as emma_loss
from ._margin import gloro_loss as gloro_loss
from ._margin import logit_annealing_loss as logit_annealing_loss
from ._margin import margin_loss as margin_loss
from ._margin import offset_loss as offset_loss
from ._scales import ScaleUpdate as ScaleUpdate
from ._scales import adapt_sigma as adapt_sigma
from ._smooth_adv import smooth_adv_loss as smooth_adv_loss
from ._smooth_mix import smooth_mix_loss as smooth_mix_loss
from ._stability import stability_loss as stability_loss
from ._step import TrainState as TrainState
from ._step import make_batch_step as make_batch_step
from ._step import make_step as make_step
from ._step import start as start
from ._train import TrainResult as TrainResult
from ._train import train as train
from ._warm_start import warm_start as warm_start
