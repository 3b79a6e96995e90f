"""Random batches of a given size: their expected smoothness and gradient noise in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching import _arguments, _closed_forms
from jaxcert.batching._draw import Batch, draw_batch
from jaxcert.batching._norms import SquaredNorms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    r"""A law of random batches, of any size tau, for a mean of n smooth convex functions.

    The examples are divided into m parts (one by default). A batch comes from part :math:`C_j` with
    probability :math:`q_j`; the gradient estimate :math:`\nabla f_v = \frac{1}{n} \sum_i v_i \nabla
    f_i` is unbiased. A pytree, made by `nice`, `independent`, `partition_nice`,
    `partition_independent` and `with_replacement`, which check their arguments; every method works
    under `jit` and `vmap`.

    Attributes:
      family: `"nice"`, `"independent"` or `"with_replacement"`.
      importance: where the probabilities of the examples come from: `"uniform"`, `"smoothness"`
        or `"weights"`.
      example_smoothness: `[n]`, :math:`L_i`.
      part_smoothness: `[m]`, the smoothness :math:`L_j` of the mean over each part.
      part_probabilities: `[m]`, :math:`q_j`.
      part_of_example: int32 `[n]`.
      part_sizes: int32 `[m]`, :math:`n_j`.
      members: int32 `[n]`, the examples ordered by part.
      largest_smoothness: `[m]`, the largest :math:`L_i` of each part.
      weights: `[n]`, what the probabilities are proportional to, before they are clipped at 1.

    Example:
      >>> import jax
      >>> from jaxcert import batching
      >>> sampling = batching.nice([1.0, 2.0, 3.0, 6.0], smoothness=2.5)
      >>> sampling.expected_smoothness(2).round(4)
      Array(3.6667, dtype=float32)
      >>> sampling.draw(jax.random.key(7), 2).size
      Array(2, dtype=int32)

    References:
      Gower, Loizou, Qian, Sailanbayev, Shulgin, Richtarik, "SGD: General Analysis and Improved
      Rates", 2019, arXiv:1901.09401. Alfarra, Hanzely, Albasyoni, Ghanem, Richtarik, "Adaptive
      Learning of the Optimal Batch Size of SGD", 2020, arXiv:2005.01097.
    """

    family: str = dataclasses.field(metadata={"static": True})
    importance: str = dataclasses.field(metadata={"static": True})
    example_smoothness: jax.Array
    part_smoothness: jax.Array
    part_probabilities: jax.Array
    part_of_example: jax.Array
    part_sizes: jax.Array
    members: jax.Array
    largest_smoothness: jax.Array
    weights: jax.Array

    @property
    def num_examples(self) -> int:
        """The number of examples, n."""
        return self.example_smoothness.shape[0]

    @property
    def num_parts(self) -> int:
        """The number of parts, m."""
        return self.part_smoothness.shape[0]

    @property
    def max_batch_size(self) -> jax.Array:
        """The largest batch size, int32: that of the smallest part; with replacement, n."""
        return jnp.min(self.part_sizes)

    def expected_smoothness(self, batch_size: ArrayLike) -> jax.Array:
        r"""A constant with which the estimate is smooth in expectation, in closed form.

        .. math::
            E \|\nabla f_v(x) - \nabla f_v(x^*)\|^2 \le 2 \mathcal{L} (f(x) - f(x^*)), \quad
            \mathcal{L}_{nice} = \frac{n (\tau - 1) L + (n - \tau) L_{max}}{\tau (n - 1)}

        Args:
          batch_size: tau, in [1, `max_batch_size`], not necessarily an integer.

        Returns:
          Scalar, in the dtype of the smoothness constants.

        Raises:
          ValueError: if `batch_size` is beyond the examples or a part.

        Guarantee:
          An upper bound on the smallest such constant, in exact arithmetic, where the constants of
          the examples and the parts are upper bounds.
        """
        tau = _arguments.size(self, batch_size)
        return jnp.max(_closed_forms.scaled_smoothness(self, tau)) / tau

    def gradient_noise(self, batch_size: ArrayLike, norms: SquaredNorms) -> jax.Array:
        r"""Second moment of the gradient estimate, in closed form.

        .. math::
            \sigma(x, \tau) = E \|\nabla f_v(x)\|^2, \quad \sigma_{nice} =
            \frac{(\tau - 1) n h + (n - \tau) \bar h}{\tau (n - 1)}

        Args:
          batch_size: tau, in [1, `max_batch_size`], not necessarily an integer.
          norms: squared norms of the gradients at x; see `squared_norms`.

        Returns:
          Scalar; at the optimum it equals `gradient_variance`.

        Raises:
          ValueError: if `batch_size` is beyond the examples or a part, or a shape is wrong.
        """
        tau = _arguments.size(self, batch_size)
        return _closed_forms.scaled_noise(self, tau, _arguments.norms(self, norms)) / tau

    def gradient_variance(self, batch_size: ArrayLike, norms: SquaredNorms) -> jax.Array:
        r"""Centred second moment of the gradient estimate, in closed form.

        .. math::
            E \|\nabla f_v(x) - \nabla f(x)\|^2 = \sigma(x, \tau) - \|\nabla f(x)\|^2

        Args:
          batch_size: tau, in [1, `max_batch_size`], not necessarily an integer.
          norms: squared norms of the gradients at x; see `squared_norms`.

        Returns:
          Scalar, at least 0.

        Raises:
          ValueError: if `batch_size` is beyond the examples or a part, or a shape is wrong.
        """
        tau, norms = _arguments.size(self, batch_size), _arguments.norms(self, norms)
        if self.family == "nice" and self.num_parts == 1:
            # Exactly 0 for the full batch, where the difference below would round.
            count = self.num_examples
            mean = _closed_forms.part_sum(self, norms.examples)[0] / count
            spread = jnp.maximum(mean - norms.total, 0.0)
            return spread * (count - tau) / (tau * max(count - 1, 1))
        return jnp.maximum(_closed_forms.scaled_noise(self, tau, norms) / tau - norms.total, 0.0)

    def optimal_batch_size(
        self,
        norms: SquaredNorms,
        *,
        strong_convexity: ArrayLike,
        accuracy: ArrayLike,
        centred: bool = False,
    ) -> jax.Array:
        r"""The batch size that minimises the gradient evaluations of SGD to a given accuracy.

        .. math::
            \tau^* = \arg\min_\tau \max \{\tau \mathcal{L}(\tau),
            \tfrac{2}{\epsilon \mu} \tau \sigma(\tau)\}, \quad \tau^*_{nice} =
            n \frac{s + L - L_{max}}{s + n L - L_{max}}, \quad s = \frac{2 \bar h}{\epsilon \mu}

        Args:
          norms: squared norms of the gradients at the optimum, or at an iterate in its place.
          strong_convexity: mu, above 0.
          accuracy: epsilon, above 0: the squared distance to the optimum that is wanted.
          centred: use `gradient_variance` in place of the second moment; they differ away from the
            optimum.

        Returns:
          Scalar in [1, `max_batch_size`], in general not an integer: the intersection of lines for
          uniform probabilities, which with replacement may lie beyond n and is clipped; a search
          over 512 sizes, refined between them, for other probabilities.

        Raises:
          ValueError: if `strong_convexity` or `accuracy` is not above 0, or a shape is wrong.

        Example:
          >>> from jaxcert import batching
          >>> sampling = batching.nice([1.0] * 100, smoothness=1.0)
          >>> norms = batching.SquaredNorms(*map(jax.numpy.asarray, ([0.5] * 100, [0.0], 0.0)))
          >>> sampling.optimal_batch_size(norms, strong_convexity=0.1, accuracy=0.1).round(4)
          Array(50.2513, dtype=float32)
        """
        scale = _arguments.noise_scale(self, strong_convexity, accuracy)
        norms = _arguments.norms(self, norms)
        return _closed_forms.optimal_batch_size(self, norms, scale, centred=centred)

    def optimal_integer_batch_size(
        self,
        norms: SquaredNorms,
        *,
        strong_convexity: ArrayLike,
        accuracy: ArrayLike,
        centred: bool = False,
    ) -> jax.Array:
        """The integer batch size of least total work: a neighbour of the real optimum.

        For uniform probabilities the work is convex in the batch size, so its least integer value
        is next to the real one.

        Args:
          norms: as for `optimal_batch_size`.
          strong_convexity: as for `optimal_batch_size`.
          accuracy: as for `optimal_batch_size`.
          centred: as for `optimal_batch_size`.

        Returns:
          int32 scalar in [1, `max_batch_size`].

        Raises:
          ValueError: as for `optimal_batch_size`.
        """
        real = self.optimal_batch_size(
            norms, strong_convexity=strong_convexity, accuracy=accuracy, centred=centred
        )
        scale = _arguments.noise_scale(self, strong_convexity, accuracy)
        around = jnp.clip(jnp.stack([jnp.floor(real), jnp.floor(real) + 1]), 1, self.max_batch_size)

        def work(tau: jax.Array) -> jax.Array:
            noise = self.gradient_variance if centred else self.gradient_noise
            return tau * jnp.maximum(self.expected_smoothness(tau), scale * noise(tau, norms))

        return around[jnp.argmin(jax.vmap(work)(around))].astype(jnp.int32)

    def step_size(
        self,
        batch_size: ArrayLike,
        norms: SquaredNorms,
        *,
        strong_convexity: ArrayLike,
        accuracy: ArrayLike,
        centred: bool = False,
        noise_cap: ArrayLike | None = None,
    ) -> jax.Array:
        r"""The constant step with which SGD reaches a squared distance of at most epsilon.

        .. math::
            \gamma = \frac{1}{2} \min \{1 / \mathcal{L}(\tau),
            \epsilon \mu / \min(C, 2 \sigma(\tau))\}

        Args:
          batch_size: tau, in [1, `max_batch_size`].
          norms: squared norms of the gradients at the optimum, or at an iterate in its place.
          strong_convexity: mu, above 0.
          accuracy: epsilon, above 0, a squared distance.
          centred: use `gradient_variance` in place of the second moment.
          noise_cap: C, above 0; it keeps the step away from 0. None caps nothing.

        Returns:
          Scalar, above 0.

        Raises:
          ValueError: if a setting is not above 0, or a shape is wrong.
        """
        scale = _arguments.noise_scale(self, strong_convexity, accuracy)
        variance = self.gradient_variance if centred else self.gradient_noise
        noise = variance(batch_size, norms)
        if noise_cap is not None:
            noise = jnp.minimum(noise, _checks.positive_values("noise_cap", noise_cap) / 2)
        # max(L, 2 sigma / (eps mu)): no division by a noise of 0.
        return 0.5 / jnp.maximum(self.expected_smoothness(batch_size), scale * noise)

    def iteration_complexity(
        self,
        batch_size: ArrayLike,
        norms: SquaredNorms,
        *,
        strong_convexity: ArrayLike,
        accuracy: ArrayLike,
        distance_sq: ArrayLike,
    ) -> jax.Array:
        r"""Steps after which the expected squared distance to the optimum is at most epsilon.

        .. math::
            k \ge \max \Big\{\frac{2 \mathcal{L}}{\mu}, \frac{4 \sigma}{\epsilon \mu^2}\Big\}
            \log \frac{2 \|x_0 - x^*\|^2}{\epsilon}

        Args:
          batch_size: tau, in [1, `max_batch_size`].
          norms: squared norms of the gradients at the optimum.
          strong_convexity: mu, above 0.
          accuracy: epsilon, above 0, a squared distance.
          distance_sq: squared distance of the start to the optimum, above 0.

        Returns:
          Scalar, a real number of steps of constant size `step_size`; at least 0.

        Raises:
          ValueError: if a setting is not above 0, or a shape is wrong.

        Guarantee:
          Sufficient in expectation, for functions that are convex, smooth with the given constants
          and mu-strongly convex in the mean.
        """
        step = self.step_size(
            batch_size, norms, strong_convexity=strong_convexity, accuracy=accuracy
        )
        distance_sq = _checks.positive_values("distance_sq", distance_sq)
        return jnp.maximum(jnp.log(2 * distance_sq / accuracy), 0.0) / (strong_convexity * step)

    def total_complexity(
        self,
        batch_size: ArrayLike,
        norms: SquaredNorms,
        *,
        strong_convexity: ArrayLike,
        accuracy: ArrayLike,
        distance_sq: ArrayLike,
    ) -> jax.Array:
        """Gradient evaluations to a given accuracy: the batch size times `iteration_complexity`.

        Args:
          batch_size: tau, in [1, `max_batch_size`]; for independent samplings its expectation.
          norms: squared norms of the gradients at the optimum.
          strong_convexity: mu, above 0.
          accuracy: epsilon, above 0, a squared distance.
          distance_sq: squared distance of the start to the optimum, above 0.

        Returns:
          Scalar.

        Raises:
          ValueError: if a setting is not above 0, or a shape is wrong.
        """
        return _arguments.size(self, batch_size) * self.iteration_complexity(
            batch_size, norms, strong_convexity=strong_convexity, accuracy=accuracy,
            distance_sq=distance_sq,
        )  # fmt: skip

    def inclusion_probabilities(self, batch_size: ArrayLike) -> jax.Array:
        """Probability of each example to be in the batch of its part; of a draw, with replacement.

        Args:
          batch_size: tau, in [1, `max_batch_size`].

        Returns:
          `[n]`; they add up to tau over each part, or to 1 with replacement.
        """
        if self.family == "with_replacement":
            return self.weights / jnp.sum(self.weights)
        return _closed_forms.inclusion_probabilities(self, _arguments.size(self, batch_size))

    def draw(self, key: jax.Array, batch_size: ArrayLike, *, capacity: int | None = None) -> Batch:
        """Draw a batch.

        Args:
          key: a typed threefry key.
          batch_size: tau, an integer in [1, `max_batch_size`], possibly traced.
          capacity: static length of the result, at least any size that can be drawn: n by default.

        Returns:
          A `Batch`. The size is tau, except for independent samplings, where it is random with mean
          tau and may be 0.

        Raises:
          TypeError: if `key` is not a typed key.
          ValueError: if `batch_size` is beyond the examples, a part or the capacity.
        """
        return draw_batch(self, key, _arguments.size(self, batch_size), capacity)
