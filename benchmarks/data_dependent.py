"""Cases of data-dependent smoothing: the search for sigma, and the memory of regions."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import networks
from benchmarks.cases import check_scores
from benchmarks.registry import Aim, Case, UnavailableError, register
from jaxcert import models, smoothing

_STEPS, _SAMPLES, _IMAGES = 20, 100, 4
_MEMORY_ROWS, _MEMORY_SHAPE, _RADIUS = 50_000, (32, 32, 3), 0.5


def _search(classify: Callable[[jax.Array], jax.Array], images: np.ndarray, steps: int) -> object:
    sigma = smoothing.optimize_sigma(
        jax.random.key(0), classify, images, initial_sigma=networks.SIGMA, num_steps=steps,
        num_samples=_SAMPLES,
    )  # fmt: skip
    return jax.block_until_ready(sigma)


def _passes(
    classify: Callable[[jax.Array], jax.Array], inputs: np.ndarray, batch_size: int
) -> Callable[[], object]:
    """Forward and backward to the inputs, on ready-made noisy inputs, in one program."""
    batches = jnp.asarray(inputs.reshape(-1, batch_size, *inputs.shape[1:]))

    @jax.jit
    def run(classify: Callable[[jax.Array], jax.Array], batches: jax.Array) -> jax.Array:
        def one(batch: jax.Array) -> jax.Array:
            scores, backward = jax.vjp(classify, batch)
            (gradient,) = backward(jax.nn.softmax(scores))
            return jnp.sum(gradient, axis=range(1, gradient.ndim))

        return jax.lax.map(one, batches)

    return lambda: jax.block_until_ready(run(classify, batches))


@register("optimize-sigma-lenet")
def _optimize_sigma(quick: bool) -> Case:
    """The search beside the passes that it needs, at two batch sizes; the faster is fair."""
    workload = networks.WORKLOADS["lenet"]
    steps = 4 if quick else _STEPS
    classify = models.from_nnx(networks.create(workload))
    images = networks.images(workload, _IMAGES)
    inputs = networks.images(workload, _IMAGES * steps * _SAMPLES, seed=2)
    return Case(
        variants={
            "optimize_sigma": functools.partial(_search, classify, images, steps),
            "passes, large batches": _passes(classify, inputs, _IMAGES * _SAMPLES),
            "passes, small batches": _passes(classify, inputs, 25),
        },
        aims=(
            Aim("optimize_sigma", "passes, large batches", at_most=1.2),
            Aim("optimize_sigma", "passes, small batches", at_most=1.2),
        ),
        settings={"network": "lenet", "images": _IMAGES, "steps": steps, "num_samples": _SAMPLES},
        items=_IMAGES,
        unit="image",
        repetitions=3 if quick else 9,
    )


@register("pytorch-optimize-sigma-lenet")
def _pytorch_optimize_sigma(quick: bool) -> Case:
    """The search beside the one in PyTorch, on the same weights and images."""
    try:
        from benchmarks import pytorch, pytorch_data_dependent
    except ImportError as error:
        raise UnavailableError(
            f"PyTorch is not installed ({error}); install the extra: pip install 'jaxcert[bench]'"
        ) from error
    workload = networks.WORKLOADS["lenet"]
    steps = 4 if quick else _STEPS
    network = networks.create(workload)
    module = pytorch.convert(network)
    classify = models.from_nnx(network)
    images = networks.images(workload, _IMAGES)
    tensors = pytorch.to_channels_first(images)
    check_scores(
        np.asarray(jax.jit(classify)(jnp.asarray(images))), module(tensors).detach().cpu().numpy()
    )
    return Case(
        variants={
            "jaxcert": functools.partial(_search, classify, images, steps),
            "pytorch": lambda: pytorch_data_dependent.optimize_sigma(
                module, tensors, initial_sigma=networks.SIGMA, num_steps=steps,
                num_samples=_SAMPLES, learning_rate=0.05,
            ),
        },
        aims=(Aim("pytorch", "jaxcert"),),
        settings={
            "network": "lenet", "images": _IMAGES, "steps": steps, "num_samples": _SAMPLES,
            "pytorch_device": str(pytorch.DEVICE),
            "pytorch_threads": pytorch.torch.get_num_threads(),
        },
        items=_IMAGES,
        unit="image",
        repetitions=3 if quick else 9,
    )  # fmt: skip


@register("memory-query")
def _memory_query(quick: bool) -> Case:
    """A query of a large memory, one input at a time, beside one pass over what it stores."""
    rng = np.random.default_rng(0)
    count = _MEMORY_ROWS // 10 if quick else _MEMORY_ROWS
    rows = rng.random((count, *_MEMORY_SHAPE), np.float32)
    queries = rng.random((16, *_MEMORY_SHAPE), np.float32)
    empty = smoothing.RegionMemory.init(_MEMORY_SHAPE, fingerprint="benchmark")
    # Regions so far apart need no cutting: the memory is put together from its leaves.
    leaves = (rows.reshape(count, -1), rng.integers(0, 10, count), np.full(count, _RADIUS))
    memory = jax.tree.unflatten(jax.tree.structure(empty), (*leaves, np.float64(0.0)))
    flat = rows.reshape(count, -1)

    def query() -> object:
        return [memory.query(one[None]) for one in queries]

    def products() -> object:
        return [(flat @ one.reshape(-1)).max() for one in queries]

    return Case(
        variants={
            "query": query,
            "one matrix product": products,
        },
        aims=(Aim("query", "one matrix product", at_most=0.5),),
        settings={"rows": count, "shape": list(_MEMORY_SHAPE), "radius": _RADIUS},
        items=len(queries),
        unit="query",
        repetitions=3 if quick else 9,
    )
