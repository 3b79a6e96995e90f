"""From a noisy sample to a vote: the steps that every way of sampling shares."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert._classifier import Classifier
from jaxcert.smoothing._noise import Noise, add_noise

# The label of a sample with a score that is not finite: it is no vote.
NOT_FINITE = -1


class NonFiniteScoresError(FloatingPointError):
    """The classifier returned NaN or infinity for a noisy input, so nothing can be claimed."""


def keys_of_inputs(key: jax.Array, ids: jax.Array) -> jax.Array:
    """The key of each input `[b]`, which `noisy_inputs` folds the samples into."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def noisy_inputs(
    noise: Noise, inputs: jax.Array, input_keys: jax.Array, samples: jax.Array
) -> jax.Array:
    """Add to each input `[n, *shape]` the noise of a sample `[n]`, under the input's key `[n]`."""
    keys = jax.vmap(jax.random.fold_in)(input_keys, samples)
    return add_noise(noise, inputs, noise.sample(keys, inputs.shape[1:]))


def labels_of(classify: Classifier, noisy: jax.Array) -> jax.Array:
    """The class of the highest score, int32 `[n]`; `NOT_FINITE` where a score is not finite."""
    scores = classify(noisy)
    is_finite = jnp.all(jnp.isfinite(scores), axis=-1)
    return jnp.where(is_finite, jnp.argmax(scores, axis=-1).astype(jnp.int32), NOT_FINITE)


def votes_on_host(counts: jax.Array, num_samples: int) -> np.ndarray:
    """Counts as int64 `[inputs, classes]` on the host; raise if a sample was no vote."""
    host = np.asarray(counts).astype(np.int64)
    rows = np.arange(len(host))
    check_finite(num_samples - host.sum(axis=1), np.full_like(rows, num_samples), rows)
    return host


def check_finite(
    lost: np.ndarray, num_samples: np.ndarray, rows: np.ndarray, *, name: str = "classify"
) -> None:
    """Raise if a sample was no vote: `lost[t]` of `num_samples[t]` of input `rows[t]`."""
    if np.any(lost):
        first = int(np.flatnonzero(lost)[0])
        raise NonFiniteScoresError(
            f"{name} must return finite scores, got NaN or infinity for {np.count_nonzero(lost)} "
            f"of {len(rows)} inputs, first for {lost[first]} of {num_samples[first]} samples of "
            f"row {rows[first]}"
        )
