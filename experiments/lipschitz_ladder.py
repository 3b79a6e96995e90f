"""Every bound on a network's Lipschitz constant, its time, the lower bound and the gap.

    JAXCERT_DATA_DIR=... python -m experiments.lipschitz_ladder --preset paper

bounds the networks of the LipSDP paper and other published ones from the folder JAXCERT_DATA_DIR,
and networks with random weights and given seeds, by every method of `network_lipschitz_upper`. The
lower bound is that of the worst biases (`network_lipschitz_lower`), since the upper ones hold for
all biases. Times are wall times of one call on this machine, compilation included.

References: Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz
Constants for Deep Neural Networks", 2019, arXiv:1906.04893. Xu, Sivaranjani, "ECLipsE: Efficient
Compositional Lipschitz Constant Estimation for Deep Neural Networks", 2024, arXiv:2404.04375.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import trained_networks
from jaxcert import lipschitz

RESULTS = Path(__file__).resolve().parent / "results"
METHODS = ("product", "averaged", "eclipse_fast", "eclipse", "lipsdp_layer", "lipsdp")


class Entry(NamedTuple):
    """A network to bound: matrices or layers, by which methods, and the effort of two of them.

    Attributes:
      name: for the table.
      network: matrices, or layers of `jaxcert.lipschitz`.
      input_shape: of one input, for layers.
      methods: of `network_lipschitz_upper`, from the cheapest.
      steps: gradient steps of eclipse for each layer.
      starts: of the search from below.
    """

    name: str
    network: list[Any]
    input_shape: tuple[int, ...] | None = None
    methods: tuple[str, ...] = METHODS
    steps: int = 1000
    starts: int = 64


def seeded_network(width: int, layers: int) -> list[np.ndarray]:
    """Random weights, 4 inputs and 1 output, each of spectral norm uniform in [0.4, 1.8]."""
    # The generator that the published code seeds; the values depend on it.
    draw = np.random.RandomState(7 * width + 13 * layers)
    widths = [4, *[width] * (layers - 1), 1]
    weights = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        norm = draw.uniform(0.4, 1.8)
        weight = draw.randn(outputs, inputs)
        weights.append(weight * (norm / np.linalg.norm(weight, 2)))
    return weights


def seeded_entry(width: int, layers: int, **settings: Any) -> Entry:
    return Entry(f"seeded, {layers} layers of {width}", seeded_network(width, layers), **settings)


def entries(preset: str, data: Path | None) -> Iterator[Entry]:
    """The networks of a preset, published ones where there is a folder of them."""
    if preset == "smoke":
        yield seeded_entry(6, 3, steps=60, starts=8)
        return
    cheap = ("product", "averaged", "eclipse_fast")
    wide = (*cheap, "lipsdp_layer", "lipsdp")
    if data is not None:
        for name in ("random", "mnist"):
            yield Entry(f"LipSDP {name}", trained_networks.lipsdp_weights(data, name))
        yield Entry("RSL18a 784-500-10", trained_networks.rsl18a(data), (28, 28, 1), wide, starts=4)
        yield Entry(
            "WK17a, 2 convolutions", trained_networks.wk17a(data), (28, 28, 1), cheap, starts=1
        )
    for width, layers in ((20, 2), (20, 5), (20, 10), (20, 20), (40, 5)):
        yield seeded_entry(width, layers)
    yield seeded_entry(100, 10, methods=wide, starts=16)
    yield seeded_entry(500, 20, methods=(*cheap, "lipsdp"), starts=2)


def measure(entry: Entry) -> dict[str, Any]:
    """All bounds of one network with their times."""
    bounds, seconds, memory = {}, {}, {}
    for method in entry.methods:
        start = time.perf_counter()
        bounds[method] = lipschitz.network_lipschitz_upper(
            entry.network,
            method=method,
            input_shape=entry.input_shape,
            steps=entry.steps,
        )
        seconds[method] = time.perf_counter() - start
        # The highest so far; methods run from the cheapest.
        memory[method] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    lower = lipschitz.network_lipschitz_lower(
        jax.random.key(0), entry.network, input_shape=entry.input_shape, starts=entry.starts
    )
    return {
        "network": entry.name,
        "lower": lower,
        "bounds": bounds,
        "seconds": {**seconds, "lower": time.perf_counter() - start},
        "peak_memory_mib": memory,
        "gap": min(bounds.values()) / lower,
    }


def check_order(row: dict[str, Any]) -> None:
    """Raise unless lower <= lipsdp <= layer-wise <= eclipse_fast <= product."""
    order = ["lipsdp", "lipsdp_layer", "eclipse_fast", "product"]
    ladder = [row["lower"], *(row["bounds"][m] for m in order if m in row["bounds"])]
    if any(low > high * (1.0 + 1e-9) for low, high in zip(ladder, ladder[1:], strict=False)):
        raise AssertionError(f"the ladder of {row['network']} is out of order: {ladder}")


def table(rows: Sequence[dict[str, Any]], value: Callable[[dict[str, Any], str], str]) -> str:
    """A Markdown table with a network a row and a method a column."""
    header = ["network", "lower", *METHODS, "gap"]
    lines = ["| " + " | ".join(header) + " |", "| --- " + "| ---: " * (len(header) - 1) + "|"]
    for row in rows:
        cells = [row["network"], *(value(row, name) for name in ("lower", *METHODS))]
        lines.append("| " + " | ".join([*cells, f"{row['gap']:.4g}"]) + " |")
    return "\n".join(lines)


def bound_cell(row: dict[str, Any], name: str) -> str:
    found = row["lower"] if name == "lower" else row["bounds"].get(name)
    return "" if found is None else f"{found:.7g}"


def seconds_cell(row: dict[str, Any], name: str) -> str:
    found = row["seconds"].get(name)
    return "" if found is None else f"{found:.2f}"


def document(rows: Sequence[dict[str, Any]], command: str) -> str:
    peaks = [f"{row['network']} {max(row['peak_memory_mib'].values()):.0f}" for row in rows]
    return "\n".join(
        [
            "# Lipschitz bounds by price",
            "",
            f"`{command}`",
            "",
            "Upper bounds for all biases; the lower bound is for the worst biases. Gap: the best "
            "upper over the lower bound.",
            "",
            table(rows, bound_cell),
            "",
            f"Seconds of one call, compilation included, on {os.cpu_count()} cores of "
            f"{platform.machine()} that other jobs shared:",
            "",
            table(rows, seconds_cell),
            "",
            "Peak memory of a process in MiB, Python and JAX included: " + "; ".join(peaks) + ".",
            "",
        ]
    )


def run(preset: str, output: Path, command: str, only: str | None = None) -> list[dict[str, Any]]:
    """Measure what the file of an earlier run does not hold yet, and write after each network."""
    folder = os.environ.get("JAXCERT_DATA_DIR")
    path = output / "lipschitz_ladder.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {row["network"] for row in rows}
    output.mkdir(parents=True, exist_ok=True)
    for entry in entries(preset, Path(folder) if folder else None):
        if entry.name in done or (only is not None and only not in entry.name):
            continue
        if preset == "smoke":
            row = measure(entry)
        else:
            # A process each, so that memory and compilation are its own.
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                row = pool.submit(measure, entry).result()
        check_order(row)
        rows.append(row)
        path.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")
        (output / "lipschitz_ladder.md").write_text(document(rows, command))
        print(entry.name, {name: bound_cell(row, name) for name in ("lower", *METHODS)}, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.lipschitz_ladder", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--preset", choices=("smoke", "paper"), default="paper")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder; a run resumes in it")
    parser.add_argument("--only", help="the networks whose names hold this text")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "experiments.lipschitz_ladder", *given])
    run(options.preset, options.output, command, options.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
