"""The radius that mean scores suggest: what the search for noise climbs, and no certificate."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy import special
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing._chunks import trace_classifier
from jaxcert.smoothing._noise import Noise, add_noise
from jaxcert.smoothing._sampling import prepare
from jaxcert.smoothing._votes import keys_of_inputs

FAMILIES = ("gaussian", "uniform")
SCORES = ("logits", "probabilities")
# Stages of the key, none of which a certifier folds: no certificate ever sees this noise.
SOFT_RADIUS_STAGE, OPTIMIZATION_STAGE, ANISOTROPIC_STAGE = range(101, 104)
# How far the scores of an input may be from a sum of 1, rounding in half precision included.
_SUM_TOLERANCE = 0.01


def soft_radius_estimate(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: Noise,
    num_samples: int = 100,
    max_probability: float = 0.999,
    scores: str = "logits",
    ids: ArrayLike | None = None,
) -> jax.Array:
    r"""Estimate the radius of the softly smoothed classifier, differentiably.

    .. math::
        R = \frac{\sigma}{2} \bigl( \Phi^{-1}(p_A) - \Phi^{-1}(p_B) \bigr), \qquad
        R_{uniform} = \lambda (p_A - p_B)

    p_A and p_B being the two largest of the mean probabilities :math:`E\,\mathrm{softmax}(f(x +
    \epsilon))`. A smooth stand-in for the certified radius: `jax.grad` of it with respect to the
    scale of the noise, the inputs or the weights is what trains or chooses them.

    Args:
      key: a typed threefry key; the noise is that of no certifier with the same key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`.
      inputs: floating `[b, *shape]`.
      noise: Gaussian or uniform, with a scalar scale or one value an input `[b]`.
      num_samples: draws of noise for each input.
      max_probability: mean probabilities are cut to `[1 - max_probability, max_probability]`, as
        quantiles of means of few samples are worthless beyond; uniform noise needs no cut.
      scores: `"logits"`, to which a softmax is applied, or `"probabilities"`.
      ids: integers `[b]` that identify each input's noise; its position by default.

    Returns:
      float32 `[b]`, in the units of the inputs; NaN where a score is not finite or, as traced
      values cannot raise, where scores are no probabilities.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument has a wrong value or shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-4 * x[:, 0], 4 * x[:, 0]], axis=1)
      >>> smoothing.soft_radius_estimate(
      ...     jax.random.key(7), classify, jnp.array([[0.25], [1.0]]),
      ...     noise=smoothing.gaussian(0.5), num_samples=1000,
      ... ) < jnp.array([0.3, 1.0])
      Array([ True,  True], dtype=bool)

    References:
      Alfarra, Bibi, Torr, Ghanem, "Data Dependent Randomized Smoothing", 2022, arXiv:2012.04351.
      Zhai et al., "MACER: Attack-free and Scalable Robust Training via Maximizing Certified
      Radius", 2020, arXiv:2001.02378.
    """
    if noise.family not in FAMILIES:
        raise ValueError(f"noise must be one of {', '.join(FAMILIES)}, got {noise.family}")
    check_settings(max_probability, scores)
    num_classes = count_classes(classify, inputs)
    batch, _, (key, partial, inputs, noise, ids) = prepare(
        key, classify, inputs, noise=noise, num_samples=num_samples, num_classes=num_classes,
        ids=ids, chunk_size=None, images_axis=1, samples_axis=1,
    )  # fmt: skip
    return _estimate(
        jax.random.fold_in(key, SOFT_RADIUS_STAGE), partial, inputs, noise, ids,
        num_samples=num_samples, max_probability=max_probability, scores=scores,
    )[:batch]  # fmt: skip


@functools.partial(jax.jit, static_argnames=("num_samples", "max_probability", "scores"))
def _estimate(
    key: jax.Array,
    classify: jax.tree_util.Partial,
    inputs: jax.Array,
    noise: Noise,
    ids: jax.Array,
    *,
    num_samples: int,
    max_probability: float,
    scores: str,
) -> jax.Array:
    rows = jnp.repeat(jnp.arange(len(inputs)), num_samples)
    samples = jnp.tile(jnp.arange(num_samples), len(inputs))
    unit = Noise(noise.family, jnp.ones((), jnp.float32))
    drawn = draw_unit(unit, key, ids[rows], samples, inputs.shape[1:])
    spread = noise.scale[rows].reshape(-1, *[1] * (inputs.ndim - 1))
    probabilities = to_probabilities(
        classify(add_noise(unit, inputs[rows], spread * drawn)), scores
    )
    mean = probabilities.reshape(len(inputs), num_samples, -1).mean(axis=1)
    return soft_radius(mean, noise.scale, noise.family, max_probability)


def draw_unit(
    unit: Noise, key: jax.Array, ids: jax.Array, samples: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Noise of scale 1 for sample `samples[t]` of the input called `ids[t]`: `[t, *shape]`."""
    return unit.sample(jax.vmap(jax.random.fold_in)(keys_of_inputs(key, ids), samples), shape)


def to_probabilities(values: jax.Array, scores: str) -> jax.Array:
    """Class probabilities `[n, classes]`, float32 at least; NaN rows where they are none."""
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if scores == "logits":
        return jax.nn.softmax(values, axis=-1)
    total = jnp.sum(values, axis=-1, keepdims=True)
    lowest = jnp.min(values, axis=-1, keepdims=True)
    is_distribution = (jnp.abs(total - 1) <= _SUM_TOLERANCE) & (lowest >= -_SUM_TOLERANCE)
    return jnp.where(is_distribution, values, jnp.nan)


def soft_radius(
    mean: jax.Array, scale: jax.Array, family: str, max_probability: float
) -> jax.Array:
    """The radius `[n]` that mean probabilities `[n, classes]` suggest at such scales `[n]`."""
    return scale * soft_gap(mean, family, max_probability)


def soft_gap(mean: jax.Array, family: str, max_probability: float) -> jax.Array:
    """That radius at scale 1: half the gap of quantiles, or the gap of probabilities."""
    top = jax.lax.top_k(mean, 2)[0]
    first, second = top[:, 0], top[:, 1]
    if family == "uniform":
        return first - second
    first, second = (
        special.ndtri(jnp.clip(p, 1 - max_probability, max_probability)) for p in (first, second)
    )
    return (first - second) / 2


def check_settings(max_probability: float, scores: str) -> None:
    """Raise unless these are settings of a soft radius."""
    if _checks.probability("max_probability", max_probability) <= 0.5:
        raise ValueError(f"max_probability must be above 1/2, got {max_probability}")
    if scores not in SCORES:
        raise ValueError(f"scores must be one of {', '.join(SCORES)}, got {scores!r}")


def count_classes(classify: Classifier, inputs: ArrayLike) -> int:
    """How many scores `classify` gives such inputs; at least 2, or it raises."""
    array = _checks.batch_of_inputs("inputs", inputs)
    try:
        scores, _ = trace_classifier(as_partial(classify), array.shape[1:], array.dtype)
        num_classes = int(scores.shape[-1])
    except TypeError:
        raise
    except Exception as error:
        raise ValueError(
            f"classify must return scores [n, classes] for inputs of shape {array.shape} and "
            f"dtype {array.dtype}, and it failed: {error}"
        ) from error
    if num_classes < 2:
        raise ValueError(f"classify must tell at least two classes, got {num_classes}")
    return num_classes


def check_probabilities(name: str, classify: Classifier, inputs: jax.Array, scores: str) -> None:
    """Raise if the scores of the inputs themselves, known now, are no probabilities."""
    if scores == "logits" or not all(
        _checks.is_concrete(leaf) for leaf in jax.tree.leaves((classify, inputs))
    ):
        return
    values = classify(inputs)
    found = to_probabilities(values, scores)
    if bool(jnp.any(jnp.isnan(found))):
        raise ValueError(
            f"{name} must return probabilities that sum to 1, got values from "
            f"{float(values.min()):.4g} to {float(values.max()):.4g} with sums from "
            f"{float(values.sum(axis=-1).min()):.4g} to {float(values.sum(axis=-1).max()):.4g}; "
            "scores before a softmax are scores='logits'"
        )


def log_volume_of_unit_ball(dimension: int, family: str) -> float:
    """Logarithm of the volume of the l2 (Gaussian) or l1 (uniform noise) ball of radius 1."""
    if family == "uniform":
        return dimension * math.log(2.0) - math.lgamma(dimension + 1.0)
    return dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2 + 1.0)
