"""What `python -m job` does, and every way in which it can end."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec
import structlog

from job import log
from job.cli import Command, help_text, parse, settings_table, version_text
from job.environment import Targets, load_settings, report_targets
from job.settings import Settings
from job.stopping import Interrupted, Stop
from job.telling.outcome import Ending, Facts, Result, result_of
from serving.errors import BowspritError, ExitCode, PlatformError


def main(argv: Sequence[str], environ: Mapping[str, str], stop: Stop) -> ExitCode:
    """Does what the arguments and the environment ask for, and returns how it ended."""
    start = time.perf_counter()
    # Before the settings are read, since what is wrong with them is logged too.
    for_people = log.configure(log.requested_format(environ))
    facts = Facts()
    command = Command.HELP
    ending = Ending(exit_code=ExitCode.DONE)
    try:
        command = parse(argv)
        match command:
            case Command.HELP:
                _print(help_text())
            case Command.VERSION:
                _print(version_text())
            case Command.PRINT_SETTINGS:
                _print(settings_table(load_settings(environ), environ))
            case Command.TRAIN:
                _train(load_settings(environ), facts, stop, for_people=for_people)
    except BowspritError as error:
        message = "\n".join([str(error), *getattr(error, "__notes__", [])])
        ending = Ending(exit_code=error.exit_code, error=type(error).__name__, message=message)
    except Interrupted as error:
        ending = Ending(exit_code=ExitCode.INTERRUPTED, error=type(error).__name__, message=str(error))
    except Exception as error:  # noqa: BLE001 - the last resort, which gives the traceback and code 1
        if stop.signal_name is not None:
            # A library made an error of its own of what the signal raised in it.
            ending = Ending(
                exit_code=ExitCode.INTERRUPTED, error=Interrupted.__name__, message=str(stop.interrupted())
            )
        else:
            structlog.get_logger().exception("bug", advice="this is our mistake: please report the traceback")
            ending = Ending(exit_code=ExitCode.BUG, error=type(error).__name__, message=str(error))
    stop.ignore()  # a signal that comes now does not change how the run ended
    result = result_of(facts, ending, time.perf_counter() - start)
    _tell(ending, result if command is Command.TRAIN else None, for_people=for_people)
    if command is Command.TRAIN:
        _report(result, report_targets(environ))
    return ending.exit_code


def _train(settings: Settings, facts: Facts, stop: Stop, *, for_people: bool) -> None:
    stop.on(signal.Signals[f"SIG{settings.preempt_signal}"])
    # Only now, so that help and a wrong setting are answered at once: torch takes seconds to import.
    with stop.deferred():
        from job.run import run
        from job.telling.output import Output

    run(settings, Output(for_people, facts), stop)


def _tell(ending: Ending, result: Result | None, *, for_people: bool) -> None:
    """Says how it ended: what a run came to, and on standard error what to do about it."""
    told = ending.exit_code in (ExitCode.DONE, ExitCode.BUG)  # a bug's traceback is there already
    if for_people:
        if result is not None:
            log.write(sys.stderr if ending.exit_code else sys.stdout, result.for_people())
        if not told:
            log.write(sys.stderr, f"error: {ending.message}\n")
        return
    logger = structlog.get_logger()
    if not told:
        interrupted = ending.exit_code == ExitCode.INTERRUPTED
        logger.error("interrupted" if interrupted else "failed", reason=ending.message)
    if result is not None:
        fields = msgspec.structs.asdict(result)
        logger.info("result", **{name: value for name, value in fields.items() if name != "run"})


def _report(result: Result, targets: Targets) -> None:
    from job.telling.report import report  # only now: help need not wait for what it imports

    report(result, targets)


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
