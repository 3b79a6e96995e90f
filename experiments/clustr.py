"""ClusTR: networks trained by clustering, attacked, certified, and smoothed.

    JAXCERT_DATA_DIR=... python -m experiments.clustr --preset mnist --output runs/clustr

trains a multi-layer perceptron by cross-entropy (`nominal`), by cross-entropy on the images of an
attack (`adversarial`), as an encoder by the magnet loss from the weights of the nominal one
(`clustr`), the same with a quick attack (`clustr_trades`) and with noise (`clustr_noise`), and a
1-Lipschitz network by margins (`lipschitz`) and as an encoder by the magnet loss
(`lipschitz_clustr`). Encoders classify by the nearest of the centres of the training features.

Each network is attacked at several budgets in two norms: by projected gradients on the margin with
restarts, by a run for each class on differences of squared distances, on the cross-entropy of the
soft rule, and by the points that fool the nominal network; an image counts as withstood if none of
them succeeds. Its certified accuracy beside that is the share of images that are classified
correctly with a certified l2 radius above the budget (for l-infinity: above that of the l2 ball
around the cube). Networks and rows that `--output` holds are not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _clustr_report
from experiments._clustr_networks import (
    NETWORKS,
    PRESETS,
    SMOOTHED,
    Preset,
    Ready,
    make_ready,
    outputs_of,
    trained,
)
from jaxcert import attacks, data, models, smoothing

RESULTS = Path(__file__).resolve().parent / "results"


def attacked(
    preset: Preset, ready: Ready, dataset: data.Dataset, *, norm: str, radius: float,
    transferred: np.ndarray | None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:  # fmt: skip
    """Which images each attack at one budget moves to another class, and the strongest points."""
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    search = functools.partial(
        attacks.pgd, inputs=images, labels=labels, radius=radius, norm=norm, bounds=(0.0, 1.0)
    )

    def is_moved(points: jax.Array) -> np.ndarray:
        return np.asarray(outputs_of(ready.classify, points)).argmax(axis=1) != dataset.labels

    steps, keys = preset.num_steps, [jax.random.key(10 + number) for number in range(3)]
    main = search(keys[0], ready.classify, num_steps=steps, num_restarts=preset.num_restarts)
    points = {
        "margin": main.inputs,
        "each class": search(
            keys[1], ready.classify, num_steps=steps // 2, objective="multi_targeted"
        ).inputs,
        "soft rule": search(
            keys[2], ready.soften, num_steps=steps, num_restarts=2, objective="cross_entropy"
        ).inputs,
    }
    if transferred is not None:
        points["transfer"] = jnp.asarray(transferred)
    return {name: is_moved(found) for name, found in points.items()}, np.asarray(main.inputs)


def evaluate(preset: Preset, name: str, *, folder: Path) -> dict[str, Any]:
    """Accuracy: clean, under each attack at each budget, and certified."""
    ready = make_ready(preset, name, folder=folder)
    dataset = data.load(preset.dataset, "test", num_images=preset.num_test)
    outputs = np.asarray(outputs_of(ready.apply, dataset.images))
    label, radii = ready.certify(outputs, 1.0)
    correct = label == dataset.labels
    agrees = label == np.asarray(outputs_of(ready.classify, dataset.images)).argmax(axis=1)
    store = folder / f"{preset.dataset}_transfer.npz"
    sources = dict(np.load(store)) if name != "nominal" else {}
    found, budgets = {}, []
    for norm, sizes in (("linf", preset.linf), ("l2", preset.l2)):
        # The cube of this half side lies in a ball of this radius.
        scale = np.sqrt(dataset.images[0].size) if norm == "linf" else 1.0
        for radius in sizes:
            place = f"{norm}_{radius}"
            moved, found[place] = attacked(
                preset, ready, dataset, norm=norm, radius=radius, transferred=sources.get(place)
            )
            withstood = correct & ~np.any(list(moved.values()), axis=0)
            white = [hits for attack, hits in moved.items() if attack != "transfer"]
            budgets.append({
                "norm": norm, "radius": radius,
                "under_attack": float(withstood.mean()),
                "by_attack": {k: float((correct & ~hits).mean()) for k, hits in moved.items()},
                "only_by_transfer": int((moved.get("transfer", False) & ~np.any(white, 0)).sum()),
                "certified": float((correct & (radii > scale * radius)).mean()),
                "certified_and_moved": int(((radii > scale * radius) & correct & ~withstood).sum()),
            })  # fmt: skip
    if name == "nominal":
        arrays: Any = found
        np.savez_compressed(store, **arrays)
    whole, _ = attacked(preset, ready, dataset, norm="linf", radius=1.0, transferred=None)

    def own_radius(divisor: float) -> int:
        """Answers that change within the radius for the constant divided by this."""
        _, limits = ready.certify(outputs, divisor)
        hits = attacks.pgd(
            jax.random.key(20), ready.classify, dataset.images, label.astype(np.int32),
            radius=np.maximum(limits, 1e-6).astype(np.float32), num_steps=preset.num_steps,
            num_restarts=preset.num_restarts,
        ).success  # fmt: skip
        return int(np.asarray(hits)[agrees].sum())

    return {
        "accuracy": float(correct.mean()),
        "lipschitz_upper": ready.lipschitz,
        "median_radius": float(np.median(radii)),
        "budgets": budgets,
        "under_attack_without_budget": float((correct & ~np.any(list(whole.values()), 0)).mean()),
        "changed_within_radius": own_radius(1.0),
        "changed_with_halved_constant": own_radius(2.0),
    }


def smoothed(preset: Preset, name: str, *, folder: Path) -> dict[str, Any]:
    """The certificates of the same classifier on the same images, deterministic and by noise."""
    ready = make_ready(preset, name, folder=folder)
    dataset = data.load(preset.dataset, "test", num_images=preset.num_smoothed)
    label, radii = ready.certify(np.asarray(outputs_of(ready.apply, dataset.images)), 1.0)
    began = time.process_time()
    found = smoothing.certify(
        jax.random.key(30), ready.classify, jnp.asarray(dataset.images),
        noise=smoothing.gaussian(preset.sigma), num_classes=dataset.num_classes,
        num_samples=preset.num_samples,
    )  # fmt: skip
    both = {
        "deterministic": (label == dataset.labels, radii),
        "smoothed": (np.asarray(found.label) == dataset.labels, np.asarray(found.radius)),
    }
    return {
        "sigma": preset.sigma,
        "certify_cpu_seconds": time.process_time() - began,
        **{
            kind: {
                "accuracy": float(right.mean()),
                "average_radius": float(np.where(right, reach, 0).mean()),
                "certified": [float((right & (reach > radius)).mean()) for radius in preset.l2],
            }
            for kind, (right, reach) in both.items()
        },
    }


def row_of(
    preset: Preset, name: str, kind: str, compute: Callable[[], dict[str, Any]], *, folder: Path
) -> dict[str, Any]:
    """What `compute` gives, from the folder if it was computed for this network and preset."""
    module, known = trained(preset, name, folder=folder)
    about = json.loads(json.dumps({
        "preset": dataclasses.asdict(preset),
        "network": models.fingerprint(models.from_nnx(module)),
    }))  # fmt: skip
    path = folder / f"{preset.dataset}_{name}_{kind}.json"
    if path.exists():
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["about"] == about:
            return row
    training_of = {key: known[key] for key in ("cpu_seconds", "cpu_seconds_before")}
    row = {"network": name, **compute(), **training_of, "about": about}
    path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.clustr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NETWORK",
        help="of the table; the nominal one is attacked first",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", choices=NETWORKS, metavar="NETWORK",
        help="make the rows of these networks and stop, to share the work",
    )  # fmt: skip
    parser.add_argument("--note", default="", help="a sentence about the times, for the page")
    parser.add_argument("--publish", action="store_true", help="write to the committed results")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = f"python -m experiments.clustr {shlex.join(words)}"
    preset, folder = PRESETS[options.preset], options.output
    folder.mkdir(parents=True, exist_ok=True)
    rows, pairs = [], []
    for name in options.only or options.networks:
        own = functools.partial(row_of, preset, name, folder=folder)
        attack = functools.partial(evaluate, preset, name, folder=folder)
        rows.append(own("row", attack))
        print(json.dumps(rows[-1]), flush=True)
        if name in SMOOTHED:
            smooth = functools.partial(smoothed, preset, name, folder=folder)
            pairs.append(own("smoothed", smooth))
            print(json.dumps(pairs[-1]), flush=True)
    if options.only:
        return 0
    result = {
        "command": command, "note": options.note, "preset": dataclasses.asdict(preset),
        "rows": rows, "smoothed": pairs,
    }  # fmt: skip
    table = _clustr_report.format_result(result)
    print(table)
    pictures = {}
    test = data.load(preset.dataset, "test", num_images=preset.num_test)
    shown = ("nominal", "clustr", "clustr_trades", "lipschitz_clustr")
    for name in [name for name in shown if name in options.networks]:
        ready = make_ready(preset, name, folder=folder)
        pictures[name] = (np.asarray(outputs_of(ready.apply, test.images)), ready.table)
    for place in (folder, RESULTS) if options.publish else (folder,):
        stem = f"clustr_{options.preset}"
        text = json.dumps(result, indent=2) + "\n"
        (place / f"{stem}.json").write_text(text, encoding="utf-8")
        (place / f"{stem}.md").write_text(table, encoding="utf-8")
        _clustr_report.plot_features(pictures, test.labels, place / f"{stem}.png")
    return 0 if _clustr_report.is_sound(result) else 1


if __name__ == "__main__":
    sys.exit(main())
