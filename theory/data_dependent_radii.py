"""Claims about noise chosen for each input: with a memory, and with a scale for each coordinate."""

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import special

from jaxcert import smoothing
from theory.ledger import Claim, Verdict

# From points, labels and radii, in their order, to the labels and radii that are answered.
Stream = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
# From half-axes theta `[n, d]` and probabilities `[n]` to the half-axes of the region `[n, d]`.
Region = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SIGMAS = np.geomspace(0.05, 32.0, 60)
# The ascent starts at 0.25.
_START = 15
_TOLERANCE = 1e-9


def interval_certificates(
    points: np.ndarray, lower: float, upper: float
) -> tuple[np.ndarray, np.ndarray]:
    """Class and radius, exact, where an ascent in sigma ends; class 1 is an interval."""
    sides = (np.array([lower, upper]) - points[:, None])[None] / _SIGMAS[:, None, None]
    p = np.diff(special.ndtr(sides), axis=-1)[..., 0]
    top = np.clip(np.maximum(p, 1 - p), 0.5, 0.999)
    radii = _SIGMAS[:, None] * special.ndtri(top)
    columns = np.arange(len(points))
    place = np.full(len(points), _START)
    for _ in range(len(_SIGMAS)):
        around = np.clip(place + np.array([[0], [1], [-1]]), 0, len(_SIGMAS) - 1)
        place = around[radii[around, columns].argmax(axis=0), columns]
    return (p[place, columns] > 0.5).astype(int), radii[place, columns]


def check_stream(answer: Stream, seed: int, streams: int, *, count: int = 25) -> Verdict:
    """Stream points past interval classifiers; no answered ball may hold another answer.

    The slack is the distance between two points of different answers less the larger of their
    radii; the tightness is the share of the free gap that a cut ball uses.
    """
    rng = np.random.default_rng(seed)
    worst, witness, tightness, trials = math.inf, "", 1.0, 0
    for _ in range(streams):
        lower, length = rng.uniform(-1, 1), rng.uniform(0.2, 2)
        points = rng.uniform(-4, 4, count)
        labels, radii = interval_certificates(points, lower, lower + length)
        answered, kept = answer(points, labels, radii)
        gaps = np.abs(points[:, None] - points)
        differ = answered[:, None] != answered
        slack = np.where(differ, gaps - np.maximum(kept[:, None], kept), np.inf)
        trials += int(differ.sum())
        if slack.min() < worst:
            worst = float(slack.min())
            i, j = np.unravel_index(slack.argmin(), slack.shape)
            witness = (
                f"class 1 on ({lower:.3f}, {lower + length:.3f}), {points[i]:.4f} answers "
                f"{answered[i]} within {kept[i]:.4f}, {points[j]:.4f} answers {answered[j]}"
            )
        for row in np.flatnonzero((kept < radii) & (answered == labels)):
            before = np.arange(count) < row
            free = (gaps[row] - kept)[before & differ[row]]
            if free.size and kept[row] > 0:
                tightness = min(tightness, float(kept[row] / free.min()))
    holds = worst >= 0 and tightness >= 1 - _TOLERANCE
    return Verdict(holds, worst, tightness, trials, witness, seed)


def with_memory(
    points: np.ndarray, labels: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    memory = smoothing.RegionMemory.init((1,), fingerprint="interval", dtype=np.float64)
    _, answer = memory.insert(points[:, None], labels, radii, alpha=0.001)
    return answer.label, answer.radius


def _without(
    points: np.ndarray, labels: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return labels, radii


def _without_cutting(
    points: np.ndarray, labels: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    answered, kept = with_memory(points, labels, radii)
    return answered, np.where(answered == labels, radii, kept)


def _without_overriding(
    points: np.ndarray, labels: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    answered, kept = with_memory(points, labels, radii)
    return labels, np.where(answered == labels, kept, 0.0)


def _loose(
    points: np.ndarray, labels: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    answered, kept = with_memory(points, labels, radii)
    return answered, kept * (1 - 1e-6)


def check_region(region: Region, seed: int, trials: int, *, norm: str) -> Verdict:
    """Attack a region on half-spaces of known probability, at its furthest point.

    The slack is how far, in probability, the attacked answer stays above 1/2; the tightness is
    the share of the way to the boundary that the region covers. In l1 half-spaces are along a
    coordinate, where uniform noise is at its worst.
    """
    rng = np.random.default_rng(seed)
    theta = np.exp(rng.uniform(-3, 3, (trials, 4))).astype(np.float32).astype(np.float64)
    normal = rng.normal(size=(trials, 4))
    if norm == "l1":
        normal *= np.eye(4)[rng.integers(0, 4, trials)]
    p = rng.uniform(0.6, 0.999, trials)
    half_axes = region(theta, p)
    if norm == "l2":
        spread = np.linalg.norm(theta * normal, axis=1)
        offset = special.ndtri(p) * spread
        reach = np.linalg.norm(half_axes * normal, axis=1)
        attacked = special.ndtr((offset - reach) / spread)
    else:
        spread = np.max(np.abs(theta * normal), axis=1)
        offset = (2 * p - 1) * spread
        reach = np.max(np.abs(half_axes * normal), axis=1)
        attacked = np.clip(0.5 + (offset - reach) / (2 * spread), 0, 1)
    worst = int(np.argmin(attacked))
    tightness = float(np.min(reach / offset))
    return Verdict(
        holds=bool(attacked[worst] >= 0.5) and tightness >= 1 - _TOLERANCE,
        worst_slack=float(attacked[worst] - 0.5),
        tightness=tightness,
        trials=trials,
        witness=f"theta {np.round(theta[worst], 4).tolist()}, p {p[worst]:.6f}",
        seed=seed,
    )


def _region(family: str, theta: np.ndarray, p: np.ndarray) -> np.ndarray:
    unit = smoothing.gaussian(1.0) if family == "gaussian" else smoothing.uniform(1.0)
    return unit.radius(p)[:, None] * theta


def _scaled(region: Region, factor: float) -> Region:
    return lambda theta, p: factor * region(theta, p)


def _rounded(region: Region) -> Region:
    """The ball of the same volume: larger than the region where scales are small."""

    def ball(theta: np.ndarray, p: np.ndarray) -> np.ndarray:
        half_axes = region(theta, p)
        return np.exp(np.log(half_axes).mean(axis=1, keepdims=True)) * np.ones_like(theta)

    return ball


ELLIPSOID = functools.partial(_region, "gaussian")
CROSS_POLYTOPE = functools.partial(_region, "uniform")
_ANCER = (
    "Eiras, Alfarra, Kumar, Torr, Dokania, Ghanem, Bibi, ANCER: Anisotropic Certification via "
    "Sample-wise Volume Maximization, 2022, arXiv:2107.04570"
)

CLAIMS = (
    Claim(
        name="data-dependent-memory",
        statement=(
            "Where sigma is chosen for each input, a classifier that answers stored regions first "
            "and cuts new ones is constant on every ball that it answers; larger ones it is not."
        ),
        reference=(
            "Alfarra, Bibi, Torr, Ghanem, Data Dependent Randomized Smoothing, 2022, "
            "arXiv:2012.04351; Sukenik, Kuvshinov, Guennemann, 2022, arXiv:2110.05365"
        ),
        hypotheses=("intervals of the line, with exact probabilities, sigma by ascent on a grid",),
        check=check_stream,
        formula=with_memory,
        twins={
            "no memory": _without,
            "regions are not cut": _without_cutting,
            "regions are cut, answers not overridden": _without_overriding,
            "cut by 1e-6 too much": _loose,
        },
        trials=40,
    ),
    Claim(
        name="anisotropic-l2-region",
        statement=(
            "If a class has probability p > 1/2 under N(0, diag(theta^2)) noise at x, it keeps "
            "more than 1/2 at x + d with |d / theta|_2 < Phi^-1(p); no larger multiple holds."
        ),
        reference=_ANCER,
        hypotheses=("searched over half-spaces of 4 dimensions, where it is tight",),
        check=functools.partial(check_region, norm="l2"),
        formula=ELLIPSOID,
        twins={
            "1e-6 too large": _scaled(ELLIPSOID, 1 + 1e-6),
            "loose by 1e-6": _scaled(ELLIPSOID, 1 - 1e-6),
            "the ball of the proxy radius": _rounded(ELLIPSOID),
        },
        trials=4000,
    ),
    Claim(
        name="anisotropic-l1-region",
        statement=(
            "If a class has probability p > 1/2 under noise uniform on [-theta, theta] at x, it "
            "keeps more than 1/2 at x + d with |d / theta|_1 < 2 (p - 1/2); no larger multiple."
        ),
        reference=_ANCER,
        hypotheses=("searched over half-spaces along a coordinate, where it is tight",),
        check=functools.partial(check_region, norm="l1"),
        formula=CROSS_POLYTOPE,
        twins={
            "1e-6 too large": _scaled(CROSS_POLYTOPE, 1 + 1e-6),
            "loose by 1e-6": _scaled(CROSS_POLYTOPE, 1 - 1e-6),
            "the ball of the proxy radius": _rounded(CROSS_POLYTOPE),
        },
        trials=4000,
    ),
)
