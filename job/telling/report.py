"""Tells the machinery around a scheduled job how it ended: Kubernetes' termination message, and Prometheus.

What cannot be written is a warning: whether there is a bundle does not depend on who is told of it.
"""

import os
from pathlib import Path

import structlog

from job.environment import Targets
from job.telling import prometheus
from job.telling.outcome import Result

MAX_BYTES = 4096
"""What Kubernetes takes of a termination message; it cuts off the rest."""


def report(result: Result, targets: Targets) -> None:
    """Writes the result wherever it is asked for."""
    log = structlog.get_logger()
    try:
        _overwrite(targets.termination_log, result.to_json(MAX_BYTES))
    except FileNotFoundError:
        pass  # this is no container of Kubernetes'
    except OSError as error:
        log.warning("result_not_written", path=str(targets.termination_log), reason=error.strerror)
    if targets.metrics_file is not None:
        try:
            prometheus.write(targets.metrics_file, result)
        except OSError as error:
            log.warning("metrics_not_written", path=str(targets.metrics_file), reason=error.strerror)


def _overwrite(path: Path, content: bytes) -> None:
    """Writes a file in its place, and makes none: Kubernetes mounts it, and looks at that very file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
