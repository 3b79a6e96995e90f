"""Losses of examples under any model, with the gradient norm of each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcert import _checks
from jaxcert.batching._draw import Batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExampleLosses:
    r"""The mean over examples of the loss of a model, as `minimize` and `batch_gradient` take it.

    .. math::
        f(x) = \frac{1}{n} \sum_i \ell(x, example_i)

    A pytree, made by `example_losses` and `layered_losses`.

    Attributes:
      loss: the function of parameters and examples.
      layered: whether `loss` takes a probe and a batch, rather than one example.
      examples: a pytree of arrays with a leading axis n.
    """

    loss: Callable[..., jax.Array] = dataclasses.field(metadata={"static": True})
    layered: bool = dataclasses.field(metadata={"static": True})
    examples: Any

    @property
    def num_examples(self) -> int:
        """The number of examples, n."""
        return jax.tree.leaves(self.examples)[0].shape[0]

    def take(self, indices: jax.Array) -> Any:
        """The examples at some indices.

        Args:
          indices: integers `[b]`.

        Returns:
          The pytree of examples with a leading axis b.
        """
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[indices], self.examples)

    def losses(self, params: Any, indices: jax.Array) -> jax.Array:
        """The losses of some examples.

        Args:
          params: of the model.
          indices: integers `[b]`.

        Returns:
          `[b]`.
        """
        chosen = self.take(indices)
        if self.layered:
            return self.loss(params, jnp.zeros(indices.shape), chosen)
        return jax.vmap(self.loss, (None, 0))(params, chosen)

    def weighted_gradient(
        self, params: Any, indices: jax.Array, weights: jax.Array
    ) -> tuple[Any, jax.Array, jax.Array]:
        """Sum of weighted gradients, and the squared gradient norm and loss of each example.

        Args:
          params: of the model.
          indices: integers `[b]`.
          weights: `[b]`; an example of weight 0 has norm 0.

        Returns:
          A tree like `params`, squared norms `[b]` and losses `[b]`.
        """
        chosen = self.take(indices)
        if not self.layered:
            losses, each = jax.vmap(jax.value_and_grad(self.loss), (None, 0))(params, chosen)
            norms = sum(
                jnp.sum(leaf.reshape(leaf.shape[0], -1) ** 2, axis=1)
                for leaf in jax.tree.leaves(each)
            )
            total = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, axes=1), each)
            return total, jnp.where(weights != 0, norms, 0.0), losses

        def weighted(params: Any, probe: jax.Array) -> tuple[jax.Array, jax.Array]:
            losses = self.loss(params, probe, chosen)
            return jnp.sum(weights * losses), losses

        (total, norms), losses = jax.grad(weighted, (0, 1), has_aux=True)(
            params, jnp.zeros(weights.shape)
        )
        # The probe saw the gradients of the weighted losses.
        return total, norms / jnp.where(weights != 0, weights, 1.0) ** 2, losses


def example_losses(loss: Callable[[Any, Any], jax.Array], examples: Any) -> ExampleLosses:
    """The mean of the losses of a model that is given for one example.

    Gradients of single examples exist for one microbatch at a time.

    Args:
      loss: from parameters and one example to a scalar.
      examples: a pytree of arrays, each with the same leading axis n.

    Returns:
      An `ExampleLosses`.

    Raises:
      ValueError: if the leading axes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import batching
      >>> objective = batching.example_losses(
      ...     lambda x, example: (x - example) ** 2, jnp.array([1.0, 2.0])
      ... )
      >>> total, norms, losses = objective.weighted_gradient(
      ...     jnp.array(0.0), jnp.array([0, 1]), jnp.ones(2)
      ... )
      >>> norms
      Array([ 4., 16.], dtype=float32)
    """
    return _losses(loss, False, examples)


def layered_losses(
    loss: Callable[[Any, jax.Array, Any], jax.Array], examples: Any
) -> ExampleLosses:
    """The mean of the losses of a model made of `dense` and `conv`, without single gradients.

    Args:
      loss: from parameters, a probe `[b]` and a batch of examples to losses `[b]`; every parameter
        enters one `dense` or `conv`, which is given the probe.
      examples: a pytree of arrays, each with the same leading axis n.

    Returns:
      An `ExampleLosses`.

    Raises:
      ValueError: if the leading axes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxcert import batching
      >>> def loss(params, probe, batch):
      ...     return batching.dense(batch, *params, probe)[:, 0] ** 2 / 2
      >>> objective = batching.layered_losses(loss, jnp.array([[1.0], [2.0]]))
      >>> total, norms, losses = objective.weighted_gradient(
      ...     (jnp.ones((1, 1)), jnp.zeros(1)), jnp.array([0, 1]), jnp.ones(2)
      ... )
      >>> norms
      Array([ 2., 20.], dtype=float32)
    """
    return _losses(loss, True, examples)


def batch_inner_products(
    objective: ExampleLosses,
    params: Any,
    batch: Batch,
    gradient: Any,
    *,
    microbatch_size: int = 256,
) -> jax.Array:
    r"""Inner products of the gradients of a batch with a direction, by forward differentiation.

    .. math::
        \langle \nabla \ell_i(x), g \rangle = \frac{d}{dt} \ell_i(x + t g) \Big|_{t = 0}

    Args:
      objective: made by `example_losses`; a probe has no forward derivative.
      params: of the model.
      batch: as drawn.
      gradient: the direction g, a tree like `params`.
      microbatch_size: how many examples go through the model at once.

    Returns:
      `[capacity]`, 0 in the padding.

    Raises:
      ValueError: if the objective is layered.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import batching
      >>> objective = batching.example_losses(
      ...     lambda x, example: (x - example) ** 2, jnp.array([1.0, 2.0])
      ... )
      >>> batch = batching.nice([2.0, 2.0], smoothness=2.0).draw(jax.random.key(7), 2)
      >>> found = batching.batch_inner_products(objective, jnp.array(0.0), batch, jnp.array(10.0))
      >>> sorted(found.tolist())
      [-40.0, -20.0]
    """
    if objective.layered:
        raise ValueError("objective must come from example_losses: a probe has no forward pass")
    capacity = batch.indices.shape[0]
    size = min(_checks.positive_integer("microbatch_size", microbatch_size), capacity)
    indices = jnp.pad(batch.indices, (0, size))

    def part(number: jax.Array, found: jax.Array) -> jax.Array:
        some = jax.lax.dynamic_slice_in_dim(indices, number * size, size)
        _, slopes = jax.jvp(lambda params: objective.losses(params, some), (params,), (gradient,))
        return jax.lax.dynamic_update_slice_in_dim(found, slopes, number * size, 0)

    found = jax.lax.fori_loop(0, (batch.size + size - 1) // size, part, jnp.zeros(capacity + size))[
        :capacity
    ]
    return jnp.where(jnp.arange(capacity) < batch.size, found, 0.0)


def _losses(loss: Callable[..., jax.Array], layered: bool, examples: Any) -> ExampleLosses:
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(examples)}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        raise ValueError(f"examples must share one leading axis, got {sorted(lengths)}")
    return ExampleLosses(loss, layered, jax.tree.map(jnp.asarray, examples))
