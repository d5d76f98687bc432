"""What the commands of `serving` and `export` share: how they read arguments, and how they end."""

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from serving.errors import BowspritError, ExitCode, SettingsError
from serving.process import deferred
from serving.quality import read_failed_gate
from serving.storage.store import is_url, url_problem

_OF_A_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What the system says where standard output cannot be written, and names no file."""


class Parser(argparse.ArgumentParser):
    """Raises where argparse would print its usage and leave; takes no abbreviations."""

    more_help: Callable[[], str] | None = None
    """What `--help` ends with, made when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def add_bundle(self) -> None:
        """Adds the argument BUNDLE: a folder, or a URL."""
        help_ = "for example artifacts/latest or s3://bucket/models/latest"
        self.add_argument("bundle", type=_bundle_location, metavar="BUNDLE", help=help_)

    def format_help(self) -> str:
        """The text of `--help`."""
        text = super().format_help()
        return text if self.more_help is None else f"{text}\n{self.more_help()}\n"

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Flushes here, where a closed pipe is dealt with, and not when Python exits."""
        sys.stdout.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Raises SettingsError."""
        raise SettingsError(f"{self.prog}: {message}; {self.prog} --help shows what it takes")


def run_command(parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str]) -> ExitCode:
    """Calls `arguments.run` with what the parser makes of the arguments, and returns how it ended.

    Where `arguments.bundle` is a URL and there are `arguments.files`, a copy of these takes its place.
    """
    try:
        arguments = parser().parse_args(argv)
        run: Callable[[argparse.Namespace], ExitCode] = arguments.run
        with _at_hand(arguments):
            return run(arguments)
    except BowspritError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has enough.
        drop_output()
        return ExitCode.DONE
    except OSError as error:
        drop_output()
        if error.filename is None and error.errno in _OF_A_WRITE:
            said = f"standard output: cannot be written ({error.strerror}); check the disk"
        else:
            said = f"the system failed ({error}); check the disks, the memory and the limits of this machine"
        sys.stderr.write(f"error: {said}\n")
        return ExitCode.PLATFORM
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return ExitCode.INTERRUPTED


def drop_output() -> None:
    """Keeps Python from complaining once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_codes(codes: Sequence[ExitCode]) -> str:
    """What `--help` says of the exit codes."""
    return "Exit codes: " + "; ".join(f"{code.value} {code.meaning.rstrip('.')}" for code in codes) + "."


def tell_failed_gate(bundle: Path) -> None:
    """Writes that the bundle did not pass the quality gate, where it did not."""
    failed = read_failed_gate(bundle)
    if failed is not None:
        sys.stdout.write(f"it did not pass the quality gate: {'; '.join(failed.reasons)}\n")


def _bundle_location(text: str) -> Path | str:
    if not is_url(text):
        return Path(text)
    problem = url_problem(text)
    if problem is not None:
        raise argparse.ArgumentTypeError(problem)
    return text


@contextlib.contextmanager
def _at_hand(arguments: argparse.Namespace) -> Iterator[None]:
    """Makes `arguments.bundle` a folder on this machine where it is a URL; `name` is what was given.

    Commands that find their bundle themselves ask for no files.
    """
    if not hasattr(arguments, "files"):
        yield
        return
    arguments.name = str(arguments.bundle)
    if not is_url(arguments.bundle):
        yield
        return
    with deferred():
        from serving.storage.published import fetched

    with fetched(arguments.bundle, arguments.files) as folder:
        arguments.bundle = folder
        yield
