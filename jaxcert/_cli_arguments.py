"""The arguments of the `jaxcert` command."""

from __future__ import annotations

import argparse

_EPILOG = """examples:
  jaxcert train --dataset digits --model mlp --sigma 0.25 --epochs 30 --output runs/mlp
  jaxcert certify --model runs/mlp --dataset digits --sigma 0.25 --count 100 --output runs/digits
  jaxcert report runs/digits --plot runs/digits/curve.png
  jaxcert recheck runs/digits
  jaxcert ladder --model runs/mlp --dataset digits --count 10 --sigma 0.25

exit status: 0 done, 1 recheck or ladder found problems, 2 bad input or a failing disk,
  130 interrupted
"""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; `command` in what it parses names the subcommand."""
    parser = argparse.ArgumentParser(
        prog="jaxcert",
        description="Certify neural networks by randomized smoothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    train = _command(
        commands, "train", "train a network under noise and save it; resumes a stopped run",
        "jaxcert train --dataset mnist --model lenet --sigma 0.5 --epochs 20 --output runs/lenet",
    )  # fmt: skip
    train.add_argument("--model", default="mlp", help="mlp, lenet, resnet20, ... (%(default)s)")
    _add_data(train, split="train")
    _add_quiet(train)
    _add_noise(train, required=False)
    train.add_argument("--epochs", type=int, default=20, help="passes over the data (%(default)s)")
    train.add_argument("--batch-size", type=int, default=128, help="images a step (%(default)s)")
    train.add_argument("--learning-rate", type=float, default=1e-3, help="(%(default)s)")
    train.add_argument("--weight-decay", type=float, default=1e-4, help="(%(default)s)")
    _add_seed(train)
    train.add_argument("--output", required=True, help="folder for the trained model")
    train.add_argument(
        "--overwrite", action="store_true",
        help="replace the output folder, and start again where an interrupted run would continue",
    )  # fmt: skip

    certify = _command(
        commands, "certify", "certify images into a run folder; resumes a stopped run",
        "jaxcert certify --model runs/lenet --dataset mnist --sigma 0.5 --count 200 "
        "--output runs/mnist",
    )  # fmt: skip
    _add_model(certify)
    _add_sampling(certify, num_samples=100_000)
    certify.add_argument(
        "--selection-samples", type=int, default=100, help="samples that choose the class (100)"
    )
    certify.add_argument(
        "--adaptive", type=float, metavar="TOLERANCE",
        help="choose the sample size of each image, up to --num-samples, so that about this share "
        "of its radius is lost, such as 0.05",
    )  # fmt: skip
    certify.add_argument("--output", required=True, help="run folder")
    _add_quiet(certify)
    several = certify.add_argument_group("several processes or hosts, one command each")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=int, metavar="I", help="which this is, from 0")

    predict = _command(
        commands, "predict", "predict with the smoothed classifier, without radii",
        "jaxcert predict --model runs/lenet --dataset mnist --sigma 0.5 --indices 0:100:10",
    )  # fmt: skip
    _add_model(predict)
    _add_sampling(predict, num_samples=1000)

    decide = _command(
        commands, "decide", "decide whether a radius is certified, with few samples",
        "jaxcert decide --model runs/lenet --dataset mnist --sigma 0.5 --radius 0.5 --count 200",
    )  # fmt: skip
    _add_model(decide)
    _add_sampling(decide, num_samples=100_000)
    decide.add_argument("--radius", type=float, required=True, help="in the norm of the noise")

    summary = _command(
        commands, "report", "print certified accuracy and average radius, draw curves",
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

    ladder = _command(
        commands, "ladder", "line up all bounds on the distance to another class",
        "jaxcert ladder --model runs/mlp --dataset digits --count 10 --sigma 0.25 --plot it.png",
    )  # fmt: skip
    _add_model(ladder)
    _add_noise(ladder, required=False)
    ladder.add_argument(
        "--methods", nargs="+", default=["product", "averaged", "eclipse_fast"], metavar="METHOD",
        help="Lipschitz bounds of the whole network (%(default)s); lipsdp takes minutes",
    )  # fmt: skip
    ladder.add_argument(
        "--num-samples", type=int, default=10_000, help="of the smoothed network (%(default)s)"
    )
    ladder.add_argument(
        "--alpha", type=float, default=0.001, help="of the smoothed network (%(default)s)"
    )
    ladder.add_argument(
        "--max-nodes", type=int, default=20,
        help="effort for the exact distance of each image (%(default)s)",
    )  # fmt: skip
    _add_seed(ladder)
    ladder.add_argument("--plot", metavar="FILE", help="draw the distances into a png, pdf or svg")
    ladder.add_argument("--json", metavar="FILE", help="write all numbers there")

    recheck = _command(
        commands, "recheck", "derive every radius again from the log's counts",
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
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
    )


def _add_data(parser: argparse.ArgumentParser, *, split: str) -> None:
    parser.add_argument("--dataset", default="digits", help="such as digits, mnist (%(default)s)")
    parser.add_argument("--split", default=split, help="(%(default)s)")
    parser.add_argument("--data-dir", help="where prepared data sets are")


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
    noise.add_argument(
        "--noise", help='such as "laplace(0.25)", "uniform(0.5)" or "discrete_gaussian(0.25)"'
    )


def _add_sampling(parser: argparse.ArgumentParser, *, num_samples: int) -> None:
    _add_noise(parser, required=True)
    parser.add_argument("--num-samples", type=int, default=num_samples, help="(%(default)s)")
    parser.add_argument(
        "--alpha", type=float, default=0.001, help="failure probability an image (%(default)s)"
    )
    parser.add_argument("--chunk-size", type=int, help="noisy images classified at once (chosen)")
    _add_seed(parser)


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the key (%(default)s)")


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _seed(text: str) -> int:
    """A seed as the keys have it, 32 bits: others would wrap around in silence."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie in [0, 2**32), got {value}")
    return value
