"""Proposals of multipliers for the chain: by layers in closed form, and by gradient descent.

Hidden layer i has a vector q and a number c. With Y the matrix of the layers before it and
s = exp((q - mean q) / 2),

    lambda = largest eigenvalue of diag(s) Y Y' diag(s),  Lambda = sigmoid(c) / (r^2 lambda) s^2

where r is half of the width of the slope range. Then X = Lambda - m^2 Lambda Y (I + ab Y' Lambda
Y)^-1 Y' Lambda is positive definite whatever q and c are, and the next Y is W C^-T for X = C C'.
Every choice is a bound; q = c = 0 is ECLipsE-Fast; and every strictly feasible choice of
multipliers of LipSDP-Neuron is reached.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from jaxcert.lipschitz._activations import SlopeRange
from jaxcert.lipschitz._threads import one_blas_thread
from jaxcert.lipschitz._verified import singular_value_upper

# Up to this width all eigenvalues are computed; above it a power iteration proposes.
_DENSE_WIDTH = 128
_POWER_STEPS = 60
# Step length of Adam, in units of the logarithms q and c.
_RATE = 0.1
# Levels stay this far below 1, so that an eigenvalue that comes out a little low does no harm.
_DENSE_MARGIN, _POWER_MARGIN = 1e-9, 1e-2


def next_factor(
    factor: Any,
    scale: Any,
    level: Any,
    slopes: SlopeRange,
    eigenvalue_of: Callable[[Any], Any],
    shift: float = 0.0,
) -> tuple[Any, Any]:
    """Multipliers `[d]` of a layer, and the factor C of its block, from Y `[d, k]`.

    Args:
      factor: Y, of NumPy or JAX; so is what comes back.
      scale: q `[d]`.
      level: sigmoid(c), in (0, 1).
      slopes: of the activation.
      eigenvalue_of: gives the largest eigenvalue of `A A'` for a matrix A, or a bound on it.
      shift: relative shrinking of the diagonal; see `_chain`.
    """
    xp = np if isinstance(factor, np.ndarray) else jnp
    root = xp.exp(0.5 * (scale - xp.mean(scale)))
    half = slopes.half_width
    multiplier = level / (half * half * eigenvalue_of(root[:, None] * factor)) * root * root
    return multiplier, complement_factor(factor, multiplier, slopes, shift)


def complement_factor(factor: Any, multiplier: Any, slopes: SlopeRange, shift: float = 0.0) -> Any:
    """The factor C of the block X of a layer, from Y `[d, k]` and its multipliers `[d]`."""
    xp = np if isinstance(factor, np.ndarray) else jnp
    product = slopes.low * slopes.high
    inner = factor
    if product != 0.0:
        block = xp.eye(factor.shape[1], dtype=factor.dtype)
        block = block + product * (factor.T @ (multiplier[:, None] * factor))
        inner = solve_right(factor, xp.linalg.cholesky(block))
    inner = (slopes.middle * multiplier)[:, None] * inner
    return xp.linalg.cholesky(xp.diag(multiplier * (1.0 - shift)) - inner @ inner.T)


def solve_right(rows: Any, factor: Any) -> Any:
    """`rows C^-T`, of NumPy or JAX."""
    linalg = scipy.linalg if isinstance(rows, np.ndarray) else jax.scipy.linalg
    return linalg.solve_triangular(factor, rows.T, lower=True).T


def top_eigenvalue(matrix: jax.Array) -> jax.Array:
    """Largest eigenvalue of `A A'`; its derivative is that at a fixed eigenvector."""
    gram = matrix @ matrix.T
    fixed = jax.lax.stop_gradient(gram)
    if len(gram) <= _DENSE_WIDTH:
        vector = jnp.linalg.eigh(fixed)[1][:, -1]
    else:
        # The row of largest norm, with something of everything else.
        row = fixed[jnp.argmax(jnp.diag(fixed))]
        start = row + 1e-3 * jnp.linalg.norm(row) * jnp.cos(jnp.arange(len(row), dtype=row.dtype))

        def step(_: int, vector: jax.Array) -> jax.Array:
            vector = fixed @ vector
            return vector / jnp.linalg.norm(vector)

        vector = jax.lax.fori_loop(0, _POWER_STEPS, step, start / jnp.linalg.norm(start))
    return jnp.vdot(vector, gram @ vector)


def stacked(weights: Sequence[np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """The network as arrays of one shape, so that one program runs over its layers.

    All matrices are padded with zeros to the largest hidden width w. The first and the last keep
    their norms when the triangles of their QR decompositions replace what is longer than wide.

    Returns:
      W_1 `[w, w]`, and W_2, ..., W_N `[N - 1, w, w]`.
    """
    width = max(len(weight) for weight in weights[:-1])
    first, last = weights[0], weights[-1]
    if first.shape[1] > first.shape[0]:
        first = np.linalg.qr(first.T)[1].T
    if last.shape[0] > last.shape[1]:
        last = np.linalg.qr(last)[1]
    padded = [
        np.pad(matrix, [(0, width - size) for size in matrix.shape])
        for matrix in [first, *weights[1:-1], last]
    ]
    return jnp.asarray(padded[0]), jnp.asarray(np.stack(padded[1:]))


def log_bound(
    scales: jax.Array, levels: jax.Array, first: jax.Array, rest: jax.Array, slopes: SlopeRange
) -> tuple[jax.Array, jax.Array]:
    """Logarithm of the bound and multipliers `[h, w]`, for q `[h, w]` and levels `[h]`."""

    @jax.checkpoint
    def layer(
        factor: jax.Array, inputs: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        scale, level, weight = inputs
        multiplier, triangle = next_factor(factor, scale, level, slopes, top_eigenvalue)
        return solve_right(weight, triangle), multiplier

    factor, multipliers = jax.lax.scan(layer, first, (scales, levels, rest))
    return 0.5 * jnp.log(top_eigenvalue(factor)), multipliers


class Progress(NamedTuple):
    """State of the descent: q and c now, those of the best bound so far, and its logarithm."""

    parameters: tuple[jax.Array, jax.Array]
    optimiser: optax.OptState
    best_parameters: tuple[jax.Array, jax.Array]
    best: jax.Array


@functools.partial(jax.jit, static_argnames=("slopes", "steps", "by_layer"))
def descend(
    first: jax.Array, rest: jax.Array, *, slopes: SlopeRange, steps: int, by_layer: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Adam on the logarithm of the bound, from ECLipsE-Fast.

    Args:
      first: W_1 as `stacked` gives it.
      rest: the others.
      slopes: of the activation.
      steps: number of steps.
      by_layer: whether all neurons of a layer keep the same multiplier.

    Returns:
      The best q `[h, w]` and levels `[h]`, and the best bound's logarithm after each step.
    """
    layers, width = rest.shape[:2]
    schedule = optax.cosine_decay_schedule(_RATE, steps, alpha=0.01)
    optimiser = optax.adam(schedule, b1=0.9, b2=0.99)
    most = 1.0 - (_DENSE_MARGIN if width <= _DENSE_WIDTH else _POWER_MARGIN)

    def objective(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
        scales, logits = parameters
        return log_bound(scales, most * jax.nn.sigmoid(logits), first, rest, slopes)[0]

    def step(progress: Progress, _: None) -> tuple[Progress, jax.Array]:
        value, (scales, logits) = jax.value_and_grad(objective)(progress.parameters)
        scales = jnp.zeros_like(scales) if by_layer else scales
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(scales)) & jnp.all(jnp.isfinite(logits))
        gradient = jax.tree.map(lambda g: jnp.where(finite, g, 0.0), (scales, logits))
        # Optax counts on promotion, which a caller may have forbidden.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, progress.optimiser)
        moved = optax.apply_updates(progress.parameters, updates)
        is_best = value < progress.best
        best, best_parameters = jax.tree.map(
            functools.partial(jnp.where, is_best),
            (value, progress.parameters),
            (progress.best, progress.best_parameters),
        )
        # A step that left the domain is taken back halfway to the best point.
        moved = jax.tree.map(
            lambda new, old: jnp.where(finite, new, 0.5 * (new + old)), moved, best_parameters
        )
        return Progress(moved, state, best_parameters, best), best

    start = (jnp.zeros((layers, width), first.dtype), jnp.zeros(layers, first.dtype))
    infinity = jnp.asarray(jnp.inf, first.dtype)
    progress = Progress(start, optimiser.init(start), start, infinity)
    progress, values = jax.lax.scan(step, progress, length=steps)
    scales, logits = progress.best_parameters
    return scales, most * jax.nn.sigmoid(logits), values


def propose(
    weights: Sequence[np.ndarray], slopes: SlopeRange, *, method: str, steps: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """q, one `[d_i]` a hidden layer, and levels `[h]` of a method."""
    widths = [len(weight) for weight in weights[:-1]]
    if method == "eclipse_fast":
        return [np.zeros(width) for width in widths], np.full(len(widths), 0.5)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), one_blas_thread():
        first, rest = stacked(weights)
        if method == "eclipse":
            # One layer after the other, each as if the next were the last.
            factor, found = first, []
            for weight in rest:
                scale, level, _ = descend(
                    factor, weight[None], slopes=slopes, steps=steps, by_layer=False
                )
                found.append((scale[0], level[0]))
                factor = _one_layer(factor, scale[0], level[0], weight, slopes)
            scales = np.asarray([scale for scale, _ in found])
            levels = np.asarray([level for _, level in found])
        else:
            by_layer = method == "lipsdp_layer"
            found_scales, found_levels, _ = descend(
                first, rest, slopes=slopes, steps=steps, by_layer=by_layer
            )
            scales, levels = np.asarray(found_scales), np.asarray(found_levels)
    # The padding has a part in the mean of q, which the level does not see; only ratios count.
    return [scale[:width] for scale, width in zip(scales, widths, strict=True)], levels


@functools.partial(jax.jit, static_argnames="slopes")
def _one_layer(
    factor: jax.Array, scale: jax.Array, level: jax.Array, weight: jax.Array, slopes: SlopeRange
) -> jax.Array:
    return solve_right(weight, next_factor(factor, scale, level, slopes, top_eigenvalue)[1])


def multipliers_of(
    weights: Sequence[np.ndarray],
    scales: Sequence[np.ndarray],
    levels: np.ndarray,
    slopes: SlopeRange,
) -> list[np.ndarray] | None:
    """The multipliers `[d_i]` of each hidden layer, in NumPy; None where rounding forbids it."""
    factor, found = weights[0], []
    for scale, level, weight in zip(scales, levels, weights[1:], strict=True):
        try:
            multiplier, triangle = next_factor(factor, scale, level, slopes, _square_of_norm)
            factor = solve_right(weight, triangle)
        except np.linalg.LinAlgError:
            return None
        found.append(multiplier)
    return found


def _square_of_norm(matrix: np.ndarray) -> float:
    return singular_value_upper(matrix) ** 2
