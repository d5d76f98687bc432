"""What `python -m job` does, and every way in which it can end."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence

import structlog

from job import log
from job.cli import Command, help_text, parse, settings_table, version_text
from job.environment import load_settings
from job.settings import Settings
from job.stopping import Interrupted, Stop
from serving.errors import BowspritError, ExitCode, PlatformError


def main(argv: Sequence[str], environ: Mapping[str, str], stop: Stop) -> ExitCode:
    """Does what the arguments and the environment ask for, and returns how it ended."""
    # Before the settings are read, since what is wrong with them is logged too.
    for_people = log.configure(log.requested_format(environ))
    try:
        match parse(argv):
            case Command.HELP:
                _print(help_text())
            case Command.VERSION:
                _print(version_text())
            case Command.PRINT_SETTINGS:
                _print(settings_table(load_settings(environ), environ))
            case Command.TRAIN:
                _train(load_settings(environ), stop, for_people=for_people)
    except BowspritError as error:
        _say("failed", "\n".join([str(error), *getattr(error, "__notes__", [])]), for_people=for_people)
        return error.exit_code
    except Interrupted as error:
        _say("interrupted", str(error), for_people=for_people)
        return ExitCode.INTERRUPTED
    except Exception:  # noqa: BLE001 - the last resort, which gives the traceback and code 1
        structlog.get_logger().exception("bug", advice="this is our mistake: please report the traceback")
        return ExitCode.BUG
    return ExitCode.DONE


def _train(settings: Settings, stop: Stop, *, for_people: bool) -> None:
    stop.on(signal.Signals[f"SIG{settings.preempt_signal}"])
    # Only now, so that help and a wrong setting are answered at once: torch takes seconds to import.
    from job.output import Output
    from job.run import run

    run(settings, Output(for_people), stop)


def _print(text: str) -> None:
    """Writes what was asked for; quietly stops where whoever read it has enough."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise PlatformError(
                f"standard output: cannot be written ({error.strerror}); check the disk that it goes to"
            ) from error


def _say(event: str, message: str, *, for_people: bool) -> None:
    """Says on standard error why there is no bundle."""
    if for_people:
        log.write(sys.stderr, f"error: {message}\n")
    else:
        structlog.get_logger().error(event, reason=message)


def open_missing_streams() -> None:
    """Gives the standard streams that are closed to /dev/null: files opened next would get their numbers."""
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - for good
            if stream.fileno() != number:
                os.dup2(stream.fileno(), number)
            setattr(sys, name, stream)
