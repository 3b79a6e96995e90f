"""The page of results: `python -m theory.page` writes it from what `python -m theory` found.

python -m theory --seed 0 --json theory/results/seed_0.json
python -m theory.page theory/results/seed_*.json --output docs/theory_results.md
"""

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLUMNS = 4
# Characters of a name that fit above a panel, in one line.
_TITLE = 34

_HEAD = """# Theory: the results

What `python -m theory` found on seeds {seeds}, with JAX {jax}: {count} claims, {twins} broken
twins, {surprises} surprises.

{{doc}}`theory` says what the columns mean; this page is written by `python -m theory.page` from the
files in `theory/results`.

A claim holds if its check found no counterexample on any seed; slack is the smallest margin found,
in the unit that the check says, tightness how much of the possible the bound reaches where it is
tight. Every twin is the same formula broken in one way, and the same check refutes it.
"""


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The documents of several seeds, about the same claims in the same order."""
    documents = [json.loads(path.read_text()) for path in paths]
    names = [[claim["name"] for claim in document["claims"]] for document in documents]
    if not names or any(other != names[0] for other in names):
        raise ValueError("the files must be about the same claims, in the same order")
    return documents


def page(documents: Sequence[dict[str, Any]], images: Sequence[str]) -> str:
    """The whole page in Markdown."""
    claims = list(zip(*(document["claims"] for document in documents), strict=True))
    found = [entry for claim in claims for entry in claim]
    twins = [twin for entry in found for twin in entry["twins"]]
    lines = [
        _HEAD.format(
            seeds=", ".join(str(document["seed"]) for document in documents),
            jax=documents[0]["versions"]["jax"],
            count=len(claims),
            twins=len(twins) // len(documents),
            surprises=sum(not entry["as_expected"] for entry in [*found, *twins]),
        ),
        "| claim | verdict | slack | tightness | trials | twins refuted |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for claim in claims:
        broken = [twin for entry in claim for twin in entry["twins"]]
        refuted = sum(not twin["holds"] for twin in broken)
        verdict = "holds" if all(entry["holds"] for entry in claim) else "**fails**"
        cells = [
            f"[{claim[0]['name']}](#{claim[0]['name']})",
            verdict,
            _number(min((e["worst_slack"] for e in claim), key=_order), "+.1e"),
            _number(min((e["tightness"] for e in claim), key=_order), ".6g"),
            f"{sum(entry['trials'] for entry in claim):,}",
            f"{refuted} of {len(broken)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Bound against measured", ""]
    lines += [
        "Each point is a case: the bound or formula across, what was measured upwards, and the",
        "line on which both are equal. Axes are logarithmic where all values are positive.",
        "",
    ]
    lines += [f"![Bounds against what was measured]({image})\n" for image in images]
    lines += ["## The claims", ""]
    for claim in claims:
        lines += _section(claim)
    return "\n".join(lines).rstrip() + "\n"


def _section(claim: Sequence[dict[str, Any]]) -> list[str]:
    first = claim[0]
    worst = min(claim, key=lambda entry: _order(entry["worst_slack"]))
    lines = [
        f"### {first['name']}",
        "",
        first["statement"],
        "",
        f"Reference: {first['reference']}.",
        "",
    ]
    lines += [f"- given: {hypothesis}" for hypothesis in first["hypotheses"]]
    slack = _number(worst["worst_slack"], "+.1e")
    lines += [f"- worst case, slack {slack}: {worst['witness']}", ""]
    lines += ["| broken twin | verdict | slack | tightness |", "| --- | --- | ---: | ---: |"]
    for same in zip(*(entry["twins"] for entry in claim), strict=True):
        verdict = "**not refuted**" if any(twin["holds"] for twin in same) else "refuted"
        slack = _number(min((twin["worst_slack"] for twin in same), key=_order), "+.1e")
        tightness = _number(min((twin["tightness"] for twin in same), key=_order), ".6g")
        lines.append(f"| {same[0]['description']} | {verdict} | {slack} | {tightness} |")
    return [*lines, ""]


def _order(value: float | None) -> float:
    """Nothing measured, an infinite slack or no claim of tightness, comes first."""
    return -math.inf if value is None else value


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def draw(documents: Sequence[dict[str, Any]], stem: Path, *, panels: int = 16) -> list[Path]:
    """Draw the pairs of every claim that has any, several panels a picture; return the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    claims = [
        claim
        for claim in zip(*(document["claims"] for document in documents), strict=True)
        if any(entry["measured"] for entry in claim)
    ]
    paths = []
    for number, start in enumerate(range(0, len(claims), panels)):
        chosen = claims[start : start + panels]
        rows = -(-len(chosen) // _COLUMNS)
        figure = Figure(figsize=(3.1 * _COLUMNS, 2.8 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for place, claim in enumerate(chosen):
            axes = figure.add_subplot(rows, _COLUMNS, place + 1)
            _panel(axes, claim)
        path = stem.with_name(f"{stem.name}_{number + 1}.png")
        figure.savefig(path, dpi=75)
        paths.append(path)
    return paths


def _panel(axes: Any, claim: Sequence[dict[str, Any]]) -> None:
    pairs = np.array([pair for entry in claim for pair in entry["measured"]], float)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if not pairs.size:
        return
    scale = "log" if (pairs > 0).all() else "linear"
    axes.set_xscale(scale)
    axes.set_yscale(scale)
    axes.plot(pairs[:, 0], pairs[:, 1], "o", markersize=3, alpha=0.5, color="#0072B2")
    ends = [pairs.min(), pairs.max()]
    axes.plot(ends, ends, color="#D55E00", linewidth=1)
    axes.set_title(textwrap.fill(claim[0]["name"], _TITLE), fontsize=8.5)
    across, up = claim[0]["axes"]
    axes.set_xlabel(across, fontsize=7.5)
    axes.set_ylabel(up, fontsize=7.5)
    axes.tick_params(labelsize=6.5)
    axes.minorticks_off()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its pictures; return 1 if the files hold a surprise."""
    parser = argparse.ArgumentParser(
        prog="python -m theory.page", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("files", nargs="+", type=Path, help="of `python -m theory --json`")
    parser.add_argument("--output", type=Path, required=True, help="the page, in Markdown")
    options = parser.parse_args(arguments)
    documents = read(options.files)
    images = options.output.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    pictures = draw(documents, images / options.output.stem)
    text = page(documents, [f"images/{picture.name}" for picture in pictures])
    options.output.write_text(text)
    print(f"wrote {options.output} and {len(pictures)} pictures")
    return 0 if "\ntwins, 0 surprises" in text else 1


if __name__ == "__main__":
    sys.exit(main())
