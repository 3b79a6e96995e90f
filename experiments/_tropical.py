"""What the tropical experiments share: small trained networks and their fully connected heads."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image
from sklearn import datasets as toys

from jaxcert import data, models, training

RESULTS = Path(__file__).resolve().parent / "results"

Layers = list[tuple[jax.Array, jax.Array]]

# Okabe and Ito's colours, which stay apart for colour-blind readers and in grey.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)


class Head(NamedTuple):
    """Fully connected layers, and what they see of the images."""

    layers: Layers
    train_features: jax.Array
    train_labels: jax.Array
    test_features: jax.Array
    test_labels: jax.Array


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: on the first so many training images."""

    num_images: int
    num_epochs: int
    hidden: tuple[int, ...] = (128,)
    batch_size: int = 128
    learning_rate: float = 2e-3


def trained_head(
    dataset: str, architecture: str, seed: int, *, recipe: Recipe, folder: Path
) -> Head:
    """Train a network, or restore it, and cut it where its fully connected layers begin.

    An `"mlp"` is all head; the head of a `"lenet"` follows its convolutions, which stay as they
    are. Features are what the first of these layers is given: normalised pixels, or activations.
    """
    train = data.load(dataset, f"train[:{recipe.num_images}]")
    test = data.load(dataset, "test")
    path = folder / f"{dataset}_{architecture}_{seed}"
    if path.exists():
        module = models.restore(path)
    else:
        mean, std = models.pixel_statistics(train.images)
        settings: dict[str, Any] = {
            "input_shape": train.images.shape[1:],
            "num_classes": train.num_classes,
            "mean": mean,
            "std": std,
            "rngs": nnx.Rngs(seed),
        }
        if architecture == "mlp":
            module = models.MLP(hidden=recipe.hidden, **settings)
        else:
            module = models.LeNet(hidden=recipe.hidden[0], **settings)
        training.train(
            jax.random.fold_in(jax.random.key(seed), 0x7472_6169),
            module,
            train,
            num_epochs=recipe.num_epochs,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            progress=False,
        )
        folder.mkdir(parents=True, exist_ok=True)
        models.save(path, module)
    assert isinstance(module, models.MLP | models.LeNet)
    dense = [*module.layers] if isinstance(module, models.MLP) else [module.dense]
    layers = [(layer.kernel[...].T, _bias(layer)) for layer in [*dense, module.head]]
    return Head(
        layers,
        _features(module, train.images),
        jnp.asarray(train.labels),
        _features(module, test.images),
        jnp.asarray(test.labels),
    )


def _bias(layer: Any) -> jax.Array:
    return layer.bias[...]


def _features(module: models.MLP | models.LeNet, images: np.ndarray) -> jax.Array:
    @nnx.jit
    def part(module: Any, batch: jax.Array) -> jax.Array:
        x = module.normalisation(batch)
        for convolution in getattr(module, "convolutions", ()):
            x = jax.nn.relu(convolution(x))
        return x.reshape(x.shape[0], -1)

    chunks = [
        part(module, jnp.asarray(images[start : start + 2000]))
        for start in range(0, len(images), 2000)
    ]
    return jnp.concatenate(chunks)


def scores(layers: Layers, features: jax.Array) -> jax.Array:
    """Scores `[n, classes]` of features `[n, d]`."""
    for weight, bias in layers[:-1]:
        features = jax.nn.relu(features @ weight.T + bias)
    weight, bias = layers[-1]
    return features @ weight.T + bias


@jax.jit
def accuracy(layers: Layers, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of the features that are classified as their labels."""
    return jnp.mean(jnp.argmax(scores(layers, features), axis=1) == labels)


@functools.partial(jax.jit, static_argnames=("num_steps", "batch_size"))
def fit(
    key: jax.Array,
    layers: Layers,
    features: jax.Array,
    labels: jax.Array,
    *,
    mask: Layers,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
) -> Layers:
    """Minimise the cross entropy by Adam over the entries that the mask marks with 1."""
    schedule = optax.cosine_decay_schedule(1.0, num_steps)
    optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(schedule))

    def loss(layers: Layers, places: jax.Array) -> jax.Array:
        found = scores(layers, features[places])
        return optax.softmax_cross_entropy_with_integer_labels(found, labels[places]).mean()

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        layers, state = carry
        places = jax.random.randint(
            jax.random.fold_in(key, number), (batch_size,), 0, features.shape[0]
        )
        slopes = jax.tree.map(jnp.multiply, jax.grad(loss)(layers, places), mask)
        moves, state = optimizer.update(slopes, state)
        layers = jax.tree.map(
            lambda value, move, free: value - learning_rate * move * free, layers, moves, mask
        )
        return (layers, state), None

    carry, _ = jax.lax.scan(step, (layers, optimizer.init(layers)), jnp.arange(num_steps))
    return carry[0]


def toy_data(name: str, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of two classes in the plane, about [-2, 2]^2, and their labels."""
    if name == "moons":
        points, labels = toys.make_moons(num_points, noise=0.12, random_state=seed)
        points = (points - [0.5, 0.25]) * 1.2
    elif name == "circles":
        points, labels = toys.make_circles(num_points, noise=0.07, factor=0.5, random_state=seed)
        points = points * 1.5
    else:
        points, labels = toys.make_blobs(
            num_points,
            centers=[[-1, -1], [1, 1], [-1, 1], [1, -1]],
            cluster_std=0.35,
            random_state=seed,
        )
        labels = labels // 2
    return points.astype(np.float32), labels.astype(np.int32)


def initial_layers(key: jax.Array, widths: Sequence[int], *, scheme: str = "kaiming") -> Layers:
    """Fresh weights of a ReLU network by a named initialiser; biases are small uniform numbers."""
    makers: Mapping[str, Any] = {
        "kaiming": jax.nn.initializers.he_normal(in_axis=1, out_axis=0),
        "xavier": jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=0),
        "normal": jax.nn.initializers.normal(0.5),
    }
    layers = []
    for place, (into, out) in enumerate(zip(widths, widths[1:], strict=False)):
        weight_key, bias_key = jax.random.split(jax.random.fold_in(key, place))
        layers.append(
            (
                makers[scheme](weight_key, (out, into)),
                jax.random.uniform(bias_key, (out,), minval=-0.5, maxval=0.5),
            )
        )
    return layers


def ones_like(layers: Layers) -> Layers:
    """A mask that lets all entries move."""
    return jax.tree.map(jnp.ones_like, layers)


def save(figure: Any, path: Path) -> None:
    """Write a figure with a palette of its own, a third of the size of full colour."""
    figure.savefig(path)
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)


def command(module: str, arguments: Sequence[str] | None) -> str:
    """The command line, as the committed results state it."""
    words = sys.argv[1:] if arguments is None else arguments
    return f"python -m experiments.{module} {shlex.join(words)}".rstrip()
