"""Noise chosen by a classifier that is itself smoothed, so that the choice is locally constant."""

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier
from jaxcert.smoothing._certificate import ABSTAIN, Certificate
from jaxcert.smoothing._certify import certify
from jaxcert.smoothing._noise import Noise

# Stages of the key; `certify` folds its own into each.
_SELECTOR_STAGE, _CLASSIFIER_STAGE = 201, 202


class SelectedCertificate(NamedTuple):
    """What a classifier certifies whose noise a smoothed selector chooses.

    Attributes:
      label: int64 `[b]`, the class, or `ABSTAIN` where the selector or the classifier abstained.
      radius: float64 `[b]`, the smaller of the two radii; 0 where abstained.
      sigma: float64 `[b]`, the chosen scale; NaN where the selector abstained.
      alpha: the failure probability for each input, the selector's and the classifier's together.
      selection: the `Certificate` of the selector, whose classes index the scales.
      smoothed: the `Certificate` of the classifier at the chosen scale.
    """

    label: np.ndarray
    radius: np.ndarray
    sigma: np.ndarray
    alpha: float
    selection: Certificate
    smoothed: Certificate


def certify_with_selector(
    key: jax.Array,
    select: Classifier,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    sigmas: ArrayLike,
    selector_sigma: float,
    num_classes: int,
    num_samples: int = 100_000,
    selector_samples: int | None = None,
    selection_samples: int = 100,
    alpha: float = 0.001,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> SelectedCertificate:
    r"""Certify a classifier whose sigma a smoothed selector chooses, without a memory.

    .. math::
        h(x) = g_{\sigma(x)}(x), \qquad \sigma(x) = \sigma_{\arg\max_k P(s(x + \epsilon) = k)},
        \qquad R = \min(R_{selector}, R_{classifier})

    Within the selector's radius every neighbour chooses the same sigma, and there the radius of the
    classifier smoothed with it holds.

    Args:
      key: a typed threefry key.
      select: a traceable function from a batch `[n, *shape]` to one score for each of `sigmas`.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, num_classes]`.
      inputs: floating `[b, *shape]`.
      sigmas: the standard deviations to choose among, `[k]`, at least two.
      selector_sigma: the standard deviation that smooths the selector.
      num_classes: number of classes.
      num_samples: estimation samples of the classifier for each input.
      selector_samples: estimation samples of the selector; `num_samples` by default.
      selection_samples: selection samples of either for each input.
      alpha: failure probability for each input, in (0, 1), half of it the selector's.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      A `SelectedCertificate`.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound: for each input, the probability that `label` is not `ABSTAIN` and h differs from it
      somewhere within `radius` is at most alpha; rounded down. It does not depend on other inputs,
      their order or their number.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> def select(x):  # more noise beyond a distance of 1
      ...     return jnp.stack([jnp.ones(len(x)), jnp.abs(x[:, 0])], axis=1)
      >>> certificate = smoothing.certify_with_selector(
      ...     jax.random.key(7), select, classify, jnp.array([[0.5], [2.5]]), sigmas=[0.25, 1.0],
      ...     selector_sigma=0.5, num_classes=2, num_samples=10_000,
      ... )
      >>> certificate.sigma, certificate.radius <= [0.5, 1.5]
      (array([0.25, 1.  ]), array([ True,  True]))

    References:
      Sun, Mao, Vechev, "Dual Randomized Smoothing: Beyond Global Noise Variance", 2026,
      arXiv:2512.01782.
    """
    alpha = _checks.probability("alpha", alpha)
    scales = np.asarray(sigmas, np.float32)
    if scales.ndim != 1 or len(scales) < 2:
        raise ValueError(f"sigmas must have shape [k] with k at least 2, got {scales.shape}")
    _checks.positive_values("sigmas", scales)
    selector_sigma = _checks.positive_number("selector_sigma", selector_sigma)
    key = _checks.typed_key("key", key)
    selection = certify(
        jax.random.fold_in(key, _SELECTOR_STAGE), select, inputs,
        noise=Noise("gaussian", jax.numpy.float32(selector_sigma)), num_classes=len(scales),
        num_samples=num_samples if selector_samples is None else selector_samples,
        selection_samples=selection_samples, alpha=alpha / 2, ids=ids, chunk_size=chunk_size,
        mesh=mesh,
    )  # fmt: skip
    chosen = selection.label != ABSTAIN
    # Where the selector abstained any scale will do: nothing is claimed.
    per_input = scales[np.where(chosen, selection.label, 0)]
    smoothed = certify(
        jax.random.fold_in(key, _CLASSIFIER_STAGE), classify, inputs,
        noise=Noise("gaussian", jax.numpy.asarray(per_input)), num_classes=num_classes,
        num_samples=num_samples, selection_samples=selection_samples, alpha=alpha / 2, ids=ids,
        chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip
    certified = chosen & (smoothed.label != ABSTAIN)
    return SelectedCertificate(
        label=np.where(certified, smoothed.label, ABSTAIN),
        radius=np.where(certified, np.minimum(selection.radius, smoothed.radius), 0.0),
        sigma=np.where(chosen, per_input.astype(np.float64), np.nan),
        alpha=alpha,
        selection=selection,
        smoothed=smoothed,
    )
