"""Verified error of published networks by interval and linear bounds, beside PGD and the published.

    JAXCERT_DATA_DIR=... python -m experiments.verified_error

bounds every margin of every test image of each network over the l-infinity ball that it was trained
for, by interval propagation, by linear relaxation in the two common forms, and by their best mix:
slopes optimised for each margin where the others fail. An image counts as an error unless every
margin is above 0. PGD runs on every image, and harder on the first 500 that the best mix leaves
open; an image that both certified and attacked would be a fault, and ends the run.

Each stage is saved under `--work`, so that a run that is stopped goes on where it was.

References: Wong, Kolter, "Provable defenses against adversarial examples via the convex outer
adversarial polytope", 2018, arXiv:1711.00851. Raghunathan, Steinhardt, Liang, "Certified Defenses
against Adversarial Examples", 2018, arXiv:1801.09344. Tjeng, Xiao, Tedrake, "Evaluating Robustness
of Neural Networks with Mixed Integer Programming", 2019, arXiv:1711.07356.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments import trained_networks
from jaxcert import attacks, lipschitz

RESULTS = Path(__file__).resolve().parent / "results"

EPSILON = 0.1
UNIT_BOX = (0.0, 1.0)
# Dense neurons with an open sign that are bounded backwards, of each image; few have more.
REFINE = 32


class Network(NamedTuple):
    """A published network: where its images are, how to read it, and what is published of it."""

    dataset: str
    read: Callable[[Path], list[lipschitz.Layer]]
    published: dict[str, str]


NETWORKS = {
    "WK17a": Network(
        "mnist",
        trained_networks.wk17a,
        {"exact": "4.38%", "certified": "5.82% (by its authors); 5.86% (Fast-Lin)"},
    ),
    "Wong-Kolter MNIST": Network(
        "mnist", trained_networks.wong_kolter, {"certified": "5.82% (by its authors)"}
    ),
    "RSL18a": Network(
        "mnist",
        trained_networks.rsl18a,
        {"exact": "14.36% to 30.81%", "certified": "34.77% (by its own semidefinite program)"},
    ),
    "Wong-Kolter Fashion-MNIST": Network(
        "fashion_mnist",
        lambda folder: trained_networks.wong_kolter(folder, "fashion_mnist_eps0.1"),
        {"certified": "34.53% (by its authors)"},
    ),
}

# What each column is: the settings of `margin_lower`, and whether the ball is cut to [0, 1].
METHODS: dict[str, tuple[dict[str, Any], bool]] = {
    "IBP": ({"method": "interval"}, True),
    "Fast-Lin": ({"method": "linear", "slopes": "parallel", "refine": REFINE}, False),
    "CROWN": ({"method": "linear", "slopes": "adaptive", "refine": REFINE}, True),
}
OPTIMIZED: tuple[dict[str, Any], ...] = (
    {"method": "optimized", "slopes": "adaptive", "refine": REFINE, "steps": 20},
    {"method": "optimized", "slopes": "parallel", "refine": REFINE, "steps": 20},
)


class Preset(NamedTuple):
    """How much is run: images bounded at once, steps of PGD on all and on some that stay open."""

    batch: int
    steps: int
    hard_steps: int
    hard_images: int


PRESETS = {
    "smoke": Preset(6, 4, 4, 12),
    "paper": Preset(50, 30, 60, 500),
}


def in_batches(
    function: Callable[..., Any], batch: int, *arrays: np.ndarray, classes: int
) -> np.ndarray:
    """Apply a compiled function to rows, in batches of one size; the last is filled up."""
    count = len(arrays[0])
    results = np.zeros((0, classes))
    for start in range(0, count, batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        part = np.asarray(function(*(array[rows] for array in arrays)), np.float64)
        results = np.concatenate([results, part[: count - start]])
    return results


def least_margins(
    layers: list[lipschitz.Layer],
    images: np.ndarray,
    labels: np.ndarray,
    settings: dict[str, Any],
    clipped: bool,
    batch: int,
    *,
    wide: bool,
) -> np.ndarray:
    """The least bound of the margins of each image `[n]`, in float64 if `wide`."""

    def bound(layers: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        region = lipschitz.ball(images, EPSILON, box=UNIT_BOX if clipped else None)
        margins = lipschitz.margin_lower(layers, region, labels, **settings)
        return jnp.min(margins, axis=1, keepdims=True)

    # 64 bits keep the same float32 images and weights, and bound their margins more finely.
    with jax.enable_x64(wide):
        dtype = np.float64 if wide else np.float32
        weights = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)), layers)
        compiled = functools.partial(jax.jit(bound), weights)
        return in_batches(compiled, batch, images.astype(dtype), labels, classes=1)[:, 0]


def attacked(
    layers: list[lipschitz.Layer],
    images: np.ndarray,
    labels: np.ndarray,
    preset: Preset,
    *,
    hard: bool,
) -> np.ndarray:
    """Which images PGD changes the answer of, bool `[n]`."""
    classify = jax.tree_util.Partial(_scores, layers)
    settings = (
        {"num_steps": preset.hard_steps, "num_restarts": 1, "objective": "multi_targeted"}
        if hard
        else {"num_steps": preset.steps}
    )
    results = []
    size = min(1000, len(images))
    for start in range(0, len(images), max(size, 1)):
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        attack = attacks.pgd(
            jax.random.fold_in(jax.random.key(1 if hard else 0), start), classify, images[rows],
            labels[rows], radius=EPSILON, norm="linf", bounds=UNIT_BOX, **settings,
        )  # fmt: skip
        results.append(np.asarray(attack.success)[: len(images) - start])
    return np.concatenate(results) if results else np.zeros(0, bool)


def _scores(layers: list[lipschitz.Layer], images: jax.Array) -> jax.Array:
    return lipschitz.apply_layers(layers, images)


class Stages:
    """Results of one network by stage, kept in a folder with the seconds that each took."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        path = self.folder / f"{name}.npz"
        if not path.exists():
            start = time.perf_counter()
            values = compute()
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, values=values, seconds=time.perf_counter() - start)
            partial.rename(path)
        with np.load(path) as stored:
            self.seconds[name] = float(stored["seconds"])
            return stored["values"]


def evaluate(
    name: str,
    layers: list[lipschitz.Layer],
    images: np.ndarray,
    labels: np.ndarray,
    preset: Preset,
    work: Path,
    *,
    wide: bool,
) -> dict[str, Any]:
    """All errors of one network, as shares of the images; close calls in float64 if `wide`."""
    layers = jax.tree.map(jnp.asarray, layers)
    stages = Stages(work / name.replace(" ", "_"))
    forward = jax.jit(lambda rows: lipschitz.apply_layers(layers, rows))
    classes = int(cast(lipschitz.Dense, layers[-1]).bias.shape[0])

    def clean() -> np.ndarray:
        scores = in_batches(forward, min(500, len(images)), images, classes=classes)
        return scores.argmax(axis=1) == labels

    right = stages.run("clean", clean)
    certified = {}
    everything = np.arange(len(images))
    for method, (settings, clipped) in METHODS.items():

        def bound(
            rest: np.ndarray, wide: bool, settings: Any = settings, clipped: bool = clipped
        ) -> np.ndarray:
            return least_margins(
                layers, images[rest], labels[rest], settings, clipped, preset.batch, wide=wide
            )

        def narrowly(bound: Any = bound) -> np.ndarray:
            return bound(everything, False) > 0

        narrow = stages.run(method, narrowly)

        def widen(bound: Any = bound, narrow: np.ndarray = narrow) -> np.ndarray:
            found = narrow.copy()
            rest = np.flatnonzero(~narrow & right)
            if rest.size:
                found[rest] = bound(rest, True) > 0
            return found

        certified[method] = stages.run(f"{method}_float64", widen) if wide else narrow
        print(f"{name}: {method} {error(certified[method]):.4f}", flush=True)
    mixed = np.logical_or.reduce(list(certified.values()))

    def optimize() -> np.ndarray:
        found = mixed.copy()
        for settings in OPTIMIZED:
            rest = np.flatnonzero(~found & right)
            if rest.size:
                least = least_margins(
                    layers, images[rest], labels[rest], settings, True, preset.batch, wide=wide
                )
                found[rest] = least > 0
        return found

    certified["best mix"] = stages.run("best_mix_float64" if wide else "best_mix", optimize)
    print(f"{name}: best mix {error(certified['best mix']):.4f}", flush=True)
    broken = stages.run("pgd", lambda: attacked(layers, images, labels, preset, hard=False))

    def attack_harder() -> np.ndarray:
        found = broken.copy()
        rest = np.flatnonzero(~found & ~certified["best mix"])[: preset.hard_images]
        found[rest] = attacked(layers, images[rest], labels[rest], preset, hard=True)
        return found

    broken = stages.run("pgd_hard_float64" if wide else "pgd_hard", attack_harder)
    for method, sound in certified.items():
        both = np.flatnonzero(sound & (broken | ~right))
        if both.size:
            raise RuntimeError(f"{name}: {method} certified images {both} that are misclassified")
    return {
        "network": name,
        "images": len(images),
        "clean": error(right),
        "pgd": float(broken.mean()),
        **{method: error(sound) for method, sound in certified.items()},
        "seconds": stages.seconds,
    }


def error(certified: np.ndarray) -> float:
    return float(1 - certified.mean())


def markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    lines = ["# Verified error at l-infinity 0.1", "", f"    {result['command']}", ""]
    finer = " and, where that leaves an image open, in float64" if result["float64"] else ""
    about = (
        f"Share of all test images that are not certified, in float32{finer}, with every rounding "
        "bounded. IBP, CROWN and the best mix cut the ball to [0, 1]; Fast-Lin, as published but "
        "for interval bounds where these are better, does not. PGD's error is the share that an "
        "attack misclassified: no exact error is below it, and no verified error may be."
    )
    lines += [*textwrap.wrap(about, 80), ""]
    lines.append(
        "| network | images | clean | PGD | best mix | CROWN | Fast-Lin | IBP "
        "| exact, published | certified, published |"
    )
    lines.append(f"| :--- |{' ---: |' * 7} :--- | :--- |")
    for row in result["networks"]:
        published = NETWORKS[row["network"]].published if row["network"] in NETWORKS else {}
        cells = [row["network"], f"{row['images']:,}"]
        cells += [
            f"{row[column]:.2%}"
            for column in ("clean", "pgd", "best mix", "CROWN", "Fast-Lin", "IBP")
        ]
        cells += [published.get("exact", "unknown"), published.get("certified", "none")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Seconds by the clock on {result['device']}, compilation included, beside other"]
    lines += ["work on the same cores:", ""]
    names = list(result["networks"][0]["seconds"])
    lines.append(f"| network | {' | '.join(names)} |")
    lines.append(f"| :--- |{' ---: |' * len(names)}")
    for row in result["networks"]:
        cells = [f"{row['seconds'][name]:.0f}" for name in names]
        lines.append(f"| {row['network']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def seeded_network() -> tuple[list[lipschitz.Layer], np.ndarray, np.ndarray]:
    """A small network and images of a seed, with its own answers as labels but for one."""
    rng = np.random.default_rng(0)

    def dense(outputs: int, inputs: int) -> lipschitz.Dense:
        weight = np.sqrt(2.0 / inputs) * rng.normal(size=(outputs, inputs))
        return lipschitz.Dense(weight.astype(np.float32), np.zeros(outputs, np.float32))

    layers: list[lipschitz.Layer] = [lipschitz.Flatten(), dense(12, 16), lipschitz.Relu()]
    layers += [dense(8, 12), lipschitz.Relu(), dense(5, 8)]
    images = rng.uniform(size=(12, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(lipschitz.apply_layers(layers, images)).argmax(axis=1).astype(np.int32)
    labels[0] = (labels[0] + 1) % 5
    return layers, images, labels


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.verified_error",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="all by default")
    parser.add_argument("--float64", action="store_true", help="also try again in float64")
    parser.add_argument("--work", type=Path, default=Path("runs/verified_error"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for table and JSON")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    words = sys.argv[1:] if arguments is None else arguments
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "experiments.verified_error", *words]),
        "device": f"{jax.devices()[0].platform}, {os.cpu_count()} cores",
        "epsilon": EPSILON,
        "float64": options.float64,
        "networks": [],
    }
    for name, layers, images, labels in networks(options, parser):
        row = evaluate(name, layers, images, labels, preset, options.work, wide=options.float64)
        result["networks"].append(row)
        write(result, options.output)
    print(markdown(result))
    return 0


def networks(
    options: argparse.Namespace, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, list[lipschitz.Layer], np.ndarray, np.ndarray]]:
    """Yield name, layers, images and labels of each network that is asked for."""
    if options.preset == "smoke":
        yield "seeded", *seeded_network()
        return
    home = os.environ.get("JAXCERT_DATA_DIR")
    if not home:
        parser.error("JAXCERT_DATA_DIR must name the folder that holds the networks")
    for name in options.network or NETWORKS:
        network = NETWORKS[name]
        images, labels = trained_networks.read_test_set(Path(home), network.dataset)
        yield name, network.read(Path(home)), images, labels


def write(result: dict[str, Any], folder: Path) -> None:
    """Write table and JSON, after each network anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verified_error.json").write_text(json.dumps(result, indent=2) + "\n")
    (folder / "verified_error.md").write_text(markdown(result))


if __name__ == "__main__":
    sys.exit(main())
