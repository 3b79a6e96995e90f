"""A claim about the certificate of nearest-centre classifiers, by exact projections."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize

from jaxcert import prototypes
from theory import search
from theory.ledger import Claim, Verdict

# Takes features `[n, d]`, centres `[k, d]`, their classes `[k]` and the constant of the encoder to
# radii of inputs `[n]`.
Radius = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]

# Numbers of classes, centres of each, and dimensions.
SHAPES = ((2, 1, 2), (4, 1, 3), (3, 2, 2), (3, 3, 4))
# What a bound that is rounded down, and its oracle, may differ by.
TIGHTNESS = 1 - 1e-6


def distance_to_rival(point: np.ndarray, rival: np.ndarray, own: np.ndarray) -> float:
    """From a point to the nearest one that is closer to a rival centre than to all own ones.

    That set is a polyhedron; its nearest point is a non-negative least-squares problem (Lawson and
    Hanson).
    """
    normals = rival - own
    offsets = ((rival**2).sum() - (own**2).sum(axis=1)) / 2 - normals @ point
    if offsets.max() <= 0:
        return 0.0
    system = np.concatenate([normals.T, offsets[None]])
    target = np.zeros(len(system))
    target[-1] = 1.0
    multipliers, _ = optimize.nnls(system, target)
    residual = system @ multipliers - target
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def exact_distances(features: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """To the nearest feature of another class: the least over all rival centres."""
    found = []
    for point in features:
        label = labels[((centres - point) ** 2).sum(axis=1).argmin()]
        own = centres[labels == label]
        found.append(min(distance_to_rival(point, one, own) for one in centres[labels != label]))
    return np.array(found)


def check_centroids(radius: Radius, seed: int, count: int) -> Verdict:
    """Compare with the exact distance, for an encoder that is a multiple of a rotation.

    The slack is relative; such an encoder attains its constant in every direction, so the radius
    must be the distance.
    """
    rng = np.random.default_rng(seed)
    worst, tightness = search.Worst(), np.inf
    for classes, each, dimension in SHAPES:
        for _ in range(count):
            centres = rng.normal(size=(classes * each, dimension))
            labels = np.repeat(np.arange(classes), each)
            features = rng.normal(size=(12, dimension))
            constant = float(np.exp(rng.uniform(-1, 1)))
            exact = exact_distances(features, centres, labels) / constant
            found = radius(features, centres, labels, constant)
            # Features on a boundary to rounding say nothing.
            kept = exact > 1e-6
            shares = exact[kept] / np.maximum(found[kept], 1e-300)
            worst.see(
                shares.min() - 1, f"{classes} classes of {each} centres in {dimension}-d",
                count=int(kept.sum()),
            )  # fmt: skip
            tightness = min(tightness, float((1 / shares).min()))
            worst.pair(found[0], exact[0])
    # The oracle is good to some 1e-12.
    return worst.verdict(seed, tolerance=1e-11, tightness=tightness, least_tightness=TIGHTNESS)


def _radius(
    features: np.ndarray, centres: np.ndarray, labels: np.ndarray, constant: float
) -> np.ndarray:
    arrays: tuple[Any, Any] = (centres, labels)
    chosen = prototypes.Prototypes(*arrays)
    return prototypes.centroid_certificate(features, chosen, lipschitz=constant).radius


def _half_gap(
    features: np.ndarray, centres: np.ndarray, labels: np.ndarray, constant: float
) -> np.ndarray:
    """Half the difference of the distances to the nearest centre and the nearest rival."""
    away = np.linalg.norm(features[:, None] - centres[None], axis=2)
    label = labels[away.argmin(axis=1)]
    others = np.where(labels[None] != label[:, None], away, np.inf).min(axis=1)
    return (others - away.min(axis=1)) / (2 * constant)


def _nearest_rival(
    features: np.ndarray, centres: np.ndarray, labels: np.ndarray, constant: float
) -> np.ndarray:
    """The bisector with the rival that is nearest now, as if it were the first to be reached."""
    squares = ((features[:, None] - centres[None]) ** 2).sum(axis=2)
    own = squares.argmin(axis=1)
    rival = np.where(labels[None] != labels[own][:, None], squares, np.inf).argmin(axis=1)
    rows = np.arange(len(features))
    gap = np.linalg.norm(centres[own] - centres[rival], axis=1)
    return (squares[rows, rival] - squares[rows, own]) / (2 * gap * constant)


CLAIMS = (
    Claim(
        name="centroid-certificate",
        statement=(
            "A nearest-centre classifier on an L-Lipschitz encoder keeps its class within the "
            "distance of the feature to the region of the nearest rival over L: for one centre a "
            "class, (|z - mu_j|^2 - |z - mu_i|^2) / (2 L |mu_i - mu_j|). No larger radius holds."
        ),
        reference=(
            "Alfarra, Perez, Bibi, Thabet, Arbelaez, Ghanem, Rethinking Clustering for Robustness, "
            "2020, arXiv:2006.07682; the case of several centres is derived in jaxcert"
        ),
        hypotheses=(
            f"classes, centres of each, dimensions {SHAPES}",
            "encoders that are rotations times L",
        ),
        check=check_centroids,
        formula=_radius,
        trials=16,
        axes=("radius", "distance"),
        twins={
            "half the difference of the distances": _half_gap,
            "the rival that is nearest now": _nearest_rival,
            "not halved": lambda z, mu, y, lip: 2 * _radius(z, mu, y, lip),
            "not divided by the constant": lambda z, mu, y, lip: lip * _radius(z, mu, y, lip),
            "loose by 1e-4": lambda z, mu, y, lip: (1 - 1e-4) * _radius(z, mu, y, lip),
        },
    ),
)
