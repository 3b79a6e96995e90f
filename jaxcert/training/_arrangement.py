"""Choosing which images an epoch visits, and in which batches."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class Arrangement(Protocol):
    """From the network at the start of an epoch to the rows of all its batches."""

    def __call__(
        self,
        key: jax.Array,
        classify: Callable[[jax.Array], jax.Array],
        images: np.ndarray,
        labels: np.ndarray,
    ) -> ArrayLike:
        """Choose the rows, once an epoch, on the host.

        Args:
          key: this epoch's own key; the rows are a function of the arguments alone, so that a run
            that was killed continues to the same weights.
          classify: the network in evaluation mode.
          images: `[n, *shape]`, all of them.
          labels: int32 `[n]`.

        Returns:
          Integers `[steps * batch_size]`, steps being n // batch_size: batch after batch, repeats
          and omissions allowed.
        """
        ...


def checked_rows(rows: ArrayLike, count: int, num_images: int) -> jax.Array:
    """Return what an `Arrangement` chose, or raise unless these are `count` rows."""
    found = np.asarray(rows)
    if not np.issubdtype(found.dtype, np.integer) or found.shape != (count,):
        raise ValueError(
            f"arrange must return integers of shape ({count},), "
            f"got {found.dtype} of shape {found.shape}"
        )
    if found.min() < 0 or found.max() >= num_images:
        raise ValueError(
            f"arrange must return rows in [0, {num_images - 1}], "
            f"got values from {found.min()} to {found.max()}"
        )
    return jnp.asarray(found, jnp.int32)
