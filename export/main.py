"""`python -m export`: writes a bundle's model as other servers want it."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from export import triton
from serving.bundle import FILES, open_bundle
from serving.command import Parser, exit_codes, run_command, tell_failed_gate
from serving.errors import ExitCode
from serving.storage.store import is_url


def main(argv: Sequence[str]) -> ExitCode:
    """Runs the command that the arguments ask for, and returns how it ended."""
    return run_command(_parser, argv)


def _triton(arguments: argparse.Namespace) -> ExitCode:
    bundle = open_bundle(arguments.bundle)
    options = triton.Options(
        name=arguments.model_name, max_batch_size=arguments.max_batch_size, instances=arguments.instances
    )
    written = triton.write(bundle, arguments.repository, options)
    for path in written.paths:
        sys.stdout.write(f"{path}\n")
    also = "" if written.paths else ", which was there already"
    sys.stdout.write(f"{options.name} version {written.version}{also}; clients send texts as [N, 1]\n")
    sys.stdout.write(f"bundle {bundle.bundle_id}\n")
    tell_failed_gate(arguments.bundle)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m export",
        description="Writes a bundle's model as other servers want it.",
        epilog=exit_codes(_EXIT_CODES),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    defaults = triton.Options()
    command = commands.add_parser(
        "triton",
        help="add the model to a model repository of Triton, for its onnxruntime backend",
    )
    command.set_defaults(run=_triton, files=[FILES.labels, FILES.text_model, FILES.failed_gate])
    command.add_bundle()
    command.add_argument(
        "repository",
        type=_folder,
        metavar="REPOSITORY",
        help="the folder that tritonserver is given as --model-repository; made where there is none",
    )
    command.add_argument(
        "--name",
        dest="model_name",
        default=defaults.name,
        metavar="NAME",
        help=f"the model's name (default: {defaults.name})",
    )
    command.add_argument(
        "--max-batch-size",
        type=_number,
        default=defaults.max_batch_size,
        metavar="N",
        help=f"texts that are run at once, and taken in a request (default: {defaults.max_batch_size})",
    )
    command.add_argument(
        "--instances",
        type=_number,
        default=defaults.instances,
        metavar="N",
        help=f"copies of the model, each with a thread of its own (default: {defaults.instances})",
    )
    return parser


_EXIT_CODES = (
    ExitCode.DONE,
    ExitCode.SETTINGS,
    ExitCode.BUNDLE_DAMAGED,
    ExitCode.PLATFORM,
    ExitCode.INTERRUPTED,
)


def _folder(text: str) -> Path:
    if is_url(text):
        raise argparse.ArgumentTypeError(
            f"expected a folder, found {text!r}; write it to one, and copy that to where Triton reads it"
        )
    return Path(text)


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 999999, found {text!r}")
    return int(text)
