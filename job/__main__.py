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
    log.configure("auto")
    logger = structlog.get_logger()
    try:
        match parse(argv):
            case Command.HELP:
                sys.stdout.write(help_text() + "\n")
            case Command.VERSION:
                sys.stdout.write(version_text() + "\n")
            case Command.PRINT_SETTINGS:
                sys.stdout.write(settings_table(load_settings(environ), environ) + "\n")
            case Command.TRAIN:
                _train(load_settings(environ))
        sys.stdout.flush()
    except BowspritError as error:
        logger.error("failed", reason="\n".join([str(error), *getattr(error, "__notes__", [])]))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except (KeyboardInterrupt, Terminated):
        logger.error("interrupted", advice="nothing was published; run it again")
        return ExitCode.INTERRUPTED
    except Exception:
        logger.exception("bug", advice="please report this traceback")
        return ExitCode.BUG
    return ExitCode.DONE


def _train(settings: Settings) -> None:
    for_people = log.configure(settings.log_format)
    # Only now, so that help and a wrong setting are answered at once: torch takes seconds to import.
    from job.output import Output
    from job.run import run

    run(settings, Output(for_people))


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main(sys.argv[1:], os.environ))
