"""Attacks on the certificates of data-dependent sigma: within their radius, and beyond it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments._data_dependent_runs import (
    Preset,
    choose,
    images_of,
    log_of,
    remember,
    sigma_of,
    trained,
)
from jaxcert import attacks, models, smoothing

ATTACK = 0x6174_7461
# Within the certified radius, where nothing may change, and beyond it, where the attack is shown
# to be one that finds changes.
FACTORS = (1.0, 1.5)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the classifiers answer where the attack on one image ended.

    Attributes:
        index: of the image.
        factor: of the certified radius within which was searched.
        distance: from the image.
        promised: the class of the region.
        memory: what the memory classifier answers.
        smoothed: what the classifier at the sigma of the region answers.
        unremembered: what data-dependent sigma answers without a memory.
    """

    index: int
    factor: float
    distance: float
    promised: int
    memory: int
    smoothed: int
    unremembered: int


def attack(preset: Preset, name: str, *, folder: Path, models_folder: Path) -> list[Outcome]:
    """Attack certified images of one scheme, or continue to.

    The attack climbs the margin of the soft classifier at the sigma of the region, on fixed draws
    of noise. Where it ends, sigma is chosen anew, as the classifier under attack does, and votes of
    fresh noise say what each classifier answers.
    """
    path = folder / f"attack_{name}.jsonl"
    done = read_outcomes(path)
    network, _ = trained(preset, name, folder=models_folder)
    classify = models.from_nnx(network)
    log = log_of(preset, "chosen", name, folder=folder, parts=[0])
    fingerprint = models.fingerprint(classify)
    found = remember(preset, log, fingerprint=fingerprint, alpha=preset.alpha)
    dataset = images_of(preset)
    images = {int(number): row for row, number in enumerate(dataset.ids)}
    certified = [row for row in found.log.rows if row.predict != smoothing.ABSTAIN]
    sigmas = {row.index: sigma_of(row) for row in found.log.rows}
    settings = preset.attack
    for row in certified[: preset.num_attacked]:
        for stage, factor in enumerate(FACTORS):
            if any((one.index, one.factor) == (row.index, factor) for one in done):
                continue
            key = jax.random.fold_in(
                jax.random.fold_in(jax.random.fold_in(jax.random.key(0), ATTACK), row.index), stage
            )
            keys = [jax.random.fold_in(key, use) for use in range(4)]
            noise = smoothing.gaussian(sigmas[row.index])
            image = dataset.images[images[row.index]][None]
            soft = attacks.smoothed_scores(
                keys[0], classify, noise=noise, num_samples=settings["num_noise"],
                shape=image.shape[1:],
            )  # fmt: skip
            point = np.asarray(
                attacks.pgd(
                    keys[1], soft, image, np.array([row.predict]),
                    radius=np.nextafter(np.float32(factor * row.radius), np.float32(0)),
                    num_steps=settings["num_steps"], num_restarts=settings["num_restarts"],
                ).inputs
            )  # fmt: skip
            chosen = choose(keys[2], preset, classify, point)
            votes: dict[str, Any] = {
                "num_classes": dataset.num_classes,
                "num_samples": settings["num_votes"],
                "alpha": preset.alpha,
            }
            anew = smoothing.gaussian(chosen)
            remembered = smoothing.predict_with_memory(
                keys[3], classify, point, noise=anew, memory=found.memory, **votes
            )
            # One key for all three: where the noise is equal, so are the votes.
            plain, fixed = (
                smoothing.predict(keys[3], classify, point, noise=own, **votes)
                for own in (anew, noise)
            )
            outcome = Outcome(
                index=row.index,
                factor=factor,
                distance=float(np.linalg.norm(point.astype(np.float64) - image)),
                promised=row.predict,
                memory=int(remembered.label[0]),
                smoothed=int(fixed.label[0]),
                unremembered=int(plain.label[0]),
            )
            with path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
            done.append(outcome)
    return done


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes in a file, which may not be there."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Outcome(**json.loads(line)) for line in lines]


def tally(outcomes: Sequence[Outcome], factor: float) -> dict[str, Any]:
    """How many attacks changed the class of each classifier; abstaining is no other class."""
    chosen = [one for one in outcomes if one.factor == factor]

    def changed(answers: Sequence[int]) -> int:
        return sum(
            answer not in (one.promised, smoothing.ABSTAIN)
            for one, answer in zip(chosen, answers, strict=True)
        )

    return {
        "factor": factor,
        "attacked": len(chosen),
        "memory": changed([one.memory for one in chosen]),
        "smoothed": changed([one.smoothed for one in chosen]),
        "unremembered": changed([one.unremembered for one in chosen]),
        "mean_distance": float(np.mean([one.distance for one in chosen])) if chosen else None,
    }
