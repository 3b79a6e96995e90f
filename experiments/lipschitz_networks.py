"""1-Lipschitz networks: every family of layers at equal size and budget.

    JAXCERT_DATA_DIR=... python -m experiments.lipschitz_networks --preset paper --output runs/nets

trains multi-layer perceptrons on MNIST and convolutional networks on CIFAR-10 whose layers differ
in nothing but their family, certifies test images by their margins, attacks them by PGD, and checks
what must hold: sampled Jacobians have norm at most 1, no attack within a
certified radius succeeds, and certified radii stay below the distances that DeepFool finds. A
network that `--output` holds is not trained again.

Each network has a run folder of its own, `NETWORK_run`, which `jaxcert report` summarises and
`jaxcert recheck` derives again; certified accuracies are those of the report. Margins are first
lowered by what float32 may have rounded.
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
from jaxcert import attacks, data, models, report, training

DENSE = (
    "aol", "sll", "cpl", "cayley", "sandwich", "soc", "bro", "liresnet", "gershgorin", "ldlt",
)  # fmt: skip
CONVOLUTIONAL = DENSE[:8]
# What attacks and sampling say of a network; a row may lack them.
ATTACKED = (
    "under_attack", "attacks_within_certified_radius", "attacks_within_three_times_that",
    "certified_beyond_deepfool", "median_radius_over_deepfool", "sampled_gradient_over_bound",
)  # fmt: skip
# Part of the largest score that rounding in float32 may cost a margin, generously.
ROUNDING = 1e-5
# On CIFAR-10: clean accuracy, then certified at 36/255, 72/255 and 108/255; as collected by Prach,
# Brau, Buttazzo, Lampert, "1-Lipschitz Layers Compared", 2023, arXiv:2311.16833, table 4, and for
# LiResNet, with generated training images, by its authors' public page.
PUBLISHED = {
    "aol": (71.6, 64.0, 56.4, 49.0),
    "sll": (73.3, 65.8, 58.4, 51.3),
    "cpl": (78.5, 64.4, 48.0, 33.0),
    "cayley": (75.3, 59.1, None, None),
    "soc": (76.4, 61.9, None, None),
    "liresnet": (87.0, 78.1, 66.6, 53.5),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """All families of one architecture on one data set.

    Attributes:
      architecture: `"mlp"` or `"cnn"`.
      dataset: name of the data set.
      families: of layers.
      num_train: training images, evenly spaced.
      num_test: test images, evenly spaced.
      num_epochs: passes over the training images.
      radii: l2, in pixel units, at which accuracy is certified and attacked.
      size: settings of the network: width, depth and what the architecture takes.
      offset: of `training.offset_loss`.
      temperature: of the same.
    """

    architecture: str
    dataset: str
    families: tuple[str, ...]
    num_train: int
    num_test: int
    num_epochs: int
    radii: tuple[float, ...]
    size: tuple[tuple[str, int], ...]
    offset: float
    temperature: float = 0.25


_MLP = (("width", 128), ("depth", 4))
_CNN = (("width", 128), ("depth", 2), ("channels", 48), ("patch", 4))
PRESETS = {
    "smoke": (
        Run("mlp", "digits", ("sll", "ldlt"), 256, 32, 2, (0.2,),
            (("width", 16), ("depth", 2)), 0.5),
    ),
    "paper": (
        Run("mlp", "mnist", DENSE, 20_000, 300, 4, (0.5, 1.0, 1.58), _MLP, 2.0),
        Run("cnn", "cifar10_jpeg", CONVOLUTIONAL, 20_000, 300, 6,
            (36 / 255, 72 / 255, 108 / 255), _CNN, 0.75),
    ),
}  # fmt: skip


def build(run: Run, family: str, dataset: data.Dataset) -> Any:
    """An untrained network; pixels are centred but not divided, so that radii are in pixels."""
    network = models.LipschitzMLP if run.architecture == "mlp" else models.LipschitzCNN
    mean, _ = models.pixel_statistics(dataset.images)
    size: dict[str, Any] = dict(run.size)
    return network(
        input_shape=dataset.images.shape[1:],
        num_classes=dataset.num_classes,
        mean=mean,
        std=1.0,
        family=family,
        rngs=nnx.Rngs(jax.random.key(0)),
        **size,
    )


def network_name(run: Run, family: str) -> str:
    return f"{run.architecture}_{run.dataset}_{family}"


def is_flipped(run: Run) -> bool:
    """Whether training images are mirrored at random: photographs may be, digits may not."""
    return run.dataset.startswith("cifar10")


def trained(run: Run, family: str, *, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The trained network, from the folder if it is there, and how it was trained."""
    setting = {**dataclasses.asdict(run), "family": family}
    del setting["families"], setting["num_test"], setting["radii"]
    path = folder / network_name(run, family)
    if found := _kept_networks.restored(path, setting):
        return found
    dataset = data.load(run.dataset, "train", num_images=run.num_train)
    module = build(run, family, dataset)
    began = time.perf_counter()
    result = training.train(
        jax.random.key(1),
        module,
        dataset,
        num_epochs=run.num_epochs,
        batch_size=min(256 if run.architecture == "mlp" else 128, run.num_train // 4),
        learning_rate=4e-3,
        weight_decay=0.0,
        loss=functools.partial(
            training.offset_loss, offset=run.offset, temperature=run.temperature
        ),
        augment=training.flip_randomly if is_flipped(run) else None,
        progress=False,
    )
    known = {
        "setting": setting,
        "seconds": time.perf_counter() - began,
        "last_epoch": result.history[-1],
    }
    return _kept_networks.keep(path, module, known)


def certified(run: Run, family: str, module: Any, *, folder: Path) -> report.Log:
    """The run of a network, from its folder as far as that goes; rechecked."""
    log = report.certify_margins(
        models.from_nnx(module),
        data.load(run.dataset, "test", num_images=run.num_test),
        folder=folder / f"{network_name(run, family)}_run",
        lipschitz=module.pairwise_lipschitz_upper(),
        rounding=ROUNDING,
    )
    problems = report.recheck(log).problems
    if problems:
        raise RuntimeError(f"{problems[0]} ({len(problems)} problems in all)")
    return log


@jax.jit
def slopes_of(classify: Any, images: jax.Array) -> jax.Array:
    """Gradients of all differences of scores: `[n, classes, classes, *shape]`."""
    slopes = jax.vmap(jax.jacrev(lambda image: classify(image[None])[0]))(images)
    return slopes[:, :, None] - slopes[:, None]


def sampled_norm(classify: Any, images: np.ndarray, pairwise: np.ndarray) -> float:
    """Largest ratio of a sampled gradient of a difference of scores to its bound."""
    slopes = np.asarray(slopes_of(classify, images), np.float64)
    norms = np.linalg.norm(slopes.reshape(*slopes.shape[:3], -1), axis=3)
    return float((norms / (pairwise + np.eye(len(pairwise)))).max())


def evaluate(run: Run, module: Any, log: report.Log) -> dict[str, Any]:
    """Accuracy under attack, and the checks."""
    dataset = data.load(run.dataset, "test", num_images=run.num_test)
    classify = models.from_nnx(module)
    pairwise = module.pairwise_lipschitz_upper()
    predicted = np.array([row.predict for row in log.rows])
    correct, radii = log.is_right, log.radii

    def attack(radius: np.ndarray) -> np.ndarray:
        found = attacks.pgd(
            jax.random.key(2), classify, dataset.images, predicted.astype(np.int32),
            radius=np.maximum(radius, 1e-6).astype(np.float32), num_steps=20,
        )  # fmt: skip
        return np.asarray(found.success)

    distances = np.asarray(
        attacks.deepfool(
            classify, dataset.images[:100], predicted[:100].astype(np.int32), num_steps=20
        ).distance
    )
    reached = np.isfinite(distances) & (radii[:100] > 0)
    return {
        "under_attack": [
            float((correct & ~attack(np.full(len(radii), radius))).mean()) for radius in run.radii
        ],
        "attacks_within_certified_radius": int(attack(radii).sum()),
        "attacks_within_three_times_that": int(attack(3.0 * radii).sum()),
        "certified_beyond_deepfool": int((radii[:100] > distances).sum()),
        "median_radius_over_deepfool": float(np.median((radii[:100] / distances)[reached])),
        "sampled_gradient_over_bound": sampled_norm(classify, dataset.images[:20], pairwise),
    }


def evaluated(run: Run, family: str, *, folder: Path, attack: bool = True) -> dict[str, Any]:
    """The row of a network; of its attacks, what the folder holds or, if wanted, new ones."""
    module, known = trained(run, family, folder=folder)
    network = models.fingerprint(models.from_nnx(module))
    about = {"num_test": run.num_test, "radii": list(run.radii), "network": network}
    path = folder / f"{network_name(run, family)}_row.json"
    log = certified(run, family, module, folder=folder)
    attacked = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if attacked.get("about") != about:
        attacked = {"about": about, **evaluate(run, module, log)} if attack else {}
        if attacked:
            path.write_text(json.dumps(attacked, indent=2) + "\n", encoding="utf-8")
    summary = report.summarize(log, radii=run.radii)
    return {
        "run": [run.architecture, run.dataset],
        "family": family,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param))),
        "features_lipschitz_upper": module.features_lipschitz_upper(),
        "accuracy": summary.clean_accuracy,
        "certified": summary.certified_accuracy.tolist(),
        "average_radius": summary.average_radius,
        "train_seconds": known["seconds"],
        **{name: attacked[name] for name in ATTACKED if attacked},
    }


def format_table(run: Run, rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracies of each family, and the checks."""
    names = [radius_name(run.dataset, radius) for radius in run.radii]
    size = ", ".join(f"{name} {value}" for name, value in run.size)
    head = [
        "family", "parameters", "clean", *(f"certified {n}" for n in names), "ACR",
        *(f"PGD {n}" for n in names), "median radius / DeepFool",
        "largest gradient / bound", "features at most", "training s",
    ]  # fmt: skip
    lines = [
        f"## {run.architecture.upper()} on {run.dataset}",
        "",
        f"{size}; {run.num_train:,} training images, {run.num_epochs} epochs, "
        f"{'mirrored at random' if is_flipped(run) else 'no augmentation'}, one "
        f"seed; {run.num_test} test images; l2 radii in pixel units; accuracies in percent, with a "
        f"standard error of at most {50 / math.sqrt(run.num_test):.1f}.",
        "",
        "| " + " | ".join(head) + " |",
        "| :--- |" + " ---: |" * (len(head) - 1),
    ]
    for row in rows:
        cells = [
            row["family"],
            f"{row['parameters']:,}",
            percent(row["accuracy"]),
            *map(percent, row["certified"]),
            f"{row['average_radius']:.3f}",
            *(
                [
                    *map(percent, row["under_attack"]),
                    f"{row['median_radius_over_deepfool']:.2f}",
                    f"{row['sampled_gradient_over_bound']:.6f}",
                ]
                if "under_attack" in row
                else [""] * (len(run.radii) + 2)
            ),
            f"{row['features_lipschitz_upper']:.7f}",
            f"{row['train_seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    probed = [row for row in rows if "under_attack" in row]
    if not probed:
        return "\n".join([*lines, "", "Not attacked."])
    within, triple, beyond = (
        sum(row[name] for row in probed)
        for name in (
            "attacks_within_certified_radius", "attacks_within_three_times_that",
            "certified_beyond_deepfool",
        )
    )  # fmt: skip
    lines += [
        "",
        f"PGD within the certified radius succeeded for {within} of {run.num_test * len(probed):,} "
        f"images, and for {triple} within three times that radius; {beyond} of "
        f"{min(run.num_test, 100) * len(probed):,} certified radii are beyond a boundary that "
        "DeepFool found."
        + ("" if len(probed) == len(rows) else " Rows without these columns were not attacked."),
    ]
    return "\n".join(lines)


def format_published() -> str:
    lines = [
        "## Published on CIFAR-10 (exact pixels), for networks and budgets that are far larger",
        "",
        "| family | clean | certified 36/255 | 72/255 | 108/255 |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for family, values in PUBLISHED.items():
        cells = ["" if value is None else f"{value:.1f}" for value in values]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Collected in arXiv:2311.16833, table 4; LiResNet, with generated training images, from "
        "its authors' public page.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.lipschitz_networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--train", nargs="+", metavar="NETWORK", help="only train these, such as mlp_mnist_aol"
    )
    parser.add_argument(
        "--no-attacks", action="store_true", help="certify alone; show earlier attacks"
    )
    parser.add_argument("--publish", action="store_true", help="copy to the committed results")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = f"python -m experiments.lipschitz_networks {shlex.join(words)}"
    options.output.mkdir(parents=True, exist_ok=True)
    runs = PRESETS[options.preset]
    if options.train:
        for run in runs:
            for family in run.families:
                if network_name(run, family) in options.train:
                    _, known = trained(run, family, folder=options.output)
                    print(json.dumps(known), flush=True)
        return 0
    rows, parts = [], ["# 1-Lipschitz networks", f"    {command}"]
    for run in runs:
        own = []
        for family in run.families:
            row = evaluated(run, family, folder=options.output, attack=not options.no_attacks)
            own.append(row)
            print(json.dumps(row), flush=True)
        rows += own
        parts.append(format_table(run, own))
    parts.append(format_published())
    settings = [dataclasses.asdict(run) for run in runs]
    result = {"command": command, "settings": settings, "rows": rows}
    table = "\n\n".join(parts) + "\n"
    endings = ("json", "md") if options.publish else ()
    _kept_networks.write(options.output, "lipschitz_networks", result, table, publish=endings)
    print(table)
    sound = all(
        row.get("attacks_within_certified_radius", 0) == 0
        and row.get("certified_beyond_deepfool", 0) == 0
        and row.get("sampled_gradient_over_bound", 0.0) <= 1.0 + 1e-5
        and math.isfinite(row["features_lipschitz_upper"])
        for row in rows
    )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
