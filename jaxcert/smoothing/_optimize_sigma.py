"""The noise level of each input that maximises its softly smoothed radius."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing._chunks import ChunkShape
from jaxcert.smoothing._noise import Noise, add_noise
from jaxcert.smoothing._sampling import prepare
from jaxcert.smoothing._soft_radius import (
    FAMILIES,
    OPTIMIZATION_STAGE,
    check_probabilities,
    check_settings,
    count_classes,
    draw_unit,
    soft_radius,
    to_probabilities,
)
from jaxcert.smoothing._votes import NonFiniteScoresError

# Without bounds, sigma stays within this factor of where it started.
_DEFAULT_RANGE = 4.0


def optimize_sigma(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    initial_sigma: ArrayLike,
    num_steps: int = 100,
    num_samples: int = 100,
    learning_rate: float = 0.05,
    bounds: tuple[float, float] | None = None,
    family: str = "gaussian",
    max_probability: float = 0.999,
    scores: str = "logits",
    keep_better: bool = True,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> jax.Array:
    r"""Choose for each input the sigma with the largest softly smoothed radius, by gradient ascent.

    .. math::
        \log \sigma \leftarrow \log \sigma + \eta_t \frac{\partial R}{\partial \sigma}, \qquad
        R(\sigma) = \frac{\sigma}{2} \bigl( \Phi^{-1}(p_A(\sigma)) - \Phi^{-1}(p_B(\sigma)) \bigr)

    with :math:`p(\sigma) = E\,\mathrm{softmax}(f(x + \sigma \epsilon))`, estimated on fresh noise
    in every step, the learning rate falling linearly to 0, and sigma kept within `bounds`. The
    slope has no unit, so one learning rate fits inputs of any scale. For uniform noise sigma is the
    half-width and R = sigma (p_A - p_B).

    What comes out is a choice, not a certificate, and a certificate at a sigma chosen by looking at
    the input says nothing about its neighbours, which would have chosen another: use
    `certify_with_memory`. The noise is that of no certifier, even one with the same key.

    Args:
      key: a typed threefry key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`, row by
        row; it is differentiated forwards, which a `jax.custom_vjp` in it does not allow.
      inputs: floating `[b, *shape]`.
      initial_sigma: where to start, a scalar or one value an input `[b]`.
      num_steps: steps of the ascent.
      num_samples: draws of noise for each input in each step.
      learning_rate: eta of the first step, above 0.
      bounds: the least and the largest sigma; a factor of 4 either way from the start by default.
        Without a cap the ascent can run away to a sigma at which the noise drowns every input.
      family: `"gaussian"` or `"uniform"`.
      max_probability: see `soft_radius_estimate`; the certifier's `alpha ** (1 / num_samples)` is
        the most that it can prove.
      scores: `"logits"`, to which a softmax is applied, or `"probabilities"`.
      keep_better: keep the initial sigma of an input where, on fresh noise, its estimated radius is
        no smaller than at the end of the ascent.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.

    Returns:
      float32 `[b]`, differentiable with respect to inputs, initial sigma and the arrays of a
      `Partial` classifier. Where traced values do not allow an error, an input whose scores were
      not finite, or no probabilities, keeps its initial sigma.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument has a wrong value or shape, or scores are no probabilities.
      NonFiniteScoresError: if the ascent diverged: a slope was NaN or infinite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):  # class 1 on [-1, 1]
      ...     return jnp.stack([20 * x[:, 0] ** 2, 20 * jnp.ones(len(x))], axis=1)
      >>> smoothing.optimize_sigma(
      ...     jax.random.key(7), classify, jnp.array([[0.0], [3.0]]),
      ...     initial_sigma=0.25, bounds=(0.05, 1.0),
      ... ) > jnp.array([0.25, 0.5])
      Array([ True,  True], dtype=bool)

    References:
      Alfarra, Bibi, Torr, Ghanem, "Data Dependent Randomized Smoothing", 2022, arXiv:2012.04351.
    """
    num_steps = _checks.positive_integer("num_steps", num_steps)
    num_samples = _checks.positive_integer("num_samples", num_samples)
    if _checks.is_concrete(learning_rate):
        learning_rate = _checks.positive_number("learning_rate", learning_rate)
    check_settings(max_probability, scores)
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    sigma = _checks.positive_values("initial_sigma", initial_sigma).astype(jnp.float32)
    batch = _checks.batch_of_inputs("inputs", inputs).shape[0]
    _checks.one_value_per_input("initial_sigma", sigma, batch)
    limits = _limits(sigma, bounds)
    _, shape, operands = prepare(
        key, classify, inputs, noise=Noise(family, sigma), num_samples=num_samples,
        num_classes=count_classes(classify, inputs), ids=ids, chunk_size=chunk_size, images_axis=1,
        samples_axis=1,
    )  # fmt: skip
    key, partial, padded, noise, numbers = operands
    check_probabilities("classify", as_partial(classify), padded[:batch], scores)
    lower, upper = (jnp.broadcast_to(limit, sigma.shape) for limit in limits)
    if sigma.ndim:
        lower, upper = (
            jnp.pad(limit, (0, len(padded) - batch), mode="edge") for limit in (lower, upper)
        )
    found, is_finite = _optimize(
        jax.random.fold_in(key, OPTIMIZATION_STAGE), partial, padded, noise.scale, numbers,
        jnp.broadcast_to(jnp.log(lower), noise.scale.shape),
        jnp.broadcast_to(jnp.log(upper), noise.scale.shape),
        jnp.asarray(learning_rate, jnp.float32), family=family, num_steps=num_steps,
        num_samples=num_samples, max_probability=float(max_probability), scores=scores,
        keep_better=keep_better, shape=shape,
    )  # fmt: skip
    if _checks.is_concrete(is_finite):
        bad = np.flatnonzero(~np.asarray(is_finite)[:batch])
        if bad.size:
            raise NonFiniteScoresError(
                "the ascent of sigma must have finite slopes, got NaN or infinity for "
                f"{bad.size} of {batch} inputs, first row {bad[0]}; are the scores of classify "
                f"finite, and {scores}, for noise up to {float(jnp.max(upper)):.3g}?"
            )
    return found[:batch]


def _limits(
    sigma: jax.Array, bounds: tuple[float, float] | None
) -> tuple[jax.Array | np.float32, jax.Array | np.float32]:
    if bounds is None:
        return sigma / np.float32(_DEFAULT_RANGE), sigma * np.float32(_DEFAULT_RANGE)
    try:
        lower, upper = (_checks.positive_number("bounds", bound) for bound in bounds)
    except TypeError as error:
        raise TypeError(f"bounds must be two numbers (lower, upper), got {bounds!r}") from error
    if not lower < upper:
        raise ValueError(f"bounds must be (lower, upper) with lower < upper, got {bounds}")
    if _checks.is_concrete(sigma):
        values = np.asarray(sigma)
        # Bounds are compared as float32, in which sigma is stored.
        if values.min() < np.float32(lower) or values.max() > np.float32(upper):
            raise ValueError(
                f"initial_sigma must lie within bounds [{lower}, {upper}], "
                f"got values from {values.min():.6g} to {values.max():.6g}"
            )
    return np.float32(lower), np.float32(upper)


@functools.partial(
    jax.jit,
    static_argnames=(
        "family", "num_steps", "num_samples", "max_probability", "scores", "keep_better", "shape",
    ),
)  # fmt: skip
def _optimize(
    key: jax.Array,
    classify: jax.tree_util.Partial,
    inputs: jax.Array,
    start: jax.Array,
    ids: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    learning_rate: jax.Array,
    *,
    family: str,
    num_steps: int,
    num_samples: int,
    max_probability: float,
    scores: str,
    keep_better: bool,
    shape: ChunkShape,
) -> tuple[jax.Array, jax.Array]:
    """Sigma of each input, and whether all its slopes were finite.

    Every input depends on its own sigma alone, so one forward derivative in the direction of ones
    gives all slopes. It needs no activation after the layer that made it, so chunks can be small,
    and costs what the backward pass to the inputs would.
    """
    unit = Noise(family, jnp.ones((), jnp.float32))
    chunks = -(-num_samples // shape.samples)

    def of_group(group: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        inputs, start, ids, lower, upper = group
        rows = jnp.repeat(inputs, shape.samples, axis=0)
        row_ids = jnp.repeat(ids, shape.samples)

        def samples_of(turn: jax.Array) -> jax.Array:
            return (turn % chunks) * shape.samples + jnp.arange(shape.samples)

        def draw(turn: jax.Array) -> jax.Array:
            # The two steps of the comparison see the same noise.
            step_key = jax.random.fold_in(key, jnp.minimum(turn // chunks, num_steps))
            samples = jnp.tile(samples_of(turn), shape.images)
            return draw_unit(unit, step_key, row_ids, samples, inputs.shape[1:])

        def total(sigma: jax.Array, drawn: jax.Array, turn: jax.Array) -> jax.Array:
            """Probabilities summed over the samples of a chunk, `[images, classes]`."""
            spread = jnp.repeat(sigma, shape.samples).reshape(-1, *[1] * (inputs.ndim - 1))
            noisy = add_noise(unit, rows, spread * drawn)
            found = to_probabilities(classify(noisy), scores)
            found = found.reshape(shape.images, shape.samples, -1)
            counted = (samples_of(turn) < num_samples)[None, :, None]
            return jnp.sum(jnp.where(counted, found, 0), axis=1).astype(jnp.float32)

        def radius(summed: jax.Array, sigma: jax.Array) -> jax.Array:
            return soft_radius(summed / num_samples, sigma, family, max_probability)

        classes = jax.eval_shape(classify, inputs).shape[-1]
        nothing = jnp.zeros((shape.images, classes), jnp.float32)

        # Steps 0, 1, ... ascend; then one measures the radius where they ended, one at the start.
        # A chunk is drawn one turn before it is classified, so that it is in memory by then: XLA
        # for CPUs otherwise draws it anew wherever a layer reads it. Turn -1 only draws.
        def take_turn(carry: Any, turn: jax.Array) -> tuple[Any, None]:
            log_sigma, is_finite, loss, summed, slopes, drawn = carry
            step, is_last = turn // chunks, turn % chunks == chunks - 1
            is_ascent = (step >= 0) & (step < num_steps)
            sigma = jnp.where(step <= num_steps, jnp.exp(log_sigma), start)
            one, slope = jax.lax.cond(
                turn >= 0,
                lambda: jax.jvp(
                    lambda sigma: total(sigma, drawn, turn), (sigma,), (jnp.ones_like(sigma),)
                ),
                lambda: (nothing, nothing),
            )
            summed, slopes = summed + one, slopes + slope
            reached, ascent = jax.jvp(radius, (summed, sigma), (slopes, jnp.ones_like(sigma)))
            fine = jnp.isfinite(reached) & jnp.isfinite(ascent)
            rate = learning_rate * (1 - step.astype(jnp.float32) / num_steps)
            moved = jnp.clip(log_sigma + rate * jnp.where(fine, ascent, 0), lower, upper)
            return (
                jnp.where(is_last & is_ascent, moved, log_sigma),
                is_finite & (fine | ~is_last | (step < 0)),
                jnp.where(is_last & (step >= num_steps), reached - loss, loss),
                jnp.where(is_last, 0, summed),
                jnp.where(is_last, 0, slopes),
                draw(turn + 1),
            ), None

        no_noise = jnp.zeros(rows.shape, jnp.float32)
        zero = jnp.zeros_like(start)
        carry = (jnp.log(start), jnp.ones(start.shape, bool), zero, nothing, nothing, no_noise)
        turns = jnp.arange(-1, (num_steps + 2 * keep_better) * chunks, dtype=jnp.int32)
        (log_sigma, is_finite, loss, *_), _ = jax.lax.scan(
            jax.checkpoint(take_turn, prevent_cse=False), carry, turns
        )
        # At the end `loss` is the radius at the start less that where the ascent ended.
        is_better = is_finite & (loss < 0) if keep_better else is_finite
        return jnp.where(is_better, jnp.exp(log_sigma), start), is_finite

    groups = jax.tree.map(
        lambda leaf: leaf.reshape(-1, shape.images, *leaf.shape[1:]),
        (inputs, start, ids, lower, upper),
    )
    sigma, is_finite = jax.lax.map(of_group, groups)
    return sigma.reshape(-1), is_finite.reshape(-1)
