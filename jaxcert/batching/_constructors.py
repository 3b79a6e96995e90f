"""The samplings by name, with their arguments checked."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching._sampling import Sampling

# Constants that rounding puts past each other are no error.
_SLACK = 1e-5


def nice(example_smoothness: ArrayLike, *, smoothness: ArrayLike) -> Sampling:
    r"""Batches of exactly tau different examples, all such sets equally likely.

    .. math::
        v_i = n / \tau, \quad
        \mathcal{L} = \frac{n (\tau - 1) L + (n - \tau) L_{max}}{\tau (n - 1)}, \quad
        \sigma = \frac{(\tau - 1) n h + (n - \tau) \bar h}{\tau (n - 1)}

    Args:
      example_smoothness: `[n]`, :math:`L_i` of each example, above 0.
      smoothness: L of the mean, with :math:`L \le L_{max} \le n L`.

    Returns:
      A `Sampling`.

    Raises:
      ValueError: if a constant is not above 0, or L is out of its range.

    Example:
      >>> from jaxcert import batching
      >>> batching.nice([1.0, 3.0], smoothness=2.0).expected_smoothness(1)
      Array(3., dtype=float32)

    References:
      Gower et al., "SGD: General Analysis and Improved Rates", 2019, arXiv:1901.09401.
    """
    return _one_part("nice", example_smoothness, smoothness, None)


def independent(
    example_smoothness: ArrayLike,
    *,
    smoothness: ArrayLike,
    importance: str = "uniform",
    weights: ArrayLike | None = None,
) -> Sampling:
    r"""Batches that hold each example independently of the others, tau of them on average.

    .. math::
        v_i = 1 / p_i, \quad \mathcal{L} = L + \frac{1}{n} \max_i \frac{1 - p_i}{p_i} L_i, \quad
        \sigma = h + \frac{1}{n^2} \sum_i \frac{1 - p_i}{p_i} h_i, \quad \sum_i p_i = \tau

    Args:
      example_smoothness: `[n]`, :math:`L_i` of each example, above 0.
      smoothness: L of the mean, with :math:`L \le L_{max} \le n L`.
      importance: `"uniform"` for :math:`p_i = \tau / n`; `"smoothness"` for the probabilities
        :math:`L_i / (L_i + \delta)` of least expected smoothness; `"weights"` for
        :math:`\min(1, c w_i)`, of least noise when the weights are the norms of the gradients.
      weights: `[n]`, above 0, for `importance="weights"` only.

    Returns:
      A `Sampling`.

    Raises:
      ValueError: if a constant is not above 0, L is out of its range, or `importance` and
        `weights` do not fit together.

    Example:
      >>> from jaxcert import batching
      >>> sampling = batching.independent([1.0, 3.0], smoothness=2.0, importance="smoothness")
      >>> sampling.inclusion_probabilities(1).round(4)
      Array([0.366, 0.634], dtype=float32)

    References:
      Hanzely, Richtarik, "Accelerated Coordinate Descent with Arbitrary Sampling and Best Rates for
      Minibatches", 2018, arXiv:1809.09354, for the probabilities.
    """
    return _one_part("independent", example_smoothness, smoothness, weights, importance)


def with_replacement(
    example_smoothness: ArrayLike,
    *,
    smoothness: ArrayLike,
    probabilities: ArrayLike | None = None,
) -> Sampling:
    r"""Batches of tau independent draws of one example.

    .. math::
        \mathcal{L} = \Big(1 - \frac{1}{\tau}\Big) L + \frac{1}{\tau} \max_i \frac{L_i}{n p_i},
        \quad
        \sigma = \Big(1 - \frac{1}{\tau}\Big) h + \frac{1}{\tau n^2} \sum_i \frac{h_i}{p_i}

    Args:
      example_smoothness: `[n]`, :math:`L_i` of each example, above 0.
      smoothness: L of the mean, with :math:`L \le L_{max} \le n L`.
      probabilities: `[n]`, :math:`p_i` above 0, scaled to add up to 1; uniform by default.

    Returns:
      A `Sampling`; its `inclusion_probabilities` are those of one draw.

    Raises:
      ValueError: if a constant or probability is not above 0, or L is out of its range.

    Example:
      >>> from jaxcert import batching
      >>> sampling = batching.with_replacement(
      ...     [1.0, 3.0], smoothness=2.0, probabilities=[0.25, 0.75]
      ... )
      >>> sampling.expected_smoothness(4)
      Array(2., dtype=float32)
    """
    return _one_part(
        "with_replacement", example_smoothness, smoothness, probabilities,
        "uniform" if probabilities is None else "weights", "probabilities",
    )  # fmt: skip


def partition_nice(
    example_smoothness: ArrayLike,
    *,
    part_smoothness: ArrayLike,
    part_of_example: ArrayLike,
    part_probabilities: ArrayLike | None = None,
) -> Sampling:
    r"""Batches of tau different examples of one random part: data that lie in several places.

    .. math::
        v_i = \frac{n_j}{q_j \tau}, \quad \mathcal{L} = \max_j \frac{n_j}{n q_j \tau e_j}
        [n_j (\tau - 1) L_j + (n_j - \tau) L_{max,j}], \quad e_j = \max(n_j - 1, 1)

    Args:
      example_smoothness: `[n]`, :math:`L_i` of each example, above 0.
      part_smoothness: `[m]`, :math:`L_j` of the mean over each part.
      part_of_example: integers `[n]` in [0, m); no part is empty.
      part_probabilities: `[m]`, :math:`q_j` above 0, scaled to add up to 1; :math:`n_j / n` by
        default.

    Returns:
      A `Sampling` of batches up to the size of the smallest part.

    Raises:
      ValueError: if a constant is not above 0, a smoothness is out of its range, or a part is empty
        or out of range.

    Example:
      >>> from jaxcert import batching
      >>> sampling = batching.partition_nice(
      ...     [1.0, 1.0, 2.0, 2.0], part_smoothness=[1.0, 2.0], part_of_example=[0, 0, 1, 1]
      ... )
      >>> int(sampling.max_batch_size)
      2
    """
    return _partition(
        "nice", example_smoothness, part_smoothness, part_of_example, part_probabilities, "uniform"
    )


def partition_independent(
    example_smoothness: ArrayLike,
    *,
    part_smoothness: ArrayLike,
    part_of_example: ArrayLike,
    part_probabilities: ArrayLike | None = None,
    importance: str = "uniform",
) -> Sampling:
    r"""Batches that hold each example of one random part independently of the others.

    .. math::
        v_i = \frac{1}{q_j p_i}, \quad \mathcal{L} = \max_j \frac{1}{n q_j}
        \Big[n_j L_j + \max_{i \in C_j} \frac{1 - p_i}{p_i} L_i\Big], \quad
        \sum_{i \in C_j} p_i = \tau

    Args:
      example_smoothness: `[n]`, :math:`L_i` of each example, above 0.
      part_smoothness: `[m]`, :math:`L_j` of the mean over each part.
      part_of_example: integers `[n]` in [0, m); no part is empty.
      part_probabilities: `[m]`, :math:`q_j` above 0, scaled to add up to 1; :math:`n_j / n` by
        default.
      importance: `"uniform"` or `"smoothness"`, within each part; see `independent`.

    Returns:
      A `Sampling` of batches with tau examples on average, up to the size of the smallest part.

    Raises:
      ValueError: if a constant is not above 0, a smoothness is out of its range, or a part is empty
        or out of range.

    Example:
      >>> from jaxcert import batching
      >>> sampling = batching.partition_independent(
      ...     [1.0, 1.0, 2.0, 2.0], part_smoothness=[1.0, 2.0], part_of_example=[0, 0, 1, 1]
      ... )
      >>> sampling.expected_smoothness(2)
      Array(2., dtype=float32)
    """
    return _partition(
        "independent", example_smoothness, part_smoothness, part_of_example, part_probabilities,
        importance,
    )  # fmt: skip


def _one_part(
    family: str,
    example_smoothness: ArrayLike,
    smoothness: ArrayLike,
    weights: ArrayLike | None,
    importance: str = "uniform",
    name: str = "weights",
) -> Sampling:
    examples = _vector("example_smoothness", example_smoothness)
    if jnp.ndim(smoothness) != 0:
        raise ValueError(f"smoothness must be a scalar, got shape {jnp.shape(smoothness)}")
    whole = _checks.positive_values("smoothness", smoothness).astype(examples.dtype)[None]
    count = examples.shape[0]
    _check_importance(importance, weights is not None)
    chosen = jnp.ones_like(examples)
    if weights is not None:
        chosen = _vector(name, weights).astype(examples.dtype)
        if chosen.shape != (count,):
            raise ValueError(f"{name} must have shape ({count},), got {chosen.shape}")
    parts = np.zeros(count, np.int32)
    _check_smoothness("smoothness", examples, whole, parts)
    return Sampling(
        family, importance, examples, whole, jnp.ones_like(whole), jnp.asarray(parts),
        jnp.asarray([count], jnp.int32), jnp.arange(count, dtype=jnp.int32),
        jnp.max(examples)[None], chosen,
    )  # fmt: skip


def _partition(
    family: str,
    example_smoothness: ArrayLike,
    part_smoothness: ArrayLike,
    part_of_example: ArrayLike,
    part_probabilities: ArrayLike | None,
    importance: str,
) -> Sampling:
    examples = _vector("example_smoothness", example_smoothness)
    smoothness = _vector("part_smoothness", part_smoothness).astype(examples.dtype)
    count, num_parts = examples.shape[0], smoothness.shape[0]
    _check_importance(importance, False)
    if not _checks.is_concrete(part_of_example):
        raise TypeError("part_of_example must be concrete integers, got a traced array")
    parts = np.asarray(part_of_example)
    if parts.shape != (count,) or not np.issubdtype(parts.dtype, np.integer):
        raise ValueError(
            f"part_of_example must be integers of shape ({count},), "
            f"got {parts.dtype} of shape {parts.shape}"
        )
    if parts.min() < 0 or parts.max() >= num_parts:
        raise ValueError(
            f"part_of_example must lie in [0, {num_parts}), one value for each part_smoothness, "
            f"got values in [{parts.min()}, {parts.max()}]"
        )
    sizes = np.bincount(parts, minlength=num_parts)
    if np.any(sizes == 0):
        raise ValueError(
            f"part_of_example must leave no part empty, got none in part {int(np.argmin(sizes))}"
        )
    probabilities = jnp.asarray(sizes / count, examples.dtype)
    if part_probabilities is not None:
        chosen = _vector("part_probabilities", part_probabilities).astype(examples.dtype)
        if chosen.shape != (num_parts,):
            raise ValueError(
                f"part_probabilities must have shape ({num_parts},), got {chosen.shape}"
            )
        probabilities = chosen / jnp.sum(chosen)
    _check_smoothness("part_smoothness", examples, smoothness, parts)
    return Sampling(
        family, importance, examples, smoothness, probabilities, jnp.asarray(parts, jnp.int32),
        jnp.asarray(sizes, jnp.int32), jnp.asarray(np.argsort(parts, kind="stable"), jnp.int32),
        jax.ops.segment_max(examples, jnp.asarray(parts), num_segments=num_parts),
        jnp.ones_like(examples),
    )  # fmt: skip


def _vector(name: str, values: ArrayLike) -> jax.Array:
    array = _checks.positive_values(name, values)
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(f"{name} must have shape [n] with n at least 1, got {array.shape}")
    return array


def _check_importance(importance: str, has_weights: bool) -> None:
    if importance not in ("uniform", "smoothness", "weights"):
        raise ValueError(
            f"importance must be 'uniform', 'smoothness' or 'weights', got {importance!r}"
        )
    if has_weights != (importance == "weights"):
        raise ValueError(
            "weights must be given for importance='weights' and for no other, got "
            f"importance={importance!r} {'with' if has_weights else 'without'} weights"
        )


def _check_smoothness(
    name: str, examples: jax.Array, smoothness: jax.Array, parts: np.ndarray
) -> None:
    """Raise unless the mean over each part is as smooth as a mean can be."""
    if not (_checks.is_concrete(examples) and _checks.is_concrete(smoothness)):
        return
    each, means = np.asarray(examples), np.asarray(smoothness)
    for part, mean in enumerate(means):
        inside = each[parts == part]
        if not inside.max() / inside.size * (1 - _SLACK) <= mean <= inside.max() * (1 + _SLACK):
            raise ValueError(
                f"{name} must lie between the largest example_smoothness over the number of "
                f"examples, {inside.max() / inside.size:.6g}, and that largest, "
                f"{inside.max():.6g}, got {mean:.6g} for part {part}"
            )
