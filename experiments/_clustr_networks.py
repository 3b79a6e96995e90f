"""The networks of the ClusTR experiment: how they are trained, certified and made classifiers."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import _kept_networks
from jaxcert import data, lipschitz, models, prototypes, smoothing, training

NETWORKS = (
    "nominal", "adversarial", "clustr", "clustr_wide", "clustr_noise", "clustr_trades",
    "lipschitz", "lipschitz_clustr",
)  # fmt: skip
# Networks whose smoothed certificates stand beside the deterministic ones.
SMOOTHED = ("clustr", "clustr_noise", "lipschitz_clustr")
# Part of the largest feature or score that rounding in float32 may cost, generously.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class Preset:
    """One data set with the sizes of all that is done on it.

    Attributes:
      dataset: name of the data set.
      num_train: training images, evenly spaced.
      num_test: test images, evenly spaced.
      hidden: widths of the perceptron.
      width: of the 1-Lipschitz network.
      features: of the encoders.
      epochs: of nominal and adversarial training.
      cluster_epochs: of the magnet losses.
      lipschitz_epochs: of the 1-Lipschitz networks.
      samples_per_cluster: images of each cluster of a batch.
      clusters_per_batch: of the magnet losses.
      linf: l-infinity budgets, in pixel units.
      l2: l2 budgets, in pixel units.
      train_radius: l-infinity, of the attacks in training.
      offset: of the margins of the 1-Lipschitz network.
      sigma: of the Gaussian noise of `clustr_noise` and of smoothing.
      num_smoothed: test images that are smoothed.
      num_samples: of smoothing, for each image.
      num_steps: of the main attack.
      num_restarts: of the main attack.
    """

    dataset: str
    num_train: int
    num_test: int
    linf: tuple[float, ...]
    l2: tuple[float, ...]
    train_radius: float
    sigma: float
    hidden: tuple[int, ...] = (128, 64)
    width: int = 64
    features: int = 32
    epochs: int = 20
    cluster_epochs: int = 15
    lipschitz_epochs: int = 6
    samples_per_cluster: int = 20
    clusters_per_batch: int = 12
    offset: float = 2.0
    num_smoothed: int = 200
    num_samples: int = 5_000
    num_steps: int = 40
    num_restarts: int = 5


PRESETS = {
    "smoke": Preset(
        "digits", 360, 40, (0.05,), (0.5,), 0.05, 0.25, hidden=(16,), width=16, features=8,
        epochs=4, cluster_epochs=2, lipschitz_epochs=2, samples_per_cluster=6, offset=1.0,
        num_smoothed=10, num_samples=200, num_steps=5, num_restarts=2,
    ),
    "mnist": Preset(
        "mnist", 20_000, 500, (0.05, 0.1, 0.15), (0.5, 1.0, 1.5), 0.1, 0.5,
    ),
    "fashion_mnist": Preset(
        "fashion_mnist", 20_000, 500, (0.02, 0.05, 0.1), (0.25, 0.5, 1.0), 0.05, 0.25, offset=1.0,
    ),
    "cifar10_jpeg": Preset(
        "cifar10_jpeg", 20_000, 300, (0.005, 0.01, 0.02), (0.1, 0.25, 0.5), 0.01, 0.25, offset=0.5,
        num_steps=20, num_restarts=3, num_smoothed=100,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
      loss: the training scheme.
      epochs: passes over the training images.
      learning_rate: the highest.
      is_lipschitz: whether it is a 1-Lipschitz network.
      is_encoder: whether it gives features, not scores; trained on batches of clusters.
      start: the network whose weights it begins with.
      sigma: of noise that is added to images, or None.
    """

    loss: training.Loss
    epochs: int
    learning_rate: float
    is_lipschitz: bool = False
    is_encoder: bool = False
    start: str | None = None
    sigma: float | None = None


def describe(loss: training.Loss) -> str:
    """The name of a loss and what is bound to it."""
    function, bound = loss, {}
    if isinstance(loss, functools.partial):
        function, bound = loss.func, loss.keywords
    return f"{function.__name__}{bound}"  # type: ignore[attr-defined]


def recipe_of(preset: Preset, name: str) -> Recipe:
    samples = preset.samples_per_cluster
    magnet = functools.partial(training.magnet_loss, samples_per_cluster=samples)
    epochs, long = preset.epochs, preset.cluster_epochs
    return {
        "nominal": Recipe(training.cross_entropy, epochs, 2e-3),
        "adversarial": Recipe(
            functools.partial(training.adversarial_cross_entropy, radius=preset.train_radius),
            epochs, 2e-3,
        ),
        "clustr": Recipe(magnet, long, 2e-3, is_encoder=True, start="nominal"),
        "clustr_wide": Recipe(
            functools.partial(training.magnet_loss, samples_per_cluster=samples, gap=60.0),
            long, 2e-3, is_encoder=True, start="nominal",
        ),
        "clustr_trades": Recipe(
            functools.partial(
                training.magnet_trades_loss, samples_per_cluster=samples,
                radius=preset.train_radius, step_size=1.25 * preset.train_radius,
            ),
            long, 2e-3, is_encoder=True, start="nominal",
        ),
        "clustr_noise": Recipe(
            magnet, long, 2e-3, is_encoder=True, start="nominal", sigma=preset.sigma
        ),
        "lipschitz": Recipe(
            functools.partial(training.offset_loss, offset=preset.offset, temperature=0.25),
            preset.lipschitz_epochs, 4e-3, is_lipschitz=True,
        ),
        "lipschitz_clustr": Recipe(
            magnet, preset.lipschitz_epochs, 4e-3, is_lipschitz=True, is_encoder=True
        ),
    }[name]  # fmt: skip


def build(preset: Preset, recipe: Recipe, dataset: data.Dataset) -> Any:
    """An untrained network; a 1-Lipschitz one does not divide its pixels, which keeps radii."""
    mean, std = models.pixel_statistics(dataset.images)
    shared = {"input_shape": dataset.images.shape[1:], "mean": mean}
    if recipe.is_lipschitz:
        return models.LipschitzMLP(
            **shared, num_classes=dataset.num_classes, std=1.0, family="cayley",
            width=preset.width, depth=4, head=not recipe.is_encoder, rngs=nnx.Rngs(0),
        )  # fmt: skip
    outputs = preset.features if recipe.is_encoder else dataset.num_classes
    return models.MLP(
        **shared, num_classes=outputs, std=std, hidden=preset.hidden, rngs=nnx.Rngs(0)
    )


def trained(preset: Preset, name: str, *, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The trained network, from the folder if it is there, and how it was trained."""
    recipe = recipe_of(preset, name)
    setting = {
        "network": name, "dataset": preset.dataset, "num_train": preset.num_train,
        "hidden": preset.hidden, "width": preset.width, "features": preset.features,
        "clusters_per_batch": preset.clusters_per_batch, "sigma": recipe.sigma,
        "epochs": recipe.epochs, "learning_rate": recipe.learning_rate, "start": recipe.start,
        "loss": describe(recipe.loss),
    }  # fmt: skip
    path = folder / f"{preset.dataset}_{name}"
    if found := _kept_networks.restored(path, setting):
        return found
    dataset = data.load(preset.dataset, "train", num_images=preset.num_train)
    module = build(preset, recipe, dataset)
    before = 0.0
    if recipe.start is not None:
        pretrained, earlier = trained(preset, recipe.start, folder=folder)
        training.warm_start(module, pretrained)
        before = earlier["cpu_seconds"]
    batch_size = preset.clusters_per_batch * preset.samples_per_cluster
    arrange = functools.partial(
        training.cluster_batches, num_classes=dataset.num_classes, batch_size=batch_size,
        samples_per_cluster=preset.samples_per_cluster,
    )  # fmt: skip
    # Time of the processor, since others may share it.
    began, wall = time.process_time(), time.perf_counter()
    result = training.train(
        jax.random.key(1),
        module,
        dataset,
        noise=None if recipe.sigma is None else smoothing.gaussian(recipe.sigma),
        num_epochs=recipe.epochs,
        batch_size=batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=0.0,
        loss=recipe.loss,
        arrange=arrange if recipe.is_encoder else None,
        progress=False,
    )
    known = {
        "setting": setting,
        "cpu_seconds": time.process_time() - began,
        "cpu_seconds_before": before,
        "wall_seconds": time.perf_counter() - wall,
        "first_epoch": result.history[0],
        "last_epoch": result.history[-1],
    }
    return _kept_networks.keep(path, module, known)


def frozen(module: models.LipschitzMLP) -> jax.tree_util.Partial:
    """The function of a 1-Lipschitz network from its matrices, which are then computed once."""
    layers = [(layer.weight(), layer.bias[...]) for layer in (module.neck, *module.layers)]
    head = None if module.head is None else (module.head.weight(), module.head.bias[...])
    return jax.tree_util.Partial(_sorted_layers, module.normalisation.mean[...], layers, head)


def _sorted_layers(mean: jax.Array, layers: Any, head: Any, images: jax.Array) -> jax.Array:
    """Matrices with pairs of features sorted between them."""
    x = (images - mean).reshape(images.shape[0], -1)
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if number:
            pairs = x.reshape(x.shape[0], -1, 2)
            x = jnp.concatenate([pairs.max(axis=2), pairs.min(axis=2)], axis=1)
    return x if head is None else x @ head[0] + head[1]


@jax.jit
def outputs_of(apply: Any, images: jax.Array) -> jax.Array:
    """Scores or features, with the weights as an argument."""
    return apply(images)


@dataclasses.dataclass(frozen=True)
class Ready:
    """A trained network as a classifier.

    Attributes:
      classify: from images to scores.
      soften: from images to scores whose softmax is the soft rule.
      apply: from images to what the network gives, scores or features.
      table: the centres, where it classifies by them.
      certify: from what the network gives to labels and l2 radii, for a constant divided by the
        second argument: 1 is sound, more is broken on purpose.
      lipschitz: the constant from pixels to features, or of the pair of classes that differ most.
    """

    classify: Callable[[jax.Array], jax.Array]
    soften: Callable[[jax.Array], jax.Array]
    apply: Any
    table: prototypes.Prototypes | None
    certify: Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]
    lipschitz: float


def make_ready(preset: Preset, name: str, *, folder: Path) -> Ready:
    """Centres, where the network is an encoder, and its certificate."""
    recipe = recipe_of(preset, name)
    module, _ = trained(preset, name, folder=folder)
    apply = frozen(module) if recipe.is_lipschitz else models.from_nnx(module)
    if not recipe.is_encoder:
        pairwise = (
            module.pairwise_lipschitz_upper()
            if recipe.is_lipschitz
            else lipschitz.pairwise_lipschitz_upper(module, method="eclipse_fast")
        )

        def certify_margins(scores: np.ndarray, divisor: float) -> tuple[np.ndarray, np.ndarray]:
            lowered = np.asarray(scores, np.float64).copy()
            label = lowered.argmax(axis=1)
            lowered[np.arange(len(label)), label] -= ROUNDING * np.abs(scores).max(axis=1)
            radii = lipschitz.margin_radius(lowered, pairwise / divisor)
            return label, np.where(lowered.argmax(axis=1) == label, radii, 0.0)

        return Ready(apply, apply, apply, None, certify_margins, float(pairwise.max()))
    dataset = data.load(preset.dataset, "train", num_images=preset.num_train)
    features = np.asarray(outputs_of(apply, dataset.images))
    table = prototypes.fit_prototypes(
        jax.random.key(3), features, dataset.labels, num_classes=dataset.num_classes,
        clusters_per_class=2, num_restarts=3,
    )  # fmt: skip
    nearest = np.asarray(prototypes.centre_distances(features, table)).min(axis=1)
    settings = {"num_classes": dataset.num_classes}
    upper = (
        module.features_lipschitz_upper()
        if recipe.is_lipschitz
        else lipschitz.network_lipschitz_upper(module, method="eclipse_fast")
    )

    def certify_centres(features: np.ndarray, divisor: float) -> tuple[np.ndarray, np.ndarray]:
        found = prototypes.centroid_certificate(features, table, lipschitz=upper / divisor)
        rounding = ROUNDING * np.linalg.norm(features, axis=1) / (upper / divisor)
        return found.label, np.maximum(found.radius - rounding, 0.0)

    return Ready(
        prototypes.classifier(apply, table, **settings),
        prototypes.classifier(apply, table, variance=float(nearest.mean()), **settings),
        apply,
        table,
        certify_centres,
        upper,
    )
