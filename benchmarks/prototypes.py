"""Certificates of nearest centres. Importing this module registers the cases."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.registry import Aim, Case, register
from jaxcert import prototypes

_FEATURES, _CENTRES, _DIMENSION = 10_000, 100, 512
_TOLERANCE = 1e-6

Way = Callable[[], np.ndarray]


def _problem(per_class: int, num_features: int) -> tuple[np.ndarray, prototypes.Prototypes]:
    """Random centres, and features in float32 that scatter around them as networks give them."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((_CENTRES, _DIMENSION))
    chosen = centres[generator.integers(0, _CENTRES, num_features)]
    features = (chosen + generator.standard_normal(chosen.shape)).astype(np.float32)
    labels = np.repeat(np.arange(_CENTRES // per_class), per_class)
    # Centres in float64, which arrays of JAX are not by default.
    arrays: tuple[Any, Any] = (centres, labels)
    return features, prototypes.Prototypes(*arrays)


def _from_squares(squares: np.ndarray, lengths: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Radii of all rows by the published formula: the nearest bisector with the nearest centre."""
    own = squares.argmin(axis=1)
    nearest = squares[np.arange(len(squares)), own]
    radii = (squares - nearest[:, None]) / (2 * np.where(lengths[own] > 0, lengths[own], 1))
    radii[labels[own][:, None] == labels[None]] = np.inf
    return radii.min(axis=1)


def _numpy_rows(features: np.ndarray, table: prototypes.Prototypes) -> Way:
    """One feature after the other, distances by differences."""
    centres, labels = np.asarray(table.centres), np.asarray(table.labels)

    def run() -> np.ndarray:
        lengths = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        rows = [((row - centres) ** 2).sum(axis=1) for row in features]
        return _from_squares(np.stack(rows), lengths, labels)

    return run


def _numpy_products(features: np.ndarray, table: prototypes.Prototypes) -> Way:
    """All features at once, distances by products."""
    centres, labels = np.asarray(table.centres), np.asarray(table.labels)

    def run() -> np.ndarray:
        lengths = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        points = features.astype(np.float64)
        squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T
        return _from_squares(squares + (centres**2).sum(axis=1), lengths, labels)

    return run


def _scikit_learn(features: np.ndarray, table: prototypes.Prototypes) -> Way:
    from sklearn.metrics import pairwise_distances

    centres, labels = np.asarray(table.centres), np.asarray(table.labels)

    def run() -> np.ndarray:
        lengths = pairwise_distances(centres)
        points = features.astype(np.float64)
        return _from_squares(pairwise_distances(points, centres) ** 2, lengths, labels)

    return run


def _quadratic_programs(features: np.ndarray, table: prototypes.Prototypes) -> Way:
    """The exact distance for several centres a class: SciPy's solver for each rival of each row."""
    centres, labels = np.asarray(table.centres), np.asarray(table.labels)

    def distance(feature: np.ndarray, own: np.ndarray, rival: np.ndarray) -> float:
        normals = rival - own
        offsets = np.sum(normals * ((rival + own) / 2 - feature), axis=1)
        # Lawson and Hanson's reduction of the nearest point of a polyhedron.
        system = np.vstack([normals.T, offsets])
        target = np.append(np.zeros(len(feature)), 1.0)
        rest = system @ nnls(system, target)[0] - target
        return float(np.linalg.norm(rest[:-1] / rest[-1]))

    def run() -> np.ndarray:
        found = []
        for feature in features.astype(np.float64):
            label = labels[((feature - centres) ** 2).sum(axis=1).argmin()]
            own = centres[labels == label]
            found.append(min(distance(feature, own, c) for c in centres[labels != label]))
        return np.array(found)

    return run


def _ours(features: np.ndarray, table: prototypes.Prototypes) -> Way:
    return lambda: prototypes.centroid_certificate(features, table).feature_radius


def check_radii(ours: np.ndarray, others: np.ndarray, *, exactly: bool) -> None:
    """Raise unless another way found the same radii, or at least none above ours."""
    difference = others - ours
    if not difference.max() <= _TOLERANCE or (exactly and not -difference.min() <= _TOLERANCE):
        raise ValueError(
            f"radii must agree to {_TOLERANCE}, got differences from {difference.min():.3g} to "
            f"{difference.max():.3g}"
        )


def _case(
    per_class: int, num_features: int, ways: dict[str, Callable[..., Way]], *, exactly: bool,
    at_least: dict[str, float], quick: bool,
) -> Case:  # fmt: skip
    number = num_features // (20 if quick else 1)
    features, table = _problem(per_class, number)
    ours = _ours(features, table)
    variants = {name: build(features, table) for name, build in ways.items()}
    for way in variants.values():
        check_radii(ours(), way(), exactly=exactly)
    return Case(
        variants={"centroid_certificate": ours, **variants},
        aims=tuple(
            Aim(name, "centroid_certificate", at_least=at_least.get(name)) for name in variants
        ),
        settings={
            "features": number, "centres": _CENTRES, "centres_per_class": per_class,
            "dimension": _DIMENSION, "dtype": "float32 features, float64 radii",
        },
        items=number,
        unit="certificate",
        repetitions=3 if quick else 7,
    )  # fmt: skip


_SIMPLE = {
    "NumPy, row by row": _numpy_rows,
    "NumPy, by products": _numpy_products,
    "scikit-learn": _scikit_learn,
}


@register("centroid-one")
def _one(quick: bool) -> Case:
    """One centre a class: all ways give the same radii, ours with its rounding paid for."""
    return _case(
        1, _FEATURES, _SIMPLE, exactly=True, at_least={"NumPy, row by row": 5.0}, quick=quick
    )


@register("centroid-several")
def _several(quick: bool) -> Case:
    """Ten centres a class: the published formula takes the nearest alone, ours is exact."""
    return _case(
        10, _FEATURES, _SIMPLE, exactly=False, at_least={"NumPy, row by row": 5.0}, quick=quick
    )


@register("centroid-exact")
def _exact(quick: bool) -> Case:
    """Ten centres a class, few features: the exact distance by a program for each rival."""
    ways = {"SciPy, each rival": _quadratic_programs}
    return _case(10, 100, ways, exactly=True, at_least={"SciPy, each rival": 20.0}, quick=quick)
