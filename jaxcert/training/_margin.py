"""Losses that ask for margins which a Lipschitz constant turns into radii."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._losses import add_noise

# Where EMMA stops to shrink the margin of a rival that is far away, as its authors do.
_LEAST_EFFECTIVE = 0.01


def margin_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    radius: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy after every rival is raised by what a radius could add to it.

    .. math::
        \mathrm{CE}\bigl(f_j + r K_{yj} [j \ne y], \; y\bigr)

    K holds the Lipschitz constants of differences of scores: `pairwise_lipschitz_estimate` of the
    network where it has that method, such as `models.LipschitzMLP`; else the square root of 2, for
    scores that are 1-Lipschitz together.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image; None for clean training.
      radius: r, l2, in pixel units, above 0.

    Returns:
      The loss and the metrics `accuracy` and `certified_estimate`, the share of images whose
      margin covers the radius; an estimate, since K is that of layers of norm 1.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> loss = functools.partial(training.margin_loss, radius=0.5)
      >>> value, metrics = loss(jax.random.key(0), lambda x: x, 2 * jnp.eye(3),
      ...                       jnp.array([0, 1, 0]), noise=None)
      >>> float(metrics["certified_estimate"].round(3))
      0.667

    References:
      Tsuzuku, Sato, Sugiyama, "Lipschitz-Margin Training: Scalable Certification of Perturbation
      Invariance for Deep Neural Networks", 2018, arXiv:1802.04034.
    """
    radius = _checks.positive_number("radius", radius)
    scores, pairwise, metrics = _evaluate(key, classify, images, labels, noise, radius)
    return _cross_entropy(scores + radius * pairwise, labels).mean(), metrics


def gloro_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    radius: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy with one more class, "not robust at this radius".

    .. math::
        \mathrm{CE}\bigl((f, f_\bot), y\bigr), \qquad
        f_\bot = \max_{j \ne i} f_j + r K_{ij}, \quad i = \arg\max_j f_j

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`; K as in `margin_loss`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image; None for clean training.
      radius: r, l2, in pixel units, above 0.

    Returns:
      The loss and the metrics `accuracy` and `certified_estimate`, as in `margin_loss`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> value, _ = training.gloro_loss(jax.random.key(0), lambda x: x, jnp.array([[9.0, 0.0]]),
      ...                                jnp.array([0]), noise=None, radius=0.5)
      >>> float(value.round(4))
      0.0004

    References:
      Leino, Wang, Fredrikson, "Globally-Robust Neural Networks", 2021, arXiv:2102.08452.
    """
    radius = _checks.positive_number("radius", radius)
    scores, _, metrics = _evaluate(key, classify, images, labels, noise, radius)
    top = jnp.argmax(scores, axis=1)
    constants = _constants(classify, scores)[top]
    is_top = jax.nn.one_hot(top, scores.shape[1], dtype=bool)
    rivals = jnp.where(is_top, -jnp.inf, scores + radius * constants)
    scores = jnp.concatenate([scores, rivals.max(axis=1, keepdims=True)], axis=1)
    return _cross_entropy(scores, labels).mean(), metrics


def emma_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    radius: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Efficient margin maximisation: each rival is raised by no more than makes it tie.

    .. math::
        \mathrm{CE}\bigl(f_j + e_j r K_{yj} [j \ne y], \; y\bigr), \qquad
        e_j = \mathrm{clip}\Bigl(\frac{f_y - f_j}{r K_{yj}}, 0.01, 1\Bigr)

    with e as a constant to differentiation.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`; K as in `margin_loss`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image; None for clean training.
      radius: r, l2, in pixel units, above 0.

    Returns:
      The loss and the metrics `accuracy` and `certified_estimate`, as in `margin_loss`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> value, _ = training.emma_loss(jax.random.key(0), lambda x: x, jnp.array([[0.1, 0.0]]),
      ...                               jnp.array([0]), noise=None, radius=0.5)
      >>> float(value.round(4))  # a tie of two classes
      0.6931

    References:
      Hu, Zou, Wang, Leino, Fredrikson, "Unlocking Deterministic Robustness Certification on
      ImageNet", 2023, arXiv:2301.12549, section 4.
    """
    radius = _checks.positive_number("radius", radius)
    scores, pairwise, metrics = _evaluate(key, classify, images, labels, noise, radius)
    gaps = _label_scores(scores, labels) - scores
    reach = radius * pairwise
    needed = gaps / jnp.where(reach > 0.0, reach, 1.0)
    effective = jax.lax.stop_gradient(jnp.clip(needed, _LEAST_EFFECTIVE, 1.0))
    return _cross_entropy(scores + effective * reach, labels).mean(), metrics


def offset_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    offset: float = 1.5 * math.sqrt(2.0),
    temperature: float = 0.25,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy with an offset on the label's score, and a temperature.

    .. math::
        T \, \mathrm{CE}\bigl((f - u \, \mathbf{1}_y) / T, \; y\bigr)

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image; None for clean training.
      offset: u, in units of the scores; the least margin that leaves the loss small.
      temperature: T, above 0.

    Returns:
      The loss and the metric `accuracy`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> value, _ = training.offset_loss(jax.random.key(0), lambda x: x, jnp.array([[2.0, 1.0]]),
      ...                                 jnp.array([0]), noise=None, offset=1.0, temperature=0.5)
      >>> float(value.round(4))
      0.3466

    References:
      Prach, Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks",
      2022, arXiv:2208.03160, section 4.
    """
    temperature = _checks.positive_number("temperature", temperature)
    offset = _checks.positive_number("offset", offset)
    scores, _, metrics = _evaluate(key, classify, images, labels, noise, None)
    lowered = (scores - offset * _is_label(scores, labels)) / temperature
    return temperature * _cross_entropy(lowered, labels).mean(), metrics


def logit_annealing_loss(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    offset: float = 2.0,
    temperature: float = 0.75,
    annealing: float = 5.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy with an offset that lets go of images whose margin is large already.

    .. math::
        -T (1 - p_y)^\beta \log p_y, \qquad
        p = \mathrm{softmax}\bigl((f - \xi \, \mathbf{1}_y) / T\bigr)

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in pixel units.
      labels: int32 `[n]`.
      noise: added to each image; None for clean training.
      offset: xi, in units of the scores.
      temperature: T, above 0.
      annealing: beta, above 0.

    Returns:
      The loss and the metric `accuracy`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> value, _ = training.logit_annealing_loss(
      ...     jax.random.key(0), lambda x: x, jnp.array([[2.0, 0.0]]), jnp.array([0]), noise=None,
      ...     annealing=1.0)
      >>> float(value.round(4))  # p = 1/2
      0.2599

    References:
      Lai, Huang, Kung, Chen, "Enhancing Certified Robustness via Block Reflector Orthogonal Layers
      and Logit Annealing Loss", 2025, arXiv:2505.15174.
    """
    temperature = _checks.positive_number("temperature", temperature)
    offset = _checks.positive_number("offset", offset)
    annealing = _checks.positive_number("annealing", annealing)
    scores, _, metrics = _evaluate(key, classify, images, labels, noise, None)
    lowered = (scores - offset * _is_label(scores, labels)) / temperature
    losses = _cross_entropy(lowered, labels)
    # 1 - p, whose power has no gradient at 0 for annealing below 1.
    rest = jnp.maximum(-jnp.expm1(-losses), jnp.finfo(losses.dtype).tiny)
    return temperature * (rest**annealing * losses).mean(), metrics


def _evaluate(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    noise: Noise | None,
    radius: float | None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Scores `[n, classes]`, the constants of each label `[n, classes]`, and metrics."""
    scores = classify(add_noise(key, images, noise=noise))
    chex.assert_rank([scores, labels], [2, 1])
    chex.assert_equal_shape_prefix([scores, labels], 1)
    metrics = {"accuracy": (scores.argmax(axis=-1) == labels).mean()}
    is_label = _is_label(scores, labels)
    pairwise = jnp.where(is_label > 0, 0.0, _constants(classify, scores)[labels])
    if radius is not None:
        rivals = jnp.where(is_label > 0, -jnp.inf, scores + radius * pairwise)
        is_certified = _label_scores(scores, labels)[:, 0] > rivals.max(axis=1)
        metrics["certified_estimate"] = is_certified.mean()
    return scores, pairwise, metrics


def _constants(classify: Any, scores: jax.Array) -> jax.Array:
    """Lipschitz constants of the differences of scores, `[classes, classes]`."""
    of_network = getattr(classify, "pairwise_lipschitz_estimate", None)
    if of_network is not None:
        return of_network().astype(scores.dtype)
    classes = scores.shape[1]
    return jnp.full((classes, classes), math.sqrt(2.0), scores.dtype)


def _is_label(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return jax.nn.one_hot(labels, scores.shape[1], dtype=scores.dtype)


def _label_scores(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(scores, labels[:, None], axis=1)


def _cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels)
