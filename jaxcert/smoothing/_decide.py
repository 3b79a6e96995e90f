"""Certify at a given radius, or refute it, with no more samples than that takes."""

import collections
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier
from jaxcert.smoothing._certificate import ABSTAIN, max_radius
from jaxcert.smoothing._certify import _ESTIMATION, _SELECTION
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._packed import PackedCounter
from jaxcert.smoothing._sequential import (
    SequentialTest,
    Verdict,
    check_settings,
    look_schedule,
    sequential_test,
    verdicts,
)


class Decision(NamedTuple):
    """Whether a batch of inputs is certified at the radius that was asked for.

    Attributes:
      verdict: int64 `[b]`, the values of `Verdict`.
      label: int64 `[b]`, the class that is certified, or `ABSTAIN` where the verdict is another.
      num_samples: int64 `[b]`, estimation samples spent.
      counts: int64 `[b, classes]`, votes of the estimation samples. Sampling stopped because of
        them, so no radius follows from them by `certificate_from_counts`, and choosing the settings
        of `certify` under the same key by them would be peeking.
      selection_counts: int64 `[b, classes]`, votes of the selection samples.
    """

    verdict: np.ndarray
    label: np.ndarray
    num_samples: np.ndarray
    counts: np.ndarray
    selection_counts: np.ndarray


def decide_radius(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    radius: ArrayLike,
    num_classes: int,
    alpha: float = 0.001,
    max_samples: int = 100_000,
    selection_samples: int = 100,
    rule: str = "spending",
    give_up: float = 0.1,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Decision:
    r"""Decide whether the smoothed classifier is certified at a radius, sampling until it is clear.

    .. math::
        p_c \ge P, \quad P = \min \{ p : R(p) \ge r \}

    c being the class that a first, separate draw selected. Each input is tested for itself by
    `sequential_test`, which states the rules and their proofs, and leaves the batch as soon as that
    stops. A verdict depends on the key, the input and its id, and the settings of the test alone
    (near-ties of the scores aside; see `class_counts`).

    The samples are those of `certify` under the same key, in the same order. The inputs that are
    still undecided share full batches, in two groups: while the host decides about one, the device
    samples for the other.

    Args:
      key: a typed threefry key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`; see
        `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: the noise, with a scalar scale or one value an input `[b]`.
      radius: r, above 0, in the norm and units of the noise: a scalar or one value an input `[b]`.
      num_classes: number of classes.
      alpha: failure probability for each input, in (0, 1).
      max_samples: estimation samples after which an input stays undecided.
      selection_samples: selection samples for each input.
      rule: when to decide; see `sequential_test`.
      give_up: an input is left undecided early when its chance of a decision by `max_samples` is
        below this; 0 never gives up.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.
      mesh: devices to share the work; see `class_counts`.

    Returns:
      A `Decision`, on the host.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape; if a radius is beyond what
        `max_samples` votes could certify.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound: for each input, the probability that it is certified although the smoothed classifier
      differs from `label` somewhere within `radius` is at most alpha. The probability that it is
      refuted although the selected class has the probability that the radius needs is at most
      alpha. It speaks of the classifier under exact real noise.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> decision = smoothing.decide_radius(
      ...     jax.random.key(7), classify, jnp.array([[-0.5], [0.1]]),
      ...     noise=smoothing.gaussian(0.5), radius=0.25, num_classes=2,
      ... )
      >>> decision.verdict, decision.label
      (array([ 1, -1]), array([ 0, -1]))

    References:
      Voracek, "Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial
      Robustness", 2024, arXiv:2406.17830.
    """
    key = _checks.typed_key("key", key)
    selection_samples = _checks.positive_integer("selection_samples", selection_samples)
    max_samples, alpha, give_up = check_settings(max_samples, alpha, rule, give_up)
    looks = look_schedule(max_samples)
    counter = PackedCounter(
        classify, inputs, noise=noise, num_classes=num_classes, ids=ids, chunk_size=chunk_size,
        mesh=mesh, fewest_samples=int(looks[0]),
    )  # fmt: skip
    batch = counter.num_inputs
    tests, which_test = _tests(noise, radius, batch, max_samples, alpha, rule, give_up)
    everything = np.arange(batch)
    zeros = np.zeros(batch, np.int64)
    selection_counts = counter.collect(
        counter.launch(
            jax.random.fold_in(key, _SELECTION), everything, zeros, zeros + selection_samples
        ),
        everything,
        zeros + selection_samples,
    )
    selected = selection_counts.argmax(axis=1)
    estimation_key = jax.random.fold_in(key, _ESTIMATION)
    counts = np.zeros((batch, num_classes), np.int64)
    verdict, spent = zeros.copy(), zeros.copy()

    def launch(rows: np.ndarray, look: int) -> tuple[np.ndarray, int, list[jax.Array]]:
        first = spent[rows]
        return (
            rows,
            look,
            counter.launch(estimation_key, rows, first, np.full_like(first, looks[look])),
        )

    # Two groups: one is sampled while the other is decided, and no sample is drawn in vain.
    groups = [rows for rows in np.array_split(everything, 2) if rows.size]
    queue = collections.deque(launch(rows, 0) for rows in groups)
    while queue:
        rows, look, pending = queue.popleft()
        counts += counter.collect(pending, rows, looks[look] - spent[rows])
        spent[rows] = looks[look]
        successes = counts[rows, selected[rows]]
        stopped = np.zeros(rows.size, bool)
        for index in np.unique(which_test[rows]):
            members = which_test[rows] == index
            verdict[rows[members]], stopped[members] = verdicts(
                tests[index], look, successes[members]
            )
        if not np.all(stopped):
            queue.append(launch(rows[~stopped], look + 1))
    label = np.where(verdict == Verdict.CERTIFIED, selected, ABSTAIN)
    return Decision(verdict, label, spent, counts, selection_counts)


def _tests(
    noise: Noise,
    radius: ArrayLike,
    batch: int,
    max_samples: int,
    alpha: float,
    rule: str,
    give_up: float,
) -> tuple[list[SequentialTest], np.ndarray]:
    """The distinct tests that the inputs need, and which of them each input takes."""
    radius = np.asarray(radius)
    if not np.issubdtype(radius.dtype, np.number) or np.issubdtype(
        radius.dtype, np.complexfloating
    ):
        raise TypeError(f"radius must be a real number or array, got {radius.dtype}")
    radius = radius.astype(np.float64)
    if radius.shape not in ((), (batch,)):
        raise ValueError(f"radius must be a scalar or of shape ({batch},), got {radius.shape}")
    if not np.all(np.isfinite(radius) & (radius > 0.0)):
        raise ValueError(f"radius must be finite and above 0, got {radius}")
    radius = np.broadcast_to(radius, (batch,))
    thresholds, which = np.unique(probability_for_radius(noise, radius), return_inverse=True)
    reachable = np.broadcast_to(max_radius(noise, num_samples=max_samples, alpha=alpha), (batch,))
    plans = []
    for index, threshold in enumerate(thresholds):
        row = int(np.flatnonzero(which == index)[0])
        plan = None
        if threshold < 1.0:
            plan = sequential_test(
                float(threshold), max_samples=max_samples, alpha=alpha, rule=rule, give_up=give_up
            )
        if plan is None or plan.certify_from[-1] > max_samples:
            raise ValueError(
                f"radius must be one that max_samples={max_samples} votes can certify, got "
                f"{radius[row]} for row {row}, where fixed sampling reaches {reachable[row]:.6g} "
                f"and the rule {rule!r} less"
            )
        plans.append(plan)
    return plans, which


def probability_for_radius(noise: Noise, radius: np.ndarray) -> np.ndarray:
    """Least float64 probability that certifies each radius, 1 where none below does: `[b]`."""
    low, high = np.full(radius.shape, 0.5), np.ones(radius.shape)
    while np.any(np.nextafter(low, 1.0) < high):
        middle = (low + high) / 2.0
        enough = noise.radius(middle) >= radius
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high
