"""A network under noise, as a classifier that has a gradient."""

import jax
import jax.numpy as jnp

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing import Noise


def smoothed_scores(
    key: jax.Array, classify: Classifier, *, noise: Noise, num_samples: int, shape: tuple[int, ...]
) -> jax.tree_util.Partial:
    r"""The softly smoothed classifier on fixed draws of noise: expectation over noise.

    .. math::
        F_c(x) = \log \frac{1}{m} \sum_{i=1}^m \mathrm{softmax}(f(x + \epsilon_i))_c

    The draws are the same for every input and every call, so that an attack climbs one fixed
    function. They are a sample: what fools `F` need not fool the smoothed classifier, and
    `smoothing.predict` on the result says whether it does.

    Args:
      key: a typed key; draw i uses `fold_in(key, i)`.
      classify: from `[n, *shape]` to scores `[n, classes]`, differentiable, row by row.
      noise: a `Noise` of one scale.
      num_samples: m, draws of noise.
      shape: of one input, without the batch axis.

    Returns:
      A classifier, a pytree: from `[n, *shape]` to log-probabilities `[n, classes]`.

    Raises:
      ValueError: if a setting does not fit.
      TypeError: if a type does not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import attacks, smoothing
      >>> halves = lambda x: jnp.stack([x[:, 0], -x[:, 0]], axis=1)
      >>> soft = attacks.smoothed_scores(
      ...     jax.random.key(0), halves, noise=smoothing.gaussian(0.5), num_samples=64, shape=(2,))
      >>> soft(jnp.ones((5, 2))).shape
      (5, 2)

    References:
      Salman et al., "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers",
      2019, arXiv:1906.04584. Athalye, Engstrom, Ilyas, Kwok, "Synthesizing Robust Adversarial
      Examples", 2018, arXiv:1707.07397.
    """
    key = _checks.typed_key("key", key)
    num_samples = _checks.positive_integer("num_samples", num_samples)
    if noise.scale.shape != ():
        raise ValueError(f"noise must have one scale for all inputs, got {noise.scale.shape}")
    keys = jax.vmap(lambda sample: jax.random.fold_in(key, sample))(jnp.arange(num_samples))
    draws = jax.vmap(lambda one: noise.sample(one, tuple(shape)))(keys)
    return jax.tree_util.Partial(_log_mean_softmax, as_partial(classify), draws)


def _log_mean_softmax(
    classify: jax.tree_util.Partial, draws: jax.Array, inputs: jax.Array
) -> jax.Array:
    noisy = inputs[:, None] + draws[None]
    scores = classify(noisy.reshape(-1, *inputs.shape[1:]))
    logs = jax.nn.log_softmax(scores).reshape(inputs.shape[0], draws.shape[0], -1)
    return jax.nn.logsumexp(logs, axis=1) - jnp.log(draws.shape[0])
