"""One optimisation step as a pure function of a state."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxcert.smoothing import Noise
from jaxcert.training._augmentations import Augmentation
from jaxcert.training._losses import Loss
from jaxcert.training._noisy_scores import frozen
from jaxcert.training._scales import ScaleUpdate


class TrainState(NamedTuple):
    """All that changes while a network is trained.

    Attributes:
      parameters: the trained weights, nested dictionaries.
      variables: what the network keeps beside them: running averages, constants, counters.
      optimizer_state: of the optax optimizer.
      noise_scales: `[n]`, the scale of the noise of each image where each has its own, else None;
        `make_batch_step` hands a step those of its batch.
    """

    parameters: Any
    variables: Any
    optimizer_state: optax.OptState
    noise_scales: Any = None


Step = Callable[
    [TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]
]


def start(
    module: nnx.Module, *, optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, TrainState]:
    """Split a network into its structure in training mode and the state to be trained.

    Args:
      module: the network; it is not changed.
      optimizer: an optax optimizer.

    Returns:
      The static structure, which `make_step` takes, and a `TrainState` with copies of the weights,
      so that the state can be donated.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from jaxcert import models, training
      >>> network = models.MLP(input_shape=(2, 2, 1), num_classes=3, mean=0.5, std=0.3,
      ...                      hidden=(4,), rngs=nnx.Rngs(0))
      >>> structure, state = training.start(network, optimizer=optax.sgd(0.1))
      >>> sum(leaf.size for leaf in jax.tree.leaves(state.parameters))
      35
    """
    module = nnx.clone(module)
    module.train()
    graphdef, state = nnx.split(module)
    parameters, variables = nnx.split_state(state, nnx.Param, ...)
    parameters, variables = jax.tree.map(
        lambda leaf: jnp.array(leaf, copy=True),
        (nnx.to_pure_dict(parameters), nnx.to_pure_dict(variables)),
    )
    return graphdef, TrainState(parameters, variables, optimizer.init(parameters))


def make_step(
    graphdef: nnx.GraphDef,
    *,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    noise: Noise | None,
    augment: Augmentation | None = None,
    adapt: ScaleUpdate | None = None,
) -> Step:
    """Build the function that takes one step of the optimizer on one batch.

    Args:
      graphdef: from `start`.
      optimizer: the same optimizer as given to `start`.
      loss: such as `cross_entropy`.
      noise: handed to `loss`.
      augment: from a key and the images to the images that `loss` sees, such as `flip_randomly`;
        None leaves them.
      adapt: changes `state.noise_scales`, one a row of the batch, before the loss draws noise of
        these scales, such as `adapt_sigma`; None leaves them.

    Returns:
      A pure function `(state, key, images, labels) -> (state, metrics)`; the metrics are those of
      `loss` and `loss` itself, and `noise_scale`, the mean of the batch, where the state has them.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from jaxcert import models, smoothing, training
      >>> network = models.MLP(input_shape=(2, 2, 1), num_classes=3, mean=0.5, std=0.3,
      ...                      hidden=(4,), rngs=nnx.Rngs(0))
      >>> structure, state = training.start(network, optimizer=optax.sgd(0.1))
      >>> step = training.make_step(structure, optimizer=optax.sgd(0.1),
      ...                           loss=training.cross_entropy, noise=smoothing.gaussian(0.25))
      >>> state, metrics = jax.jit(step)(state, jax.random.key(1), jnp.ones((5, 2, 2, 1)),
      ...                                jnp.array([0, 1, 2, 0, 1]))
      >>> sorted(metrics)
      ['accuracy', 'loss']
    """

    def step(
        state: TrainState, key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        # Far from the indices of rows, which the loss folds into its key.
        seen = images if augment is None else augment(jax.random.fold_in(key, 2**32 - 1), images)
        scales, own_noise = state.noise_scales, noise
        if adapt is not None:
            network = frozen(nnx.merge(graphdef, state.parameters, state.variables))
            scales = adapt(jax.random.fold_in(key, 2**32 - 2), network, seen, scales)
        if scales is not None and noise is not None:
            own_noise = dataclasses.replace(noise, scale=jax.lax.stop_gradient(scales))

        def objective(parameters: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
            module: Any = nnx.merge(graphdef, parameters, state.variables)
            value, metrics = loss(key, module, seen, labels, noise=own_noise)
            _, variables = nnx.split_state(nnx.state(module), nnx.Param, ...)
            return value, ({"loss": value, **metrics}, nnx.to_pure_dict(variables))

        gradients, (metrics, variables) = jax.grad(objective, has_aux=True)(state.parameters)
        updates, optimizer_state = optimizer.update(
            gradients, state.optimizer_state, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        if scales is not None:
            metrics = metrics | {"noise_scale": jnp.mean(scales)}
        return TrainState(parameters, variables, optimizer_state, scales), metrics

    return step


def make_batch_step(step: Step, *, batch_size: int) -> Callable[..., Any]:
    """Build the function that takes one step on rows of a data set that stays on the device.

    The steps of an epoch are a Python loop over this function, not a `jax.lax.scan`: XLA for CPUs
    rewrites the convolutions of gradients only outside loops, where they are ten times as fast.

    Args:
      step: from `make_step`.
      batch_size: images a step.

    Returns:
      A pure function `(state, key, order, index, images, labels) -> (state, metrics)`: step `index`
      of an epoch that visits the rows of `images` and `labels` in `order`, with the key
      `fold_in(key, index)`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxcert import training
      >>> def step(state, key, images, labels):  # stands for what make_step builds
      ...     return state._replace(parameters=state.parameters + labels.sum()), {}
      >>> batch_step = training.make_batch_step(step, batch_size=2)
      >>> state = training.TrainState(parameters=0, variables={}, optimizer_state=())
      >>> state, _ = batch_step(state, jax.random.key(1), jnp.array([3, 0, 2, 1]), 1,
      ...                       jnp.zeros((4, 8)), jnp.array([10, 20, 30, 40]))
      >>> int(state.parameters)
      50
    """

    def batch_step(
        state: TrainState,
        key: jax.Array,
        order: jax.Array,
        index: jax.Array,
        images: jax.Array,
        labels: jax.Array,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        rows = jax.lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
        own_key = jax.random.fold_in(key, index)
        scales = state.noise_scales
        if scales is None:
            return step(state, own_key, images[rows], labels[rows])
        state = state._replace(noise_scales=scales[rows])
        state, metrics = step(state, own_key, images[rows], labels[rows])
        return state._replace(noise_scales=scales.at[rows].set(state.noise_scales)), metrics

    return batch_step
