"""What a memory of regions answers, and the checks of what it is asked."""

import math
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.smoothing._certificate import ABSTAIN


class RegionAnswer(NamedTuple):
    """What a memory makes of certificates, or knows of inputs.

    Attributes:
      label: int64 `[b]`, the class that the memory answers, or `ABSTAIN`.
      radius: float64 `[b]`, of a region around the input on which that answer is the same: a ball,
        or with scales `{ d : norm(d / scales) <= radius }`; 0 where abstained.
      inside: bool `[b]`, whether a stored region held the input and so decided the label.
      overridden: bool `[b]`, whether it decided against another class that had been certified.
      shrunk: bool `[b]`, whether the region around the input was cut to keep clear of another
        class's.
      stored: bool `[b]`, whether a region was added to the memory.
    """

    label: np.ndarray
    radius: np.ndarray
    inside: np.ndarray
    overridden: np.ndarray
    shrunk: np.ndarray
    stored: np.ndarray


def checked_points(inputs: ArrayLike, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return inputs as `[b, d]`, or raise unless they have this shape and dtype."""
    # Looked at as they came: JAX would narrow float64.
    array = np.asarray(inputs)
    _checks.batch_of_inputs("inputs", array)
    if array.shape[1:] != shape:
        raise ValueError(
            f"inputs must have shape [batch, {', '.join(map(str, shape))}] as the memory has, "
            f"got {array.shape}"
        )
    if array.dtype != dtype:
        raise TypeError(f"inputs must be {dtype} as those of the memory, got {array.dtype}")
    return array.reshape(len(array), math.prod(shape))


def checked_claims(
    labels: ArrayLike, radii: ArrayLike, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and radii, int64 and float64 `[batch]`, or raise."""
    classes, sizes = np.asarray(labels), np.asarray(radii, np.float64)
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {classes.dtype}")
    for name, array in (("labels", classes), ("radii", sizes)):
        if array.shape != (batch,):
            raise ValueError(f"{name} must have shape ({batch},), got {array.shape}")
    if classes.min() < ABSTAIN:
        raise ValueError(f"labels must be classes or {ABSTAIN}, got {classes.min()}")
    if not (np.isfinite(sizes).all() and (sizes >= 0).all()):
        raise ValueError(f"radii must be finite and at least 0, got {sizes.min()}")
    return classes.astype(np.int64), sizes


def checked_scales(
    scales: ArrayLike | None, shape: tuple[int, ...], *, wanted: bool
) -> np.ndarray | None:
    """Return the half-axes as float32 `[b, d]`, or raise unless they are just as wanted."""
    if (scales is not None) != wanted:
        raise ValueError(
            "scales must be given just where the memory has them: it "
            f"{'has' if wanted else 'has none'}"
        )
    if scales is None:
        return None
    axes = np.asarray(scales)
    if axes.dtype != np.float32:
        raise TypeError(f"scales must be float32, got {axes.dtype}")
    if axes.shape != shape:
        raise ValueError(f"scales must have shape {shape}, got {axes.shape}")
    if not (np.isfinite(axes).all() and (axes > 0).all()):
        raise ValueError("scales must be finite and above 0")
    return axes.reshape(len(axes), -1)
