"""The command `jaxcert ladder`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxcert import ladder, models

if TYPE_CHECKING:
    from jaxcert.data import Dataset
    from jaxcert.smoothing import Noise


def run(options: argparse.Namespace, dataset: Dataset, noise: Noise | None) -> int:
    """Print the ladder, write what was asked for, and return how many rungs are out of order."""
    found = ladder.certification_ladder(
        jax.random.key(options.seed),
        ladder.layers_of(models.restore(options.model)),
        dataset.images,
        methods=options.methods,
        noise=noise,
        num_samples=options.num_samples,
        alpha=options.alpha,
        max_nodes=options.max_nodes,
    )
    print(ladder.format_ladder(found))
    wrong = ladder.inversions(found)
    for line in wrong:
        print(line)
    right = int((found.label == dataset.labels).sum())
    print(
        f"{right} of {dataset.num_images} classified right, {len(wrong)} inversions",
        file=sys.stderr,
    )
    if options.plot:
        ladder.plot_ladder(found, options.plot)
        print(f"wrote {options.plot}", file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(_values(found, dataset, wrong)) + "\n")
    return len(wrong)


def _values(found: ladder.Ladder, dataset: Dataset, wrong: list[str]) -> dict[str, Any]:
    """What is known as JSON has it: an infinite distance is null."""
    return {
        "ids": np.asarray(dataset.ids).tolist(),
        "labels": np.asarray(dataset.labels).tolist(),
        "label": found.label.tolist(),
        "margin": found.margin.tolist(),
        "smoothed_label": found.smoothed_label.tolist(),
        "rungs": [
            {
                "name": rung.name,
                "quantity": rung.quantity,
                "side": rung.side,
                "values": [float(v) if np.isfinite(v) else None for v in rung.values],
            }
            for rung in found.rungs
        ],
        "inversions": wrong,
    }
