"""The cases. Importing this module registers them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import networks
from benchmarks.registry import Aim, Case, UnavailableError, register
from jaxcert import models, smoothing
from jaxcert.smoothing import _quantiles, _random_words

Classifier = Callable[[jax.Array], jax.Array]

_SELECTION_SAMPLES = 100
_ALPHA = 0.001
_FORWARD_BATCH = 1000
# Largest difference of a score between the two frameworks, relative to the largest score.
_SCORE_TOLERANCE = 1e-4


def _sizes(workload: networks.Workload, quick: bool) -> tuple[int, int]:
    """Images and samples; an accelerator gets enough to be busy, a quick run little."""
    faster = 1 if jax.default_backend() == "cpu" else 20
    return workload.num_images, workload.num_samples * faster // (20 if quick else 1)


def _certify_runner(
    workload: networks.Workload, classify: Classifier, num_images: int, num_samples: int
) -> Callable[[], object]:
    images = jnp.asarray(networks.images(workload, num_images))
    return functools.partial(
        smoothing.certify,
        jax.random.key(0),
        classify,
        images,
        noise=smoothing.gaussian(networks.SIGMA),
        num_classes=networks.NUM_CLASSES,
        num_samples=num_samples,
        selection_samples=_SELECTION_SAMPLES,
        alpha=_ALPHA,
    )


def _forward_runner(
    classify: Classifier, inputs: np.ndarray, batch_size: int
) -> Callable[[], object]:
    """Classify ready-made inputs `[m, *shape]` in batches, in one compiled program."""
    batches = jnp.asarray(inputs.reshape(-1, batch_size, *inputs.shape[1:]))

    @jax.jit
    def forward(classify: Classifier, batches: jax.Array) -> jax.Array:
        return jax.lax.map(lambda batch: jnp.argmax(classify(batch), axis=-1), batches)

    return lambda: jax.block_until_ready(forward(classify, batches))


def _divisor(total: int, largest: int) -> int:
    """The largest divisor of `total` up to `largest`."""
    return next(size for size in range(min(total, largest), 0, -1) if total % size == 0)


def _settings(workload: networks.Workload, num_images: int, num_samples: int) -> dict[str, object]:
    return {
        "network": workload.name,
        "input_shape": list(workload.input_shape),
        "images": num_images,
        "num_samples": num_samples,
        "selection_samples": _SELECTION_SAMPLES,
        "sigma": networks.SIGMA,
        "dtype": "float32",
    }


def _certify_case(name: str, at_most: float, quick: bool) -> Case:
    """`certify` beside the bare network on as many ready-made noisy inputs.

    The bare network runs at two batch sizes, the usual 1000 and a small one that stays in a cache:
    whichever is faster is the fair price of the forward passes.
    """
    workload = networks.WORKLOADS[name]
    num_images, num_samples = _sizes(workload, quick)
    classify = models.from_nnx(networks.create(workload))
    total = num_images * (num_samples + _SELECTION_SAMPLES)
    inputs = networks.images(workload, total, seed=2)
    large, small = _divisor(total, _FORWARD_BATCH), _divisor(total, 25)
    return Case(
        variants={
            "certify": _certify_runner(workload, classify, num_images, num_samples),
            "forward, large batches": _forward_runner(classify, inputs, large),
            "forward, small batches": _forward_runner(classify, inputs, small),
        },
        aims=(
            Aim("certify", "forward, large batches", at_most=at_most),
            Aim("certify", "forward, small batches", at_most=at_most),
        ),
        settings={
            **_settings(workload, num_images, num_samples),
            "large_batch": large,
            "small_batch": small,
        },
        items=total,
        unit="sample",
        repetitions=3 if quick else 11,
    )


def _pytorch_case(name: str, quick: bool) -> Case:
    """`certify` beside the field's loop in PyTorch, on the same weights and images."""
    try:
        from benchmarks import pytorch
    except ImportError as error:
        raise UnavailableError(
            f"PyTorch is not installed ({error}); install the extra: pip install 'jaxcert[bench]'"
        ) from error
    workload = networks.WORKLOADS[name]
    num_images, num_samples = _sizes(workload, quick)
    network = networks.create(workload)
    module = pytorch.convert(network)
    classify = models.from_nnx(network)
    images = networks.images(workload, num_images)
    check_scores(
        np.asarray(jax.jit(classify)(jnp.asarray(images))),
        module(pytorch.to_channels_first(images)).detach().cpu().numpy(),
    )
    tensors = pytorch.to_channels_first(images)
    return Case(
        variants={
            "jaxcert": _certify_runner(workload, classify, num_images, num_samples),
            "pytorch loop": lambda: pytorch.certify(
                module, tensors, sigma=networks.SIGMA, num_classes=networks.NUM_CLASSES,
                num_samples=num_samples, selection_samples=_SELECTION_SAMPLES, alpha=_ALPHA,
            ),
        },
        aims=(Aim("pytorch loop", "jaxcert", at_least=2.0),),
        settings={
            **_settings(workload, num_images, num_samples),
            "pytorch_batch": pytorch.BATCH_SIZE,
            "pytorch_device": str(pytorch.DEVICE),
            "pytorch_threads": pytorch.torch.get_num_threads(),
        },
        items=num_images * (num_samples + _SELECTION_SAMPLES),
        unit="sample",
        repetitions=3 if quick else 9,
    )  # fmt: skip


def check_scores(scores: np.ndarray, others: np.ndarray) -> None:
    """Raise unless two frameworks computed the same scores `[n, classes]`."""
    difference = float(np.max(np.abs(scores - others)))
    scale = max(1.0, float(np.max(np.abs(scores))))
    if not difference <= _SCORE_TOLERANCE * scale:
        raise ValueError(
            f"the networks must agree to {_SCORE_TOLERANCE} of the largest score {scale:.3g}, "
            f"got a difference of {difference:.3g}"
        )


@register("certify-mlp")
def _certify_mlp(quick: bool) -> Case:
    return _certify_case("mlp", 1.15, quick)


@register("certify-lenet")
def _certify_lenet(quick: bool) -> Case:
    return _certify_case("lenet", 1.15, quick)


@register("certify-resnet20")
def _certify_resnet20(quick: bool) -> Case:
    return _certify_case("resnet20", 1.05, quick)


@register("pytorch-mlp")
def _pytorch_mlp(quick: bool) -> Case:
    return _pytorch_case("mlp", quick)


@register("pytorch-lenet")
def _pytorch_lenet(quick: bool) -> Case:
    return _pytorch_case("lenet", quick)


@register("pytorch-resnet20")
def _pytorch_resnet20(quick: bool) -> Case:
    return _pytorch_case("resnet20", quick)


@register("noise")
def _noise(quick: bool) -> Case:
    """The noise generator alone, one key a sample, beside `jax.random` with the same keys."""
    samples, size = (64, 3072) if jax.default_backend() == "cpu" else (16384, 3072)
    rounds = 4 if quick else 40
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(samples))
    words = _random_words.random_words(keys, size)
    noise = smoothing.gaussian(1.0)

    def normals_from(words: jax.Array) -> jax.Array:
        return _quantiles.with_sign_of(words, _quantiles.normal_magnitude(words))

    drawn: dict[str, tuple[Callable[..., jax.Array], jax.Array]] = {
        "words": (lambda keys: _random_words.random_words(keys, size), keys),
        "normals from words": (normals_from, words),
        "noise.sample": (lambda keys: noise.sample(keys, (size,)), keys),
        "jax.random.bits": (jax.vmap(lambda key: jax.random.bits(key, (size,))), keys),
        "jax.random.normal": (jax.vmap(lambda key: jax.random.normal(key, (size,))), keys),
        "jax.random.normal, one key": (
            lambda keys: jax.random.normal(keys[0], (samples, size)), keys,
        ),
    }  # fmt: skip

    def runner(function: Callable[..., jax.Array], argument: jax.Array) -> Callable[[], object]:
        compiled = jax.jit(function)

        def run() -> object:
            for _ in range(rounds):
                result = compiled(argument)
            return jax.block_until_ready(result)

        return run

    return Case(
        variants={name: runner(*pair) for name, pair in drawn.items()},
        aims=tuple(Aim(name, "jax.random.normal") for name in drawn if name != "jax.random.normal"),
        settings={"keys": samples, "values_per_key": size, "rounds": rounds},
        items=rounds * samples * size,
        unit="value",
        repetitions=5 if quick else 15,
    )
