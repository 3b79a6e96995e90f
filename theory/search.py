"""What checks share: the worst case seen so far, and gradient ascent towards a worse one."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from theory.ledger import Verdict


@dataclasses.dataclass
class Worst:
    """The worst case seen so far.

    Attributes:
        slack: the smallest margin; negative is a counterexample.
        witness: where it was met.
        trials: how many cases were seen.
        measured: pairs of a bound and what was measured.
    """

    slack: float = math.inf
    witness: str = "none"
    trials: int = 0
    measured: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    def see(self, slack: Any, witness: str, *, count: int = 1) -> None:
        """Look at a case. What is no number is worse than any."""
        self.trials += count
        value = float(slack)
        value = -math.inf if math.isnan(value) else value
        if value < self.slack or self.witness == "none":
            self.slack, self.witness = value, witness

    def pair(self, bound: Any, found: Any, *, most: int = 60) -> None:
        """Keep a bound and what was measured, up to a number that a figure can show."""
        if len(self.measured) < most:
            self.measured.append((float(bound), float(found)))

    def verdict(
        self,
        seed: int,
        *,
        tolerance: float,
        tightness: float = math.nan,
        least_tightness: float = -math.inf,
    ) -> Verdict:
        """The statement holds if no slack is below `-tolerance` and it is as tight as claimed."""
        is_tight = math.isnan(tightness) or tightness >= least_tightness
        return Verdict(
            holds=bool(self.slack >= -tolerance and is_tight),
            worst_slack=self.slack,
            tightness=float(tightness),
            trials=self.trials,
            witness=self.witness,
            seed=seed,
            measured=tuple(self.measured),
        )


@contextlib.contextmanager
def wide() -> Iterator[None]:
    """Compute in float64 whatever the caller's settings, for code that is an oracle."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def ascend(
    violation: Callable[[Any, Any], jax.Array],
    constants: Any,
    points: Any,
    *,
    steps: int,
    rate: float = 0.05,
) -> Any:
    """Climb the violation of a statement from many starts at once, in float64.

    Args:
        violation: takes one point and the constants to a scalar; a function of a module, so that it
            is compiled once for each shape.
        constants: a pytree that all starts share.
        points: a pytree with a leading axis, one start each.
        steps: steps of Adam.
        rate: its step size.

    Returns:
        The points reached, NumPy arrays; those of the best step of each start.
    """
    with wide():
        constants = jax.tree.map(jnp.asarray, constants)
        found = _ascend(violation, steps, rate, constants, jax.tree.map(jnp.asarray, points))
        return jax.tree.map(np.asarray, found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _ascend(violation: Any, steps: int, rate: float, constants: Any, points: Any) -> Any:
    optimiser = optax.adam(rate)
    evaluate = jax.vmap(jax.value_and_grad(violation), in_axes=(0, None))

    def keep(better: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    def step(_: Any, carry: Any) -> Any:
        current, state, best, height = carry
        value, slope = evaluate(current, constants)
        better = value > height
        best = jax.tree.map(functools.partial(keep, better), current, best)
        slope = jax.tree.map(lambda g: -jnp.where(jnp.isfinite(g), g, 0.0), slope)
        moves, state = optimiser.update(slope, state, current)
        return optax.apply_updates(current, moves), state, best, jnp.maximum(height, value)

    count = jax.tree.leaves(points)[0].shape[0]
    start = (points, optimiser.init(points), points, jnp.full(count, -jnp.inf))
    return jax.lax.fori_loop(0, steps, step, start)[2]
