"""Throughput against the number of devices. Importing this module registers the case.

JAX_NUM_CPU_DEVICES=8 python -m benchmarks --case devices
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import networks
from benchmarks.registry import Aim, Case, UnavailableError, register
from jaxcert import models, smoothing

_NUM_IMAGES = 8


@register("devices")
def _devices(quick: bool) -> Case:
    """Counts of one LeNet on 1, 2, 4, 8 devices: `shard_map` by samples or images, and `pmap`.

    Simulated devices of a CPU share its cores, so the ratios then show what sharing costs.
    """
    available = len(jax.devices())
    numbers = [number for number in (1, 2, 4, 8) if number <= available]
    if len(numbers) < 2:
        raise UnavailableError(
            "needs at least two devices; on a CPU set the variable JAX_NUM_CPU_DEVICES=8"
        )
    workload = networks.WORKLOADS["lenet"]
    faster = 1 if jax.default_backend() == "cpu" else 100
    num_samples = 2_000 * faster // (10 if quick else 1)
    arguments: dict[str, Any] = {
        "noise": smoothing.gaussian(networks.SIGMA),
        "num_samples": num_samples,
        "num_classes": networks.NUM_CLASSES,
    }
    key, classify = jax.random.key(0), models.from_nnx(networks.create(workload))
    images = jnp.asarray(networks.images(workload, _NUM_IMAGES))

    def on_mesh(shape: tuple[int, int]) -> Callable[[], object]:
        devices = jax.devices()[: shape[0] * shape[1]]
        mesh = jax.make_mesh(shape, ("images", "samples"), devices=devices)
        count = functools.partial(smoothing.class_counts, key, classify, images, mesh=mesh)
        return lambda: jax.block_until_ready(count(**arguments))

    def by_pmap(number: int) -> Callable[[], object]:
        count = functools.partial(smoothing.pmap_class_counts, key, classify, images)
        devices = jax.devices()[:number]
        return lambda: jax.block_until_ready(count(devices=devices, **arguments))

    count = functools.partial(smoothing.class_counts, key, classify, images, **arguments)
    variants: dict[str, Callable[[], object]] = {"no mesh": lambda: jax.block_until_ready(count())}
    for number in numbers:
        variants[f"shard_map, samples over {number}"] = on_mesh((1, number))
        if number > 1:
            variants[f"shard_map, images over {number}"] = on_mesh((number, 1))
        if number > 3:
            variants[f"shard_map, both over {number}"] = on_mesh((2, number // 2))
        variants[f"pmap, samples over {number}"] = by_pmap(number)
    return Case(
        variants=variants,
        aims=tuple(Aim("no mesh", name) for name in variants if name != "no mesh"),
        settings={
            "network": workload.name,
            "images": _NUM_IMAGES,
            "num_samples": num_samples,
            "devices": available,
            "dtype": "float32",
        },
        items=_NUM_IMAGES * num_samples,
        unit="sample",
        repetitions=3 if quick else 7,
    )
