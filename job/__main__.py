"""`python -m job`: trains a classifier by the `BOW_*` settings; every way in which it can end is here."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import structlog

from job import log
from job.cli import Command, help_text, parse, settings_table, version_text
from job.settings import Settings, load_settings
from serving.errors import BowspritError, ExitCode


class Terminated(BaseException):
    """SIGTERM: a scheduler ends the job."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> ExitCode:
    """Does what the arguments and the environment ask for, and returns how it ended."""
    # Before the settings are read, since what is wrong with them is logged too.
    for_people = log.configure(log.requested_format(environ))
    try:
        match parse(argv):
            case Command.HELP:
                sys.stdout.write(help_text() + "\n")
            case Command.VERSION:
                sys.stdout.write(version_text() + "\n")
            case Command.PRINT_SETTINGS:
                sys.stdout.write(settings_table(load_settings(environ), environ) + "\n")
            case Command.TRAIN:
                _train(load_settings(environ), for_people=for_people)
        sys.stdout.flush()
    except BowspritError as error:
        _say("failed", "\n".join([str(error), *getattr(error, "__notes__", [])]), for_people=for_people)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except (KeyboardInterrupt, Terminated):
        _say("interrupted", "interrupted: nothing was published; run it again", for_people=for_people)
        return ExitCode.INTERRUPTED
    except Exception:  # noqa: BLE001 - the last resort, which gives the traceback and code 1
        structlog.get_logger().exception("bug", advice="this is our mistake: please report the traceback")
        return ExitCode.BUG
    return ExitCode.DONE


def _train(settings: Settings, *, for_people: bool) -> None:
    # Only now, so that help and a wrong setting are answered at once: torch takes seconds to import.
    from job.output import Output
    from job.run import run

    run(settings, Output(for_people))


def _say(event: str, message: str, *, for_people: bool) -> None:
    """Says on standard error why there is no bundle."""
    if for_people:
        sys.stderr.write(f"error: {message}\n")
    else:
        structlog.get_logger().error(event, reason=message)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main(sys.argv[1:], os.environ))
