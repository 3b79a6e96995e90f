"""What pruning leaves of the weights of each neuron, in closed form and by alternation."""

import jax
import jax.numpy as jnp

# Pairs of classes, over all neurons, that the alternation holds at once.
_MAX_PAIRS = 1 << 22


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, 0 where the denominator is not above 0, with gradients that stay finite."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def shrink_pair(scaled: jax.Array, penalties: jax.Array) -> jax.Array:
    """Part of each weight `[h, 2]` that stays: soft-thresholding of the two generators."""
    positive, negative = jax.nn.relu(scaled), jax.nn.relu(-scaled)
    generators = positive + negative[:, ::-1]
    factors = ratio(jax.nn.relu(generators - penalties[None]), generators)
    return jnp.where(scaled > 0, factors, factors[:, ::-1])


def shrink(scaled: jax.Array, penalties: jax.Array) -> jax.Array:
    """Part of each weight `[k]` of one neuron that stays, for k > 2 classes."""
    positive, negative = jax.nn.relu(scaled), jax.nn.relu(-scaled)
    penalty, others = penalties[0], scaled.shape[0] - 1

    def taken_from_positive(t: jax.Array) -> jax.Array:
        return penalty - jnp.sum(jnp.minimum(t, negative)) / others

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        t = (low + high) / 2
        s = jnp.maximum(taken_from_positive(t), 0)
        above = t + jnp.sum(jnp.minimum(s, positive)) / others > penalty
        return jnp.where(above, low, t), jnp.where(above, t, high)

    # The sum grows with t, so bisection brackets the solution; which weights it removes is then
    # known, and the two equations are linear, which gives exact values and exact gradients.
    bits = jnp.finfo(scaled.dtype).nmant + 3
    low, _ = jax.lax.fori_loop(0, bits, halve, (jnp.zeros_like(penalty), penalty))
    low = jax.lax.stop_gradient(low)
    first, second = positive > taken_from_positive(low), negative > low
    first, second = first & (positive > 0), second & (negative > 0)
    p, n = (jnp.sum(side).astype(scaled.dtype) / others for side in (first, second))
    right_s = penalty - jnp.sum(jnp.where(second, 0, negative)) / others
    right_t = penalty - jnp.sum(jnp.where(first, 0, positive)) / others
    s = jnp.maximum((right_s - n * right_t) / (1 - p * n), 0)
    t = jnp.maximum((right_t - p * right_s) / (1 - p * n), 0)
    return ratio(jax.nn.relu(positive - s), positive) + ratio(jax.nn.relu(negative - t), negative)


def alternate(
    scaled: jax.Array, penalties: jax.Array, num_rounds: int
) -> tuple[jax.Array, jax.Array]:
    """Scale of each neuron's row of `w1` and part of each weight of `w2` that stays.

    All steps keep the rows parallel to those given, so the scale says all. The signs of the
    weights stay those given: a part that was 0 stays 0.
    """
    classes = scaled.shape[1]
    different = 1 - jnp.eye(classes, dtype=scaled.dtype)
    weight = different * penalties[:, None]

    def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        positive, negative = jax.nn.relu(row), jax.nn.relu(-row)
        target = (positive[:, None] + negative[None]) * different

        def step(
            _: int, state: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            p, q = state[1:]
            pair = (p[:, None] + q[None]) * different
            scale = ratio(
                jax.nn.relu(jnp.sum(pair * target) - jnp.sum(weight * pair)), jnp.sum(pair**2)
            )
            goal = ratio(target - weight, jnp.broadcast_to(scale, target.shape))
            p = jax.nn.relu(jnp.sum(goal - different * q[None], axis=1) / (classes - 1))
            p = jnp.where((positive > 0) & (scale > 0), p, 0)
            q = jax.nn.relu(jnp.sum(goal - different * p[:, None], axis=0) / (classes - 1))
            q = jnp.where((negative > 0) & (scale > 0), q, 0)
            return scale, p, q

        start = (jnp.ones((), scaled.dtype), positive, negative)
        scale, p, q = jax.lax.fori_loop(0, num_rounds, step, start)
        return scale, ratio(p, positive) + ratio(q, negative)

    # A neuron takes several arrays of all pairs of classes.
    at_once = max(1, _MAX_PAIRS // classes**2)
    if at_once >= scaled.shape[0]:
        return jax.vmap(one)(scaled)
    return jax.lax.map(one, scaled, batch_size=at_once)
