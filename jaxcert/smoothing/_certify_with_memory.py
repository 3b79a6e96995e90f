"""Certificates at noise that was chosen for each input, made sound by a memory."""

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks, _fingerprint
from jaxcert._classifier import Classifier
from jaxcert.smoothing._anisotropic import AnisotropicNoise, certify_anisotropic
from jaxcert.smoothing._certificate import ABSTAIN, Certificate
from jaxcert.smoothing._certify import Prediction, certify, predict
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._region_answer import RegionAnswer
from jaxcert.smoothing._region_memory import RegionMemory


class MemoryCertificate(NamedTuple):
    """What a memory classifier certifies about a batch of inputs.

    Attributes:
      label: int64 `[b]`, the class of the memory classifier, or `ABSTAIN`.
      radius: float64 `[b]`, on which it answers this class from now on; 0 where abstained.
      answer: the `RegionAnswer`, which says where a stored region overrode the certificate or cut
        its radius.
      smoothed: the `Certificate` that smoothing alone gave at the noise of each input; it says
        nothing about neighbours, for which other noise is chosen.
      alpha: the failure probability of each certificate; that of the whole memory is
        `memory.spent`.
    """

    label: np.ndarray
    radius: np.ndarray
    answer: RegionAnswer
    smoothed: Certificate
    alpha: float


def certify_with_memory(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise | AnisotropicNoise,
    memory: RegionMemory,
    num_classes: int,
    num_samples: int = 100_000,
    selection_samples: int = 100,
    alpha: float = 0.001,
    joint_inputs: int | None = None,
    model_fingerprint: str | None = None,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[MemoryCertificate, RegionMemory]:
    r"""Certify inputs at noise chosen for each, and remember the regions that are promised.

    Each input is certified as by `certify`; then, one after another in their order, the
    certificates are offered to the memory: inside a region of another class that class is the
    answer, elsewhere the region is cut until it meets none of another class, and stored.

    Args:
      key: a typed threefry key. `certify` with the same key draws the same noise; `optimize_sigma`
        never does.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`; see
        `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: the noise, with one scale an input, such as `gaussian(optimize_sigma(...))`.
      memory: what was promised before.
      num_classes: number of classes.
      num_samples: estimation samples for each input.
      selection_samples: selection samples for each input.
      alpha: failure probability for each input, in (0, 1).
      joint_inputs: certify each input at `alpha / joint_inputs` instead, so that the regions of
        that many inputs hold jointly with probability `1 - alpha`.
      model_fingerprint: what identifies the classifier; by default `models.fingerprint(classify)`,
        which needs a `jax.tree_util.Partial`.
      ids: integers `[b]` that identify each input's noise; its position by default. Inputs that
        come in several calls with one key need ids of their own.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      A `MemoryCertificate`, and the memory with the new regions.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape; if the memory is that of another
        model, norm or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound for the memory classifier, which answers the stored class inside a stored region: at
      every point within `radius` it answers `label`, for certain, for as long as the memory is
      kept. What is uncertain is whether a region deserves its label: with probability at least
      `1 - alpha` for each input, and `1 - memory.spent` for all at once, the classifier smoothed
      with the noise of a region's own centre gives its label throughout. Radii are rounded down,
      distances in float64 with a margin for their rounding. The answers depend on the order of the
      inputs, and two memories that were grown apart need not agree.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> memory = smoothing.RegionMemory.init((1,), fingerprint="a half-space")
      >>> certificate, memory = smoothing.certify_with_memory(
      ...     jax.random.key(7), classify, jnp.array([[-0.5], [0.25]]),
      ...     noise=smoothing.gaussian([0.5, 0.25]), memory=memory, num_classes=2,
      ...     num_samples=10_000, model_fingerprint="a half-space",
      ... )
      >>> certificate.label, certificate.radius <= [0.5, 0.25], len(memory)
      (array([0, 1]), array([ True,  True]), 2)

    References:
      Alfarra, Bibi, Torr, Ghanem, "Data Dependent Randomized Smoothing", 2022, arXiv:2012.04351.
    """
    alpha = _checks.probability("alpha", alpha)
    if joint_inputs is not None:
        alpha = alpha / _checks.positive_integer("joint_inputs", joint_inputs)
    inputs = _checks.batch_of_inputs("inputs", inputs)
    _check_memory(memory, classify, inputs, noise, model_fingerprint)
    if isinstance(noise, AnisotropicNoise):
        found = certify_anisotropic(
            key, classify, inputs, noise=noise, num_classes=num_classes, num_samples=num_samples,
            selection_samples=selection_samples, alpha=alpha, ids=ids, chunk_size=chunk_size,
        )  # fmt: skip
        scales = np.asarray(noise.scales)
    else:
        found = certify(
            key, classify, inputs, noise=noise, num_classes=num_classes, num_samples=num_samples,
            selection_samples=selection_samples, alpha=alpha, ids=ids, chunk_size=chunk_size,
            mesh=mesh,
        )  # fmt: skip
        scales = None
    memory, answer = memory.insert(inputs, found.label, found.radius, alpha=alpha, scales=scales)
    return MemoryCertificate(answer.label, answer.radius, answer, found, alpha), memory


def predict_with_memory(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    memory: RegionMemory,
    num_classes: int,
    num_samples: int = 1000,
    alpha: float = 0.001,
    model_fingerprint: str | None = None,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Prediction:
    """Predict the memory classifier's class: that of the stored region, else of `predict`.

    Args:
      key: a typed threefry key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`; see
        `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: the noise, with one scale an input.
      memory: what was promised.
      num_classes: number of classes.
      num_samples: samples for each input.
      alpha: failure probability for each input outside the stored regions, in (0, 1).
      model_fingerprint: as for `certify_with_memory`.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      A `Prediction`; inside a stored region its p-value is 0, as nothing is left to chance.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape; if the memory is that of another
        model, norm or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Within a stored region the label is its class, always. A prediction outside promises nothing
      and is not stored: a region that is stored later may cover it with another class.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> memory = smoothing.RegionMemory.init((1,), fingerprint="a half-space")
      >>> memory, _ = memory.insert(jnp.array([[-0.5]]), [0], [0.4], alpha=0.001)
      >>> smoothing.predict_with_memory(
      ...     jax.random.key(7), classify, jnp.array([[-0.15], [0.0], [0.25]]),
      ...     noise=smoothing.gaussian(0.25), memory=memory, num_classes=2,
      ...     model_fingerprint="a half-space",
      ... ).label
      array([ 0, -1,  1])

    References:
      Alfarra, Bibi, Torr, Ghanem, "Data Dependent Randomized Smoothing", 2022, arXiv:2012.04351.
    """
    inputs = _checks.batch_of_inputs("inputs", inputs)
    _check_memory(memory, classify, inputs, noise, model_fingerprint)
    stored = memory.query(inputs)
    outside = predict(
        key, classify, inputs, noise=noise, num_classes=num_classes, num_samples=num_samples,
        alpha=alpha, ids=ids, chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip
    inside = stored.label != ABSTAIN
    return Prediction(
        np.where(inside, stored.label, outside.label),
        np.where(inside, 0.0, outside.p_value),
        outside.counts,
    )


def _check_memory(
    memory: RegionMemory,
    classify: Classifier,
    inputs: jax.Array,
    noise: Noise | AnisotropicNoise,
    model_fingerprint: str | None,
) -> None:
    """Raise unless the memory is one of this classifier, such inputs and the norm of the noise."""
    if not isinstance(memory, RegionMemory):
        raise TypeError(f"memory must be a RegionMemory, got {type(memory).__name__}")
    if model_fingerprint is None:
        if not isinstance(classify, jax.tree_util.Partial):
            raise TypeError(
                "classify must be a jax.tree_util.Partial, or model_fingerprint must say which "
                f"classifier it is; got {type(classify).__name__}"
            )
        model_fingerprint = _fingerprint.fingerprint(classify)
    if (memory.scales is None) == isinstance(noise, AnisotropicNoise):
        raise ValueError(
            "memory must be made with anisotropic=True just for an AnisotropicNoise, got "
            f"{type(noise).__name__}"
        )
    memory.check(inputs.shape[1:], norm=noise.norm, fingerprint=model_fingerprint)
