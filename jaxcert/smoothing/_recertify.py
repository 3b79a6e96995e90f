"""Recertification: certify a changed network with the help of an earlier run."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing import _sampling
from jaxcert.smoothing._binomial import clopper_pearson_lower, clopper_pearson_upper
from jaxcert.smoothing._certificate import ABSTAIN, Certificate, certificate_from_counts
from jaxcert.smoothing._certify import _host_counts
from jaxcert.smoothing._labels import sample_labels
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._sampling import class_counts
from jaxcert.smoothing._votes import NOT_FINITE, check_finite

# Stages of the key, apart from those of `certify` and `predict`: the noise is always fresh.
_DISAGREEMENT, _DIRECT = 0x6972_7301, 0x6972_7302

# Samples whose places and labels are held on the host at once.
_LAUNCH = 2**22


class Recertification(NamedTuple):
    """What is certified about a changed network at a batch of inputs.

    Attributes:
      label: int64 `[b]`, the class of the new smoothed classifier, or `ABSTAIN`.
      radius: float64 `[b]`, in the norm and units of the noise; 0 where abstained.
      p_lower: float64 `[b]`, lower bound on the new probability of the earlier run's class.
      earlier_p_lower: float64 `[b]`, lower bound on the old probability of that class.
      disagreement_upper: float64 `[b]`, upper bound on the probability that the old network says
        that class and the new one does not; NaN where the new network was sampled directly.
      is_direct: bool `[b]`, whether the new network alone was sampled.
      successes: int64 `[b]`, fresh votes of the new network for the class where `is_direct`, else
        fresh samples on which the class was lost.
      num_samples: int64 `[b]`, fresh samples.
      num_runs: int64 `[b]`, runs of a network on them: one a sample, and one of the old network for
        each sample on which the new one does not say the class.
    """

    label: np.ndarray
    radius: np.ndarray
    p_lower: np.ndarray
    earlier_p_lower: np.ndarray
    disagreement_upper: np.ndarray
    is_direct: np.ndarray
    successes: np.ndarray
    num_samples: np.ndarray
    num_runs: np.ndarray


def disagreement_counts(
    key: jax.Array,
    old_classify: Classifier,
    new_classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_samples: int,
    num_classes: int,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    r"""Count where two classifiers agree and where they do not, under the same noise.

    .. math::
        a_{jc} = \#\{i: f(x_j + \epsilon_{ji}) = f'(x_j + \epsilon_{ji}) = c\}, \quad
        d_{jc} = \#\{i: f(x_j + \epsilon_{ji}) = c \ne f'(x_j + \epsilon_{ji})\}

    with the noise of `class_counts`.

    Args:
      key: a typed threefry key.
      old_classify: f, a traceable function from a batch `[n, *shape]` to scores `[n, classes]`.
      new_classify: f', a function like it.
      inputs: floating `[b, *shape]`.
      noise: the noise, with a scalar scale or one value an input `[b]`.
      num_samples: samples for each input.
      num_classes: number of classes of either.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      int32 `[b, 2 * num_classes]`: a, then d. A row sums to `num_samples`, less the samples for
      which a score of either was not finite.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument has a wrong value or shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def half_space(edge, x):
      ...     return jnp.stack([edge - x[:, 0], x[:, 0] - edge], axis=1)
      >>> old, new = (jax.tree_util.Partial(half_space, edge) for edge in (0.0, 0.1))
      >>> smoothing.disagreement_counts(
      ...     jax.random.key(7), old, new, jnp.array([[-5.0], [5.0]]),
      ...     noise=smoothing.gaussian(1.0), num_samples=1000, num_classes=2,
      ... )
      Array([[1000,    0,    0,    0],
             [   0, 1000,    0,    0]], dtype=int32)
    """
    num_classes = _checks.positive_integer("num_classes", num_classes)
    inputs = _checks.batch_of_inputs("inputs", inputs)
    pair = jax.tree_util.Partial(
        _pair_scores,
        _checked("old_classify", old_classify, inputs, num_classes),
        _checked("new_classify", new_classify, inputs, num_classes),
    )
    return class_counts(
        key, pair, inputs, noise=noise, num_samples=num_samples, num_classes=2 * num_classes,
        ids=ids, chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip


def recertify(
    key: jax.Array,
    old_classify: Classifier,
    new_classify: Classifier,
    inputs: ArrayLike,
    *,
    certificate: Certificate,
    noise: Noise,
    num_samples: int = 10_000,
    direct_samples: int | None = None,
    alpha: float = 0.001,
    disagreement_alpha: float | None = None,
    direct_above: float = 0.995,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Recertification:
    r"""Certify a changed network from an earlier run of the old one and few fresh samples.

    For the class c that the earlier run selected,

    .. math::
        P(f'(x + \epsilon) = c) \ge P(f(x + \epsilon) = c) - \zeta, \quad
        \zeta = P(f(x + \epsilon) = c \ne f'(x + \epsilon)) \le P(f(x + \epsilon) \ne
        f'(x + \epsilon))

    so that the new smoothed classifier is certified at :math:`R(p_{lower} - \zeta_{upper})`. The
    earlier counts give :math:`p_{lower}` at level `alpha - disagreement_alpha`; fresh samples give
    :math:`\zeta_{upper}` at level `disagreement_alpha`: the new network runs on each of them, and
    where it does not say c the old one runs under the same noise. Where :math:`p_{lower}` is above
    `direct_above` the binomial bound of the new network alone is no worse; there it alone is
    sampled, at level `alpha`.

    Args:
      key: a typed threefry key. The noise is apart from that of `certify`, also under one key.
      old_classify: the network of the earlier run; see `class_counts`.
      new_classify: the network to certify. It may depend on the earlier run, not on `key`: another
        attempt takes another key.
      inputs: floating `[b, *shape]`, those of the earlier run.
      certificate: the earlier run of `old_classify` on `inputs` under `noise`. Of it only the
        counts are used; `certificate_from_counts` makes one from a log.
      noise: the noise of the earlier run.
      num_samples: fresh samples for each input whose disagreement is bounded.
      direct_samples: fresh samples for each input on which the new network alone runs;
        `num_samples` by default.
      alpha: failure probability for each input, in (0, 1), the earlier bound included.
      disagreement_alpha: the part of `alpha` for the bound on the disagreement; half by default.
      direct_above: sample the new network alone where the earlier bound exceeds this. The default
        suits thousands of samples and losses of about 1e-3; larger changes want a lower one.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      A `Recertification`, on the host.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound: for each input, the probability that `label` is not `ABSTAIN` and the new smoothed
      classifier differs from it somewhere within `radius` is at most alpha, over the earlier
      estimation samples and the fresh ones together; rounded down. Proof. Let p be the old
      probability of c and t = `direct_above`. If p > t, a disagreement is sampled only when
      p_lower <= t < p, which is a true bound; so either branch fails with at most its own level,
      and both are at most alpha. If p <= t, the direct branch is taken only when p_lower > t >= p,
      that is, when the earlier bound has failed; so a failure needs the failure of the earlier
      bound or of the one on the disagreement. Hence the settings must not depend on the earlier
      estimation samples. As in `certify`, exact arithmetic is assumed.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def half_space(edge, x):
      ...     return jnp.stack([edge - x[:, 0], x[:, 0] - edge], axis=1)
      >>> old, new = (jax.tree_util.Partial(half_space, edge) for edge in (0.0, 0.01))
      >>> key, inputs, noise = jax.random.key(7), jnp.array([[0.4]]), smoothing.gaussian(0.5)
      >>> earlier = smoothing.certify(key, old, inputs, noise=noise, num_classes=2)
      >>> again = smoothing.recertify(
      ...     key, old, new, inputs, certificate=earlier, noise=noise, num_samples=2000
      ... )
      >>> again.label, (0.3 < again.radius) & (again.radius < 0.39)
      (array([1]), array([ True]))

    References:
      Ugare, Suresh, Banerjee, Singh, Misailovic, "Incremental Randomized Smoothing Certification",
      2023, arXiv:2305.19521.
    """
    alpha = _checks.probability("alpha", alpha)
    if disagreement_alpha is None:
        disagreement_alpha = alpha / 2.0
    disagreement_alpha = _checks.probability("disagreement_alpha", disagreement_alpha)
    if disagreement_alpha >= alpha:
        raise ValueError(
            f"disagreement_alpha must be below alpha, of which it is a part, got "
            f"{disagreement_alpha} of {alpha}"
        )
    direct_above = _threshold(direct_above)
    num_samples = _checks.positive_integer("num_samples", num_samples)
    if direct_samples is None:
        direct_samples = num_samples
    direct_samples = _checks.positive_integer("direct_samples", direct_samples)
    if not all(_checks.is_concrete(leaf) for leaf in jax.tree.leaves((key, inputs, noise))):
        raise TypeError("recertify computes its statistics on the host and cannot be traced")
    inputs = _checks.batch_of_inputs("inputs", inputs)
    earlier = _earlier(certificate, inputs.shape[0], noise, alpha - disagreement_alpha)
    batch, num_classes = earlier.counts.shape
    old = _checked("old_classify", old_classify, inputs, num_classes)
    new = _checked("new_classify", new_classify, inputs, num_classes)
    ids = np.asarray(_sampling._input_ids(ids, batch))
    selected = earlier.selection_counts.argmax(axis=1)
    is_direct = earlier.p_lower > direct_above
    successes, num_runs = np.zeros(batch, np.int64), np.full(batch, direct_samples)
    rows = np.flatnonzero(is_direct)
    if rows.size:
        votes = _host_counts(
            key, new, inputs[rows], stage=_DIRECT, noise=_noise_of(noise, rows),
            num_samples=direct_samples, num_classes=num_classes, ids=ids[rows],
            chunk_size=chunk_size, mesh=mesh,
        )  # fmt: skip
        successes[rows] = votes[np.arange(rows.size), selected[rows]]
    rows = np.flatnonzero(~is_direct)
    if rows.size:
        successes[rows], num_runs[rows] = _lost_votes(
            jax.random.fold_in(_checks.typed_key("key", key), _DISAGREEMENT), old, new,
            inputs[rows], selected[rows], noise=_noise_of(noise, rows), num_samples=num_samples,
            num_classes=num_classes, ids=ids[rows], chunk_size=chunk_size, mesh=mesh,
        )  # fmt: skip
    return recertification_from_counts(
        earlier, noise=noise, is_direct=is_direct, successes=successes,
        num_samples=np.where(is_direct, direct_samples, num_samples),
        num_runs=num_runs, alpha=alpha, disagreement_alpha=disagreement_alpha,
    )  # fmt: skip


def _lost_votes(
    key: jax.Array,
    old: Classifier,
    new: Classifier,
    inputs: jax.Array,
    selected: np.ndarray,
    *,
    noise: Noise,
    num_samples: int,
    num_classes: int,
    ids: np.ndarray,
    chunk_size: int | None,
    mesh: jax.sharding.Mesh | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Count the samples on which `old` says the selected class and `new` does not.

    Whether `old` says it matters only where `new` does not, so `old` runs on those samples alone.

    Returns:
      The counts and the runs of a network, int64 `[b]`.
    """
    batch = len(selected)

    def labels(
        classify: Classifier, name: str, image: np.ndarray, sample: np.ndarray
    ) -> np.ndarray:
        found = sample_labels(
            key, classify, inputs, noise=noise, num_classes=num_classes, images=image,
            samples=sample, ids=ids, chunk_size=chunk_size, mesh=mesh,
        )  # fmt: skip
        asked = np.bincount(image, minlength=batch)
        lost = np.bincount(image[found == NOT_FINITE], minlength=batch)
        check_finite(lost, asked, np.arange(batch), name=name)
        return found

    lost, runs = np.zeros(batch, np.int64), np.full(batch, num_samples, np.int64)
    total = batch * num_samples
    for start in range(0, total, _LAUNCH):
        image, sample = np.divmod(np.arange(start, min(start + _LAUNCH, total)), num_samples)
        is_other = labels(new, "new_classify", image, sample) != selected[image]
        image, sample = image[is_other], sample[is_other]
        if image.size:
            runs += np.bincount(image, minlength=batch)
            is_lost = labels(old, "old_classify", image, sample) == selected[image]
            lost += np.bincount(image[is_lost], minlength=batch)
    return lost, runs


def recertification_from_counts(
    earlier: Certificate,
    *,
    noise: Noise,
    is_direct: np.ndarray,
    successes: np.ndarray,
    num_samples: np.ndarray,
    num_runs: np.ndarray,
    alpha: float,
    disagreement_alpha: float,
) -> Recertification:
    """Turn fresh counts into a `Recertification`; `earlier.p_lower` is at its share of alpha."""
    lost = clopper_pearson_upper(successes, num_samples, alpha=disagreement_alpha)
    # The difference is rounded to nearest; one step down makes it a lower bound.
    remaining = np.maximum(np.nextafter(earlier.p_lower - lost, -1.0), 0.0)
    direct = clopper_pearson_lower(successes, num_samples, alpha=alpha)
    p_lower = np.where(is_direct, direct, remaining)
    certified = p_lower > 0.5
    return Recertification(
        label=np.where(certified, earlier.selection_counts.argmax(axis=1), ABSTAIN),
        radius=np.where(certified, noise.radius(p_lower), 0.0),
        p_lower=p_lower,
        earlier_p_lower=earlier.p_lower,
        disagreement_upper=np.where(is_direct, np.nan, lost),
        is_direct=is_direct,
        successes=successes,
        num_samples=num_samples,
        num_runs=num_runs,
    )


def _pair_scores(old: Classifier, new: Classifier, inputs: jax.Array) -> jax.Array:
    """One-hot `[n, 2 * classes]`: column c where both say c, `classes + c` where only `old` does.

    Not finite where a score of either is not, so that such a sample is no vote.
    """
    old_scores, new_scores = old(inputs), new(inputs)
    num_classes = old_scores.shape[1]
    is_finite = jnp.all(jnp.isfinite(old_scores), axis=1) & jnp.all(
        jnp.isfinite(new_scores), axis=1
    )
    label = jnp.argmax(old_scores, axis=1)
    is_lost = (label != jnp.argmax(new_scores, axis=1)).astype(label.dtype)
    one_hot = jax.nn.one_hot(label + num_classes * is_lost, 2 * num_classes, dtype=jnp.float32)
    return jnp.where(is_finite[:, None], one_hot, jnp.nan)


def _checked(
    name: str, classify: Classifier, inputs: jax.Array, num_classes: int
) -> jax.tree_util.Partial:
    """Check one of the two classifiers; its errors name it."""
    try:
        partial = as_partial(classify)
        _sampling._check_scores(partial, inputs, num_classes)
    except (TypeError, ValueError) as error:
        text = str(error).removeprefix("classify")
        raise type(error)(f"{name}{text}") from error
    return partial


def _earlier(certificate: Certificate, batch: int, noise: Noise, alpha: float) -> Certificate:
    """Read the counts of the earlier run again at its share of the failure probability."""
    if not isinstance(certificate, Certificate):
        raise TypeError(
            "certificate must be a Certificate, such as certificate_from_counts makes from the "
            f"counts of a log, got {type(certificate).__name__}"
        )
    counts = np.asarray(certificate.counts)
    if counts.ndim != 2 or counts.shape[0] != batch:
        raise ValueError(
            f"certificate must have one row for each of the {batch} inputs, "
            f"got counts of shape {counts.shape}"
        )
    return certificate_from_counts(certificate.selection_counts, counts, noise=noise, alpha=alpha)


def _threshold(value: float) -> float:
    """Check `direct_above`: 1 never samples directly."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"direct_above must be a real number in [0, 1], got {value!r}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"direct_above must lie in [0, 1], got {value}")
    return float(value)


def _noise_of(noise: Noise, rows: np.ndarray) -> Noise:
    """The noise of some of the inputs."""
    return dataclasses.replace(noise, scale=noise.scale[rows]) if noise.scale.ndim else noise
