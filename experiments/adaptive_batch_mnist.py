"""Batch-size rules on a small convolutional network and MNIST.

    JAXCERT_DATA_DIR=... python -m experiments.adaptive_batch_mnist --preset paper

trains the same network from the same starts with five fixed batch sizes and with rules that choose
it: the gradient noise scale, its square root with the cost of a step, the norm test, the inner
product test and CABS. Each takes its step from a short list, the best being kept; accuracies are
those on the whole test set. Every evaluation of a gradient counts; the second pass of the inner
product test too. A run that was made is kept in the folder of raw results and not made again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import adaptive_batch_mnist_report as report
from jaxcert import batching, data

RESULTS = Path(__file__).resolve().parent / "results"
RATES = (0.05, 0.1, 0.2)
# The rule that scales its step by the batch is given the limit for large batches.
COUPLED = "noise scale and cost of a step"
LARGER = 4.0
# Evaluations that a step costs beside its own, from the times of the fixed batches of 8 and 128.
STEP_OVERHEAD = 3.0
FIXED = (8, 16, 32, 64, 128)
CAPACITY = 4096
# Steps between two looks at the clock; accuracy is measured at every `EVERY` evaluations.
CHUNK = 8
EVERY = 3_000


class Task(NamedTuple):
    """Images `[n, 28, 28, 1]` and labels, to train on and to test on."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def start(seed: int) -> dict[str, jax.Array]:
    """Two convolutions and a dense layer; variance 2 over the number of inputs."""
    shapes = {"first": (5, 5, 1, 4), "second": (5, 5, 4, 8), "last": (7 * 7 * 8, 10)}
    params = {}
    for number, (name, shape) in enumerate(shapes.items()):
        key = jax.random.fold_in(jax.random.key(seed), number)
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        params[name] = scale * jax.random.normal(key, shape)
        params[f"{name}_bias"] = jnp.zeros(shape[-1])
    return params


def scores(params: Mapping[str, jax.Array], images: jax.Array, probe: jax.Array) -> jax.Array:
    hidden = images
    for name in ("first", "second"):
        hidden = jax.nn.relu(
            batching.conv(hidden, params[name], params[f"{name}_bias"], probe, strides=(2, 2))
        )
    hidden = hidden.reshape(hidden.shape[0], -1)
    return batching.dense(hidden, params["last"], params["last_bias"], probe)


def plain_scores(params: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """The same function by operations that differentiate forwards too."""
    hidden = images
    for name in ("first", "second"):
        hidden = jax.lax.conv_general_dilated(
            hidden, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = jax.nn.relu(hidden + params[f"{name}_bias"])
    return hidden.reshape(hidden.shape[0], -1) @ params["last"] + params["last_bias"]


def cross_entropy(found: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(found), labels[:, None], axis=1)[:, 0]


def layered_loss(params: Any, probe: jax.Array, examples: Any) -> jax.Array:
    images, labels = examples
    return cross_entropy(scores(params, images, probe), labels)


def example_loss(params: Any, example: Any) -> jax.Array:
    image, label = example
    return cross_entropy(plain_scores(params, image[None]), label[None])[0]


def rules(
    rate: jax.Array, step_overhead: float, largest: int = CAPACITY
) -> dict[str, batching.BatchSizeRule]:
    common: dict[str, Any] = {"learning_rate": rate, "max_batch_size": largest}
    return {
        "noise scale": batching.gradient_noise_scale(**common),
        COUPLED: batching.gradient_noise_scale(
            step_overhead=step_overhead, couple_step=True, min_batch_size=8, decay=0.98, **common
        ),
        "norm test": batching.norm_test(theta=1.0, **common),
        "inner product test": batching.inner_product_test(**common),
        "CABS": batching.cabs(**(common | {"max_batch_size": min(2048, largest)})),
        # The size is set in the state.
        "fixed": batching.constant_batch(learning_rate=rate, batch_size=1),
    }


@functools.partial(jax.jit, static_argnames=("name", "step_overhead", "num_steps"))
def steps(
    key: jax.Array,
    params: Any,
    state: Any,
    rate: jax.Array,
    objective: batching.ExampleLosses,
    forwards: batching.ExampleLosses,
    *,
    name: str,
    step_overhead: float,
    num_steps: int = CHUNK,
) -> Any:
    """Some steps of a rule, in one program for all batch sizes and rates."""
    largest = min(CAPACITY, objective.num_examples)
    rule = rules(rate, step_overhead, largest)[name]
    sampling = batching.nice(jnp.ones(objective.num_examples), smoothness=1.0)

    def step(carry: Any, number: jax.Array) -> Any:
        params, state = carry
        fixed = name == "fixed"
        plan = rule.plan(state)
        batch = sampling.draw(jax.random.fold_in(key, number), plan.batch_size, capacity=largest)
        found = batching.batch_gradient(objective, params, batch, microbatch_sizes=(128, 8))
        more = {}
        if name == "inner product test":
            more["inner_products"] = batching.batch_inner_products(
                forwards, params, batch, found.gradient, microbatch_size=64
            )
        updates, after = rule.update(
            found.gradient, state, params, batch=batch, squared_norms=found.squared_norms,
            losses=found.losses, **more,
        )  # fmt: skip
        if fixed:
            after = after._replace(batch_size=plan.batch_size)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, after), plan.batch_size

    (params, state), sizes = jax.lax.scan(step, (params, state), jnp.arange(num_steps))
    return params, state, sizes


@jax.jit
def accuracy(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    batches = images.reshape(-1, 1000, *images.shape[1:])
    found = jax.lax.map(lambda batch: jnp.argmax(plain_scores(params, batch), axis=1), batches)
    return jnp.mean(found.reshape(-1) == labels)


def train(
    task: Task, *, name: str, rate: float, size: int | None, budget: int, step_overhead: float,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """One run: accuracies, evaluations and seconds of the processor in training alone."""
    examples = (jnp.asarray(task.images), jnp.asarray(task.labels))
    objective = batching.layered_losses(layered_loss, examples)
    forwards = batching.example_losses(example_loss, examples)
    tested = jnp.asarray(task.test_images), jnp.asarray(task.test_labels)
    params = start(seed)
    traced = jnp.asarray(rate, jnp.float32)
    state = rules(traced, step_overhead)[name].init(params)
    if size is not None:
        state = state._replace(batch_size=jnp.asarray(size, jnp.int32))
    run = functools.partial(
        steps, rate=traced, objective=objective, forwards=forwards, name=name,
        step_overhead=step_overhead,
    )  # fmt: skip
    # Compiled before the clock starts.
    jax.block_until_ready(run(jax.random.key(0), params, state)[0])
    curve: list[dict[str, Any]] = []
    seconds, number, looked = 0.0, 0, -1
    while not curve or curve[-1]["evaluations"] < budget:
        before = time.process_time()
        params, state, sizes = run(
            jax.random.fold_in(jax.random.key(1000 + seed), number), params, state
        )
        evaluations = int(state.evaluations)
        seconds += time.process_time() - before
        number += 1
        if evaluations // EVERY > looked:
            looked = evaluations // EVERY
            found = float(accuracy(params, *tested))
            curve.append(
                {
                    "evaluations": evaluations, "seconds": round(seconds, 3),
                    "accuracy": round(found, 4), "batch_size": float(np.mean(sizes)),
                    "steps": number * CHUNK,
                }
            )  # fmt: skip
            # A run that has diverged, or has all it was asked for, ends.
            if found >= report.LEVELS[-1] or (evaluations > budget / 3 and found < 0.5):
                break
    return {"name": name, "rate": rate, "size": size, "seed": seed, "curve": curve}


def load() -> Task:
    """MNIST, with pixels in [0, 1]."""
    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        found = data.load("mnist", split)
        parts += [np.asarray(found.images, np.float32), np.asarray(found.labels, np.int32)]
    return Task(*parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.adaptive_batch_mnist",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=("smoke", "paper"), default="smoke")
    parser.add_argument("--budget", type=int, default=45_000, help="evaluations a run at most")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rate", type=float, action="append", help=f"steps; {RATES} by default")
    parser.add_argument("--kept", action="store_true", help="report on finished runs only")
    parser.add_argument("--raw", type=Path, default=Path("runs/adaptive_batch_mnist"))
    parser.add_argument("--output", type=Path, help="write table, figure and JSON here")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    smoke = options.preset == "smoke"
    if smoke:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 10, 1000)
        prototypes = rng.random((10, 28, 28, 1))
        images = (prototypes[labels] + 0.1 * rng.random((1000, 28, 28, 1))).astype(np.float32)
        labels = labels.astype(np.int32)
        task = Task(images, labels, images, labels)
        options.budget, options.seeds, options.rate = 1_000, 1, [0.05]
    else:
        home = os.environ.get("JAXCERT_DATA_DIR")
        if not home:
            parser.error("JAXCERT_DATA_DIR must name the folder that holds mnist")
        task = load()
    rates = tuple(options.rate or RATES)
    names: list[tuple[str, int | None]] = [("fixed", size) for size in FIXED]
    names += [(name, None) for name in rules(jnp.asarray(0.1), STEP_OVERHEAD) if name != "fixed"]
    if smoke:
        names = [names[0], names[-1]]
    # A run that was made is kept, and not made again.
    raw = options.raw / options.preset / str(options.budget)
    raw.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(options.seeds):
        for name, size in names:
            for listed in rates:
                rate = listed * LARGER if name == COUPLED else listed
                path = raw / f"{name.replace(' ', '_')}_{size or 0}_{rate:g}_{seed}.json"
                if not path.exists() and options.kept:
                    continue
                if not path.exists():
                    run = train(
                        task, name=name, rate=rate, size=size, budget=options.budget,
                        step_overhead=STEP_OVERHEAD, seed=seed,
                    )  # fmt: skip
                    print(report.label(run), rate, seed, run["curve"][-1], flush=True)
                    path.write_text(json.dumps(run))
                found.append(json.loads(path.read_text()))
    result = {
        "command": shlex.join(["python", "-m", "experiments.adaptive_batch_mnist", *words]),
        "examples": len(task.labels), "seeds": options.seeds, "rates": rates,
        "not_run": sorted({name for name, _ in names} - {run["name"] for run in found}),
        "budget": options.budget, "every": EVERY, "larger": LARGER,
        "step_overhead": STEP_OVERHEAD, "runs": found,
    }  # fmt: skip
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result)
        (options.output / "adaptive_batch_mnist.json").write_text(text + "\n")
        (options.output / "adaptive_batch_mnist.md").write_text(report.markdown(result))
        report.figure(result, options.output / "adaptive_batch_mnist.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
