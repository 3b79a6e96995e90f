"""Gram iteration: a differentiable upper bound on singular values that works under `jax.jit`."""

import jax
import jax.numpy as jnp

from jaxcert.lipschitz._rounding import gamma


def gram_upper(matrices: jax.Array, *, iterations: int) -> jax.Array:
    r"""Upper bounds on the spectral norms of `[..., m, n]`, real or complex, in their own dtype.

    With G_0 = W / c_0 and G_{k+1} = G_k^* G_k / c_{k+1}, every c a power of two,

    .. math::
        \sigma_1(G_k)^2 \le c_{k+1} \sigma_1(G_{k+1}) + \gamma \|G_k\|_F^2, \qquad
        \sigma_1(G_T) \le \|G_T\|_F

    where gamma bounds the rounding of the product; dividing by c rounds nothing. Read backwards
    this bounds the norm of W by at most rank^(2^-(T+1)) times itself and the budgets.
    """
    if matrices.shape[-2] < matrices.shape[-1]:
        matrices = matrices.mT.conj()
    rows, columns = matrices.shape[-2:]
    dtype = matrices.dtype
    operations = 1.0 + gamma(4, dtype)
    largest = jnp.max(jnp.abs(matrices), axis=(-2, -1))
    first = _power_of_two(largest)
    gram = matrices / first[..., None, None]
    # A zero matrix has the bound 0, whatever the budgets say.
    outer = jnp.where(largest == 0.0, jnp.zeros_like(first), first)

    def step(gram: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        square = _squared_norm(gram)
        scale = _power_of_two(jnp.sqrt(square))
        gram = gram / scale[..., None, None]
        gram = jnp.matmul(gram.mT.conj(), gram, precision=jax.lax.Precision.HIGHEST)
        return gram, (scale, jax.lax.stop_gradient(square / (scale * scale)))

    def step_back(
        bound: jax.Array, scale_and_square: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        scale, square = scale_and_square
        # The longest sum of all products; a square is at least 1/4, but for a zero matrix.
        budget = jnp.maximum(square, 0.2) * (gamma(rows, dtype) * 1.01)
        return scale * (jnp.sqrt((bound + budget) * operations) * operations), None

    # The first product alone may be of a matrix that is not square.
    gram, first_norms = step(gram, None)
    gram, norms = jax.lax.scan(step, gram, length=iterations - 1)
    error = gamma(rows, dtype) + gamma(columns, dtype)  # of a squared Frobenius norm
    # The floor, far below what a matrix that is not zero can reach, keeps the gradient finite.
    bound = jnp.sqrt(jnp.maximum(_squared_norm(gram), 1e-30) * (1.0 + error)) * operations
    bound, _ = jax.lax.scan(step_back, bound, norms, reverse=True)
    bound, _ = step_back(bound, first_norms)
    # Accelerators take numbers below the smallest normal one for 0.
    flushed = float(jnp.finfo(dtype).tiny) * (rows * columns) ** 0.5
    return outer * bound * operations + flushed


def _squared_norm(matrices: jax.Array) -> jax.Array:
    """Squared Frobenius norms `[...]`, summed along one axis and then the other."""
    one_axis = jnp.sum(jnp.real(matrices * matrices.conj()), axis=-2)
    # Without the barrier the two sums may become one over all entries, with a larger error.
    return jnp.sum(jax.lax.optimization_barrier(one_axis), axis=-1)


def _power_of_two(values: jax.Array) -> jax.Array:
    """The least power of two above each value, 1 for 0; a constant to differentiation."""
    values = jax.lax.stop_gradient(values)
    exponent = jnp.frexp(jnp.where(values > 0.0, values, jnp.ones_like(values)))[1]
    return jnp.ldexp(jnp.ones_like(values), exponent)
