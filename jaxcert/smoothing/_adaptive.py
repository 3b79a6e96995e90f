"""Certificates with as many samples as each input deserves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier
from jaxcert.smoothing import _planning
from jaxcert.smoothing._certificate import _count_matrix, certificate_from_counts
from jaxcert.smoothing._certify import _ESTIMATION, _SELECTION
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._packed import PackedCounter

# The pilot grows, at most doubling, to this share of the estimation samples planned, and to this
# share of those that are planned in vain if the input turns out to deserve none.
_PILOT_SHARE, _PILOT_SHARE_OF_WASTE = 0.02, 0.5

# Loss of radius that an input may always have, as a share of the largest radius there is, times the
# tolerance: without it inputs next to a decision boundary would spend the most and gain nothing.
_FORGIVEN = 0.02

_REFERENCES = ("infinite_samples", "max_samples")
_ALLOCATIONS = ("each", "average")


class AdaptiveCertificate(NamedTuple):
    """What randomized smoothing certifies about a batch of inputs, and what that took.

    Attributes:
      label: int64 `[b]`, the class of the smoothed classifier, or `ABSTAIN`.
      radius: float64 `[b]`, in the norm and units of the noise; 0 where abstained.
      p_lower: float64 `[b]`, lower bound on the probability of the selected class; 0 without
        estimation samples.
      counts: int64 `[b, classes]`, votes of the estimation samples.
      selection_counts: int64 `[b, classes]`, votes of the selection samples, the pilot included.
      num_samples: int64 `[b]`, samples spent: selection, pilot and estimation.
    """

    label: np.ndarray
    radius: np.ndarray
    p_lower: np.ndarray
    counts: np.ndarray
    selection_counts: np.ndarray
    num_samples: np.ndarray


def certify_adaptive(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_classes: int,
    tolerance: float = 0.05,
    relative_to: str = "infinite_samples",
    allocation: str = "each",
    max_samples: int = 100_000,
    selection_samples: int = 100,
    alpha: float = 0.001,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> AdaptiveCertificate:
    r"""Certify the smoothed classifier, with sample sizes chosen by input.

    .. math::
        N_j = \min \{ n : \mathrm{E} R_n \ge (1 - t) \mathrm{E} R_{ref} - 0.02 t R_{max} \}

    with the expectations over the probability that pilot samples leave open, t the tolerance,
    :math:`R_n` the radius that n samples give, :math:`R_{ref}` that of infinitely many or of
    `max_samples`, and :math:`R_{max}` the largest that `max_samples` can give. With
    `allocation="average"` the tolerance is for the sum of the radii of the batch, and
    :math:`\sum_j N_j` is made as small as that allows: an input gets the samples that raise the
    average most. Where nothing can be gained, N is 0 and the input abstains.

    The pilot is more selection samples. Class and sample sizes are functions of those alone; the
    estimation samples, drawn later with other keys, are independent of them. So Clopper-Pearson at
    the whole of alpha holds given the sample size: choosing it costs no failure probability, as no
    bound is looked at before its samples are complete.

    Args:
      key: a typed threefry key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`; see
        `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: the noise, with a scalar scale or one value an input `[b]`.
      num_classes: number of classes.
      tolerance: relative loss of radius that is accepted, in (0, 1).
      relative_to: `"infinite_samples"` or `"max_samples"`: the radius that the loss is against.
      allocation: `"each"` plans for each input by itself: its result depends on no other.
        `"average"` plans for the average radius of the batch, and costs less.
      max_samples: the most estimation samples of an input.
      selection_samples: selection samples for each input before the pilot grows.
      alpha: failure probability for each input, in (0, 1).
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      An `AdaptiveCertificate`, on the host. `certificate_from_counts` gives its labels and radii
      back from its counts, for the rows that have any.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound: for each input, the probability that `label` is not `ABSTAIN` and the smoothed
      classifier differs from it somewhere within `radius` is at most alpha; rounded down. It speaks
      of the classifier under exact real noise. That the tolerance is kept is an estimate.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> certificate = smoothing.certify_adaptive(
      ...     jax.random.key(7), classify, jnp.array([[-0.5], [0.25], [0.0]]),
      ...     noise=smoothing.gaussian(0.5), num_classes=2, max_samples=20_000,
      ... )
      >>> certificate.label[:2], certificate.radius[:2] >= [0.45, 0.22]
      (array([0, 1]), array([ True,  True]))
      >>> bool(certificate.num_samples[0] < certificate.num_samples[1] < 30_000)
      True

    References:
      Chen et al., "Input-Specific Robustness Certification for Randomized Smoothing", 2022,
      arXiv:2112.12084.
    """
    key = _checks.typed_key("key", key)
    tolerance = _checks.probability("tolerance", tolerance)
    alpha = _checks.probability("alpha", alpha)
    max_samples = _checks.positive_integer("max_samples", max_samples)
    selection_samples = _checks.positive_integer("selection_samples", selection_samples)
    for name, value, known in (
        ("relative_to", relative_to, _REFERENCES),
        ("allocation", allocation, _ALLOCATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    counter = PackedCounter(
        classify, inputs, noise=noise, num_classes=num_classes, ids=ids, chunk_size=chunk_size,
        mesh=mesh, fewest_samples=min(selection_samples, max_samples),
    )  # fmt: skip
    batch = counter.num_inputs
    selection_counts = np.zeros((batch, num_classes), np.int64)
    selection_key = jax.random.fold_in(key, _SELECTION)

    def votes(key: jax.Array, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(last > first)
        if not rows.size:
            return np.zeros((batch, num_classes), np.int64)
        first, last = first[rows], last[rows]
        return counter.collect(counter.launch(key, rows, first, last), rows, last - first)

    table = _planning.forecast(noise.family, max_samples, alpha)
    scale = np.broadcast_to(np.asarray(noise.scale, np.float64), (batch,))
    planner = _Planner(table, scale, tolerance, relative_to, allocation)
    drawn = np.zeros(batch, np.int64)
    wanted = np.full(batch, selection_samples, np.int64)
    while np.any(wanted > drawn):
        selection_counts += votes(selection_key, drawn, wanted)
        drawn = wanted
        num_samples, pilot = planner(selection_counts)
        wanted = np.maximum(drawn, np.minimum(pilot, 2 * drawn))
    counts = votes(jax.random.fold_in(key, _ESTIMATION), np.zeros_like(num_samples), num_samples)
    return _certificate(selection_counts, counts, noise, alpha)


def planned_samples(
    selection_counts: ArrayLike,
    *,
    noise: Noise,
    tolerance: float,
    max_samples: int,
    alpha: float,
    relative_to: str = "infinite_samples",
) -> np.ndarray:
    r"""Say how many estimation samples `certify_adaptive` takes after such selection votes.

    .. math::
        N_j = \min \{ n : \mathrm{E} R_n \ge (1 - t) \mathrm{E} R_{ref} - 0.02 t R_{max} \}

    with `allocation="each"`. That this depends on the selection votes alone is what keeps the bound
    on the estimation samples valid; a log can be checked for it.

    Args:
      selection_counts: integer `[b, classes]`, votes of all selection samples, the pilot included.
      noise: the noise, with a scalar scale or one value an input `[b]`.
      tolerance: relative loss of radius that is accepted, in (0, 1).
      max_samples: the most estimation samples of an input.
      alpha: failure probability for each input, in (0, 1).
      relative_to: `"infinite_samples"` or `"max_samples"`.

    Returns:
      int64 `[b]`, in [0, max_samples].

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument has a wrong value or shape.

    Example:
      >>> from jaxcert import smoothing
      >>> smoothing.planned_samples(
      ...     [[100, 0], [90, 10]], noise=smoothing.gaussian(0.5), tolerance=0.05,
      ...     max_samples=100_000, alpha=0.001,
      ... )
      array([100000,   6684])
    """
    tolerance = _checks.probability("tolerance", tolerance)
    alpha = _checks.probability("alpha", alpha)
    max_samples = _checks.positive_integer("max_samples", max_samples)
    if relative_to not in _REFERENCES:
        raise ValueError(
            f"relative_to must be one of {', '.join(_REFERENCES)}, got {relative_to!r}"
        )
    votes = _count_matrix("selection_counts", selection_counts)
    scale = jnp.asarray(noise.scale)
    _checks.one_value_per_input("noise.scale", scale, votes.shape[0])
    planner = _Planner(
        _planning.forecast(noise.family, max_samples, alpha),
        np.broadcast_to(np.asarray(scale, np.float64), votes.shape[:1]),
        tolerance, relative_to, "each",
    )  # fmt: skip
    return planner(votes)[0]


class _Planner:
    """Chooses sample sizes from pilot votes; remembers the prior that it fitted."""

    def __init__(
        self,
        table: _planning.Forecast,
        scale: np.ndarray,
        tolerance: float,
        relative_to: str,
        allocation: str,
    ) -> None:
        self._table, self._scale, self._tolerance = table, scale, tolerance
        self._relative_to, self._allocation = relative_to, allocation
        self._prior = _planning.flat_prior(table)

    def __call__(self, selection_counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Estimation samples and pilot samples for each input: int64 `[b]`."""
        table = self._table
        successes, draws = selection_counts.max(axis=1), selection_counts.sum(axis=1)
        if self._allocation == "average":
            self._prior = _planning.fitted_prior(table, successes, draws, self._prior)
        weights = _planning.posterior(table, successes, draws, self._prior)
        radius = (weights @ table.radius) * self._scale[:, None]
        from_budget = self._relative_to == "max_samples"
        limit = table.radius[:, -1] if from_budget else table.limit
        reference = (weights @ limit) * self._scale
        # Beside the plan, the candidates that would be worth no sample, were they known.
        if self._allocation == "average":
            column, price = _planning.samples_for_average(
                radius, reference, table.num_samples, tolerance=self._tolerance
            )
            scales, which = np.unique(self._scale, return_inverse=True)
            net = scales[:, None, None] * table.radius - price * table.num_samples
            in_vain = (net.argmax(axis=2) == 0)[which]
        else:
            forgiven = _FORGIVEN * table.radius.max()
            column = _planning.samples_for_each(
                radius, reference, tolerance=self._tolerance, forgiven=forgiven * self._scale
            )
            known = _planning.samples_for_each(
                table.radius,
                limit,
                tolerance=self._tolerance,
                forgiven=np.full_like(limit, forgiven),
            )
            in_vain = np.broadcast_to(known == 0, weights.shape)
        num_samples = table.num_samples[column]
        waste = 1.0 - np.where(in_vain, 0.0, weights).sum(axis=1)
        pilot = np.ceil((_PILOT_SHARE + _PILOT_SHARE_OF_WASTE * waste) * num_samples)
        return num_samples, pilot.astype(np.int64)


def _certificate(
    selection_counts: np.ndarray, counts: np.ndarray, noise: Noise, alpha: float
) -> AdaptiveCertificate:
    certificate = certificate_from_counts(selection_counts, counts, noise=noise, alpha=alpha)
    spent = selection_counts.sum(axis=1) + counts.sum(axis=1)
    return AdaptiveCertificate(*certificate, spent)
