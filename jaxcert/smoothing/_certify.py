"""Cohen's CERTIFY and PREDICT: from a key, a classifier and inputs to certificates."""

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier
from jaxcert.smoothing._binomial import two_sided_binomial_p_value
from jaxcert.smoothing._certificate import ABSTAIN, Certificate, certificate_from_counts
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._sampling import class_counts
from jaxcert.smoothing._votes import votes_on_host

# Each use of samples folds its own stage into the key, so no two ever share noise.
_SELECTION, _ESTIMATION, _PREDICTION = range(3)


class Prediction(NamedTuple):
    """What the smoothed classifier predicts for a batch of inputs.

    Attributes:
      label: int64 `[b]`, the predicted class, or `ABSTAIN`.
      p_value: float64 `[b]`, of the test that the two leading classes are equally likely.
      counts: int64 `[b, classes]`, votes.
    """

    label: np.ndarray
    p_value: np.ndarray
    counts: np.ndarray


def certify(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_classes: int,
    num_samples: int = 100_000,
    selection_samples: int = 100,
    alpha: float = 0.001,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Certificate:
    r"""Certify the smoothed classifier at each input.

    .. math::
        g(x) = \arg\max_c P(f(x + \epsilon) = c)

    is constant within the radius :math:`R(p)` of `Noise.radius`, p being the Clopper-Pearson lower
    bound, at level alpha, on the probability of the class that a first, separate draw selected.

    Args:
      key: a typed threefry key. Selection, estimation and `predict` fold different stages into it.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`; see
        `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: the noise, with a scalar scale or one value an input `[b]`. A scale chosen by looking
        at the input certifies nothing about its neighbours, which would have chosen another.
      num_classes: number of classes.
      num_samples: estimation samples for each input.
      selection_samples: selection samples for each input.
      alpha: failure probability for each input, in (0, 1).
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      A `Certificate`, on the host.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound: for each input, the probability that `label` is not `ABSTAIN` and the smoothed
      classifier differs from it somewhere within `radius` is at most alpha; rounded down. It speaks
      of the classifier under exact real noise; float32 arithmetic is not accounted for.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> certificate = smoothing.certify(
      ...     jax.random.key(7), classify, jnp.array([[-0.5], [0.25]]),
      ...     noise=smoothing.gaussian(0.5), num_classes=2,
      ... )
      >>> certificate.label, certificate.radius <= [0.5, 0.25]
      (array([0, 1]), array([ True,  True]))

    References:
      Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
      arXiv:1902.02918.
    """
    alpha = _checks.probability("alpha", alpha)
    num_samples = _checks.positive_integer("num_samples", num_samples)
    selection_samples = _checks.positive_integer("selection_samples", selection_samples)

    def votes(stage: int, samples: int) -> np.ndarray:
        return _host_counts(
            key, classify, inputs, stage=stage, noise=noise, num_samples=samples,
            num_classes=num_classes, ids=ids, chunk_size=chunk_size, mesh=mesh,
        )  # fmt: skip

    selection_counts = votes(_SELECTION, selection_samples)
    counts = votes(_ESTIMATION, num_samples)
    return certificate_from_counts(selection_counts, counts, noise=noise, alpha=alpha)


def predict(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_classes: int,
    num_samples: int = 1000,
    alpha: float = 0.001,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Prediction:
    """Predict the smoothed classifier's class, abstaining when the vote is too close to call.

    The two classes with the most votes are compared by the two-sided exact binomial test of equal
    probability; a p-value above alpha abstains.

    Args:
      key: a typed threefry key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`; see
        `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: the noise, with a scalar scale or one value an input `[b]`.
      num_classes: number of classes.
      num_samples: samples for each input.
      alpha: failure probability for each input, in (0, 1).
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      A `Prediction`, on the host.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound: for each input, the probability that `label` is neither `ABSTAIN` nor the class of the
      smoothed classifier is at most alpha. It says nothing about any radius.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> smoothing.predict(
      ...     jax.random.key(7), classify, jnp.array([[-0.5], [0.0]]),
      ...     noise=smoothing.gaussian(0.5), num_classes=2,
      ... ).label
      array([ 0, -1])

    References:
      Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
      arXiv:1902.02918. Hung, Fithian, "Rank Verification for Exponential Families", 2019.
    """
    alpha = _checks.probability("alpha", alpha)
    counts = _host_counts(
        key, classify, inputs, stage=_PREDICTION, noise=noise, num_samples=num_samples,
        num_classes=num_classes, ids=ids, chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip
    top = counts.argmax(axis=1)
    first = counts.max(axis=1)
    second = np.sort(counts, axis=1)[:, -2] if counts.shape[1] > 1 else np.zeros_like(first)
    p_value = two_sided_binomial_p_value(first, first + second)
    return Prediction(np.where(p_value <= alpha, top, ABSTAIN), p_value, counts)


def _host_counts(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    stage: int,
    noise: Noise,
    num_samples: int,
    num_classes: int,
    ids: ArrayLike | None,
    chunk_size: int | None,
    mesh: jax.sharding.Mesh | None,
) -> np.ndarray:
    """Count votes as int64 on the host; raise if a sample was no vote."""
    if not all(
        _checks.is_concrete(leaf) for leaf in jax.tree.leaves((key, inputs, noise, classify))
    ):
        raise TypeError(
            "certify and predict compute their statistics on the host and cannot be traced; "
            "under jax.jit or jax.vmap use class_counts, then certificate_from_counts"
        )
    counts = class_counts(
        jax.random.fold_in(_checks.typed_key("key", key), stage), classify, inputs, noise=noise,
        num_samples=num_samples, num_classes=num_classes, ids=ids, chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip
    return votes_on_host(counts, num_samples)
