"""Sharing work among the devices of a mesh.

The axes `images` and `samples` split the work, by hand. Any other axis is left to the compiler: it
holds parts of the weights, as the caller placed them.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

_WORK_AXES = ("images", "samples")

_Tree = TypeVar("_Tree")


def with_automatic_axes(mesh: Mesh | None) -> Mesh | None:
    """Check the axes of a mesh; leave those that split no work to the compiler."""
    if mesh is None:
        return None
    if not set(mesh.axis_names) & set(_WORK_AXES):
        raise ValueError(
            "mesh must have axes named 'images', 'samples', one of them at least, got "
            f"{mesh.axis_names}"
        )
    if set(mesh.axis_names) <= set(_WORK_AXES):
        return mesh
    # A classifier knows of no mesh, so its arrays cannot say how to place what it computes.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def work_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes that split the work, in the order of the mesh."""
    return tuple(name for name in mesh.axis_names if name in _WORK_AXES)


def shares(mesh: Mesh | None) -> tuple[int, int]:
    """Into how many shares the inputs and the samples are split."""
    if mesh is None:
        return 1, 1
    return mesh.shape.get("images", 1), mesh.shape.get("samples", 1)


def by_image(mesh: Mesh) -> jax.P:
    """How to place what has one row an image."""
    return jax.P("images" if "images" in mesh.axis_names else None)


def place(mesh: Mesh, tree: _Tree, spec: jax.P) -> _Tree:
    """Place arrays on the devices; of several processes each must hold the same arrays."""
    return jax.tree.map(lambda leaf: _place_leaf(leaf, NamedSharding(mesh, spec)), tree)


def _place_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if not sharding.mesh.is_multi_process or isinstance(leaf, jax.core.Tracer):
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda array: array, out_shardings=sharding)(leaf)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _place_leaf(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def place_weights(mesh: Mesh, classify: _Tree) -> _Tree:
    """Give each device a copy of the weights, or its part where the caller has split them."""
    automatic = {name: mesh.shape[name] for name in mesh.axis_names if name not in _WORK_AXES}

    def place_leaf(leaf: Any) -> Any:
        if automatic and isinstance(leaf, jax.core.Tracer):
            return leaf  # The compiler knows where it is.
        return place(mesh, leaf, _kept(getattr(leaf, "sharding", None), automatic))

    return jax.tree.map(place_leaf, classify)


def _kept(sharding: Any, automatic: dict[str, int]) -> jax.P:
    """What of a sharding splits weights over the axes that are left to the compiler."""
    if not isinstance(sharding, NamedSharding):
        return jax.P()
    sizes = sharding.mesh.shape
    kept = [
        tuple(name for name in _names(entry) if automatic.get(name) == sizes[name])
        for entry in sharding.spec
    ]
    return jax.P(*kept) if any(kept) else jax.P()


def _names(entry: Any) -> tuple[str, ...]:
    """The axes that an entry of a partition names."""
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def on_each_device(
    function: Callable[..., jax.Array], mesh: Mesh, *, in_specs: Any, out_specs: Any
) -> Callable[..., jax.Array]:
    """Map a function over the shares of the work."""

    def call(*arguments: Any) -> jax.Array:
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=out_specs,
            axis_names=set(work_axes(mesh)), check_vma=False,
        )  # fmt: skip
        # The caller may have set a mesh, whose axes need not be automatic.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return mapped(*arguments)

    return call
