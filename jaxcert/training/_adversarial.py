"""Adversarial training: the cross-entropy of images that an attack has moved."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxcert import _checks
from jaxcert.smoothing import Noise
from jaxcert.training._losses import cross_entropy


def adversarial_cross_entropy(
    key: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    *,
    noise: Noise | None,
    radius: float = 8 / 255,
    num_steps: int = 10,
    step_size: float | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""The cross-entropy at the end of projected gradient ascent in an l-infinity ball.

    .. math::
        \frac{1}{n} \sum_j \ell(f(x_j'), y_j), \qquad
        x' \leftarrow \Pi\bigl(x' + \eta \, \mathrm{sign} \, \nabla \ell(f(x'), y)\bigr)

    from a random point of the ball, with the projection onto the ball and onto [0, 1]. It costs
    `num_steps` + 1 times as many gradients as clean training.

    Args:
      key: this step's key.
      classify: from `[n, *shape]` to scores `[n, classes]`.
      images: `[n, *shape]` in [0, 1].
      labels: int32 `[n]`.
      noise: added to each image after the attack; None for none.
      radius: of the ball, in pixel units.
      num_steps: steps of the attack.
      step_size: of each step, in pixel units; by default 2.5 radius / num_steps.

    Returns:
      The loss and the metric `accuracy`, both on the attacked images.

    Raises:
      ValueError: if a setting is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> pixels = jnp.array([[0.2, 0.8], [0.8, 0.6]])
      >>> _, metrics = training.adversarial_cross_entropy(
      ...     jax.random.key(0), lambda x: x, pixels, jnp.array([1, 0]), noise=None, radius=0.2)
      >>> float(metrics["accuracy"])
      0.5

    References:
      Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to
      Adversarial Attacks", 2018, arXiv:1706.06083.
    """
    radius = _checks.positive_number("radius", radius)
    num_steps = _checks.positive_integer("num_steps", num_steps)
    step = 2.5 * radius / num_steps
    if step_size is not None:
        step = _checks.positive_number("step_size", step_size)

    def loss(points: jax.Array) -> jax.Array:
        scores = classify(points)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).sum()

    offsets = jax.random.uniform(
        jax.random.fold_in(key, 0), images.shape, images.dtype, -radius, radius
    )
    points = jnp.clip(images + offsets, 0, 1)
    # Written out, not a loop: XLA for CPUs is ten times as slow on convolutions within loops.
    for _ in range(num_steps):
        points = points + step * jnp.sign(jax.grad(loss)(points))
        points = jnp.clip(images + jnp.clip(points - images, -radius, radius), 0, 1)
    attacked = jax.lax.stop_gradient(points)
    return cross_entropy(jax.random.fold_in(key, 1), classify, attacked, labels, noise=noise)
