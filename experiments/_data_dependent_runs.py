"""What the comparison of fixed and data-dependent sigma runs: training and certifying."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcert import data, models, report, smoothing, training

RESULTS = Path(__file__).resolve().parent / "results"

Network = models.MLP | models.LeNet | models.ResNet

# Stages of the experiment's one key, far apart from each other.
TRAINING, SEARCH, CHOSEN = 0x7472_6169, 0x7365_6172, 0x6368_6F73
# So that certifying can be shared, and one part alone is still spread over the test set.
NUM_PARTS = 2


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One way of training.

    Attributes:
        loss: The training scheme.
        recipe: Settings of `training.train`.
        starts_from: The scheme whose network it continues, or None for new weights.
        published: Average certified radius of fixed sigma to compare with.
    """

    loss: training.Loss
    recipe: Mapping[str, Any]
    starts_from: str | None = "gaussian"
    published: float | None = None


@dataclasses.dataclass(frozen=True)
class Preset:
    """What to train and certify.

    Attributes:
        dataset: Name of the data set.
        create: Makes the network, from the shape of an image, the number of classes and the mean
            and standard deviation of the pixels.
        schemes: By name.
        sigma: Of the noise in training, of the fixed certificates, and where the search begins.
        num_images: Test images, spread over the set.
        num_samples: Estimation samples for each.
        search: Settings of `smoothing.optimize_sigma`.
        num_attacked: Certified images of the first part to attack, of each scheme; the memory is
            that of the first part.
        attack: Settings of the attack: `num_noise`, draws that it climbs on; `num_steps`;
            `num_restarts`; `num_votes`, samples that say what the smoothed classifier answers.
        alpha: Failure probability of each certificate.
        committed: Logs of fixed certificates that exist already, by scheme.
    """

    dataset: str
    create: Callable[..., Network]
    schemes: Mapping[str, Scheme]
    sigma: float
    num_images: int
    num_samples: int
    search: Mapping[str, Any]
    num_attacked: int
    attack: Mapping[str, int]
    alpha: float = 0.001
    committed: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def small_mlp(**settings: Any) -> Network:
    return models.MLP(hidden=(64,), rngs=nnx.Rngs(0), **settings)


def lenet(**settings: Any) -> Network:
    return models.LeNet(rngs=nnx.Rngs(0), **settings)


PRESETS = {
    "smoke": Preset(
        dataset="digits",
        create=small_mlp,
        schemes={
            "gaussian": Scheme(
                training.cross_entropy,
                {"num_epochs": 10, "batch_size": 64, "learning_rate": 3e-3},
                starts_from=None,
            ),
            "consistency": Scheme(
                training.consistency_loss,
                {"num_epochs": 2, "batch_size": 64, "learning_rate": 1e-3},
            ),
        },
        sigma=0.25,
        num_images=12,
        num_samples=1000,
        search={
            "num_steps": 20,
            "num_samples": 50,
            "learning_rate": 0.05,
            "bounds": (0.1, 0.6),
            "max_probability": 0.993,
        },
        num_attacked=4,
        attack={"num_noise": 16, "num_steps": 5, "num_restarts": 1, "num_votes": 500},
    ),
    "paper": Preset(
        dataset="mnist",
        create=lenet,
        schemes={
            "gaussian": Scheme(
                training.cross_entropy,
                {"num_epochs": 15, "batch_size": 256, "learning_rate": 2e-3},
                starts_from=None,
                published=0.911,
            ),
            "smooth_adv": Scheme(
                functools.partial(
                    training.smooth_adv_loss, radius=1.0, num_samples=2, attack_steps=4
                ),
                {"num_epochs": 3, "batch_size": 256, "learning_rate": 1e-3},
                published=0.932,
            ),
            "macer": Scheme(
                functools.partial(training.macer_loss, num_samples=8, weight=16.0),
                {"num_epochs": 1, "batch_size": 256, "learning_rate": 1e-3},
                published=0.920,
            ),
            "consistency": Scheme(
                functools.partial(training.consistency_loss, num_samples=2, weight=10.0),
                {"num_epochs": 8, "batch_size": 256, "learning_rate": 1e-3},
                published=0.928,
            ),
        },
        sigma=0.25,
        num_images=100,
        num_samples=100_000,
        search={
            "num_steps": 30, "num_samples": 256, "learning_rate": 0.02, "bounds": (0.125, 1.0),
            "max_probability": 0.9999,
        },
        num_attacked=50,
        committed={"gaussian": RESULTS / "cohen_mnist_sigma_0.25.tsv"},
        attack={"num_noise": 64, "num_steps": 20, "num_restarts": 3, "num_votes": 2000},
    ),
}  # fmt: skip


def folder_of(preset: Preset, name: str, folder: Path) -> Path:
    return folder / f"{preset.dataset}_{name}_{preset.sigma}"


def trained(preset: Preset, name: str, *, folder: Path) -> tuple[Network, dict[str, Any]]:
    """Train the network of one scheme, or restore it; with what is known of its training.

    Raises:
        ValueError: if there is a network that was trained by another recipe.
    """
    scheme = preset.schemes[name]
    path = folder_of(preset, name, folder)
    about = path.with_name(path.name + ".json")
    recipe = json.loads(json.dumps(dict(scheme.recipe) | {"loss": _say(scheme.loss)}))
    if path.exists():
        known = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
        if "recipe" in known and known["recipe"] != recipe:
            raise ValueError(
                f"{path} was trained with {known['recipe']} and the preset says {recipe}; "
                "delete that folder to train again, or name another one with --models"
            )
        return models.restore(path), known
    dataset = data.load(preset.dataset, "train")
    if scheme.starts_from is None:
        mean, std = models.pixel_statistics(dataset.images)
        module = preset.create(
            input_shape=dataset.images.shape[1:],
            num_classes=dataset.num_classes,
            mean=mean,
            std=std,
        )
    else:
        module, _ = trained(preset, scheme.starts_from, folder=folder)
    print(f"training {name} on {dataset.num_images} images", flush=True)
    checkpoints = path.with_name(path.name + ".checkpoints")
    result = training.train(
        jax.random.fold_in(jax.random.key(0), TRAINING),
        module,
        dataset,
        noise=smoothing.gaussian(preset.sigma),
        loss=scheme.loss,
        checkpoint_dir=checkpoints,
        **scheme.recipe,
    )
    known = {
        "recipe": recipe,
        "starts_from": scheme.starts_from,
        "seconds": sum(epoch["seconds"] for epoch in result.history),
        "last_epoch": result.history[-1],
    }
    about.parent.mkdir(parents=True, exist_ok=True)
    about.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    models.save(path, module)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return module, known


def _say(loss: Any) -> str:
    """A loss by its name and settings."""
    if isinstance(loss, functools.partial):
        settings = ", ".join(f"{key}={value!r}" for key, value in loss.keywords.items())
        return f"{loss.func.__name__}({settings})"
    return str(loss.__name__)


def images_of(preset: Preset, part: int | None = None) -> data.Dataset:
    """The test images, or every `NUM_PARTS`-th of them from `part` on."""
    dataset = data.load(preset.dataset, "test", num_images=preset.num_images)
    if part is None:
        return dataset
    return dataset.take(np.arange(part, dataset.num_images, NUM_PARTS))


def certify_fixed(
    preset: Preset, name: str, part: int, *, folder: Path, models_folder: Path
) -> None:
    """Certify a part of the test images under the fixed sigma, or continue to."""
    module, _ = trained(preset, name, folder=models_folder)
    report.certify_run(
        jax.random.key(0),
        models.from_nnx(module),
        images_of(preset, part),
        folder=folder / f"fixed_{name}_{part}",
        noise=smoothing.gaussian(preset.sigma),
        num_samples=preset.num_samples,
        alpha=preset.alpha,
    )


def certify_chosen(
    preset: Preset, name: str, part: int, *, folder: Path, models_folder: Path
) -> None:
    """Choose sigma for a part of the test images, then certify each at its own, or continue to.

    Where the image alone is concerned: the memory is the report's.
    """
    module, _ = trained(preset, name, folder=models_folder)
    classify, dataset = models.from_nnx(module), images_of(preset, part)
    path = folder / f"sigma_{name}_{part}.npy"
    if not path.exists():
        sigmas = choose(
            jax.random.fold_in(jax.random.key(0), SEARCH),
            preset,
            classify,
            dataset.images,
            ids=dataset.ids,
        )
        unfinished = path.with_suffix(".unfinished.npy")
        np.save(unfinished, np.asarray(sigmas))
        unfinished.rename(path)
    report.certify_run(
        jax.random.fold_in(jax.random.key(0), CHOSEN),
        classify,
        dataset,
        folder=folder / f"chosen_{name}_{part}",
        noise=smoothing.gaussian(np.load(path)),
        num_samples=preset.num_samples,
        alpha=preset.alpha,
    )


def choose(
    key: jax.Array,
    preset: Preset,
    classify: jax.tree_util.Partial,
    images: np.ndarray,
    *,
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """Sigma of each image: `[n]`."""
    sigmas = smoothing.optimize_sigma(
        key, classify, jnp.asarray(images), initial_sigma=preset.sigma, ids=ids, **preset.search
    )
    return np.asarray(sigmas)


def log_of(
    preset: Preset,
    kind: str,
    name: str,
    *,
    folder: Path,
    parts: Sequence[int] = range(NUM_PARTS),
) -> report.Log:
    """The certificates of some parts, in the order of the images; those committed if there are."""
    if kind == "fixed" and name in preset.committed:
        rows = report.read_log(preset.committed[name]).rows
        ids = set(images_of(preset).ids.tolist())
        return report.Log(str(preset.committed[name]), tuple(r for r in rows if r.index in ids))
    logs = [folder / f"{kind}_{name}_{part}" / report.LOG_NAME for part in parts]
    found = [row for log in logs if log.exists() for row in report.read_log(log).rows]
    return report.Log(f"{kind} {name}", tuple(sorted(found, key=lambda row: row.index)))


class Remembered(NamedTuple):
    """Certificates and what a memory made of them.

    Attributes:
        log: the certificates, with the memory's answer and radius.
        memory: the memory after all of them.
        answer: what it made of each.
    """

    log: report.Log
    memory: smoothing.RegionMemory
    answer: Any


def remember(preset: Preset, log: report.Log, *, fingerprint: str, alpha: float) -> Remembered:
    """Offer the certificates of a log to an empty memory, in the order of the images.

    The certificates are derived again from their counts, at the failure probability `alpha`.
    """
    dataset = images_of(preset)
    place = {int(number): row for row, number in enumerate(dataset.ids)}
    images = dataset.images[[place[row.index] for row in log.rows]]

    def matrix(counts: list[Mapping[int, int]]) -> np.ndarray:
        found = np.zeros((len(counts), dataset.num_classes), np.int64)
        for row, votes in enumerate(counts):
            for label, count in votes.items():
                found[row, label] = count
        return found

    certificate = smoothing.certificate_from_counts(
        matrix([row.selection or {} for row in log.rows]),
        matrix([row.counts or {} for row in log.rows]),
        noise=smoothing.gaussian(np.array([sigma_of(row) for row in log.rows])),
        alpha=alpha,
    )
    memory = smoothing.RegionMemory.init(
        images.shape[1:], fingerprint=fingerprint, dtype=images.dtype
    )
    memory, answer = memory.insert(images, certificate.label, certificate.radius, alpha=alpha)
    rows = tuple(
        dataclasses.replace(row, predict=int(label), radius=float(radius), alpha=alpha)
        for row, label, radius in zip(log.rows, answer.label, answer.radius, strict=True)
    )
    return Remembered(report.Log(log.path, rows), memory, answer)


def sigma_of(row: report.Row) -> float:
    """Sigma of a certificate."""
    return float(smoothing.parse_noise(row.noise or "").scale)
