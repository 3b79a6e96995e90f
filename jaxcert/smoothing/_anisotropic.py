"""Noise with a scale for each coordinate, and the ellipsoids and cross-polytopes it certifies."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert._classifier import Classifier, as_partial
from jaxcert.smoothing._certificate import Certificate, certificate_from_counts
from jaxcert.smoothing._noise import Noise
from jaxcert.smoothing._sampling import class_counts
from jaxcert.smoothing._soft_radius import FAMILIES, log_volume_of_unit_ball
from jaxcert.smoothing._votes import votes_on_host

# As for `certify`: selection and estimation never share noise.
_SELECTION, _ESTIMATION = range(2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnisotropicNoise:
    r"""Additive noise with independent coordinates and a scale for each of them.

    .. math::
        \epsilon = \theta \odot u, \qquad u \sim N(0, I) \text{ or uniform on } [-1, 1]^d

    certifies :math:`\{ \delta : \|\delta / \theta\|_2 \leq r \}`, an ellipsoid, or in l1 a
    generalised cross-polytope: smoothing `f` with it is smoothing `z -> f(theta * z)` with noise of
    scale 1. A pytree with `scales` as its only leaf.

    Attributes:
      family: `"gaussian"` or `"uniform"`.
      scales: float32 `[b, *shape]`, standard deviations or half-widths theta.

    Example:
      >>> import numpy as np
      >>> from jaxcert import smoothing
      >>> noise = smoothing.AnisotropicNoise("gaussian", np.array([[0.5, 2.0]], np.float32))
      >>> noise.norm, noise.proxy_radius([1.5]), noise.isotropic_radius([1.5])
      ('l2', array([1.5]), array([0.75]))

    References:
      Eiras, Alfarra, Kumar, Torr, Dokania, Ghanem, Bibi, "ANCER: Anisotropic Certification via
      Sample-wise Volume Maximization", 2022, arXiv:2107.04570.
    """

    family: str = dataclasses.field(metadata={"static": True})
    scales: jax.Array

    @property
    def norm(self) -> str:
        """The norm in which `delta / theta` is bounded: `"l2"` for Gaussian noise, else `"l1"`."""
        return "l2" if self.family == "gaussian" else "l1"

    def proxy_radius(self, radius: ArrayLike) -> np.ndarray:
        r"""Radius of the ball with the volume of the certified region.

        .. math::
            \tilde R = r \Bigl(\prod_k \theta_k\Bigr)^{1/d}

        Args:
          radius: `[b]`, at half-axes theta.

        Returns:
          float64 `[b]`, in the units of the inputs.

        Guarantee:
          A measure of size, to within float64 rounding; no ball of this radius is certified.

        Example:
          >>> import numpy as np
          >>> from jaxcert import smoothing
          >>> smoothing.AnisotropicNoise("uniform", np.full((1, 3), 0.5)).proxy_radius([1.0])
          array([0.5])
        """
        logs = np.log(self._rows())
        return np.asarray(radius, np.float64) * np.exp(logs.mean(axis=1))

    def isotropic_radius(self, radius: ArrayLike) -> np.ndarray:
        r"""Radius of the largest ball within the certified region, :math:`r \min_k \theta_k`.

        Args:
          radius: `[b]`, at half-axes theta.

        Returns:
          float64 `[b]`, in the units of the inputs.

        Guarantee:
          Sound where `radius` is: the ball lies inside the region; rounded down.

        Example:
          >>> import numpy as np
          >>> from jaxcert import smoothing
          >>> smoothing.AnisotropicNoise("uniform", np.full((1, 3), 0.5)).isotropic_radius([1.0])
          array([0.5])
        """
        return np.asarray(radius, np.float64) * self._rows().min(axis=1) * (1 - 1e-15)

    def log_volume(self, radius: ArrayLike) -> np.ndarray:
        r"""Natural logarithm of the volume of the certified region.

        .. math::
            \log \prod_k \theta_k + d \log r + \log V_d, \qquad
            V_d = \frac{\pi^{d/2}}{\Gamma(d/2 + 1)} \text{ or } \frac{2^d}{d!}

        Args:
          radius: `[b]`, at half-axes theta.

        Returns:
          float64 `[b]`; minus infinity at radius 0.

        Example:
          >>> import numpy as np
          >>> from jaxcert import smoothing
          >>> noise = smoothing.AnisotropicNoise("gaussian", np.array([[1.0, 3.0]]))
          >>> np.exp(noise.log_volume([2.0])).round(6)  # pi * 2 * 6
          array([37.699112])
        """
        rows = self._rows()
        with np.errstate(divide="ignore"):
            of_radius = rows.shape[1] * np.log(np.asarray(radius, np.float64))
        unit = log_volume_of_unit_ball(rows.shape[1], self.family)
        return np.log(rows).sum(axis=1) + of_radius + unit

    def _rows(self) -> np.ndarray:
        scales = np.asarray(self.scales, np.float64)
        return scales.reshape(len(scales), math.prod(scales.shape[1:]))


def anisotropic_class_counts(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: AnisotropicNoise,
    num_samples: int,
    num_classes: int,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> jax.Array:
    r"""Count how often a classifier says each class under noise with a scale for each coordinate.

    .. math::
        n_{jc} = \#\{i < N : \arg\max f(x_j + \theta_j \odot u_{ji}) = c\}

    with :math:`u_{ji}` the noise of scale 1 that `class_counts` draws for sample i of input j.

    Args:
      key: a typed threefry key.
      classify: as for `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: scales of the shape of the inputs.
      num_samples: samples for each input.
      num_classes: number of classes.
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.

    Returns:
      int32 `[b, num_classes]`, as `class_counts`.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if an argument has a wrong value or shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> noise = smoothing.AnisotropicNoise("gaussian", jnp.array([[0.1, 9.0]]))
      >>> smoothing.anisotropic_class_counts(
      ...     jax.random.key(7), classify, jnp.array([[1.0, 0.0]]),
      ...     noise=noise, num_samples=1000, num_classes=2,
      ... )
      Array([[   0, 1000]], dtype=int32)
    """
    inputs = _checks.batch_of_inputs("inputs", inputs)
    scales = check_noise(noise, inputs)
    batch = inputs.shape[0]
    numbers = jnp.arange(batch, dtype=jnp.uint32) if ids is None else jnp.asarray(ids)
    if numbers.shape != (batch,):
        raise ValueError(f"ids must have shape ({batch},), one for each input, got {numbers.shape}")
    return _count(
        _checks.typed_key("key", key), as_partial(classify), inputs, scales, numbers,
        num_samples, family=noise.family, num_classes=num_classes, chunk_size=chunk_size,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("num_samples", "family", "num_classes", "chunk_size"))
def _count(
    key: jax.Array,
    classify: jax.tree_util.Partial,
    inputs: jax.Array,
    scales: jax.Array,
    ids: jax.Array,
    num_samples: int,
    *,
    family: str,
    num_classes: int,
    chunk_size: int | None,
) -> jax.Array:
    unit = Noise(family, jnp.ones((), jnp.float32))

    def of_input(one: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        center, spread, number = one
        stretched = jax.tree_util.Partial(_stretched, classify, center, spread)
        return class_counts(
            key, stretched, jnp.zeros((1, *center.shape), jnp.float32), noise=unit,
            num_samples=num_samples, num_classes=num_classes, ids=number[None],
            chunk_size=chunk_size,
        )[0]  # fmt: skip

    return jax.lax.map(of_input, (inputs, scales, ids))


def _stretched(
    classify: jax.tree_util.Partial, center: jax.Array, spread: jax.Array, unit: jax.Array
) -> jax.Array:
    wide = jnp.promote_types(center.dtype, jnp.float32)
    noisy = center.astype(wide)[None] + (spread[None] * unit).astype(wide)
    return classify(noisy.astype(center.dtype))


def certify_anisotropic(
    key: jax.Array,
    classify: Classifier,
    inputs: ArrayLike,
    *,
    noise: AnisotropicNoise,
    num_classes: int,
    num_samples: int = 100_000,
    selection_samples: int = 100,
    alpha: float = 0.001,
    ids: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> Certificate:
    r"""Certify an ellipsoid or a generalised cross-polytope around each input.

    .. math::
        \{ x + \delta : \|\delta / \theta\| \leq r \}, \qquad
        r = \Phi^{-1}(p) \text{ in l2}, \quad r = 2 (p - 1/2) \text{ in l1}

    Args:
      key: a typed threefry key.
      classify: as for `class_counts`.
      inputs: floating `[b, *shape]`.
      noise: scales of the shape of the inputs. Scales chosen by looking at the input certify
        nothing about its neighbours: use `certify_with_memory`.
      num_classes: number of classes.
      num_samples: estimation samples for each input.
      selection_samples: selection samples for each input.
      alpha: failure probability for each input, in (0, 1).
      ids: integers `[b]` that identify each input's noise; its position by default.
      chunk_size: how many noisy inputs are classified at once; chosen by default.

    Returns:
      A `Certificate` whose radius is r, at half-axes theta: see `AnisotropicNoise.proxy_radius`.

    Raises:
      TypeError: if an argument has the wrong type; if called under a JAX transformation.
      ValueError: if an argument has a wrong value or shape.
      NonFiniteScoresError: if any score was NaN or infinite.

    Guarantee:
      Sound: for each input, the probability that `label` is not `ABSTAIN` and the classifier
      smoothed with this noise differs from it somewhere in the region is at most alpha; rounded
      down, and tight: the region of a linear classifier touches its boundary at the true p.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import smoothing
      >>> def classify(x):
      ...     return jnp.stack([-x[:, 0], x[:, 0]], axis=1)
      >>> noise = smoothing.AnisotropicNoise("gaussian", jnp.array([[0.5, 9.0]]))
      >>> certificate = smoothing.certify_anisotropic(
      ...     jax.random.key(7), classify, jnp.array([[0.5, 0.0]]), noise=noise, num_classes=2,
      ... )
      >>> certificate.radius <= 1.0, noise.proxy_radius(certificate.radius) > 2.0
      (array([ True]), array([ True]))

    References:
      Eiras, Alfarra, Kumar, Torr, Dokania, Ghanem, Bibi, "ANCER: Anisotropic Certification via
      Sample-wise Volume Maximization", 2022, arXiv:2107.04570.
    """
    alpha = _checks.probability("alpha", alpha)
    num_samples = _checks.positive_integer("num_samples", num_samples)
    selection_samples = _checks.positive_integer("selection_samples", selection_samples)
    if not all(
        _checks.is_concrete(leaf) for leaf in jax.tree.leaves((key, inputs, noise, classify))
    ):
        raise TypeError(
            "certify_anisotropic computes its statistics on the host and cannot be traced; under "
            "jax.jit use anisotropic_class_counts, then certificate_from_counts"
        )
    key = _checks.typed_key("key", key)

    def votes(stage: int, samples: int) -> np.ndarray:
        counts = anisotropic_class_counts(
            jax.random.fold_in(key, stage), classify, inputs, noise=noise, num_samples=samples,
            num_classes=num_classes, ids=ids, chunk_size=chunk_size,
        )  # fmt: skip
        return votes_on_host(counts, samples)

    unit = Noise(noise.family, jnp.ones((), jnp.float32))
    return certificate_from_counts(
        votes(_SELECTION, selection_samples), votes(_ESTIMATION, num_samples),
        noise=unit, alpha=alpha,
    )  # fmt: skip


def check_noise(noise: AnisotropicNoise, inputs: jax.Array) -> jax.Array:
    """Return the scales as float32, or raise unless the noise is one for these inputs."""
    if not isinstance(noise, AnisotropicNoise):
        raise TypeError(f"noise must be an AnisotropicNoise, got {type(noise).__name__}")
    if noise.family not in FAMILIES:
        raise ValueError(f"noise must be one of {', '.join(FAMILIES)}, got {noise.family!r}")
    scales = _checks.positive_values("noise.scales", noise.scales).astype(jnp.float32)
    if scales.shape != inputs.shape:
        raise ValueError(
            f"noise.scales must have the shape of the inputs, {inputs.shape}, got {scales.shape}"
        )
    return scales
