"""What `python -m serving` does: verify a bundle, serve it, or predict with it."""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from serving.bundle import FILES
from serving.command import Parser, drop_output, exit_codes, run_command, tell_failed_gate
from serving.errors import DataError, ExitCode, SettingsError
from serving.process import deferred


def main(argv: Sequence[str]) -> ExitCode:
    """Runs the command that the arguments ask for, and returns how it ended."""
    return run_command(_parser, argv)


def _verify(arguments: argparse.Namespace) -> ExitCode:
    with deferred():
        from serving.endpoint.against import verify_against
        from serving.parity.rungs import by_name, check
        from serving.parity.table import rungs_table
        from serving.parity.verify import verify

    name, endpoint = arguments.name, arguments.against
    if endpoint is None:
        verdict = verify(arguments.bundle, expected_id=arguments.expect, with_torch=arguments.torch)
        runtimes = "the files do"
    else:
        verdict = verify_against(arguments.bundle, endpoint, expected_id=arguments.expect)
        runtimes = f"{endpoint} does"
    try:
        sys.stdout.write(rungs_table(verdict.rungs))
        sys.stdout.writelines(f"{note}\n" for note in verdict.notes)
        sys.stdout.flush()
    except OSError:
        # Nobody may be reading; the exit code must say it all the same.
        drop_output()
        check(verdict.rungs, name, runtimes=runtimes)
        raise
    check(verdict.rungs, name, runtimes=runtimes)
    holds = f"{name} holds" if endpoint is None else f"{endpoint} serves {name}"
    sys.stdout.write(f"{holds}: all {len(by_name(verdict.rungs))} checks\n")
    sys.stdout.write(f"bundle {verdict.bundle.bundle_id}\n")
    tell_failed_gate(arguments.bundle)
    return ExitCode.DONE


def _predict(arguments: argparse.Namespace) -> ExitCode:
    with deferred():
        from serving.cores import usable_cores
        from serving.predict import predict
        from serving.predictor import Predictor
        from serving.selection import Selection

    predictor = Predictor.load(arguments.bundle, threads=usable_cores())
    if predictor.failed_gate is not None:
        reasons = "; ".join(predictor.failed_gate.reasons)
        with contextlib.suppress(OSError):  # nobody may be reading, and the texts are answered all the same
            sys.stderr.write(f"warning: {arguments.name} did not pass the quality gate: {reasons}\n")
    selection = Selection(top_k=arguments.top_k, threshold=arguments.threshold)
    if arguments.input is None:
        predict(predictor, sys.stdin.buffer, "standard input", sys.stdout.buffer, selection)
        return ExitCode.DONE
    try:
        source = arguments.input.open("rb")
    except OSError as error:
        raise DataError(
            f"{arguments.input}: cannot be read ({error.strerror}); name a file with a text in each line"
        ) from error
    with source:
        predict(predictor, source, str(arguments.input), sys.stdout.buffer, selection)
    return ExitCode.DONE


def _serve(arguments: argparse.Namespace) -> ExitCode:
    with _needs_extra("serve", "server"):
        from serving.server.run import serve
    return serve(arguments.bundle, os.environ)


def _server_settings() -> str:
    with _needs_extra("serve", "server"):
        from serving.server.settings import ServerSettings
        from serving.settings.help import page_width, settings_section
    return settings_section(ServerSettings, page_width())


@contextlib.contextmanager
def _needs_extra(command: str, extra: str) -> Iterator[None]:
    """For imports; raises SettingsError where one of them is not installed."""
    try:
        with deferred():
            yield
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{command} needs {error.name}: pip install 'bowsprit[serving,{extra}]'"
        ) from error


def _health(_arguments: argparse.Namespace) -> ExitCode:
    with deferred():
        from serving.health import health
    sys.stdout.write(f"{health(os.environ)}\n")
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m serving",
        description="Verifies a bundle that the training job published, serves it, or predicts with it.",
        epilog=exit_codes(_EXIT_CODES),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    verify = commands.add_parser(
        "verify",
        help="check that a bundle is whole, and that its models give the trained model's log-probabilities",
    )
    verify.set_defaults(run=_verify, files=sorted({*asdict(FILES).values()} - {FILES.run}))
    verify.add_bundle()
    verify.add_argument(
        "--expect",
        type=_bundle_id,
        metavar="ID",
        help="the bundle must be the one with this ID, all 64 digits of it",
    )
    runtimes = verify.add_mutually_exclusive_group()
    runtimes.add_argument(
        "--against",
        type=_endpoint,
        metavar="URL",
        help="check what an Open Inference Protocol v2 endpoint answers, and not the files' models: "
        "http://HOST:PORT, or http://HOST:PORT/v2/models/NAME where it has more than one",
    )
    runtimes.add_argument(
        "--torch",
        action="store_true",
        help="check TorchScript too; this runs the code in model.ts: only for a bundle that you trust",
    )

    serve = commands.add_parser(
        "serve",
        help="answer requests over HTTP, by the Open Inference Protocol",
        description="Answers requests over HTTP, by the Open Inference Protocol, once the bundle is proven. "
        "Settings are environment variables; an empty one counts as unset.",
    )
    serve.more_help = _server_settings
    serve.set_defaults(run=_serve)
    serve.add_bundle()

    predict = commands.add_parser("predict", help="classify texts: a line in, a JSON line out")
    predict.set_defaults(
        run=_predict, files=[FILES.golden, FILES.labels, FILES.text_model, FILES.failed_gate]
    )
    predict.add_bundle()
    predict.add_argument("--input", type=Path, metavar="FILE", help="read texts here, not from stdin")
    predict.add_argument(
        "--top-k", type=_top_k, default=1, metavar="K", help="write the K most probable labels (default: 1)"
    )
    predict.add_argument(
        "--threshold",
        type=_probability,
        default=0.0,
        metavar="P",
        help="write only labels with at least this probability, 0 to 1 (default: 0)",
    )

    health = commands.add_parser(
        "health",
        help="say whether the server on this machine is ready: exit code 0, else 74",
    )
    health.description = (
        "Asks the server that BOW_SERVE_HOST and BOW_SERVE_PORT name whether it is ready: "
        "exit code 0, else 74; 2 where the port is none, or a BOW_SERVE_ variable none of the server's."
    )
    health.set_defaults(run=_health, bundle=None)
    return parser


_EXIT_CODES = (
    ExitCode.DONE,
    ExitCode.SETTINGS,
    ExitCode.DATA,
    ExitCode.PARITY_FAILED,
    ExitCode.BUNDLE_DAMAGED,
    ExitCode.PLATFORM,
    ExitCode.INTERRUPTED,
)


def _endpoint(text: str) -> object:
    with deferred():
        from serving.endpoint.http import Address
    try:
        return Address.parse(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _bundle_id(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(
            f"expected a bundle's ID, 64 hexadecimal digits, found {text!r}; it stands as "
            "bundle_id in a server's answers and in the job's log, and verify without --expect shows it"
        )
    return text


def _top_k(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a probability from 0 to 1, found {text!r}")
    return value
