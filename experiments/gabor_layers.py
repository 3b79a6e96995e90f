"""Gabor layers: accuracy, accuracy under attack and Lipschitz bounds, with and without.

    JAXCERT_DATA_DIR=... python -m experiments.gabor_layers --preset paper --output runs/gabor

trains a small LeNet with ordinary convolutions, with Gabor layers, and with Gabor layers and two
weights of their regulariser, on part of each data set, and a small residual network on CIFAR-10
likewise; attacks them by PGD in l-infinity balls; bounds the first layer and the whole network; and
draws the closed-form bound of Gabor filters against their true norm. A network that `--output`
holds is not trained again.

Reference: Pérez, Alfarra, Jeanneret, Bibi, Thabet, Ghanem, Arbeláez, "Gabor Layers Enhance Network
Robustness", 2020, arXiv:1912.05661.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments import _kept_networks
from experiments._kept_networks import percent, radius_name
from jaxcert import attacks, data, lipschitz, models, training

# Each network with the weight of its regulariser; None has ordinary convolutions.
NETWORKS = {"ordinary": None, "gabor": 0.0, "gabor, weight 0.1": 0.1, "gabor, weight 1": 1.0}


@dataclasses.dataclass(frozen=True)
class Run:
    """One architecture on one data set.

    Attributes:
      architecture: `"lenet"` or `"resnet8"`.
      dataset: name of the data set.
      num_train: training images, evenly spaced.
      num_test: test images, evenly spaced.
      num_epochs: passes over them.
      radii: of the l-infinity balls that are attacked, in pixel units.
      seeds: of weights, order and attack.
    """

    architecture: str
    dataset: str
    num_train: int
    num_test: int
    num_epochs: int
    radii: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)


PRESETS = {
    "smoke": (Run("lenet", "digits", 256, 32, 1, (0.05,)),),
    "paper": (
        Run("lenet", "mnist", 8_000, 400, 6, (0.05, 0.1, 0.2), (0, 1, 2)),
        Run("lenet", "fashion_mnist", 8_000, 400, 6, (0.02, 0.05, 0.1), (0, 1, 2)),
        Run("lenet", "cifar10_jpeg", 8_000, 400, 6, (2 / 255, 4 / 255, 8 / 255), (0, 1, 2)),
        Run("resnet8", "cifar10_jpeg", 6_000, 400, 5, (1 / 255, 2 / 255, 4 / 255)),
    ),
}


def build(run: Run, network: str, seed: int, dataset: data.Dataset) -> Any:
    """An untrained network."""
    mean, std = models.pixel_statistics(dataset.images)
    shape = dataset.images.shape[1:]
    rngs = nnx.Rngs(jax.random.key(seed))
    if run.architecture == "lenet":
        return models.GaborLeNet(
            input_shape=shape,
            num_classes=dataset.num_classes,
            mean=mean,
            std=std,
            gabor_layers=0 if network == "ordinary" else 2,
            rngs=rngs,
        )
    if network == "ordinary":
        return models.ResNet(
            input_shape=shape,
            num_classes=dataset.num_classes,
            mean=mean,
            std=std,
            depth=8,
            rngs=rngs,
        )
    return models.GaborResNet(
        input_shape=shape, num_classes=dataset.num_classes, mean=mean, std=std, depth=8, rngs=rngs
    )


def network_name(run: Run, network: str, seed: int) -> str:
    return f"{run.architecture}_{run.dataset}_{list(NETWORKS).index(network)}_{seed}"


def trained(run: Run, network: str, seed: int, *, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The trained network, from the folder if it is there, and how it was trained."""
    weight = NETWORKS[network]
    setting = {**dataclasses.asdict(run), "network": network, "weight": weight, "seed": seed}
    del setting["seeds"], setting["num_test"], setting["radii"]
    path = folder / network_name(run, network, seed)
    if found := _kept_networks.restored(path, setting):
        return found
    dataset = data.load(run.dataset, "train", num_images=run.num_train)
    module = build(run, network, seed, dataset)
    loss = training.cross_entropy
    if weight:
        loss = functools.partial(training.gabor_cross_entropy, weight=weight)
    began = time.perf_counter()
    result = training.train(
        jax.random.key(seed),
        module,
        dataset,
        num_epochs=run.num_epochs,
        batch_size=min(128, run.num_train // 4),
        learning_rate=4e-3,
        loss=loss,
        progress=False,
    )
    known = {
        "setting": setting,
        "seconds": time.perf_counter() - began,
        "last_epoch": result.history[-1],
    }
    module.eval()
    return _kept_networks.keep(path, module, known)


def first_layer_upper(module: Any) -> float:
    """Bound on the first layer, without the division of the pixels by their deviation."""
    first = module.stem if isinstance(module, models.ResNet) else module.layers[0]
    return lipschitz.network_lipschitz_upper(
        nnx.Sequential(first), method="product", input_shape=module.input_shape
    )


def network_upper(module: Any) -> float:
    """Product of the bounds of all layers, in pixel units."""
    return lipschitz.network_lipschitz_upper(module, method="product")


@jax.jit
def scores_of(classify: Any, images: jax.Array) -> jax.Array:
    """Scores, with the weights as an argument."""
    return classify(images)


def evaluate(run: Run, module: Any, seed: int) -> dict[str, Any]:
    """Accuracy, accuracy under attack, and bounds."""
    dataset = data.load(run.dataset, "test", num_images=run.num_test)
    classify = models.from_nnx(module)
    scores = np.asarray(scores_of(classify, dataset.images))
    correct = scores.argmax(axis=1) == dataset.labels
    under_attack = []
    for radius in run.radii:
        attack = attacks.pgd(
            jax.random.key(seed), classify, dataset.images, dataset.labels,
            radius=radius, norm="linf", num_steps=20, bounds=(0.0, 1.0),
        )  # fmt: skip
        under_attack.append(float((correct & ~np.asarray(attack.success)).mean()))
    return {
        "accuracy": float(correct.mean()),
        "accuracy_under_attack": under_attack,
        "first_layer_upper": first_layer_upper(module),
        "network_upper": network_upper(module),
    }


def evaluated(run: Run, network: str, seed: int, *, folder: Path) -> dict[str, Any]:
    """The row of a network, from the folder if it was evaluated before."""
    module, known = trained(run, network, seed, folder=folder)
    weights = models.fingerprint(models.from_nnx(module))
    about = {"num_test": run.num_test, "radii": list(run.radii), "weights": weights}
    path = folder / f"{network_name(run, network, seed)}_row.json"
    if path.exists():
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["about"] == about:
            return row
    row = {
        "run": [run.architecture, run.dataset],
        "network": network,
        "seed": seed,
        **evaluate(run, module, seed),
        "train_seconds": known["seconds"],
        "about": about,
    }
    path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    return row


def filters_of(parameters: np.ndarray, taps: int) -> np.ndarray:
    """Filters `[n, k, k]` of `[5, n]` sigma, gamma, lambda, psi and theta, in float64."""
    sigma, gamma, wave, phase, angle = parameters[..., None, None]
    points = np.linspace(-1.0, 1.0, taps)
    x, y = points[None, :], points[:, None]
    along, across = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    envelope = np.exp(-(sigma**2) * (along**2 + (gamma * across) ** 2))
    return envelope * np.cos(wave * along + phase)


def norms_of(filters: np.ndarray, period: int = 48) -> np.ndarray:
    """Largest modulus of the discrete Fourier transform: the circular norm at `period`."""
    return np.abs(np.fft.rfft2(filters, (period, period))).max(axis=(1, 2))


def unrotated(sigma: np.ndarray, gamma: np.ndarray, taps: int) -> np.ndarray:
    """The closed form that forgets the rotation of the grid."""
    step = 2.0 / (taps - 1)
    across = np.exp(-((sigma * gamma * step) ** 2))
    along = np.exp(-((sigma * step) ** 2))
    return (1 + (taps - 1) * along) * (1 + (taps - 1) * across)


def draw(path: Path, *, taps: int = 5, count: int = 4000) -> dict[str, Any]:
    """Bounds against norms for random filters, and how often the unrotated form fails."""
    import matplotlib.figure

    generator = np.random.default_rng(0)
    sigma = generator.uniform(0.0, 4.0, count)
    gamma = generator.normal(size=count)
    wave, phase = generator.normal(size=(2, count)) * 2.0
    angle = generator.uniform(0.0, 2 * math.pi, count)
    filters = filters_of(np.stack([sigma, gamma, wave, phase, angle]), taps)
    norms = norms_of(filters)
    bounds = {
        "closed form": np.asarray(
            lipschitz.gabor_lipschitz_upper(sigma, gamma, 1.0, kernel_size=taps)
        ),
        "sum of absolute taps": np.abs(filters).sum(axis=(1, 2)),
        "without rotation (not a bound)": unrotated(sigma, gamma, taps),
    }
    figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    summary = {}
    for axes, (name, values) in zip(
        figure.subplots(1, 3, sharey=True), bounds.items(), strict=True
    ):
        below = values < norms * (1 - 1e-12)
        axes.plot([0, taps**2], [0, taps**2], color="black", linewidth=0.8)
        axes.scatter(norms[~below], values[~below], s=2, color="tab:blue", rasterized=True)
        axes.scatter(norms[below], values[below], s=8, color="tab:red", zorder=3)
        axes.set_title(f"{name}\n{int(below.sum())} of {count} below the norm", fontsize=9)
        axes.set_xlabel("true norm")
        summary[name] = {
            "below": int(below.sum()),
            "median_ratio": float(np.median(values / norms)),
        }
    figure.axes[0].set_ylabel(f"bound ({taps} x {taps} taps)")
    figure.savefig(path, dpi=110)
    return summary


def spread(values: Sequence[float]) -> str:
    """The mean of several seeds and their deviation, in percent."""
    return percent(values) + (
        f" ± {percent(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    )


def format_table(runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> str:
    """One table an architecture and data set, averages over seeds."""
    parts = []
    for run in runs:
        radii = [radius_name(run.dataset, radius) for radius in run.radii]
        seeds = f"± the deviation over {len(run.seeds)} seeds" if len(run.seeds) > 1 else "one seed"
        lines = [
            f"## {run.architecture} on {run.dataset}",
            f"{run.num_train:,} training images, {run.num_epochs} epochs, {seeds}; accuracy in "
            f"percent on {run.num_test} test images, clean and under PGD of 20 steps, with a "
            f"standard error of at most {50 / math.sqrt(run.num_test):.1f}.",
            "| network | clean | " + " | ".join(f"linf {r}" for r in radii)
            + " | first layer at most | network at most |",
            "| :--- |" + " ---: |" * (len(radii) + 3),
        ]  # fmt: skip
        for network in NETWORKS:
            own = [r for r in rows if r["run"] == [run.architecture, run.dataset]
                   and r["network"] == network]  # fmt: skip
            attacked = np.array([r["accuracy_under_attack"] for r in own]).T
            lines.append(
                f"| {network} | {spread([r['accuracy'] for r in own])} | "
                + " | ".join(spread(values) for values in attacked)
                + f" | {np.mean([r['first_layer_upper'] for r in own]):.2f} | "
                + f"{np.mean([r['network_upper'] for r in own]):.3g} |"
            )
        parts.append("\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:]))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gabor_layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--train", nargs="+", metavar="RUN", help="only train these, such as lenet_mnist"
    )
    parser.add_argument("--publish", action="store_true", help="copy to the committed results")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = f"python -m experiments.gabor_layers {shlex.join(words)}"
    options.output.mkdir(parents=True, exist_ok=True)
    runs = PRESETS[options.preset]
    if options.train:
        for run in runs:
            wanted = f"{run.architecture}_{run.dataset}" in options.train
            for seed in run.seeds if wanted else ():
                for network in NETWORKS:
                    _, known = trained(run, network, seed, folder=options.output)
                    print(run.architecture, run.dataset, network, known, flush=True)
        return 0
    rows = []
    for run in runs:
        for seed in run.seeds:
            for network in NETWORKS:
                row = evaluated(run, network, seed, folder=options.output)
                rows.append(row)
                print(json.dumps(row), flush=True)
    figure = draw(options.output / "gabor_layers.png")
    result = {
        "command": command,
        "settings": [dataclasses.asdict(run) for run in runs],
        "rows": rows,
        "figure": figure,
    }
    table = "\n\n".join(["# Gabor layers", f"    {command}", format_table(runs, rows)])
    endings = ("json", "md", "png") if options.publish else ()
    _kept_networks.write(options.output, "gabor_layers", result, table + "\n", publish=endings)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
