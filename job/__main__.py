"""`python -m job`: trains a classifier by the `BOW_*` settings.

It listens for signals first of all, since what it imports takes a second, and torch several more.
"""

import contextlib
import os
import sys

from job.stopping import ALWAYS, Interrupted, Stop
from serving.errors import ExitCode
from serving.process import open_missing_streams


def _start() -> ExitCode:
    stop = Stop()
    stop.on(*ALWAYS)
    try:
        with stop.deferred():  # what is imported may not be left in the middle: some of it aborts then
            from job.main import main

        open_missing_streams()
        return main(sys.argv[1:], os.environ, stop)
    except Interrupted as error:
        os.write(2, f"error: {error}\n".encode())  # sys.stderr may not be there yet
        return ExitCode.INTERRUPTED
    except ModuleNotFoundError as error:
        # The extra serving excludes this one: both bring a module onnxruntime.
        install = "in an environment of its own, from a clone: pip install -c constraints.txt '.[train]'"
        os.write(2, f"error: python -m job needs {error.name}; install it {install}\n".encode())
        return ExitCode.SETTINGS


if __name__ == "__main__":
    code = _start()
    if code is ExitCode.INTERRUPTED:
        # Python would wait for the threads that fetch objects.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
