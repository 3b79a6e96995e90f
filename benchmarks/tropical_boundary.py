"""Decision boundaries: exact segments, cells, crossings and distances. Importing registers them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.registry import Aim, Case, register
from jaxcert import tropical

_BOX = np.array([[-3.0, -3.0], [3.0, 3.0]])
# Points a side of the raster that the exact extraction is compared with.
_RASTER = 1000

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def network(num_inputs: int, num_units: int, num_classes: int) -> Arrays:
    """A random network whose last bias balances the classes, so that each wins somewhere."""
    rng = np.random.default_rng(num_units)
    w1 = rng.normal(size=(num_units, num_inputs)) * np.sqrt(2.0 / num_inputs)
    b1 = 0.5 * rng.normal(size=num_units)
    w2 = rng.normal(size=(num_classes, num_units)) * np.sqrt(2.0 / num_units)
    hidden = np.maximum(rng.normal(size=(999, num_inputs)) @ w1.T + b1, 0.0)
    return w1, b1, w2, -(hidden @ w2.T).mean(axis=0)


def _raster(arrays: Arrays) -> Callable[[], object]:
    """Scores on a raster in float32 by one compiled program: the usual picture, not exact."""
    sides = np.linspace(_BOX[0], _BOX[1], _RASTER, dtype=np.float32).T
    grid = jnp.asarray(np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, _RASTER, 2))
    w1, b1, w2, b2 = (jnp.asarray(array, jnp.float32) for array in arrays)

    @jax.jit
    def labels(grid: jax.Array) -> jax.Array:
        def row(points: jax.Array) -> jax.Array:
            return jnp.argmax(jax.nn.relu(points @ w1.T + b1) @ w2.T + b2, axis=-1)

        return jax.lax.map(row, grid)

    return lambda: jax.block_until_ready(labels(grid))


@register("tropical-boundary")
def _boundary(quick: bool) -> Case:
    """The boundary of a network with two inputs, beside its classes on a raster of points."""
    units, classes = (100 if quick else 1000), 2
    arrays, many = network(2, units, classes), network(2, units, 10)
    found = tropical.boundary_segments(*arrays, classes=None, box=_BOX)
    of_many = tropical.boundary_segments(*many, classes=None, box=_BOX)
    return Case(
        variants={
            "exact, 2 classes": functools.partial(
                tropical.boundary_segments, *arrays, classes=None, box=_BOX
            ),
            "exact, 10 classes": functools.partial(
                tropical.boundary_segments, *many, classes=None, box=_BOX
            ),
            "raster, 2 classes": _raster(arrays),
        },
        aims=(Aim("exact, 2 classes", "raster, 2 classes", at_most=1.0),),
        settings={
            "hidden_units": units,
            "segments, 2 classes": len(found.start),
            "segments, 10 classes": len(of_many.start),
            "raster": _RASTER**2,
        },
        items=1,
        unit="network",
        repetitions=3 if quick else 7,
    )


@register("tropical-cells")
def _cells(quick: bool) -> Case:
    """All activation regions in the whole space, and those that the boundary crosses."""
    shapes = [(2, 20), (3, 12)] if quick else [(2, 61), (3, 40), (4, 25)]
    networks = {f"d = {d}, h = {h}": network(d, h, 2) for d, h in shapes}
    settings = {}
    for name, arrays in networks.items():
        found = tropical.boundary_cells(*arrays, classes=None)
        settings[name] = {"regions": found.num_regions, "crossed": len(found.active)}
    return Case(
        variants={
            name: functools.partial(tropical.boundary_cells, *arrays, classes=None)
            for name, arrays in networks.items()
        },
        aims=(),
        settings=settings,
        items=1,
        unit="network",
        repetitions=3 if quick else 7,
    )


@register("tropical-crossings")
def _crossings(quick: bool) -> Case:
    """Exact crossings of many segments at once, beside the scores on as many points of each."""
    count, points = (32 if quick else 512), 100
    arrays = tuple(jnp.asarray(array, jnp.float32) for array in network(784, 128, 10))
    rng = np.random.default_rng(0)
    starts, ends = jnp.asarray(rng.normal(size=(2, count, 784)), jnp.float32)

    @jax.jit
    def exact(arrays: tuple[jax.Array, ...], start: jax.Array, end: jax.Array) -> jax.Array:
        w1, b1, w2, b2 = arrays
        layers = [(w1, b1), (w2, b2)]
        return jax.lax.map(
            lambda pair: tropical.segment_crossings(layers, *pair).position,
            (start, end),
            batch_size=16,
        )

    @jax.jit
    def sampled(arrays: tuple[jax.Array, ...], start: jax.Array, end: jax.Array) -> jax.Array:
        w1, b1, w2, b2 = arrays
        share = jnp.linspace(0.0, 1.0, points)[:, None]

        def walk(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
            way = pair[0] + share * (pair[1] - pair[0])
            return jnp.argmax(jax.nn.relu(way @ w1.T + b1) @ w2.T + b2, axis=-1)

        return jax.lax.map(walk, (start, end), batch_size=16)

    return Case(
        variants={
            "exact": lambda: jax.block_until_ready(exact(arrays, starts, ends)),
            f"{points} samples": lambda: jax.block_until_ready(sampled(arrays, starts, ends)),
        },
        aims=(Aim("exact", f"{points} samples"),),
        settings={"inputs": 784, "hidden_units": 128, "classes": 10, "segments": count},
        items=count,
        unit="segment",
        repetitions=3 if quick else 9,
    )


@register("tropical-distance")
def _distance(quick: bool) -> Case:
    """Distances to the boundary, enclosed to nine digits, in a few and in many dimensions."""
    shapes = [(2, 20), (5, 10)] if quick else [(2, 100), (5, 50), (50, 50)]
    count = 4 if quick else 10
    rng = np.random.default_rng(0)
    runs: dict[str, Callable[[], object]] = {}
    settings = {}
    for inputs, units in shapes:
        name = f"d = {inputs}, h = {units}"
        arrays, points = network(inputs, units, 2), rng.normal(size=(count, inputs))
        found = tropical.boundary_distance(points, *arrays, classes=None)
        settings[name] = {
            "largest relative gap": float(np.max((found.upper - found.lower) / found.upper)),
            "least-distance problems": int(found.num_nodes.sum()),
        }
        runs[name] = functools.partial(tropical.boundary_distance, points, *arrays, classes=None)
    return Case(
        variants=runs, aims=(), settings=settings, items=count, unit="point",
        repetitions=3 if quick else 5,
    )  # fmt: skip
