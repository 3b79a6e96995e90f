"""Attacking a network and its zonotopes at once: a change of the input that is one of `w1` too."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks

from ._layers import Layers, checked_layers
from ._weight_perturbation import row_change


class TropicalAttack(NamedTuple):
    """The outcome of `tropical_attack` on a batch.

    Attributes:
      inputs: `[b, d]`, the nearest misclassified inputs that were met, or as given.
      success: bool `[b]`, whether the network gives `inputs` another class than the label.
      distance: `[b]`, the l2 norm of the perturbation where it succeeded and infinity elsewhere: an
        upper bound on the distance to the nearest input that is not classified as the label.
      generator_change: `[b]`, least squared change of the generators, `D2` below, of a change of
        `w1` that does to the input what the perturbation does; infinity where there is none.
    """

    inputs: jax.Array
    success: jax.Array
    distance: jax.Array
    generator_change: jax.Array


class _Settings(NamedTuple):
    """The numbers that steer the iteration, as arrays, so that others reuse the program."""

    bounds: jax.Array
    max_change: jax.Array
    max_weight_change: jax.Array
    confidence: jax.Array
    confidence_decay: jax.Array
    generator_penalty: jax.Array
    link: jax.Array
    link_growth: jax.Array
    step: jax.Array
    step_growth: jax.Array


def tropical_attack(
    w1: ArrayLike,
    b1: ArrayLike,
    w2: ArrayLike,
    b2: ArrayLike,
    inputs: ArrayLike,
    labels: ArrayLike,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    max_change: float = np.inf,
    max_weight_change: float = np.inf,
    confidence: float = 1.0,
    confidence_decay: float = 0.25,
    generator_penalty: float = 1.0,
    link: float = 1.0,
    link_growth: float = 2.0,
    step: float = 1.0,
    step_growth: float = 1.02,
    num_rounds: int = 5,
    num_steps: int = 40,
) -> TropicalAttack:
    r"""Find a perturbation that flips the class and is reproduced by a small change of `w1`.

    .. math::
        \min_{\eta, \xi} \|\eta\|^2 + \frac{\beta}{2} \sum_{i \ne j}
        \|\mathrm{diag}(B^+_i + B^-_j)\, \xi\|_F^2 \quad\text{s.t.}\quad
        m(A (x + \eta)) \ge \kappa, \quad m((A + \xi) x) \ge \kappa, \quad A \eta = \xi x

    with `A` = `w1`, m the best other score minus that of the label, `x + eta` within `bounds`, and
    limits on the largest entry of each. The second term (D2, with beta = 1) is the squared change
    of the generators of the zonotopes that are dual to the decision boundary: the input is moved to
    where a slightly moved polytope would have put it.

    The method is the paper's: a quadratic penalty on the link `A eta = xi x`, which grows from
    round to round, and the alternating direction method of multipliers inside, with one copy of eta
    for the class and one for the box. Steps are exact: xi enters through `xi x` alone, which gives
    its best value; both margins are linearised at the current point and met by a projection, as
    DeepFool does. The nearest misclassified point of all steps is kept and moved towards the input
    by bisection. The constants of the published experiments are not known; the defaults are ours.

    Usable under `jit` and `vmap`; there is nothing random in it.

    Args:
      w1: `[h, d]`.
      b1: `[h]`.
      w2: `[classes, h]`.
      b2: `[classes]`.
      inputs: x, `[b, d]`, within `bounds`.
      labels: integers `[b]`.
      bounds: lowest and highest value of an input's entries; None sets no box.
      max_change: largest absolute entry of eta.
      max_weight_change: largest absolute entry of xi.
      confidence: kappa, the margin that the first round asks for; a success needs any above 0.
      confidence_decay: its factor from round to round, at most 1: a large margin finds a way to
        another class, a small one the near end of that way.
      generator_penalty: beta, at least 0.
      link: first weight of the penalty on the link.
      link_growth: its growth from round to round.
      step: first step size of the multipliers.
      step_growth: its growth from step to step.
      num_rounds: rounds.
      num_steps: steps of a round.

    Returns:
      A `TropicalAttack`.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if shapes do not fit, or a value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import tropical
      >>> w1, b1 = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.zeros(2)
      >>> w2, b2 = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.zeros(2)
      >>> found = tropical.tropical_attack(
      ...     w1, b1, w2, b2, jnp.array([[0.5, 0.2]]), jnp.array([0]), bounds=None)
      >>> found.success, found.distance.round(2)
      (Array([ True], dtype=bool), Array([0.5], dtype=float32))

    References:
      Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks: A
      Tropical Geometry Perspective", 2020, arXiv:2002.08838.
    """
    layers = checked_layers(w1, b1, w2, b2)
    inputs, labels, box = _checked_inputs(layers, inputs, labels, bounds)
    if not 0 < confidence_decay <= 1:
        raise ValueError(f"confidence_decay must lie in (0, 1], got {confidence_decay}")
    positive = {
        "max_change": max_change,
        "max_weight_change": max_weight_change,
        "link": link,
        "link_growth": link_growth,
        "step": step,
        "step_growth": step_growth,
    }
    for name, value in positive.items():
        if not value > 0 or (not np.isfinite(value) and not name.startswith("max")):
            raise ValueError(f"{name} must be above 0 and finite, got {value}")
    for name, value in (("confidence", confidence), ("generator_penalty", generator_penalty)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}")
    settings = _Settings(
        box,
        *(
            jnp.asarray(value, layers.w1.dtype)
            for value in (
                max_change, max_weight_change, confidence, confidence_decay, generator_penalty,
                link, link_growth, step, step_growth,
            )
        ),
    )  # fmt: skip
    return _attack(
        layers,
        inputs,
        labels,
        settings,
        num_rounds=_checks.positive_integer("num_rounds", num_rounds),
        num_steps=_checks.positive_integer("num_steps", num_steps),
    )


def _checked_inputs(
    layers: Layers, inputs: ArrayLike, labels: ArrayLike, bounds: tuple[float, float] | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    inputs = _checks.batch_of_inputs("inputs", inputs)
    if inputs.ndim != 2 or inputs.shape[1] != layers.w1.shape[1]:
        raise ValueError(f"inputs must have shape [b, {layers.w1.shape[1]}], got {inputs.shape}")
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(f"labels must have shape ({inputs.shape[0]},), got {labels.shape}")
    classes = layers.w2.shape[0]
    if _checks.is_concrete(labels):
        found = np.asarray(labels)
        if found.min() < 0 or found.max() >= classes:
            raise ValueError(
                f"labels must lie in [0, {classes}), got values from {found.min()} to {found.max()}"
            )
    lower, upper = (-np.inf, np.inf) if bounds is None else bounds
    if not lower < upper:
        raise ValueError(f"bounds must be (lower, upper) with lower < upper, got {bounds}")
    if _checks.is_concrete(inputs):
        values = np.asarray(inputs)
        if values.min() < lower or values.max() > upper:
            raise ValueError(
                f"inputs must lie within bounds [{lower}, {upper}], "
                f"got values from {values.min():.6g} to {values.max():.6g}"
            )
    dtype = layers.w1.dtype
    return inputs.astype(dtype), labels, jnp.asarray([lower, upper], dtype)


@functools.partial(jax.jit, static_argnames=("num_rounds", "num_steps"))
def _attack(
    layers: Layers,
    inputs: jax.Array,
    labels: jax.Array,
    settings: _Settings,
    *,
    num_rounds: int,
    num_steps: int,
) -> TropicalAttack:
    # A1' A1 = V diag(s^2) V', so the system of the eta step is solved for every link and step.
    _, singular, basis = jnp.linalg.svd(layers.w1, full_matrices=False)
    weights = _generator_weights(layers.w2)
    one = functools.partial(
        _attack_one, layers, singular, basis, weights, settings,
        num_rounds=num_rounds, num_steps=num_steps,
    )  # fmt: skip
    return TropicalAttack(*jax.vmap(one)(inputs, labels))


def _generator_weights(w2: jax.Array) -> jax.Array:
    """Sum over `i != j` of `(B+_i + B-_j)^2`, for each neuron: `[h]`."""
    positive, negative = jax.nn.relu(w2), jax.nn.relu(-w2)
    others = w2.shape[0] - 1
    squares = others * jnp.sum(positive**2 + negative**2, axis=0)
    # The products with i = j vanish: a weight has one sign.
    return squares + 2 * jnp.sum(positive, axis=0) * jnp.sum(negative, axis=0)


def _attack_one(
    layers: Layers,
    singular: jax.Array,
    basis: jax.Array,
    weights: jax.Array,
    settings: _Settings,
    x: jax.Array,
    label: jax.Array,
    *,
    num_rounds: int,
    num_steps: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    w1, b1, w2, b2 = layers
    start = w1 @ x + b1
    x_square, x_sum = jnp.sum(x**2), jnp.sum(jnp.abs(x))
    lower = jnp.maximum(settings.bounds[0] - x, -settings.max_change)
    upper = jnp.minimum(settings.bounds[1] - x, settings.max_change)
    # What a row within its limit can add to a pre-activation; at the origin, a link that cannot be
    # met is asked for only if there is a limit.
    limited = settings.max_weight_change * jnp.where(x_sum > 0, x_sum, 1)
    reach = jnp.where((x_sum > 0) | jnp.isinf(limited), limited, 0)
    metric = settings.generator_penalty * weights / jnp.where(x_square > 0, x_square, 1)
    is_label = jnp.arange(w2.shape[0]) == label

    def margins(hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """How far each other score is above the label's, and how it grows: `[k]`, `[k, h]`."""
        activation = jax.nn.relu(hidden)
        scores = w2 @ activation + b2
        slopes = jnp.where(hidden[None] > 0, w2 - w2[label][None], 0)
        return jnp.where(is_label, -jnp.inf, scores - scores[label]), slopes

    def projection(
        point: jax.Array,
        origin: jax.Array,
        values: jax.Array,
        slopes: jax.Array,
        inverse: jax.Array,
        confidence: jax.Array,
    ) -> jax.Array:
        """Nearest to `point` where a linearised margin is met, by the cheapest other class."""
        lengths = jnp.sum(slopes**2 * inverse[None], axis=1)
        usable = ~is_label & (lengths > 0)
        lengths = jnp.where(usable, lengths, 1)
        missing = confidence - values - slopes @ (point - origin)
        cost = jnp.where(usable, jax.nn.relu(missing) / jnp.sqrt(lengths), jnp.inf)
        chosen = jnp.argmin(cost)
        move = jax.nn.relu(missing[chosen]) / lengths[chosen] * slopes[chosen] * inverse
        return point + jnp.where(usable[chosen], move, 0)

    def evaluate(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether a change is a success, and its length."""
        values, _ = margins(w1 @ (x + change) + b1)
        linked = jnp.all(jnp.abs(w1 @ change) <= reach)
        length = jnp.sqrt(jnp.sum(change**2))
        return (jnp.max(values) > 0) & linked & jnp.all(jnp.isfinite(change)), length

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        confidence, link, rho, eta, z, box, shift, u, v, best, best_length = state
        # eta: a linear system.
        right = 2 * link * (shift @ w1) + rho * z - u
        inside = basis @ right
        eta = (right - inside @ basis) / (2 + rho)
        eta = eta + (inside / (2 * link * singular**2 + 2 + rho)) @ basis
        # z: the margin, linearised; box: the box.
        values, slopes = margins(start + w1 @ z)
        middle = (eta + box + (u + v) / rho) / 2
        z = projection(middle, z, values, slopes @ w1, jnp.ones_like(x), confidence)
        box = jnp.clip(z - v / rho, lower, upper)
        u, v = u + rho * (eta - z), v + rho * (box - z)
        # The shift of the pre-activations that xi makes.
        values, slopes = margins(start + shift)
        stiffness = metric + 2 * link
        wanted = 2 * link * (w1 @ eta) / stiffness
        shift = projection(wanted, shift, values, slopes, 1 / stiffness, confidence)
        shift = jnp.clip(shift, -reach, reach)
        success, length = evaluate(box)
        better = success & (length < best_length)
        best = jnp.where(better, box, best)
        best_length = jnp.where(better, length, best_length)
        rho = rho * settings.step_growth
        return confidence, link, rho, eta, z, box, shift, u, v, best, best_length

    def outer(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        state = jax.lax.fori_loop(0, num_steps, step, state)
        confidence = state[0] * settings.confidence_decay
        return (confidence, state[1] * settings.link_growth, settings.step, *state[3:])

    zero = jnp.zeros_like(x)
    # An input that is misclassified needs no change.
    already, _ = evaluate(zero)
    first_length = jnp.where(already, jnp.zeros((), x.dtype), jnp.inf)
    state = (
        settings.confidence, settings.link, settings.step, zero, zero, zero,
        jnp.zeros_like(start), zero, zero, zero, first_length,
    )  # fmt: skip
    *_, best, best_length = jax.lax.fori_loop(0, num_rounds, outer, state)
    found = jnp.isfinite(best_length)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        success, _ = evaluate(middle * best)
        return jnp.where(success, low, middle), jnp.where(success, middle, high)

    interval = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    _, scale = jax.lax.fori_loop(0, 20, halve, interval)
    change = scale * best
    perturbed = jnp.clip(x + change, settings.bounds[0], settings.bounds[1])
    values, _ = margins(w1 @ perturbed + b1)
    success = found & (jnp.max(values) > 0)
    perturbed = jnp.where(success, perturbed, x)
    moved = perturbed - x
    distance = jnp.where(success, jnp.sqrt(jnp.sum(moved**2)), jnp.inf)
    link_shift = w1 @ moved
    rows = jax.vmap(row_change, (None, 0, None))(x, link_shift, settings.max_weight_change)
    cost = jnp.sum(weights * jnp.sum(rows**2, axis=1)) / 2
    cost = jnp.where(success & ~jnp.isnan(cost), cost, jnp.inf)
    return perturbed, success, distance, cost
