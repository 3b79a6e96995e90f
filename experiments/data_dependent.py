"""Fixed against data-dependent sigma, for four ways of training, with and without a memory.

    python -m experiments.data_dependent --preset smoke --output runs/data_dependent_smoke

`smoke` uses the bundled 8 x 8 digits and takes under a minute. `paper` trains a LeNet on MNIST
under noise of sigma 0.25 in four ways, certifies test images at that sigma and at one chosen for
each image, offers the latter to a memory, and attacks what the memory promises. It can be stopped
at any time: the same command continues it. `--stage`, `--scheme` and `--part` run a piece of it.

References: Alfarra, Bibi, Torr, Ghanem, "Data Dependent Randomized Smoothing", 2022,
arXiv:2012.04351. The published average certified radii at fixed sigma are those of Jeong, Shin,
"Consistency Regularization for Certified Robustness of Smoothed Classifiers", 2020,
arXiv:2006.04062, over all 10,000 test images and 90 epochs from new weights; here the network of
Gaussian noise is trained first, and each other scheme continues it for a few epochs. The settings
of the search for sigma were chosen on 16 other test images, with the network of Gaussian noise.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._data_dependent_attack import FACTORS, attack, read_outcomes, tally
from experiments._data_dependent_runs import (
    NUM_PARTS,
    PRESETS,
    RESULTS,
    Preset,
    Remembered,
    certify_chosen,
    certify_fixed,
    log_of,
    remember,
    sigma_of,
    trained,
)
from experiments._data_dependent_tables import (
    RADII,
    comparison,
    of_attacks,
    of_memories,
    radii_table,
    settings,
)
from jaxcert import models, report

STAGES = ("train", "fixed", "chosen", "attack", "report")


def on_images(log: report.Log, indices: set[int]) -> report.Log:
    return report.Log(log.path, tuple(row for row in log.rows if row.index in indices))


def credited(log: report.Log) -> np.ndarray:
    """The radius of each image, 0 where the answer is wrong or none: `[n]`."""
    return np.where(log.is_right, log.radii, 0.0)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def measure(
    preset: Preset, name: str, parts: Sequence[int], *, folder: Path, models_folder: Path
) -> tuple[dict[str, Any], dict[str, report.Log]]:
    """All numbers of one scheme, and its logs by kind."""
    network, known = trained(preset, name, folder=models_folder)
    fingerprint = models.fingerprint(models.from_nnx(network))
    fixed, chosen = (
        log_of(preset, kind, name, folder=folder, parts=parts) for kind in ("fixed", "chosen")
    )
    both = {row.index for row in fixed.rows} & {row.index for row in chosen.rows}
    fixed, chosen = on_images(fixed, both), on_images(chosen, both)
    found = remember(preset, chosen, fingerprint=fingerprint, alpha=preset.alpha)
    joint = remember(preset, chosen, fingerprint=fingerprint, alpha=preset.alpha / len(chosen.rows))
    logs = {"fixed": fixed, "chosen": chosen, "memory": found.log, "joint": joint.log}
    gain, gain_error = mean_and_error(credited(found.log) - credited(fixed))
    sigmas = np.array([sigma_of(row) for row in chosen.rows])
    outcomes = read_outcomes(folder / f"attack_{name}.jsonl")
    numbers = {
        "scheme": name,
        "train": known,
        "model_fingerprint": fingerprint,
        "num_images": len(both),
        "images": sorted(both),
        "published": preset.schemes[name].published,
        "summaries": {
            kind: report.summary_to_dict(report.summarize(log, radii=RADII, name=f"{name}, {kind}"))
            for kind, log in logs.items()
        },
        "gain": gain,
        "gain_error": gain_error,
        "sigma": {
            "smallest": float(sigmas.min()),
            "median": float(np.median(sigmas)),
            "largest": float(sigmas.max()),
            "kept": int(np.sum(np.isclose(sigmas, preset.sigma))),
        },
        "memory": of_memory(preset, found) | {"spent_joint": float(joint.memory.spent)},
        "attacks": [tally(outcomes, factor) for factor in FACTORS],
    }
    return numbers, logs


def of_memory(preset: Preset, found: Remembered) -> dict[str, Any]:
    """What the memory changed, and how much room it had."""
    memory = found.memory
    room = math.inf
    for row in range(len(memory)):
        offsets = memory.inputs.astype(np.float64) - memory.inputs[row]
        others = memory.labels != memory.labels[row]
        gaps = np.linalg.norm(offsets, axis=1) - memory.radii - memory.radii[row]
        room = min(room, float(gaps[others].min(initial=math.inf)))
    return {
        "stored": len(memory),
        "overridden": int(found.answer.overridden.sum()),
        "shrunk": int(found.answer.shrunk.sum()),
        "spent": float(memory.spent),
        "least_room": room,
    }


def write_report(
    name: str,
    preset: Preset,
    schemes: Sequence[str],
    parts: Sequence[int],
    *,
    output: Path,
    models_folder: Path,
    command: str,
) -> dict[str, Any]:
    """Write `table.md`, `result.json` and `curve.png` to `output`."""
    rows, logs, names = [], [], []
    for scheme in schemes:
        numbers, found = measure(preset, scheme, parts, folder=output, models_folder=models_folder)
        rows.append(numbers)
        logs += [found["fixed"], found["memory"]]
        names += [f"{scheme}, fixed", f"{scheme}, memory"]
    summaries = [
        report.summarize(log, radii=RADII, name=label)
        for label, log in zip(names, logs, strict=True)
    ]
    result = {
        "preset": name,
        "command": command,
        "sigma": preset.sigma,
        "num_samples": preset.num_samples,
        "alpha": preset.alpha,
        "search": dict(preset.search),
        "attack": dict(preset.attack),
        "schemes": rows,
    }
    sections = [
        f"# Fixed and data-dependent sigma on {preset.dataset}",
        f"    {command}",
        comparison(rows),
        radii_table(rows),
        of_memories(rows),
        of_attacks(rows),
        settings(preset, rows),
    ]
    (output / "table.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(preset, rows, logs, output / "curve.png")
    print(report.format_table(summaries))
    return result


def draw(
    preset: Preset, rows: Sequence[Mapping[str, Any]], logs: Sequence[report.Log], path: Path
) -> None:
    """A panel a scheme: certified accuracy of fixed sigma, and of chosen sigma with a memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(rows)
    figure = Figure(figsize=(3.1 * count, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    right_end = 1.05 * max(log.radii[log.is_right].max(initial=0.1) for log in logs)
    for place, (row, panel) in enumerate(zip(rows, panels, strict=True)):
        for log, color, style, words in (
            (logs[2 * place], "#0072B2", "--", f"sigma {preset.sigma}"),
            (logs[2 * place + 1], "#D55E00", "-", "sigma chosen, memory"),
        ):
            radii, rates = report.certified_accuracy_curve(log)
            ends = np.append(radii, right_end), np.append(rates, 0.0)
            panel.step(*ends, where="pre", color=color, linestyle=style, label=words)
        panel.set_title(f"{row['scheme']}, {row['num_images']} images", fontsize=10)
        panel.set_xlabel(r"$\ell_2$ radius $r$")
        panel.set_xlim(0, right_end)
        panel.set_ylim(0, 1.02)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(r"right and radius $\geq r$")
    panels[0].legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=110)


def publish(
    name: str, preset: Preset, parts: Sequence[int], *, output: Path, results: Path
) -> None:
    """Copy the outcome, logs included, to where a checkout keeps results."""
    results.mkdir(exist_ok=True)
    for source, ending in (("table.md", "md"), ("result.json", "json"), ("curve.png", "png")):
        shutil.copy(output / source, results / f"data_dependent_{name}.{ending}")
    for scheme in preset.schemes:
        outcomes = output / f"attack_{scheme}.jsonl"
        if outcomes.exists():
            shutil.copy(outcomes, results / f"data_dependent_{name}_{outcomes.name}")
        for kind in ("fixed", "chosen"):
            for part in parts:
                log = output / f"{kind}_{scheme}_{part}" / report.LOG_NAME
                if log.exists():
                    target = f"data_dependent_{name}_{kind}_{scheme}_{part}.tsv"
                    shutil.copy(log, results / target)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.data_dependent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--models", type=Path, help="folder of trained networks to use or fill")
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=STAGES)
    parser.add_argument("--scheme", nargs="+", help="only these ways of training")
    parts = list(range(NUM_PARTS))
    parser.add_argument(
        "--part", type=int, choices=parts, nargs="+", default=parts, help="only these images"
    )
    parser.add_argument("--publish", action="store_true", help="copy to the committed results")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    schemes = options.scheme or list(preset.schemes)
    unknown = sorted(set(schemes) - set(preset.schemes))
    if unknown:
        parser.error(f"--scheme must be of {', '.join(preset.schemes)}, got {unknown}")
    words = sys.argv[1:] if arguments is None else arguments
    command = f"python -m experiments.data_dependent {shlex.join(words)}"
    options.output.mkdir(parents=True, exist_ok=True)
    models_folder = options.models or options.output / "models"
    folders = {"folder": options.output, "models_folder": models_folder}
    for scheme in schemes:
        if "train" in options.stage:
            trained(preset, scheme, folder=models_folder)
        for part in options.part:
            if "fixed" in options.stage and scheme not in preset.committed:
                certify_fixed(preset, scheme, part, **folders)
            if "chosen" in options.stage:
                certify_chosen(preset, scheme, part, **folders)
        if "attack" in options.stage:
            attack(preset, scheme, **folders)
    if "report" in options.stage:
        write_report(
            options.preset, preset, schemes, options.part, output=options.output,
            models_folder=models_folder, command=command,
        )  # fmt: skip
        if options.publish:
            publish(options.preset, preset, options.part, output=options.output, results=RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
