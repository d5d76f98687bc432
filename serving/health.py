"""`health`: asks the server on this machine whether it is ready, for container engines and exec probes.

It runs every few seconds beside the server, so it imports nothing that takes long.
"""

import http.client
from collections.abc import Mapping

from serving.errors import PlatformError, SettingsError
from serving.server.variables import COMMAND, NAMES, PREFIX
from serving.settings.names import unknown_names

TIMEOUT = 2.0
"""Seconds, for connecting and for each read: less than engines and probes commonly allow."""
PATH = "/v2/health/ready"

# Where a server that listens on every address of its machine is found from there.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on


def health(environ: Mapping[str, str]) -> str:
    """One line that says that the server is ready, by the address that it was asked at.

    That is where the server's own variables say that it listens, BOW_SERVE_HOST and BOW_SERVE_PORT. Raises
    PlatformError where it is not ready or does not answer, and SettingsError where the port is none, or a
    variable is none of the server's: one that is misspelt would have another server asked.
    """
    host, port = _address(environ)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        status = _status(host, port)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise PlatformError(
            f"{address}: expected a server that is ready, found none that answers ({_reason(error)}); start "
            "one (python -m serving serve BUNDLE), or set BOW_SERVE_HOST and BOW_SERVE_PORT as it has them"
        ) from error
    if status != http.client.OK:
        raise PlatformError(
            f"{address}: expected status 200 from {PATH}, found {status}; the server is loading, ending, or "
            "not Bowsprit's: its log says which"
        )
    return f"{address} is ready"


def _status(host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", PATH)
        return connection.getresponse().status
    finally:
        connection.close()


def _address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port, as the server takes them: an empty variable counts as unset."""
    host = environ.get("BOW_SERVE_HOST", "").strip() or "127.0.0.1"
    port = environ.get("BOW_SERVE_PORT", "").strip() or "8080"
    problems = unknown_names(environ, NAMES, PREFIX, command=COMMAND)
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        problems.append(
            f"BOW_SERVE_PORT: expected a whole number from 1 to 65535, found {port!r}; "
            "set for example BOW_SERVE_PORT=8080, the default"
        )
    if problems:
        raise SettingsError("\n".join(problems))
    return _LOOPBACK.get(host, host), int(port)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
