"""Tropical pruning beside magnitude pruning: accuracy against the weights that stay.

    JAXCERT_DATA_DIR=... python -m experiments.tropical_pruning --preset paper \
        --output runs/tropical_pruning --publish

prunes the fully connected layers of small networks on MNIST and Fashion-MNIST, an MLP with two
hidden layers (block by block) and the head of a LeNet (its convolutions stay), and measures test
accuracy without fine-tuning, after fine-tuning the biases, and after fine-tuning all that is left.
Tropical pruning removes neurons, the same share in each hidden layer; the magnitude baselines keep
as many weights as the neurons that are left have. "Longest neurons" is a baseline of the same
structure. Toys in the plane show boundaries before and after.
`smoke` does the same on 8 x 8 digits in seconds. Finished parts are kept in the output folder.

Reference: Alfarra, Bibi, Hammoud, Gaafar, Ghanem, "On the Decision Boundaries of Neural Networks:
A Tropical Geometry Perspective", 2020, arXiv:2002.08838. Its networks were larger (AlexNet, VGG16).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _tropical, _tropical_toy
from experiments._tropical import Layers, Recipe
from jaxcert import tropical

METHODS = {
    "tropical": "tropical",
    "tropical_neurons": "tropical neurons",
    "longest_neurons": "longest neurons",
    "class_blind": "class-blind",
    "class_uniform": "class-uniform",
    "class_distribution": "class-distribution",
}
TUNINGS = {"none": "no fine-tuning", "biases": "biases fine-tuned", "all": "all fine-tuned"}


@dataclasses.dataclass(frozen=True)
class Preset:
    """What is pruned: data set, architecture and recipe of each network, and how far."""

    networks: tuple[tuple[str, str, Recipe], ...]
    kept: tuple[float, ...]
    num_seeds: int
    tuning_steps: int
    toy_steps: int
    toys: tuple[str, ...] = _tropical_toy.TOYS
    toy_shares: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)


PRESETS = {
    "smoke": Preset(
        networks=(("digits", "mlp", Recipe(1000, 10, hidden=(32, 16), batch_size=64)),),
        kept=(0.5,),
        num_seeds=2,
        tuning_steps=20,
        toy_steps=200,
        toys=("moons",),
        toy_shares=(1.0, 0.5),
    ),
    "paper": Preset(
        networks=tuple(
            (dataset, architecture, recipe)
            for dataset in ("mnist", "fashion_mnist")
            for architecture, recipe in (
                ("mlp", Recipe(20_000, 10, hidden=(128, 64))),
                ("lenet", Recipe(20_000, 4)),
            )
        ),
        kept=(0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02),
        num_seeds=3,
        tuning_steps=150,
        toy_steps=1500,
    ),
}


def widths_for(layers: Layers, num_weights: int) -> list[int]:
    """How many neurons of each hidden layer stay: the largest equal share within the weights."""
    inputs, classes = layers[0][0].shape[1], layers[-1][0].shape[0]
    best = [1] * (len(layers) - 1)
    for share in np.linspace(0, 1, 1001):
        widths = [max(1, round(share * weight.shape[0])) for weight, _ in layers[:-1]]
        sizes = [inputs, *widths, classes]
        if sum(a * b for a, b in zip(sizes, sizes[1:], strict=False)) <= num_weights:
            best = widths
    return best


def shrunk_network(layers: Layers, widths: Sequence[int]) -> Layers:
    """Prune block by block, each with the least penalty that leaves so many neurons."""
    result = list(layers)
    for block, width in enumerate(widths):
        scores = jnp.sort(tropical.pruning_scores(*result[block], result[block + 1][0]))
        gone = len(scores) - width
        penalty = float(scores[gone - 1]) * (1 + 1e-5) if gone else 0.0
        pruned = tropical.prune(*result[block], *result[block + 1], penalty=penalty)
        result[block : block + 2] = [(pruned.w1, pruned.b1), (pruned.w2, pruned.b2)]
    return result


def best_neurons(layers: Layers, widths: Sequence[int], score: Callable[..., jax.Array]) -> Layers:
    """Keep the neurons of the highest scores, block by block, with all their weights."""
    result = list(layers)
    for block, width in enumerate(widths):
        (w1, b1), (w2, b2) = result[block : block + 2]
        stays = jnp.zeros(len(w1), bool).at[jnp.argsort(-score(w1, b1, w2))[:width]].set(True)
        result[block] = (jnp.where(stays[:, None], w1, 0), jnp.where(stays, b1, 0))
        result[block + 1] = (jnp.where(stays[None], w2, 0), b2)
    return result


def length_of_rows(w1: jax.Array, _: jax.Array, __: jax.Array) -> jax.Array:
    return jnp.linalg.norm(w1, axis=1)


def pruned_networks(layers: Layers, kept: float) -> dict[str, Layers]:
    """The network of each method; the magnitude baselines keep as many weights as the neurons."""
    widths = widths_for(layers, int(kept * sum(weight.size for weight, _ in layers)))
    result = {
        "tropical": shrunk_network(layers, widths),
        "tropical_neurons": best_neurons(layers, widths, tropical.pruning_scores),
        "longest_neurons": best_neurons(layers, widths, length_of_rows),
    }
    number = count(result["tropical_neurons"])
    for scheme in ("class_blind", "class_uniform", "class_distribution"):
        weights = tropical.magnitude_prune(
            [weight for weight, _ in layers], num_weights=number, scheme=scheme
        )
        result[scheme] = [(weight, bias) for weight, (_, bias) in zip(weights, layers, strict=True)]
    return result


def count(layers: Layers) -> int:
    """Number of weights that are not 0; biases are not counted."""
    return sum(int(jnp.count_nonzero(weight)) for weight, _ in layers)


def tuned(
    layers: Layers, features: jax.Array, labels: jax.Array, *, tuning: str, seed: int, steps: int
) -> Layers:
    """Fine-tune the biases or all that is left; what was pruned stays 0."""
    if tuning == "none":
        return layers
    mask = [
        (
            (weight != 0).astype(weight.dtype) if tuning == "all" else jnp.zeros_like(weight),
            jnp.ones_like(bias),
        )
        for weight, bias in layers
    ]
    return _tropical.fit(
        jax.random.fold_in(jax.random.key(seed), 0x7475_6e65), layers, features, labels,
        mask=mask, num_steps=steps, batch_size=128, learning_rate=1e-3,
    )  # fmt: skip


def measure(
    dataset: str, architecture: str, recipe: Recipe, seed: int, preset: Preset, *, folder: Path
) -> list[dict[str, Any]]:
    """All methods, rates and tunings of one network; kept in the folder once measured."""
    path = folder / f"{dataset}_{architecture}_{seed}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    head = _tropical.trained_head(
        dataset, architecture, seed, recipe=recipe, folder=folder / "models"
    )
    total = sum(weight.size for weight, _ in head.layers)
    test = head.test_features, head.test_labels
    full = float(_tropical.accuracy(head.layers, *test))
    rows = []
    for kept in preset.kept:
        for method, layers in pruned_networks(head.layers, kept).items():
            row: dict[str, Any] = {
                "dataset": dataset,
                "architecture": architecture,
                "seed": seed,
                "method": method,
                "kept": kept,
                "weights": count(layers),
                "total": total,
                "unpruned": full,
                "neurons": [int(jnp.sum(jnp.any(weight != 0, axis=1))) for weight, _ in layers],
            }
            for tuning in TUNINGS:
                network = tuned(
                    layers, head.train_features, head.train_labels,
                    tuning=tuning, seed=seed, steps=preset.tuning_steps,
                )  # fmt: skip
                row[tuning] = float(_tropical.accuracy(network, *test))
            rows.append(row)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{dataset} {architecture} seed {seed}: unpruned {full:.4f}", flush=True)
    return rows


def cells(rows: Sequence[dict[str, Any]], **chosen: Any) -> list[dict[str, Any]]:
    """The rows with the chosen values."""
    return [row for row in rows if all(row[key] == value for key, value in chosen.items())]


def markdown(result: dict[str, Any]) -> str:
    """The tables of a result."""
    rows = result["rows"]
    lines = ["# Tropical pruning beside magnitude pruning", "", f"    {result['command']}", ""]
    lines += [
        "Test accuracy in percent, mean and standard deviation over the seeds, by the share of the",
        "weights that stays; biases are not counted; bold is the highest mean of a row. `tropical`",
        "minimises the paper's objective, which shrinks what stays and so removes further weights",
        "of the next layer; `tropical neurons` keeps as many neurons, those of the highest scores,",
        "with all their weights as trained; `longest neurons` keeps those with the longest rows.",
        "These leave smaller dense matrices. The magnitude baselines keep exactly as many weights",
        "as `tropical neurons`, and leave sparse matrices.",
        "",
    ]
    for dataset, architecture in networks_of(rows):
        here = cells(rows, dataset=dataset, architecture=architecture)
        full = [row["unpruned"] for row in here]
        lines += [f"## {dataset}, {architecture}", ""]
        lines += [f"{here[0]['total']:,} weights; unpruned {100 * np.mean(full):.2f}.", ""]
        for tuning, title in TUNINGS.items():
            lines += [f"| {title}: kept | {' | '.join(METHODS.values())} |"]
            lines += [f"| ---: {'| ---: ' * len(METHODS)}|"]
            for kept in sorted({row["kept"] for row in here}, reverse=True):
                groups = {
                    method: [100 * row[tuning] for row in cells(here, kept=kept, method=method)]
                    for method in METHODS
                }
                best = max(np.mean(values) for values in groups.values())
                shares = [
                    row["weights"] / row["total"]
                    for row in cells(here, kept=kept, method="tropical_neurons")
                ]
                entries = []
                for values in groups.values():
                    text = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
                    entries.append(f"**{text}**" if np.mean(values) == best else text)
                lines.append(f"| {np.mean(shares):.3f} | {' | '.join(entries)} |")
            lines.append("")
    lines += [*verdict(rows), "", *_tropical_toy.markdown(result["toys"])]
    return "\n".join(lines).rstrip() + "\n"


def networks_of(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["dataset"], row["architecture"]) for row in rows))


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where tropical pruning wins and where it loses."""
    lines = ["## Where it wins and where it loses", ""]
    lines += [
        "Networks and rates at which the mean accuracy of tropical pruning is above, within half a",
        "point of, or below that of a rival: the best of the three magnitude baselines at that",
        "rate, or the longest neurons.",
        "",
        "| method | rival | fine-tuning | above | near | below | mean difference |",
        "| :--- | :--- | :--- | ---: | ---: | ---: | ---: |",
    ]
    for method in ("tropical", "tropical_neurons"):
        for rival, prefix in (("magnitude", "class_"), ("longest neurons", "longest_")):
            for tuning in TUNINGS:
                values = np.array(differences(rows, method, prefix, tuning))
                lines.append(
                    f"| {METHODS[method]} | {rival} | {TUNINGS[tuning]} | {np.sum(values > 0.5)} "
                    f"| {np.sum(np.abs(values) <= 0.5)} | {np.sum(values < -0.5)} "
                    f"| {values.mean():+.1f} |"
                )
    return lines


def differences(
    rows: Sequence[dict[str, Any]], method: str, prefix: str, tuning: str
) -> list[float]:
    """Points above the best rival, for each network and rate."""
    result = []
    for dataset, architecture in networks_of(rows):
        here = cells(rows, dataset=dataset, architecture=architecture)
        for kept in sorted({row["kept"] for row in here}):
            means = {
                name: np.mean([row[tuning] for row in cells(here, kept=kept, method=name)])
                for name in METHODS
            }
            best = max(value for name, value in means.items() if name.startswith(prefix))
            result.append(100 * float(means[method] - best))
    return result


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy against the share of weights kept: a row a fine-tuning, a column a network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = networks_of(rows)
    colors = (
        _tropical.ORANGE, _tropical.YELLOW, "0.45", _tropical.BLUE, _tropical.GREEN, _tropical.PINK,
    )  # fmt: skip
    figure = Figure(figsize=(2.9 * len(networks) + 0.6, 7.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(TUNINGS), len(networks), sharex=True, sharey="col", squeeze=False)
    for column, (dataset, architecture) in enumerate(networks):
        here = cells(rows, dataset=dataset, architecture=architecture)
        rates = sorted({row["kept"] for row in here})
        for line, (tuning, title) in enumerate(TUNINGS.items()):
            panel = axes[line, column]
            full = 100 * np.mean([row["unpruned"] for row in here])
            panel.axhline(full, color="0.6", linewidth=1, linestyle=":")
            for (method, name), color in zip(METHODS.items(), colors, strict=True):
                groups = [cells(here, kept=kept, method=method) for kept in rates]
                x = [100 * np.mean([row["weights"] / row["total"] for row in g]) for g in groups]
                values = 100 * np.array([[row[tuning] for row in group] for group in groups])
                mean, spread = values.mean(axis=1), values.std(axis=1, ddof=1)
                own = method.startswith("tropical")
                panel.plot(
                    x, mean, "-" if own else "--", color=color, marker="o" if own else "s",
                    markersize=3.5, linewidth=1.8 if own else 1.2, label=name,
                )  # fmt: skip
                panel.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
            panel.set_xscale("log")
            panel.set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
            panel.minorticks_off()
            panel.set_ylim(0, 101)
            panel.grid(color="0.92", linewidth=0.8)
            panel.spines[["top", "right"]].set_visible(False)
            if line == 0:
                panel.set_title(f"{dataset}, {architecture}", fontsize=10)
            if column == 0:
                panel.set_ylabel(f"{title}\naccuracy (%)", fontsize=9)
            if line == len(TUNINGS) - 1:
                panel.set_xlabel("weights kept (%)", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    _tropical.save(figure, path)


def run(name: str, preset: Preset, *, output: Path, command: str) -> dict[str, Any]:
    """Run a preset; write table, numbers and figures to `output`."""
    toy_rows, shown = _tropical_toy.measure(
        preset.toys, preset.toy_shares, num_seeds=preset.num_seeds, num_steps=preset.toy_steps
    )
    rows = [
        row
        for dataset, architecture, recipe in preset.networks
        for seed in range(preset.num_seeds)
        for row in measure(dataset, architecture, recipe, seed, preset, folder=output)
    ]
    result = {"preset": name, "command": command, "rows": rows, "toys": toy_rows}
    (output / "table.md").write_text(markdown(result), encoding="utf-8")
    (output / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(rows, output / "curves.png")
    _tropical_toy.plot(shown, output / "toys.png")
    return result


def publish(output: Path) -> None:
    """Copy the outcome to where a checkout keeps results."""
    names = {
        "table.md": "tropical_pruning.md",
        "result.json": "tropical_pruning.json",
        "curves.png": "tropical_pruning.png",
        "toys.png": "tropical_pruning_toys.png",
    }
    for source, target in names.items():
        shutil.copy(output / source, _tropical.RESULTS / target)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.tropical_pruning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="smoke")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--publish", action="store_true", help="copy to the committed results")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    command = _tropical.command("tropical_pruning", arguments)
    run(options.preset, PRESETS[options.preset], output=options.output, command=command)
    print(f"table and figures: {options.output}")
    if options.publish:
        publish(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
