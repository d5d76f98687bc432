"""`serve`: the server's processes, from its settings to its end."""

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from serving.errors import ExitCode, PlatformError, SettingsError
from serving.process import deferred
from serving.server.log import standard_error_log
from serving.server.settings import ServerSettings, server_settings
from serving.server.workers import Workers


def serve(source: Path | str, environ: Mapping[str, str]) -> ExitCode:
    """Serves a bundle, in as many processes as the settings say, until SIGTERM or SIGINT.

    Raises SettingsError, PlatformError where the port cannot be had, and ArtifactError or ParityError where
    the bundle cannot be served.
    """
    settings = server_settings(environ)
    listener = _listen(settings)
    log = standard_error_log(settings.log_format, with_access=settings.access_log)
    host, port = listener.getsockname()[:2]
    log.event("listening", host=host, port=port, model=settings.model_name, workers=settings.workers)
    if settings.workers > 1:
        return Workers(source, settings, listener, log).run()
    with deferred():
        from serving.server.worker import work
    work(source, settings, listener, log)
    return ExitCode.DONE


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server(
            (settings.host, settings.port), family=family, dualstack_ipv6=settings.host == "::"
        )
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no machine can have that name"
        raise SettingsError(
            f"BOW_SERVE_HOST: expected an address of this machine, found {settings.host!r} "
            f"({reason}); set for example BOW_SERVE_HOST=0.0.0.0"
        ) from error
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "something listens there already: end it, or set another BOW_SERVE_PORT",
            errno.EACCES: "ports below 1024 are the system's: set another BOW_SERVE_PORT",
            errno.EADDRNOTAVAIL: "this machine has no such address: set for example BOW_SERVE_HOST=0.0.0.0",
        }.get(error.errno or 0, "set another BOW_SERVE_HOST or BOW_SERVE_PORT")
        raise PlatformError(
            f"cannot listen on {settings.host}, port {settings.port} ({os.strerror(error.errno or 0)}); "
            f"{advice}"
        ) from error
    listener.set_inheritable(True)
    return listener
