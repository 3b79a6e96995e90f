"""The train loop: epochs, progress, metrics and checkpoints."""

import functools
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import nnx

from jaxcert import _checks, _storage, data, models
from jaxcert.smoothing import Noise
from jaxcert.training._arrangement import Arrangement, checked_rows
from jaxcert.training._augmentations import Augmentation
from jaxcert.training._identity import identify
from jaxcert.training._losses import Loss, cross_entropy
from jaxcert.training._scales import ScaleUpdate
from jaxcert.training._step import TrainState, make_batch_step, make_step, start

_KEPT_CHECKPOINTS = 2


class TrainResult(NamedTuple):
    """What `train` returns.

    Attributes:
      module: the trained network, the one that was given.
      history: one dictionary an epoch: `epoch` (from 1), the mean of each metric over the epoch's
        steps (`loss`, `accuracy` and what else the loss reports), `seconds`, `images_per_second`.
      noise_scales: float32 `[n]`, the scale of the noise of each image at the end, where `adapt`
        was given; else None.
    """

    module: nnx.Module
    history: list[dict[str, float]]
    noise_scales: np.ndarray | None = None


def train(
    key: jax.Array,
    module: nnx.Module,
    dataset: data.Dataset,
    *,
    noise: Noise | None = None,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 1e-4,
    optimizer: str = "adamw",
    warmup_fraction: float = 0.05,
    loss: Loss = cross_entropy,
    augment: Augmentation | None = None,
    arrange: Arrangement | None = None,
    adapt: ScaleUpdate | None = None,
    adapt_after: int = 0,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a network, by default with noise augmentation, and set its weights to the result.

    The learning rate rises linearly over the first `warmup_fraction` of all steps and then falls to
    0 along a cosine. Epoch e draws its order and its noise from `fold_in(key, e)` alone, so that a
    run that was killed, called again with equal arguments and the same `checkpoint_dir`, continues
    after its last complete epoch and ends with bitwise the same weights (on a GPU only with
    `--xla_gpu_deterministic_ops=true` in `XLA_FLAGS`).

    Args:
      key: a typed key.
      module: a `flax.nnx` module from `[n, *shape]` to scores `[n, num_classes]`; updated in place
        when training is complete. Classifiers made from it before keep their weights.
      dataset: images float32 `[n, *shape]` in [0, 1], labels int32 `[n]`; held on the device.
      noise: added to the images by `loss`, in pixel units; None trains on clean images.
      num_epochs: passes over the data.
      batch_size: images a step.
      learning_rate: the highest value of the schedule.
      weight_decay: decoupled weight decay for `"adamw"`, L2 penalty for `"sgd"`.
      optimizer: `"adamw"`, or `"sgd"` with Nesterov momentum 0.9.
      warmup_fraction: part of all steps with a rising learning rate, in [0, 1).
      loss: the training scheme, a `Loss`.
      augment: from a key and a batch of images to the images that `loss` sees, such as
        `flip_randomly` or `functools.partial(shift_randomly, pixels=2)`; None leaves them.
      arrange: chooses the images of all batches of an epoch from the network as it is when the
        epoch begins, such as `cluster_batches`; None visits all images in random order.
      adapt: changes the noise of each image before each step on it, such as
        `functools.partial(adapt_sigma, smallest=0.1, largest=0.5)`. Each image begins with the
        scale of `noise` and keeps its own from epoch to epoch; None keeps one scale for all.
      adapt_after: epochs before the scales begin to change.
      checkpoint_dir: where the state is kept after each epoch; None keeps nothing. With it `loss`,
        `augment`, `arrange` and `adapt` are recognised by name: functions at the top level of a
        module, or `functools.partial` of such with plain numbers and strings.
      progress: whether to show a progress bar.

    Returns:
      A `TrainResult`.

    Raises:
      TypeError: if an argument is of the wrong type.
      ValueError: if a setting is out of range, if `checkpoint_dir` holds a damaged checkpoint or
        one of other settings, or if it is given with a function that has no name.
      FloatingPointError: if the loss is not finite; names the epoch and the step.

    Example:
      >>> import jax, numpy as np
      >>> from jaxcert import data, models, smoothing, training
      >>> generator = np.random.default_rng(0)
      >>> images = generator.uniform(size=(64, 4, 4, 1)).astype(np.float32)
      >>> labels = (images.mean(axis=(1, 2, 3)) > 0.5).astype(np.int32)
      >>> dataset = data.Dataset(images, labels, "brightness", "train", 2)
      >>> network = models.create("mlp", input_shape=(4, 4, 1), num_classes=2,
      ...                         mean=0.5, std=0.3, seed=0)
      >>> result = training.train(jax.random.key(1), network, dataset,
      ...                         noise=smoothing.gaussian(0.1), num_epochs=2, batch_size=16,
      ...                         learning_rate=1e-3, progress=False)
      >>> [sorted(epoch) for epoch in result.history][0]
      ['accuracy', 'epoch', 'images_per_second', 'loss', 'seconds']

    References:
      Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
      arXiv:1902.02918, section 3.3.
    """
    key = _checks.typed_key("key", key)
    if not isinstance(module, nnx.Module):
        raise TypeError(f"module must be a flax.nnx.Module, got {type(module).__name__}")
    images, labels = _check_dataset(dataset)
    num_epochs = _checks.positive_integer("num_epochs", num_epochs)
    batch_size = _checks.positive_integer("batch_size", batch_size)
    if batch_size > images.shape[0]:
        raise ValueError(
            f"batch_size must not exceed the number of images, {images.shape[0]}, got {batch_size}"
        )
    if noise is not None and jnp.ndim(noise.scale) != 0:
        raise ValueError(f"noise must have one scale for all images, got {noise}")
    adapt_after = _checks.positive_integer("adapt_after", adapt_after, minimum=0)
    if adapt is not None and noise is None:
        raise ValueError("noise must be given with adapt, which begins with its scale, got None")
    if adapt is not None and noise is not None and noise.grid is not None:
        raise ValueError(f"noise on a grid has one scale, which adapt cannot change, got {noise}")
    steps = images.shape[0] // batch_size
    transformation = _make_optimizer(
        optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_fraction=warmup_fraction,
        num_steps=num_epochs * steps,
    )
    graphdef, state = start(module, optimizer=transformation)
    if adapt is not None and noise is not None:
        state = state._replace(noise_scales=jnp.full(images.shape[0], noise.scale))
    history: list[dict[str, float]] = []
    checkpoints = None
    if checkpoint_dir is not None:
        recipe = {
            "key": np.asarray(jax.random.key_data(key)).tolist(),
            "initial weights": models.fingerprint(models.from_nnx(module)),
            "data": data.fingerprint(dataset),
            "noise": str(noise),
            "num_epochs": num_epochs,
            "batch_size": batch_size,
            "learning_rate": float(learning_rate),
            "weight_decay": float(weight_decay),
            "optimizer": optimizer,
            "warmup_fraction": float(warmup_fraction),
            "loss": identify("loss", loss),
            "augment": None if augment is None else identify("augment", augment),
            "arrange": None if arrange is None else identify("arrange", arrange),
            "adapt": None if adapt is None else identify("adapt", adapt),
            "adapt_after": None if adapt is None else adapt_after,
        }
        checkpoints = _Checkpoints(Path(checkpoint_dir), recipe)
        state, history = checkpoints.latest(state)

    build = functools.partial(
        make_step, graphdef, optimizer=transformation, loss=loss, noise=noise, augment=augment
    )
    first_step, later_step = (
        jax.jit(make_batch_step(build(adapt=rule), batch_size=batch_size), donate_argnums=0)
        for rule in (None, adapt)
    )
    permute = jax.jit(functools.partial(jax.random.permutation, x=images.shape[0]))
    device_images, device_labels = jnp.asarray(images), jnp.asarray(labels)
    bar = tqdm.tqdm(
        total=num_epochs * steps,
        initial=len(history) * steps,
        desc="train",
        unit="step",
        disable=not progress,
    )
    with bar:
        for epoch in range(len(history), num_epochs):
            began = time.perf_counter()
            order_key, steps_key = (
                jax.random.fold_in(jax.random.fold_in(key, epoch), stage) for stage in range(2)
            )
            if arrange is None:
                order = permute(order_key)
            else:
                network = nnx.merge(graphdef, state.parameters, state.variables)
                chosen = arrange(order_key, models.from_nnx(network), images, labels)
                order = checked_rows(chosen, steps * batch_size, images.shape[0])
            collected = []
            run_step = first_step if epoch < adapt_after else later_step
            for index in range(steps):
                state, metrics = run_step(
                    state, steps_key, order, np.int32(index), device_images, device_labels
                )
                collected.append(metrics)
                bar.update()
            per_step = {
                name: np.array([metrics[name] for metrics in collected]) for name in collected[0]
            }
            seconds = time.perf_counter() - began
            _check_finite(per_step["loss"], epoch)
            history.append(
                {
                    "epoch": epoch + 1,
                    **{name: float(values.mean()) for name, values in per_step.items()},
                    "seconds": seconds,
                    "images_per_second": steps * batch_size / seconds,
                }
            )
            if checkpoints is not None:
                checkpoints.write(state, history)
            bar.set_postfix(
                {"epoch": epoch + 1} | {name: f"{history[-1][name]:.4g}" for name in per_step}
            )
    trained = nnx.merge(graphdef, state.parameters, state.variables)
    nnx.update(module, nnx.state(trained))
    scales = None if state.noise_scales is None else np.asarray(state.noise_scales)
    return TrainResult(module, history, scales)


class _Checkpoints:
    """The states of one run after each epoch, in folders `epoch_00001`, ..."""

    def __init__(self, folder: Path, recipe: dict[str, Any]):
        self.folder = folder
        self.recipe = recipe
        # What a process that was killed while it wrote has left behind.
        for partial in folder.glob(".epoch_*.partial"):
            shutil.rmtree(partial, ignore_errors=True)

    def latest(self, template: TrainState) -> tuple[TrainState, list[dict[str, float]]]:
        """The last complete state and its history, or `template` and an empty history."""
        folders = self._folders()
        if not folders:
            return template, []
        try:
            arrays, settings = _storage.read(folders[-1])
        except ValueError as error:
            raise ValueError(
                f"{error}; or delete that folder, to continue from the checkpoint before it"
            ) from error
        kept = settings.get("recipe", {})
        differing = [
            f"{name} was {kept.get(name)} and is now {value}"
            for name, value in self.recipe.items()
            if kept.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"checkpoint_dir {self.folder} holds a run of other settings: "
                f"{'; '.join(differing)}; use the former settings, or another or an empty folder"
            )
        leaves, structure = jax.tree_util.tree_flatten_with_path(template)
        restored = [_as_leaf(arrays[_name(path)], leaf) for path, leaf in leaves]
        return jax.tree.unflatten(structure, restored), settings["history"]

    def write(self, state: TrainState, history: list[dict[str, float]]) -> None:
        """Keep `state` as the result of the last epoch of `history`."""
        arrays = {
            _name(path): _as_array(leaf)
            for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        }
        settings = {"recipe": self.recipe, "history": history}
        _storage.write(self.folder / f"epoch_{len(history):05d}", arrays, settings)
        for folder in self._folders()[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        folders = [
            folder
            for folder in self.folder.glob("epoch_*")
            if re.fullmatch("epoch_[0-9]{5,}", folder.name) and folder.is_dir()
        ]
        return sorted(folders, key=lambda folder: int(folder.name.removeprefix("epoch_")))


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_array(leaf: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _as_leaf(array: np.ndarray, template: jax.Array) -> jax.Array:
    value = jnp.asarray(array)
    return (
        jax.random.wrap_key_data(value, impl=jax.random.key_impl(template))
        if _is_key(template)
        else value
    )


def _make_optimizer(
    name: str,
    *,
    learning_rate: float,
    weight_decay: float,
    warmup_fraction: float,
    num_steps: int,
) -> optax.GradientTransformation:
    peak = _checks.positive_number("learning_rate", learning_rate)
    if not 0.0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be finite and at least 0, got {weight_decay}")
    if not 0.0 <= warmup_fraction < 1.0:
        raise ValueError(f"warmup_fraction must lie in [0, 1), got {warmup_fraction}")
    warmup = int(warmup_fraction * num_steps)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else peak,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=num_steps,
    )
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay)
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(schedule, momentum=0.9, nesterov=True),
        )
    raise ValueError(f"optimizer must be 'adamw' or 'sgd', got {name!r}")


def _check_dataset(dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    images = np.asarray(_checks.batch_of_inputs("dataset.images", dataset.images))
    labels = np.asarray(dataset.labels)
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"dataset.labels must be integers of shape ({images.shape[0]},), got {labels.dtype} "
            f"of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= dataset.num_classes:
        raise ValueError(
            f"dataset.labels must lie in [0, {dataset.num_classes}), got values from "
            f"{labels.min()} to {labels.max()}"
        )
    return images, labels.astype(np.int32)


def _check_finite(losses: np.ndarray, epoch: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise FloatingPointError(
            f"the loss became {losses[bad[0]]} in step {bad[0] + 1} of epoch {epoch + 1}; lower "
            "learning_rate or look for pixels far outside [0, 1]"
        )
