"""Every number that jaxcert has about inputs of trained networks, lined up: proofs below attacks.

    JAXCERT_DATA_DIR=... python -m experiments.ladder --preset paper

takes 50 test images of MNIST and three published networks from the folder JAXCERT_DATA_DIR (see
`experiments.trained_networks`). For each image: certificates from Lipschitz constants of the whole
network and of pairs of classes, linear bounds, the exact distance to the boundary where there is
one hidden layer, attacks, and the certificate of the smoothed network, which is another classifier.
A certificate above an attack would be a bug in either, and ends the run with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import trained_networks
from jaxcert import ladder, models, smoothing
from jaxcert.lipschitz import Layer

RESULTS = Path(__file__).resolve().parent / "results"
CHUNK = 10


class Entry(NamedTuple):
    """A network with images and their labels."""

    name: str
    layers: list[Layer]
    images: np.ndarray
    labels: np.ndarray
    settings: dict[str, Any]


def entries(preset: str, data: Path | None, num_images: int) -> Iterator[Entry]:
    """The networks of a preset; "smoke" has one with fresh weights and needs no data."""
    if preset == "smoke":
        network = models.create(
            "mlp", input_shape=(4, 4, 1), num_classes=3, mean=0.3, std=0.4, seed=0
        )
        layers = ladder.layers_of(network)
        images = np.random.default_rng(0).uniform(size=(4, 4, 4, 1)).astype(np.float32)
        settings = {"methods": ("product",), "num_samples": 100, "attack_steps": 5}
        yield Entry("fresh weights", layers, images, np.zeros(4, int), settings)
        return
    if data is None:
        raise FileNotFoundError("JAXCERT_DATA_DIR must name the folder of the trained networks")
    images, labels = trained_networks.read_test_set(data, "mnist")
    chosen = np.arange(num_images) * (len(images) // num_images)
    readers: dict[str, Callable[[Path], list[Layer]]] = {
        "RSL18a, 784-500-10": trained_networks.rsl18a,
        "WK17a, 2 convolutions": trained_networks.wk17a,
        "KW18, 2 convolutions": trained_networks.wong_kolter,
    }
    for name, read in readers.items():
        methods = ("product", "averaged", "eclipse_fast") if "RSL" in name else ("product",)
        settings = {"methods": methods, "max_nodes": 20, "num_samples": 2000}
        yield Entry(name, read(data), images[chosen], labels[chosen], settings)


def measure(entry: Entry, *, sigma: float, seed: int) -> dict[str, Any]:
    """The ladder of a network as plain values, with all that is out of order.

    A few images at a time, of one number so that one program does for all.
    """
    parts = []
    for start in range(0, len(entry.images), CHUNK):
        chosen = entry.images[start : start + CHUNK]
        parts.append(
            ladder.certification_ladder(
                jax.random.fold_in(jax.random.key(seed), start), entry.layers, chosen,
                noise=smoothing.gaussian(sigma), **entry.settings,
            )
        )  # fmt: skip
        print(f"{entry.name}: {start + len(chosen)} of {len(entry.images)}", flush=True)
    rungs = tuple(
        same[0]._replace(values=np.concatenate([rung.values for rung in same]))
        for same in zip(*(part.rungs for part in parts), strict=True)
    )
    label, margin, smoothed = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("label", "margin", "smoothed_label")
    )
    found = ladder.Ladder(label, margin, smoothed, rungs)
    return {
        "network": entry.name,
        "sigma": sigma,
        "settings": entry.settings,
        "labels": entry.labels.tolist(),
        "label": found.label.tolist(),
        "margin": found.margin.tolist(),
        "smoothed_label": found.smoothed_label.tolist(),
        "rungs": [
            {
                "name": rung.name, "quantity": rung.quantity, "side": rung.side,
                "values": [float(value) if np.isfinite(value) else None for value in rung.values],
            }
            for rung in found.rungs
        ],
        "inversions": ladder.inversions(found),
    }  # fmt: skip


def as_ladder(row: dict[str, Any]) -> ladder.Ladder:
    """What `measure` wrote down, as a ladder again."""
    rungs = tuple(
        ladder.Rung(
            rung["name"], rung["quantity"], rung["side"],
            np.array([np.inf if value is None else value for value in rung["values"]]),
        )
        for rung in row["rungs"]
    )  # fmt: skip
    return ladder.Ladder(
        np.array(row["label"]), np.array(row["margin"]), np.array(row["smoothed_label"]), rungs
    )


def document(rows: Sequence[dict[str, Any]], command: str) -> str:
    lines = ["# The ladder", "", f"`{command}`", ""]
    for row in rows:
        found = as_ladder(row)
        right = int((found.label == np.array(row["labels"])).sum())
        lines += [
            f"## {row['network']}",
            "",
            f"{len(found.label)} images of MNIST, {right} classified right; sigma {row['sigma']} "
            f"for the smoothed network; {len(row['inversions'])} inversions.",
            "",
            ladder.format_ladder(found),
            "",
        ]
    lines += [
        "Distances are in l2, in units of pixels in [0, 1], with no limits on pixels. `other` is "
        "the smoothed network, another classifier, with 2,000 samples and alpha 0.001: it may be "
        "above the attack on the network itself. Lipschitz constants of `local` and `sampled` are "
        "those within the distance of the attack around each image. The lower end of the boundary "
        "stops at the attack's distance or when 20 least-distance problems are solved.",
        "",
    ]
    return "\n".join(lines)


def run(
    preset: str,
    output: Path,
    command: str,
    *,
    num_images: int,
    sigma: float,
    seed: int,
    only: str | None = None,
) -> list[dict[str, Any]]:
    """Measure the networks that the file of an earlier run lacks, and draw each."""
    folder = os.environ.get("JAXCERT_DATA_DIR")
    output.mkdir(parents=True, exist_ok=True)
    path = output / "ladder.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {row["network"] for row in rows}
    for entry in entries(preset, Path(folder) if folder else None, num_images):
        if entry.name not in done and (only is None or only in entry.name):
            row = measure(entry, sigma=sigma, seed=seed)
            rows.append(row)
            path.write_text(json.dumps({"command": command, "rows": rows}) + "\n")
            short = entry.name.split(",")[0].replace(" ", "_").lower()
            ladder.plot_ladder(as_ladder(row), output / f"ladder_{short}.png", title=entry.name)
            print(entry.name, len(row["inversions"]), "inversions", flush=True)
        (output / "ladder.md").write_text(document(rows, command))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ladder", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--preset", choices=("smoke", "paper"), default="paper")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder; a run resumes in it")
    parser.add_argument("--only", help="the networks whose names hold this text")
    parser.add_argument("--images", type=int, default=50, help="images a network (%(default)s)")
    parser.add_argument("--sigma", type=float, default=0.25, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "experiments.ladder", *given])
    rows = run(
        options.preset, options.output, command, num_images=options.images, sigma=options.sigma,
        seed=options.seed, only=options.only,
    )  # fmt: skip
    wrong = [line for row in rows for line in row["inversions"]]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
