"""Prints counts on meshes of several layouts as JSON; the tests run it where there are the devices.

python -m tests.smoothing.counts_on_devices --layouts 1x2 8x1 --pmap --runs FOLDER
python -m tests.smoothing.counts_on_devices --layouts 2x2 --processes PORT INDEX
"""

import argparse
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxcert import data, report, smoothing
from tests.smoothing.classifiers import NUM_HASH_CLASSES, hash_of_bits

NUM_PROCESSES = 2


def counts(**settings: object) -> list[list[int]]:
    key = jax.random.key(20190613)
    # By NumPy, so that every process has the same.
    inputs = np.random.default_rng(0).uniform(size=(5, 4, 3)).astype(np.float32)
    count = smoothing.pmap_class_counts if "devices" in settings else smoothing.class_counts
    found = count(
        key, hash_of_bits, inputs, noise=smoothing.gaussian(0.25), num_samples=1037,
        num_classes=NUM_HASH_CLASSES, chunk_size=100, **settings,
    )  # fmt: skip
    return np.asarray(found).tolist()


@jax.tree_util.Partial
def network(images: jax.Array) -> jax.Array:
    """Two layers of fixed weights; its scores are far enough apart for every rounding."""
    first = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
    second = np.random.default_rng(2).normal(size=(16, 10)).astype(np.float32)
    hidden = jax.nn.relu((images - 0.3).reshape(images.shape[0], -1) @ jnp.asarray(first))
    return hidden @ jnp.asarray(second)


def run(folder: Path, mesh: jax.sharding.Mesh | None) -> None:
    report.certify_run(
        jax.random.key(7), network, data.load("digits", "test", num_images=3), folder=folder,
        noise=smoothing.gaussian(0.25), num_samples=501, images_per_launch=3, mesh=mesh,
        model_fingerprint="two layers", progress=False,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layouts", nargs="+", required=True)
    parser.add_argument("--pmap", action="store_true")
    parser.add_argument("--runs", type=Path, help="certify with and without a mesh into folders")
    parser.add_argument("--processes", nargs=2, type=int, metavar=("PORT", "INDEX"))
    options = parser.parse_args()
    if options.processes:
        port, index = options.processes
        jax.distributed.initialize(f"127.0.0.1:{port}", NUM_PROCESSES, index)
        assert jax.process_count() == NUM_PROCESSES
    result = {"devices": len(jax.devices())}
    for layout in options.layouts:
        shape = tuple(map(int, layout.split("x")))
        devices = jax.devices()[: math.prod(shape)]
        mesh = jax.make_mesh(shape, ("images", "samples"), devices=devices)
        assert mesh.is_multi_process == bool(options.processes)
        result[layout] = counts(mesh=mesh)
        if options.pmap:
            result[f"pmap {len(devices)}"] = counts(devices=devices)
        if options.runs:
            run(options.runs / layout, mesh)
    if options.runs:
        run(options.runs / "alone", None)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
