"""Losses that interval bounds make: what the network could at worst answer within a box."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxcert import _checks, attacks, lipschitz
from jaxcert.lipschitz import Layer
from jaxcert.smoothing import Noise
from jaxcert.training._interval_layers import interval_layers
from jaxcert.training._losses import add_noise

_UNIT_BOX = (0.0, 1.0)

LayersOf = Callable[[Any], Sequence[Layer]]


def ibp_loss(
    key: jax.Array,
    classify: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    epsilon: ArrayLike,
    clean_weight: ArrayLike = 0.0,
    layers_of: LayersOf = interval_layers,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy of the worst scores that interval bounds allow on a box around each image.

    .. math::
        \kappa \, \mathrm{CE}(f(x), y) + (1 - \kappa) \, \mathrm{CE}(z(x, \varepsilon), y), \qquad
        z_j = -\underline{(f_y - f_j)}

    where the lower bound is over the l-infinity ball of radius epsilon, cut to [0, 1], and z_y = 0.

    Args:
      key: this step's key.
      classify: the network: one that `layers_of` reads.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      noise: added to each image, which is then cut to [0, 1]; None for none.
      epsilon: at least 0, in pixel units; may be traced, such as by a schedule.
      clean_weight: kappa, in [0, 1]; may be traced.
      layers_of: from the network to its layers; see `interval_layers`.

    Returns:
      The loss and the metrics `accuracy` and `interval_accuracy`, the share of images whose label
      is certain on the whole box.

    Example:
      >>> import functools, jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> from jaxcert.lipschitz import Dense
      >>> loss, metrics = training.ibp_loss(
      ...     jax.random.key(0), [Dense(jnp.eye(2), jnp.zeros(2))], jnp.array([[0.9, 0.1]]),
      ...     jnp.array([0]), noise=None, epsilon=0.25)
      >>> float(loss.round(3)), float(metrics["interval_accuracy"])  # log(1 + exp(-0.3))
      (0.554, 1.0)

    References:
      Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably
      Robust Models", 2018, arXiv:1810.12715.
    """
    layers, images = _start(key, classify, images, labels, noise, layers_of)
    scores = lipschitz.apply_layers(layers, images)
    worst = _worst_scores(layers, images, labels, epsilon)
    clean_weight = jnp.asarray(clean_weight)
    loss = clean_weight * _cross_entropy(scores, labels).mean()
    loss += (1 - clean_weight) * _cross_entropy(worst, labels).mean()
    return loss, _metrics(scores, worst, labels)


def sabr_loss(
    key: jax.Array,
    classify: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    epsilon: ArrayLike,
    share: float,
    attack_steps: int = 8,
    layers_of: LayersOf = interval_layers,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Interval loss on a small box around an attacked image, within the ball.

    .. math::
        \mathrm{CE}(z(x', \lambda \varepsilon), y), \qquad
        x' = \mathrm{clip}\bigl(x_\mathrm{adv}, x \pm (1 - \lambda) \varepsilon\bigr)

    Args:
      key: this step's key.
      classify: the network: one that `layers_of` reads.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      noise: as in `ibp_loss`.
      epsilon: as in `ibp_loss`.
      share: lambda, in (0, 1]: the size of the small box; 1 is the interval loss.
      attack_steps: of projected gradient ascent.
      layers_of: as in `ibp_loss`.

    Returns:
      The loss and the metrics `accuracy` and `interval_accuracy`, the latter of the small box: no
      certificate for the ball.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> from jaxcert.lipschitz import Dense
      >>> loss, _ = training.sabr_loss(
      ...     jax.random.key(0), [Dense(jnp.eye(2), jnp.zeros(2))], jnp.array([[0.9, 0.1]]),
      ...     jnp.array([0]), noise=None, epsilon=0.25, share=0.5)
      >>> float(loss.round(3))  # a linear network is attacked exactly
      0.554

    References:
      Müller, Eckert, Fischer, Vechev, "Certified Training: Small Boxes are All You Need", 2023,
      arXiv:2210.04871.
    """
    share = _share("share", share)
    layers, images = _start(key, classify, images, labels, noise, layers_of)
    attacked = _attacked(key, layers, images, labels, epsilon, attack_steps)
    room = (1 - share) * jnp.asarray(epsilon, images.dtype)
    middle = jnp.clip(attacked, images - room, images + room)
    worst = _worst_scores(layers, jnp.clip(middle, *_UNIT_BOX), labels, share * epsilon)
    scores = lipschitz.apply_layers(layers, images)
    return _cross_entropy(worst, labels).mean(), _metrics(scores, worst, labels)


def cc_ibp_loss(
    key: jax.Array,
    classify: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    epsilon: ArrayLike,
    mixing: ArrayLike,
    attack_steps: int = 8,
    layers_of: LayersOf = interval_layers,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Cross-entropy of a convex combination of attacked scores and of interval bounds.

    .. math::
        \mathrm{CE}\bigl((1 - a) z_\mathrm{adv} + a z(x, \varepsilon), y\bigr), \qquad
        z_{\mathrm{adv}, j} = f_j(x_\mathrm{adv}) - f_y(x_\mathrm{adv})

    Args:
      key: this step's key.
      classify: the network: one that `layers_of` reads.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      noise: as in `ibp_loss`.
      epsilon: as in `ibp_loss`.
      mixing: a, in [0, 1]: 0 is adversarial training, 1 the interval loss; may be traced.
      attack_steps: of projected gradient ascent.
      layers_of: as in `ibp_loss`.

    Returns:
      The loss and the metrics `accuracy` and `interval_accuracy`, as in `ibp_loss`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> from jaxcert.lipschitz import Dense
      >>> loss, _ = training.cc_ibp_loss(
      ...     jax.random.key(0), [Dense(jnp.eye(2), jnp.zeros(2))], jnp.array([[0.9, 0.1]]),
      ...     jnp.array([0]), noise=None, epsilon=0.25, mixing=0.1)
      >>> float(loss.round(3))
      0.554

    References:
      De Palma, Bunel, Dvijotham, Kumar, Stanforth, Lomuscio, "Expressive Losses for Verified
      Robustness via Convex Combinations", 2024, arXiv:2305.13991.
    """
    scores, attacked, worst = _adversarial(
        key, classify, images, labels, noise, epsilon, attack_steps, layers_of
    )
    mixing = jnp.asarray(mixing)
    of_label = jnp.take_along_axis(attacked, labels[:, None], axis=1)
    mixed = (1 - mixing) * (attacked - of_label) + mixing * worst
    return _cross_entropy(mixed, labels).mean(), _metrics(scores, worst, labels)


def mtl_ibp_loss(
    key: jax.Array,
    classify: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    epsilon: ArrayLike,
    mixing: ArrayLike,
    attack_steps: int = 8,
    layers_of: LayersOf = interval_layers,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Convex combination of the adversarial and of the interval loss.

    .. math::
        (1 - a) \, \mathrm{CE}(f(x_\mathrm{adv}), y) + a \, \mathrm{CE}(z(x, \varepsilon), y)

    Args:
      key: this step's key.
      classify: the network: one that `layers_of` reads.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      noise: as in `ibp_loss`.
      epsilon: as in `ibp_loss`.
      mixing: a, in [0, 1]; may be traced.
      attack_steps: of projected gradient ascent.
      layers_of: as in `ibp_loss`.

    Returns:
      The loss and the metrics `accuracy` and `interval_accuracy`, as in `ibp_loss`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> from jaxcert.lipschitz import Dense
      >>> loss, _ = training.mtl_ibp_loss(
      ...     jax.random.key(0), [Dense(jnp.eye(2), jnp.zeros(2))], jnp.array([[0.9, 0.1]]),
      ...     jnp.array([0]), noise=None, epsilon=0.25, mixing=0.1)
      >>> float(loss.round(3))
      0.554

    References:
      De Palma et al., 2024, arXiv:2305.13991, as for `cc_ibp_loss`.
    """
    scores, attacked, worst = _adversarial(
        key, classify, images, labels, noise, epsilon, attack_steps, layers_of
    )
    mixing = jnp.asarray(mixing)
    loss = (1 - mixing) * _cross_entropy(attacked, labels).mean()
    loss += mixing * _cross_entropy(worst, labels).mean()
    return loss, _metrics(scores, worst, labels)


def smooth_ramp(step: ArrayLike, *, begin: int, length: int, final: float) -> jax.Array:
    r"""Raise a value from 0 without a jump: slowly over a first quarter, then linearly.

    With t = (step - begin) / length cut to [0, 1] and m = 1/4,

    .. math::
        v = \begin{cases} c \, t^4 & t \le m \\ 4 c \, m^3 (t - m) + c \, m^4 & t > m \end{cases}

    times the final value, where c makes v = 1 at t = 1; value and slope are continuous at m.

    Args:
      step: number of the step, an integer; may be traced.
      begin: the last step at 0.
      length: steps from there to the final value.
      final: the value from then on, such as epsilon.

    Returns:
      The value at this step, a float32 scalar.

    Example:
      >>> from jaxcert import training
      >>> [float(training.smooth_ramp(step, begin=10, length=100, final=0.1))
      ...  for step in (0, 10, 110, 500)]
      [0.000, 0.000, 0.100, 0.100]

    References:
      Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning, Hsieh, "Towards Stable and Efficient Training
      of Verifiably Robust Neural Networks", 2020, arXiv:1906.06316, whose code has such a ramp.
    """
    begin = _checks.positive_integer("begin", begin, minimum=0)
    length = _checks.positive_integer("length", length)
    time = jnp.clip((jnp.asarray(step, jnp.float32) - begin) / length, 0.0, 1.0)
    middle = 0.25
    scale = 1.0 / (4 * middle**3 * (1 - middle) + middle**4)
    slow = scale * time**4
    linear = scale * (4 * middle**3 * (time - middle) + middle**4)
    return final * jnp.where(time <= middle, slow, linear)


def _start(
    key: jax.Array,
    classify: Any,
    images: jax.Array,
    labels: jax.Array,
    noise: Noise | None,
    layers_of: LayersOf,
) -> tuple[list[Layer], jax.Array]:
    """The layers of the network, and the images with noise within [0, 1]."""
    chex.assert_rank(labels, 1)
    chex.assert_equal_shape_prefix([images, labels], 1)
    if noise is not None:
        images = jnp.clip(add_noise(key, images, noise=noise), *_UNIT_BOX)
    return list(layers_of(classify)), images


def _adversarial(
    key: jax.Array,
    classify: Any,
    images: jax.Array,
    labels: jax.Array,
    noise: Noise | None,
    epsilon: ArrayLike,
    attack_steps: int,
    layers_of: LayersOf,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores of the images, scores of the attacked images, and the worst of the interval bounds."""
    layers, images = _start(key, classify, images, labels, noise, layers_of)
    attacked = _attacked(key, layers, images, labels, epsilon, attack_steps)
    return (
        lipschitz.apply_layers(layers, images),
        lipschitz.apply_layers(layers, attacked),
        _worst_scores(layers, images, labels, epsilon),
    )


def _attacked(
    key: jax.Array,
    layers: list[Layer],
    images: jax.Array,
    labels: jax.Array,
    epsilon: ArrayLike,
    steps: int,
) -> jax.Array:
    """Images attacked within the ball; constants to differentiation."""
    frozen = jax.lax.stop_gradient(layers)
    # The rows of `add_noise` fold small numbers, augmentations 2**32 - 1.
    attack = attacks.pgd(
        jax.random.fold_in(key, 2**32 - 2), jax.tree_util.Partial(_scores, frozen), images, labels,
        radius=epsilon, norm="linf", num_steps=steps, objective="cross_entropy", bounds=_UNIT_BOX,
    )  # fmt: skip
    return jax.lax.stop_gradient(attack.inputs)


def _scores(layers: list[Layer], images: jax.Array) -> jax.Array:
    return lipschitz.apply_layers(layers, images)


def _worst_scores(
    layers: list[Layer], images: jax.Array, labels: jax.Array, epsilon: ArrayLike
) -> jax.Array:
    """The most that each class can exceed the label by, `[n, classes]`, 0 at the label."""
    region = lipschitz.ball(images, epsilon, norm="linf", box=_UNIT_BOX)
    margins = lipschitz.margin_lower(layers, region, labels, method="interval")
    is_label = jax.nn.one_hot(labels, margins.shape[1], dtype=bool)
    return jnp.where(is_label, 0.0, -margins)


def _cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels)


def _metrics(scores: jax.Array, worst: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    is_label = jax.nn.one_hot(labels, worst.shape[1], dtype=bool)
    certain = jnp.all((worst < 0) | is_label, axis=1)
    return {
        "accuracy": (scores.argmax(axis=1) == labels).mean(),
        "interval_accuracy": certain.mean(),
    }


def _share(name: str, value: float) -> float:
    number = _checks.positive_number(name, value)
    if number > 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value}")
    return number
