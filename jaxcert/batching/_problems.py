"""Ridge and logistic regression as means of smooth strongly convex functions, constants known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcert import _checks
from jaxcert.batching import _constructors
from jaxcert.batching._features import matrix
from jaxcert.batching._norms import SquaredNorms
from jaxcert.batching._sampling import Sampling

# Largest curvature of the loss in the score.
_CURVATURE = {"ridge": 1.0, "logistic": 0.25}
_NEWTON_STEPS = 100


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    r"""The mean of n losses of linear scores, each with its own share of the penalty.

    .. math::
        f(x) = \frac{1}{n} \sum_i f_i(x), \quad
        f_i(x) = \ell(a_i^\top x, b_i) + \frac{\lambda}{2} \|x\|^2

    with :math:`\ell(z, b) = (z - b)^2 / 2` for ridge regression and :math:`\log(1 + e^{-b z})` for
    logistic regression. A pytree, made by `ridge` and `logistic`, which compute the constants in
    float64 on the host; its arrays take the precision that JAX runs in.

    Attributes:
      kind: `"ridge"` or `"logistic"`.
      features: `[n, d]`, rows :math:`a_i`.
      squared_row_norms: `[n]`, :math:`\|a_i\|^2`.
      targets: `[n]`, :math:`b_i`.
      penalty: :math:`\lambda`, scalar.
      smoothness_upper: L of f, scalar.
      example_smoothness_upper: `[n]`, :math:`L_i`.
      strong_convexity_lower: mu of f, scalar.
    """

    kind: str = dataclasses.field(metadata={"static": True})
    features: jax.Array | np.ndarray
    squared_row_norms: jax.Array | np.ndarray
    targets: jax.Array | np.ndarray
    penalty: jax.Array | np.ndarray | np.floating
    smoothness_upper: jax.Array | np.ndarray | np.floating
    example_smoothness_upper: jax.Array | np.ndarray
    strong_convexity_lower: jax.Array | np.ndarray | np.floating

    @property
    def num_examples(self) -> int:
        """The number of examples, n."""
        return self.features.shape[0]

    @property
    def num_features(self) -> int:
        """The number of coordinates of x, d."""
        return self.features.shape[1]

    def value(self, x: ArrayLike) -> jax.Array:
        """The objective.

        Args:
          x: `[d]`.

        Returns:
          Scalar f(x).
        """
        x = jnp.asarray(x)
        losses = self._losses(jnp.asarray(self.features) @ x, jnp.asarray(self.targets))
        return jnp.mean(losses) + self.penalty / 2 * jnp.sum(x**2)

    def gradient(self, x: ArrayLike) -> jax.Array:
        """The gradient of the objective.

        Args:
          x: `[d]`.

        Returns:
          `[d]`.
        """
        x = jnp.asarray(x)
        features = jnp.asarray(self.features)
        slopes = self._slopes(features @ x, self.targets)
        return slopes @ features / self.num_examples + self.penalty * x

    def squared_norms(self, x: ArrayLike, *, sampling: Sampling | None = None) -> SquaredNorms:
        r"""Squared norms of all gradients at x, without an array of n times d numbers.

        .. math::
            \|\nabla f_i(x)\|^2 = c_i^2 \|a_i\|^2 + 2 c_i \lambda z_i + \lambda^2 \|x\|^2, \quad
            z_i = a_i^\top x, \quad c_i = \ell'(z_i, b_i)

        Args:
          x: `[d]`.
          sampling: whose parts are meant; all in one part by default.

        Returns:
          `SquaredNorms`.
        """
        x, features = jnp.asarray(x), jnp.asarray(self.features)
        scores = features @ x
        slopes = self._slopes(scores, self.targets)
        examples = self._example_norms(self.squared_row_norms, scores, slopes, x)
        total = jnp.sum((slopes @ features / self.num_examples + self.penalty * x) ** 2)
        if sampling is None or sampling.num_parts == 1:
            return SquaredNorms(examples, total[None], total)
        sums = jax.ops.segment_sum(
            slopes[:, None] * features, sampling.part_of_example, num_segments=sampling.num_parts
        )
        means = sums / sampling.part_sizes[:, None].astype(sums.dtype) + self.penalty * x
        return SquaredNorms(examples, jnp.sum(means**2, axis=1), total)

    def weighted_gradient(
        self, x: jax.Array, indices: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        r"""Sum of weighted gradients of some examples, and the squared norm and loss of each.

        Args:
          x: `[d]`.
          indices: int32 `[b]`.
          weights: `[b]`.

        Returns:
          :math:`\sum_s w_s \nabla f_{i_s}(x)` `[d]`, :math:`\|\nabla f_{i_s}(x)\|^2` `[b]` and
          :math:`f_{i_s}(x)` `[b]`.
        """
        features = jnp.asarray(self.features)[indices]
        scores = features @ x
        targets = jnp.asarray(self.targets)[indices]
        slopes = self._slopes(scores, targets)
        losses = self._losses(scores, targets) + self.penalty / 2 * jnp.sum(x**2)
        total = (weights * slopes) @ features + jnp.sum(weights) * self.penalty * x
        rows = jnp.asarray(self.squared_row_norms)[indices]
        return total, self._example_norms(rows, scores, slopes, x), losses

    def nice_sampling(self) -> Sampling:
        """The sampling of batches without replacement, with the constants of this problem.

        Returns:
          `nice`.
        """
        return _constructors.nice(self.example_smoothness_upper, smoothness=self.smoothness_upper)

    def minimizer(self) -> np.ndarray:
        """The optimum, in float64 on the host, to the precision of the arithmetic.

        Newton's method from 0, until the norm of the gradient stops falling.

        Returns:
          float64 `[d]`.

        Raises:
          RuntimeError: if the gradient is not near 0 in the end.
        """
        features = np.asarray(self.features, np.float64)
        targets, penalty = np.asarray(self.targets, np.float64), float(self.penalty)
        count, dimension = features.shape
        best = x = np.zeros(dimension)
        least = np.inf
        for _ in range(_NEWTON_STEPS):
            slopes, curvature = _loss_derivatives(self.kind, features @ x, targets)
            gradient = features.T @ slopes / count + penalty * x
            size = float(np.linalg.norm(gradient))
            if size < least:
                best, least, stalled = x, size, 0
            else:
                stalled += 1
            if stalled >= 2 or size == 0.0:
                break
            hessian = (features * curvature[:, None]).T @ features / count
            hessian += penalty * np.eye(dimension)
            step = np.linalg.solve(hessian, gradient)
            x = x - _damping(self.kind, features, targets, penalty, x, step, gradient) * step
        scale = float(np.max(self.example_smoothness_upper))
        if not least <= 1e-12 * scale * (1.0 + np.linalg.norm(best)):
            raise RuntimeError(
                f"Newton's method ended with a gradient of norm {least:.3g}; "
                "are the features badly scaled?"
            )
        return best

    def _losses(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        if self.kind == "ridge":
            return (scores - targets) ** 2 / 2
        return jnp.logaddexp(0.0, -targets * scores)

    def _slopes(self, scores: jax.Array, targets: ArrayLike) -> jax.Array:
        if self.kind == "ridge":
            return scores - targets
        signs = jnp.asarray(targets)
        return -signs * jax.nn.sigmoid(-signs * scores)

    def _example_norms(
        self, rows: ArrayLike, scores: jax.Array, slopes: jax.Array, x: jax.Array
    ) -> jax.Array:
        cross = 2 * slopes * self.penalty * scores
        return jnp.maximum(slopes**2 * rows + cross + self.penalty**2 * jnp.sum(x**2), 0.0)


def ridge(features: ArrayLike, targets: ArrayLike, *, penalty: float) -> Problem:
    r"""Ridge regression.

    .. math::
        f_i(x) = \frac{1}{2} (a_i^\top x - b_i)^2 + \frac{\lambda}{2} \|x\|^2, \quad
        L_i = \|a_i\|^2 + \lambda, \quad
        L, \mu = \lambda_{max, min}\Big(\frac{1}{n} A^\top A\Big) + \lambda

    Args:
      features: `[n, d]`, finite.
      targets: `[n]`, finite.
      penalty: lambda, at least 0; above 0 unless the features have full column rank.

    Returns:
      A `Problem`.

    Raises:
      ValueError: if a value or shape is wrong, or mu is not above 0.

    Guarantee:
      `smoothness_upper` and `example_smoothness_upper` are rounded up and `strong_convexity_lower`
      is rounded down, by more than the rounding errors of the eigenvalues in float64.

    Example:
      >>> from jaxcert import batching
      >>> problem = batching.ridge([[1.0, 0.0], [0.0, 2.0]], [1.0, 2.0], penalty=0.5)
      >>> float(problem.smoothness_upper), problem.minimizer().round(6)
      (2.500, array([0.5, 0.8]))
    """
    return _problem("ridge", features, targets, penalty)


def logistic(features: ArrayLike, labels: ArrayLike, *, penalty: float) -> Problem:
    r"""Logistic regression with an l2 penalty.

    .. math::
        f_i(x) = \log(1 + e^{-b_i a_i^\top x}) + \frac{\lambda}{2} \|x\|^2, \quad
        L_i = \frac{1}{4} \|a_i\|^2 + \lambda, \quad
        L = \frac{1}{4 n} \lambda_{max}(A^\top A) + \lambda, \quad \mu = \lambda

    Args:
      features: `[n, d]`, finite.
      labels: `[n]`, each -1 or 1; see `binary_labels`.
      penalty: lambda, above 0.

    Returns:
      A `Problem`.

    Raises:
      ValueError: if a value or shape is wrong.

    Guarantee:
      `smoothness_upper` and `example_smoothness_upper` are rounded up, by more than the rounding
      errors of the eigenvalues in float64; `strong_convexity_lower` is lambda.

    Example:
      >>> from jaxcert import batching
      >>> problem = batching.logistic([[1.0], [-1.0]], [1, -1], penalty=0.1)
      >>> problem.minimizer().round(6)
      array([1.633506])
    """
    problem = _problem("logistic", features, labels, penalty)
    bad = np.setdiff1d(problem.targets, [-1.0, 1.0])
    if bad.size:
        raise ValueError(f"labels must be -1 or 1, got {bad[:5].tolist()}; see binary_labels")
    return problem


def _problem(kind: str, features: ArrayLike, targets: ArrayLike, penalty: float) -> Problem:
    rows, wanted = matrix(features), np.asarray(targets, np.float64)
    count, dimension = rows.shape
    name = "targets" if kind == "ridge" else "labels"
    if wanted.shape != (count,) or not np.all(np.isfinite(wanted)):
        raise ValueError(f"{name} must be {count} finite numbers, got shape {wanted.shape}")
    if kind == "logistic" or penalty != 0:
        penalty = _checks.positive_number("penalty", penalty)
    eigenvalues = np.linalg.eigvalsh(rows.T @ rows / count)
    # The computed product and its eigenvalues are this near to the true ones, and far nearer.
    rounding = 4 * (count + dimension) * np.finfo(np.float64).eps * float(eigenvalues[-1])
    curvature = _CURVATURE[kind]
    smoothness = curvature * (float(eigenvalues[-1]) + rounding) + penalty
    flattest = max(float(eigenvalues[0]) - rounding, 0.0) if kind == "ridge" else 0.0
    if flattest + penalty <= 0:
        raise ValueError(
            "penalty must be above 0 where the features lack full column rank, got 0: "
            "the strong convexity would be 0"
        )
    squares = np.einsum("nd,nd->n", rows, rows)
    each = curvature * squares * (1 + dimension * np.finfo(np.float64).eps) + penalty
    if not np.all(each > 0):
        raise ValueError("features must have no zero row where penalty is 0")
    return Problem(
        kind, rows, squares, wanted, np.float64(penalty), np.float64(smoothness), each,
        np.float64(flattest + penalty),
    )  # fmt: skip


def _loss_derivatives(
    kind: str, scores: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if kind == "ridge":
        return scores - targets, np.ones_like(scores)
    margin = np.exp(-np.logaddexp(0.0, targets * scores))
    return -targets * margin, margin * (1.0 - margin)


def _damping(
    kind: str,
    features: np.ndarray,
    targets: np.ndarray,
    penalty: float,
    x: np.ndarray,
    step: np.ndarray,
    gradient: np.ndarray,
) -> float:
    """Halve the Newton step until the gradient along it does not turn round."""
    size = 1.0
    for _ in range(40):
        there = x - size * step
        slopes, _ = _loss_derivatives(kind, features @ there, targets)
        after = features.T @ slopes / len(targets) + penalty * there
        # The slope along the step: at a minimum of a convex function it changes sign.
        if abs(after @ step) <= 0.9 * abs(gradient @ step) or np.linalg.norm(gradient) < 1e-9:
            return size
        size /= 2
    return size
