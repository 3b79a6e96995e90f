"""The `jaxcert` command: train, certify, predict, decide, report, recheck, ladder."""

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
from jaxcert._cli_arguments import make_parser

if TYPE_CHECKING:
    from jaxcert.data import Dataset

# Folded into the seed's key, so that training shares no random numbers with fresh weights.
_TRAINING = 0x7472_6169

# How long processes that share a run wait for one that is lost before they have begun.
_PATIENCE_SECONDS = 30

OK, PROBLEMS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `jaxcert` command.

    Args:
        arguments: Words after `jaxcert`, by default those of the process.

    Returns:
        The exit status: 0 done, 1 `recheck` or `ladder` found problems, 2 bad input or a failing
        disk, 130 interrupted.

    Example:
        >>> main(["report", "no/such/run"])
        2
    """
    options = make_parser().parse_args(arguments)
    where = f"jaxcert {options.command}"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(
                f"{where}: warning: {message}", file=sys.stderr
            )
            return _COMMANDS[options.command](options)
    except KeyboardInterrupt:
        kept = "; what is done is kept, the same command continues it"
        is_kept = options.command in ("train", "certify")
        print(f"{where}: interrupted{kept if is_kept else ''}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; the interpreter would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
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
    # Beside the output: what an interrupted run continues from.
    checkpoints = f"{options.output.rstrip('/')}.checkpoints"
    if options.overwrite:
        shutil.rmtree(checkpoints, ignore_errors=True)
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
    _join_processes(options)
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
        tolerance=options.adaptive,
        chunk_size=options.chunk_size,
        progress=not options.quiet,
        disconnect=True,
    )
    if len(log.rows) < dataset.num_images:
        _note_progress(options.output, log)
    else:
        print(report.format_table([report.summarize(log)]))
    if options.adaptive is not None and log.rows:
        _note_samples(log, options.num_samples)
    return OK


def _note_samples(log: report.Log, most: int) -> None:
    """Say what adaptive sample sizes spent, selection and pilot included."""
    spent = sum((row.samples or 0) + sum((row.selection or {}).values()) for row in log.rows)
    mean = spent / len(log.rows)
    print(f"{mean:,.0f} samples an image, {mean / most:.3f} of {most:,}", file=sys.stderr)


def _join_processes(options: argparse.Namespace) -> None:
    """Connect to the other processes of a run that several share."""
    flags = {
        "--coordinator": options.coordinator,
        "--num-processes": options.num_processes,
        "--process-id": options.process_id,
    }
    missing = [flag for flag, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given too: all of {', '.join(flags)}")
    if not 0 <= options.process_id < options.num_processes:
        raise ValueError(
            f"--process-id must lie in [0, {options.num_processes}), got {options.process_id}"
        )
    # A signal to end is not to be caught: what is logged is safe at any moment.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address=options.coordinator,
        num_processes=options.num_processes,
        process_id=options.process_id,
        heartbeat_timeout_seconds=_PATIENCE_SECONDS,
        shutdown_timeout_seconds=_PATIENCE_SECONDS,
    )


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


def _decide(options: argparse.Namespace) -> int:
    noise = _noise(options)
    dataset, classify = _dataset(options), _classifier(options)
    decision = smoothing.decide_radius(
        jax.random.key(options.seed),
        classify,
        dataset.images,
        noise=noise,
        radius=options.radius,
        num_classes=dataset.num_classes,
        alpha=options.alpha,
        max_samples=options.num_samples,
        ids=dataset.ids,
        chunk_size=options.chunk_size,
    )
    # Without a column of radii, so that no reader takes these rows for those of a certification
    # log: sampling stopped because of the votes, and no radius follows from them.
    print("idx\tlabel\tpredict\tverdict\tcorrect\tsamples")
    right = decision.label == dataset.labels
    spent = decision.num_samples + decision.selection_counts.sum(axis=1)
    for place in range(dataset.num_images):
        print(
            dataset.ids[place],
            dataset.labels[place],
            decision.label[place],
            smoothing.Verdict(decision.verdict[place]).name.lower(),
            int(right[place]),
            spent[place],
            sep="\t",
        )
    print(
        f"{int(right.sum())} of {dataset.num_images} right and certified at radius "
        f"{options.radius}, {int(np.sum(decision.verdict == 0))} undecided, "
        f"{spent.mean():,.0f} samples an image",
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
        _note_progress(path, log)
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
            log = report.read_log(path)
            result = report.recheck(
                log, noise=noise, num_samples=options.num_samples, alpha=options.alpha
            )
        except (report.LogError, report.ManifestError) as error:
            print(error)
            status = PROBLEMS
            continue
        for problem in result.problems:
            print(problem)
        if result.problems:
            status = PROBLEMS
        found = f"{len(result.problems)} problems" if result.problems else "no problems"
        evidence = "margins" if log.rows and log.rows[0].margin else "counts"
        how = f"{result.num_rederived} radii derived again from {evidence}"
        if result.num_rederived == 0 and noise is not None:
            how = "no counts, radii checked against what the samples can give"
        if result.num_unchecked:
            how += (
                f", {result.num_unchecked} radii NOT checked: they come without counts, so give "
                "--sigma or --noise, --num-samples and --alpha"
            )
        print(f"{path}: {result.num_rows} rows, {how}, {found}")
    return status


def _ladder(options: argparse.Namespace) -> int:
    from jaxcert import _cli_ladder

    wrong = _cli_ladder.run(options, _dataset(options), _optional_noise(options))
    return PROBLEMS if wrong else OK


def _note_progress(path: str, log: report.Log) -> None:
    """Say how far a run is that is not complete."""
    manifest = report.read_manifest(path) if os.path.isdir(path) else None
    planned = None if manifest is None else manifest.get("data", {}).get("num_images")
    if planned is not None and planned != len(log.rows):
        print(f"{path}: {len(log.rows)} of {planned} images so far", file=sys.stderr)


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


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "certify": _certify,
    "predict": _predict,
    "decide": _decide,
    "report": _report,
    "recheck": _recheck,
    "ladder": _ladder,
}


if __name__ == "__main__":
    sys.exit(main())
