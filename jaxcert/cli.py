"""The `jaxcert` command: train, certify, predict, report and recheck from a shell."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxcert import report, smoothing

if TYPE_CHECKING:
    from jaxcert.data import Dataset

# Folded into the seed's key, so that training shares no random numbers with fresh weights.
_TRAINING = 0x7472_6169

OK, PROBLEMS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """examples:
  jaxcert train --dataset digits --model mlp --sigma 0.25 --epochs 30 --output runs/mlp
  jaxcert certify --model runs/mlp --dataset digits --sigma 0.25 --count 100 --output runs/digits
  jaxcert report runs/digits --plot runs/digits/curve.png
  jaxcert recheck runs/digits

exit status: 0 done, 1 recheck found problems, 2 bad input or a failing disk, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `jaxcert` command.

    Args:
        arguments: Words after `jaxcert`, by default those of the process.

    Returns:
        The exit status: 0 done, 1 `recheck` found problems, 2 bad input or a failing disk, 130
        interrupted.

    Example:
        >>> main(["report", "no/such/run"])
        2
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    where = f"jaxcert {options.command}"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(
                f"{where}: warning: {message}", file=sys.stderr
            )
            return command(options)
    except KeyboardInterrupt:
        print(
            f"{where}: interrupted; what is done is kept, the same command continues it",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; the interpreter would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (ValueError, TypeError, OSError, smoothing.NonFiniteScoresError) as error:
        if options.debug:
            raise
        print(f"{where}: error: {_message(error)}", file=sys.stderr)
        return BAD_INPUT


def _train(options: argparse.Namespace) -> int:
    from jaxcert import data, models, training

    if os.path.exists(options.output) and not options.overwrite:
        raise FileExistsError(f"{options.output} exists; choose another --output, or --overwrite")
    dataset = data.load(options.dataset, options.split, data_dir=options.data_dir)
    mean, std = models.pixel_statistics(dataset.images)
    module = models.create(
        options.model,
        input_shape=dataset.images.shape[1:],
        num_classes=dataset.num_classes,
        mean=mean,
        std=std,
        seed=options.seed,
    )
    checkpoints = f"{options.output.rstrip('/')}.checkpoints"
    training.train(
        jax.random.fold_in(jax.random.key(options.seed), _TRAINING),
        module,
        dataset,
        noise=_optional_noise(options),
        num_epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        checkpoint_dir=checkpoints,
        progress=not options.quiet,
    )
    assert isinstance(module, models.MLP | models.LeNet | models.ResNet)
    models.save(options.output, module, overwrite=options.overwrite)
    shutil.rmtree(checkpoints, ignore_errors=True)
    print(f"saved the trained {options.model} to {options.output}")
    return OK


def _certify(options: argparse.Namespace) -> int:
    noise = _noise(options)
    dataset, classify = _dataset(options), _classifier(options)
    log = report.certify_run(
        jax.random.key(options.seed),
        classify,
        dataset,
        folder=options.output,
        noise=noise,
        num_samples=options.num_samples,
        selection_samples=options.selection_samples,
        alpha=options.alpha,
        chunk_size=options.chunk_size,
        progress=not options.quiet,
    )
    print(report.format_table([report.summarize(log)]))
    return OK


def _predict(options: argparse.Namespace) -> int:
    noise = _noise(options)
    dataset, classify = _dataset(options), _classifier(options)
    prediction = smoothing.predict(
        jax.random.key(options.seed),
        classify,
        dataset.images,
        noise=noise,
        num_classes=dataset.num_classes,
        num_samples=options.num_samples,
        alpha=options.alpha,
        ids=dataset.ids,
        chunk_size=options.chunk_size,
    )
    print("idx\tlabel\tpredict\tcorrect\tp_value")
    right = prediction.label == dataset.labels
    for place in range(dataset.num_images):
        print(
            dataset.ids[place],
            dataset.labels[place],
            prediction.label[place],
            int(right[place]),
            f"{prediction.p_value[place]:.6g}",
            sep="\t",
        )
    abstained = int(np.sum(prediction.label == smoothing.ABSTAIN))
    print(
        f"{int(right.sum())} of {dataset.num_images} right, {abstained} abstained",
        file=sys.stderr,
    )
    return OK


def _report(options: argparse.Namespace) -> int:
    logs = [report.read_log(path) for path in options.runs]
    if options.names is not None and len(options.names) != len(logs):
        raise ValueError(f"--names must be one a run: got {len(options.names)} for {len(logs)}")
    names = options.names or [log.name for log in logs]
    for path, log in zip(options.runs, logs, strict=True):
        for note in log.notes:
            print(f"{log.path}: {note}", file=sys.stderr)
        planned = _planned_images(path)
        if planned is not None and planned != len(log.rows):
            print(f"{log.path}: {len(log.rows)} of {planned} images so far", file=sys.stderr)
    radii = report.default_radii(logs) if options.radii is None else options.radii
    summaries = [
        report.summarize(log, radii=radii, name=name) for log, name in zip(logs, names, strict=True)
    ]
    if options.json:
        print(json.dumps([report.summary_to_dict(summary) for summary in summaries], indent=2))
    else:
        print(report.format_table(summaries, markdown=options.markdown))
    if options.plot:
        report.plot_curves(logs, options.plot, names=names, title=options.title)
        print(f"wrote {options.plot}", file=sys.stderr)
    return OK


def _recheck(options: argparse.Namespace) -> int:
    noise = _optional_noise(options)
    status = OK
    for path in options.runs:
        try:
            result = report.recheck(
                path, noise=noise, num_samples=options.num_samples, alpha=options.alpha
            )
        except report.LogError as error:
            print(error)
            status = PROBLEMS
            continue
        for problem in result.problems:
            print(problem)
        if result.problems:
            status = PROBLEMS
        found = f"{len(result.problems)} problems" if result.problems else "no problems"
        how = f"{result.num_rederived} radii derived again from counts"
        if result.num_rederived == 0 and noise is not None:
            how = "no counts, radii checked against what the samples can give"
        print(f"{path}: {result.num_rows} rows, {how}, {found}")
    return status


def _planned_images(path: str) -> int | None:
    manifest = report.read_manifest(path) if os.path.isdir(path) else None
    return None if manifest is None else manifest.get("data", {}).get("num_images")


def _noise(options: argparse.Namespace) -> smoothing.Noise:
    if options.sigma is not None:
        return smoothing.gaussian(options.sigma)
    return smoothing.parse_noise(options.noise)


def _optional_noise(options: argparse.Namespace) -> smoothing.Noise | None:
    if options.sigma is None and options.noise is None:
        return None
    return _noise(options)


def _dataset(options: argparse.Namespace) -> Dataset:
    from jaxcert import data

    dataset = data.load(
        options.dataset, options.split, data_dir=options.data_dir, num_images=options.count
    )
    if options.every is not None:
        if options.every < 1:
            raise ValueError(f"--every must be at least 1, got {options.every}")
        return dataset.take(np.arange(0, dataset.num_images, options.every))
    if options.indices is not None:
        return dataset.take(report.parse_indices(options.indices, length=dataset.num_images))
    return dataset


def _classifier(options: argparse.Namespace) -> Callable[[jax.Array], jax.Array]:
    from jaxcert import models

    return models.from_nnx(models.restore(options.model))


def _message(error: BaseException) -> str:
    """One line that says what is wrong, without the error number that `OSError` puts first."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxcert",
        description="Certify neural networks by randomized smoothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    train = _command(
        commands, "train", _train, "train a network under noise and save it",
        "jaxcert train --dataset mnist --model lenet --sigma 0.5 --epochs 20 --output runs/lenet",
    )  # fmt: skip
    train.add_argument("--model", default="mlp", help="mlp, lenet, resnet20, ... (%(default)s)")
    _add_data(train, split="train")
    _add_noise(train, required=False)
    train.add_argument("--epochs", type=int, default=20, help="passes over the data (%(default)s)")
    train.add_argument("--batch-size", type=int, default=128, help="images a step (%(default)s)")
    train.add_argument("--learning-rate", type=float, default=1e-3, help="(%(default)s)")
    train.add_argument("--weight-decay", type=float, default=1e-4, help="(%(default)s)")
    _add_seed(train)
    train.add_argument("--output", required=True, help="folder for the trained model")
    train.add_argument("--overwrite", action="store_true", help="replace the output folder")

    certify = _command(
        commands, "certify", _certify, "certify images into a run folder; resumes a stopped run",
        "jaxcert certify --model runs/lenet --dataset mnist --sigma 0.5 --count 200 "
        "--output runs/mnist",
    )  # fmt: skip
    _add_model(certify)
    _add_sampling(certify, num_samples=100_000)
    certify.add_argument(
        "--selection-samples", type=int, default=100, help="samples that choose the class (100)"
    )
    certify.add_argument("--output", required=True, help="run folder")

    predict = _command(
        commands, "predict", _predict, "predict with the smoothed classifier, without radii",
        "jaxcert predict --model runs/lenet --dataset mnist --sigma 0.5 --indices 0:100:10",
    )  # fmt: skip
    _add_model(predict)
    _add_sampling(predict, num_samples=1000)

    summary = _command(
        commands, "report", _report, "print certified accuracy and average radius, draw curves",
        "jaxcert report runs/a runs/b --radii 0 0.5 1 --plot curve.png",
    )  # fmt: skip
    summary.add_argument("runs", nargs="+", help="run folders, or logs of this or another tool")
    summary.add_argument("--names", nargs="+", help="names for the runs, one each")
    summary.add_argument("--radii", nargs="+", type=float, help="where to state the accuracy")
    form = summary.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    form.add_argument("--json", action="store_true", help="print JSON")
    summary.add_argument("--plot", metavar="FILE", help="draw the curves into a png, pdf or svg")
    summary.add_argument("--title", help="title of the plot")

    recheck = _command(
        commands, "recheck", _recheck, "derive every radius again from the log's counts",
        "jaxcert recheck runs/mnist",
    )  # fmt: skip
    recheck.add_argument("runs", nargs="+", help="run folders or logs")
    _add_noise(recheck, required=False)
    recheck.add_argument("--num-samples", type=int, help="for logs without counts")
    recheck.add_argument("--alpha", type=float, help="for logs without counts")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
    )
    parser.set_defaults(run=run)
    return parser


def _add_data(parser: argparse.ArgumentParser, *, split: str) -> None:
    parser.add_argument("--dataset", default="digits", help="such as digits, mnist (%(default)s)")
    parser.add_argument("--split", default=split, help="(%(default)s)")
    parser.add_argument("--data-dir", help="where prepared data sets are")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder that `jaxcert train` wrote")
    _add_data(parser, split="test")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--count", type=int, help="so many images, spread evenly over the split")
    which.add_argument("--every", type=int, metavar="N", help="every N-th image")
    which.add_argument("--indices", help="such as 0:1000:50 or 3,17,4 (all images)")


def _add_noise(parser: argparse.ArgumentParser, *, required: bool) -> None:
    noise = parser.add_mutually_exclusive_group(required=required)
    noise.add_argument("--sigma", type=float, help="Gaussian noise, in units of pixels in [0, 1]")
    noise.add_argument("--noise", help='such as "laplace(0.25)" or "uniform(0.5)"')


def _add_sampling(parser: argparse.ArgumentParser, *, num_samples: int) -> None:
    _add_noise(parser, required=True)
    parser.add_argument("--num-samples", type=int, default=num_samples, help="(%(default)s)")
    parser.add_argument(
        "--alpha", type=float, default=0.001, help="failure probability an image (%(default)s)"
    )
    parser.add_argument("--chunk-size", type=int, help="noisy images classified at once (chosen)")
    _add_seed(parser)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="seed of the key (%(default)s)")


if __name__ == "__main__":
    sys.exit(main())
