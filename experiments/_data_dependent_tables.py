"""Tables of the comparison of fixed and data-dependent sigma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._data_dependent_attack import FACTORS
from experiments._data_dependent_runs import Preset

RADII = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0, 1.25, 1.5, 2.0)
TOLERANCE = 0.04


def comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    """Fixed sigma beside the published radius, and what choosing sigma adds."""
    lines = [
        "| training | images | fixed ACR | published | difference | within | memory ACR | gain |",
        "| :--- | ---: | ---: | ---: | ---: | :--- | ---: | ---: |",
    ]
    for row in rows:
        fixed, memory = (row["summaries"][kind] for kind in ("fixed", "memory"))
        published = row["published"]
        if published is None:
            said = "| - | - | - |"
        else:
            difference = fixed["average_radius"] - published
            near = "yes" if abs(difference) <= TOLERANCE else "NO"
            said = f"| {published:.3f} | {difference:+.4f} | {near} |"
        lines.append(
            f"| {row['scheme']} | {row['num_images']} | {_acr(fixed)} {said} {_acr(memory)} "
            f"| {row['gain']:+.4f} ± {row['gain_error']:.4f} |"
        )
    lines += [
        "",
        f"Within: no farther than {TOLERANCE} from the published radius. Gain: mean of the "
        "difference on each image, ± its standard error.",
    ]
    return "\n".join(lines)


def _acr(summary: Mapping[str, Any]) -> str:
    return f"{summary['average_radius']:.4f} ± {summary['average_radius_error']:.4f}"


def of_memories(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| training | sigma least / median / largest | kept | stored | overridden | shrunk "
        "| least room | spent |",
        "| :--- | :---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        memory, sigma = row["memory"], row["sigma"]
        lines.append(
            f"| {row['scheme']} | {sigma['smallest']:.3f} / {sigma['median']:.3f} / "
            f"{sigma['largest']:.3f} | {sigma['kept']} | {memory['stored']} | "
            f"{memory['overridden']} | {memory['shrunk']} | {memory['least_room']:.3f} | "
            f"{memory['spent']:.3g} |"
        )
    lines += [
        "",
        "Kept: images whose fixed sigma no other sigma beat. Least room: the smallest distance "
        "between two stored regions of different classes; below 0 they would meet. Spent: with "
        "probability at least 1 less this all stored regions deserve their label; in the rows "
        "`joint` each certificate takes a share of alpha, so that this is alpha.",
    ]
    return "\n".join(lines)


def of_attacks(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| training | radius | attacked | memory | smoothed | without memory | mean distance |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    counts = np.zeros((len(FACTORS), 4), int)
    for row in rows:
        for place, found in enumerate(row["attacks"]):
            if not found["attacked"]:
                continue
            counts[place] += [found[k] for k in ("attacked", "memory", "smoothed", "unremembered")]
            lines.append(
                f"| {row['scheme']} | x {found['factor']} | {found['attacked']} | "
                f"{found['memory']} | {found['smoothed']} | {found['unremembered']} | "
                f"{found['mean_distance']:.3f} |"
            )
    for factor, total in zip(FACTORS, counts, strict=True):
        lines.append(f"| all | x {factor} | {' | '.join(map(str, total))} | |")
    lines += [
        "",
        "Where the attack ended, how many answers were of another class than the region's: of the "
        "memory classifier, of the classifier at the sigma of the region (which the certificate is "
        "about), and of data-dependent sigma chosen anew without a memory, about which nothing is "
        "certified. Within a stored region the memory classifier cannot change its answer; that "
        "the region deserves it is what the next column tests. Attacked are images of the first "
        "part, with a memory of that part.",
    ]
    return "\n".join(lines)


def radii_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Certified accuracy at radii, of every scheme and kind."""
    kinds = {
        "fixed": "fixed sigma",
        "chosen": "chosen, no memory (no certificate)",
        "memory": "chosen, memory",
        "joint": "chosen, memory, joint alpha",
    }
    lines = [
        "| training | sigma | right | abstain | ACR ± error | "
        + " | ".join(f"r≥{radius:g}" for radius in RADII)
        + " |",
        "| :--- | :--- |" + " ---: |" * (3 + len(RADII)),
    ]
    for row in rows:
        for kind, words in kinds.items():
            summary = row["summaries"][kind]
            lines.append(
                f"| {row['scheme']} | {words} | {summary['num_right']}/{summary['num_images']} | "
                f"{summary['num_abstained']} | {_acr(summary)} | "
                + " | ".join(f"{rate:.3f}" for rate in summary["certified_accuracy"])
                + " |"
            )
    return "\n".join(lines)


def settings(preset: Preset, rows: Sequence[Mapping[str, Any]]) -> str:
    """How the networks were trained, and what was drawn."""
    search = ", ".join(f"{key} {value}" for key, value in preset.search.items())
    climb = ", ".join(f"{key} {value}" for key, value in preset.attack.items())
    first, second, *_, last = rows[0]["images"]
    lines = [
        "Made in pieces, by the same command with other `--stage` and `--scheme`. "
        f"Test images {first}, {second}, ..., {last}. Certificates: {preset.num_samples:,} samples "
        f"each, alpha {preset.alpha}, sigma {preset.sigma} in training. Search: {search}. "
        f"Attack: {climb}.",
        "",
    ]
    for row in rows:
        recipe = dict(row["train"].get("recipe", {}))
        loss = recipe.pop("loss", "unknown")
        start = preset.schemes[row["scheme"]].starts_from
        lines.append(
            f"- {row['scheme']}: {loss}, "
            + ", ".join(f"{key} {value}" for key, value in recipe.items())
            + (f", from the network of {start}" if start else ", from new weights")
        )
    return "\n".join(lines)
