"""Scales of each coordinate that make the softly certified region large."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing._anisotropic import AnisotropicNoise
from jaxcert.smoothing._chunks import ChunkShape
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._sampling import prepare
from jaxcert.smoothing._soft_radius import (
    ANISOTROPIC_STAGE,
    FAMILIES,
    check_probabilities,
    check_settings,
    count_classes,
    draw_unit,
    soft_gap,
    to_probabilities,
)
from jaxcert.smoothing._votes import NonFiniteScoresError

# Shares of the way, in logarithms, from the isotropic scale to the optimised ones that compete.
_SHARES = (1.0, 0.75, 0.5, 0.25)


def optimize_anisotropic(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    isotropic_sigma: ArrayLike,
    num_steps: int = 100,
    num_samples: int = 100,
    learning_rate: float = 0.04,
    regularization: float = 2.0,
    max_ratio: float = 16.0,
    family: str = "gaussian",
    max_probability: float = 0.999,
    scores: str = "logits",
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> AnisotropicNoise:
    r"""Choose a scale for each coordinate that makes the certified region large (ANCER).

    .. math::
        \max_\theta \; r(\theta) \Bigl( \bigl(\textstyle\prod_k \theta_k\bigr)^{1/d}
        + \kappa \min_k \theta_k \Bigr), \qquad
        \sigma \leq \theta_k \leq \rho \sigma

    by Adam and projection, r being the gap of quantiles (for uniform noise of probabilities) of
    the two largest mean probabilities on fresh noise in every step. As no scale falls below the
    isotropic sigma, the region holds the isotropic one wherever r does not drop. At the end the
    scales, some on the way to them, and the isotropic sigma compete on fresh noise; the largest
    estimated volume wins, so that r may drop only as far as the volume gains.

    What comes out is a choice, not a certificate: see `certify_anisotropic` and
    `certify_with_memory`.

    Args:
      key: a typed threefry key; the noise is that of no certifier with the same key.
      classify: a traceable function from a batch `[n, *shape]` to scores `[n, classes]`, row by
        row, and differentiable.
      inputs: floating `[b, *shape]`.
      isotropic_sigma: the least scale, a scalar or one value an input `[b]`, such as from
        `optimize_sigma`; for uniform noise a half-width.
      num_steps: steps of Adam.
      num_samples: draws of noise for each input in each step.
      learning_rate: of Adam, above 0, in the units of the inputs.
      regularization: kappa, at least 0.
      max_ratio: rho, above 1.
      family: `"gaussian"` or `"uniform"`.
      max_probability: see `soft_radius_estimate`.
      scores: `"logits"`, to which a softmax is applied, or `"probabilities"`.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.

    Returns:
      An `AnisotropicNoise` with scales of the shape of the inputs.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument has a wrong value or shape, or scores are no probabilities.
      NonFiniteScoresError: if a gradient was NaN or infinite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):  # blind to the second coordinate
      ...     return jnp.stack([-20 * x[:, 0], 20 * x[:, 0]], axis=1)
      >>> noise = smoothing.optimize_anisotropic(
      ...     jax.random.key(7), classify, jnp.array([[0.5, 0.0]]), isotropic_sigma=0.25,
      ... )
      >>> noise.scales[0, 1] > 4 * noise.scales[0, 0]
      Array(True, dtype=bool)

    References:
      Eiras, Alfarra, Kumar, Torr, Dokania, Ghanem, Bibi, "ANCER: Anisotropic Certification via
      Sample-wise Volume Maximization", 2022, arXiv:2107.04570.
    """
    num_steps = _checks.positive_integer("num_steps", num_steps)
    num_samples = _checks.positive_integer("num_samples", num_samples)
    learning_rate = _checks.positive_number("learning_rate", learning_rate)
    check_settings(max_probability, scores)
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if not regularization >= 0.0:
        raise ValueError(f"regularization must be at least 0, got {regularization}")
    if _checks.positive_number("max_ratio", max_ratio) <= 1.0:
        raise ValueError(f"max_ratio must be above 1, got {max_ratio}")
    sigma = _checks.positive_values("isotropic_sigma", isotropic_sigma).astype(jnp.float32)
    batch = _checks.batch_of_inputs("inputs", inputs).shape[0]
    _checks.one_value_per_input("isotropic_sigma", sigma, batch)
    _, shape, operands = prepare(
        key, classify, inputs, noise=Noise(family, sigma), num_samples=num_samples,
        num_classes=count_classes(classify, inputs), ids=ids, chunk_size=chunk_size, images_axis=1,
        samples_axis=1,
    )  # fmt: skip
    key, partial, padded, noise, numbers = operands
    check_probabilities("classify", as_partial(classify), padded[:batch], scores)
    scales, is_finite = _optimize(
        jax.random.fold_in(key, ANISOTROPIC_STAGE), partial, padded, noise.scale, numbers,
        jnp.float32(learning_rate), jnp.float32(regularization), jnp.float32(max_ratio),
        family=family, num_steps=num_steps, num_samples=num_samples,
        max_probability=float(max_probability), scores=scores, shape=shape,
    )  # fmt: skip
    if _checks.is_concrete(is_finite):
        bad = np.flatnonzero(~np.asarray(is_finite)[:batch])
        if bad.size:
            raise NonFiniteScoresError(
                "the ascent of the scales must have finite gradients, got NaN or infinity for "
                f"{bad.size} of {batch} inputs, first row {bad[0]}"
            )
    return AnisotropicNoise(family, scales[:batch])


@functools.partial(
    jax.jit,
    static_argnames=("family", "num_steps", "num_samples", "max_probability", "scores", "shape"),
)
def _optimize(
    key: jax.Array,
    classify: jax.tree_util.Partial,
    inputs: jax.Array,
    sigma: jax.Array,
    ids: jax.Array,
    learning_rate: jax.Array,
    regularization: jax.Array,
    max_ratio: jax.Array,
    *,
    family: str,
    num_steps: int,
    num_samples: int,
    max_probability: float,
    scores: str,
    shape: ChunkShape,
) -> tuple[jax.Array, jax.Array]:
    """Scales of each input, and whether its gradients were finite."""
    unit = Noise(family, jnp.ones((), jnp.float32))
    chunks = -(-num_samples // shape.samples)
    trailing = (1,) * (inputs.ndim - 1)
    axes = tuple(range(1, inputs.ndim))

    def of_group(group: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        inputs, sigma, ids = group
        isotropic = jnp.broadcast_to(sigma.reshape(-1, *trailing), inputs.shape)
        wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))

        def gap(scales: jax.Array, step: jax.Array) -> jax.Array:
            """The gap of each input, from its mean probabilities over one step's noise."""

            def chunk(summed: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
                samples = number * shape.samples + jnp.arange(shape.samples)
                drawn = draw_unit(
                    unit, jax.random.fold_in(key, step), jnp.repeat(ids, shape.samples),
                    jnp.tile(samples, shape.images), inputs.shape[1:],
                )  # fmt: skip
                drawn = drawn.reshape(shape.images, shape.samples, *inputs.shape[1:])
                noisy = wide[:, None] + (scales[:, None] * drawn).astype(wide.dtype)
                rows = noisy.reshape(-1, *inputs.shape[1:]).astype(inputs.dtype)
                found = to_probabilities(classify(rows), scores_kind).astype(jnp.float32)
                found = found.reshape(shape.images, shape.samples, -1)
                counted = (samples < num_samples)[None, :, None]
                return summed + jnp.sum(jnp.where(counted, found, 0), axis=1), None

            classes = jax.eval_shape(classify, inputs).shape[-1]
            nothing = jnp.zeros((shape.images, classes), jnp.float32)
            numbers = jnp.arange(chunks, dtype=jnp.int32)
            summed, _ = jax.lax.scan(jax.checkpoint(chunk), nothing, numbers)
            return soft_gap(summed / num_samples, family, max_probability)

        def objective(scales: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = gap(scales, step)
            size = jnp.exp(jnp.mean(jnp.log(scales), axis=axes))
            values = found * (size + regularization * jnp.min(scales, axis=axes))
            return -jnp.sum(values), values

        optimizer = optax.adam(1.0)

        def ascend(carry: Any, step: jax.Array) -> tuple[Any, None]:
            scales, state, is_finite = carry
            (_, values), gradient = jax.value_and_grad(objective, has_aux=True)(scales, step)
            fine = jnp.all(jnp.isfinite(gradient), axis=axes) & jnp.isfinite(values)
            gradient = jnp.where(fine.reshape(-1, *trailing), gradient, 0)
            # Optax counts on promotion, which a caller may have forbidden.
            with jax.numpy_dtype_promotion("standard"):
                moves, state = optimizer.update(gradient, state)
            moved = jnp.clip(scales + learning_rate * moves, isotropic, max_ratio * isotropic)
            return (moved, state, is_finite & fine), None

        start = (isotropic, optimizer.init(isotropic), jnp.ones(sigma.shape, bool))
        steps = jnp.arange(num_steps, dtype=jnp.int32)
        (scales, _, is_finite), _ = jax.lax.scan(ascend, start, steps)
        ratio = jnp.log(scales / isotropic)
        # Every candidate sees the same fresh noise; of equals the isotropic one, which is first.
        shares = jnp.asarray((0.0, *_SHARES), jnp.float32)

        def size_of(share: jax.Array) -> jax.Array:
            stretched = isotropic * jnp.exp(share * ratio)
            found = gap(stretched, jnp.int32(num_steps))
            return found * jnp.exp(jnp.mean(jnp.log(stretched), axis=axes))

        best = shares[jnp.argmax(jax.lax.map(size_of, shares), axis=0)].reshape(-1, *trailing)
        # Never below sigma by a rounding.
        return jnp.maximum(isotropic * jnp.exp(best * ratio), isotropic), is_finite

    scores_kind = scores
    groups = jax.tree.map(
        lambda leaf: leaf.reshape(-1, shape.images, *leaf.shape[1:]), (inputs, sigma, ids)
    )
    scales, is_finite = jax.lax.map(of_group, groups)
    return scales.reshape(inputs.shape), is_finite.reshape(-1)
