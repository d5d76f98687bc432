"""Where an endpoint is, and requests to it over HTTP."""

import contextlib
import http.client
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote, urlsplit

import msgspec

from serving.errors import PlatformError, SettingsError
from serving.printable import printable

TIMEOUT_SECONDS = 60.0
"""For a connection, and for each time that nothing comes from it."""
_PATH = re.compile(r"(?P<prefix>.*?)(?:/v2(?:/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?)?)?/?")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an endpoint is, and perhaps which of its models is meant."""

    scheme: str
    host: str
    port: int | None
    prefix: str
    """What stands before /v2 in every path, mostly nothing."""
    model: str | None
    """None where the endpoint is to be asked which it has."""
    version: str | None
    """None for the one that the endpoint chooses."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Reads http(s)://HOST[:PORT][/v2/models/NAME[/versions/V]]; raises SettingsError for others."""
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")  # as it is looked up
        except ValueError:
            parts, port = urlsplit(""), None
        path = _PATH.fullmatch(parts.path)
        extra = parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in ("http", "https") or not parts.hostname or extra or path is None:
            raise SettingsError(
                "expected the URL of an endpoint, http://HOST:PORT or http://HOST:PORT/v2/models/NAME, "
                f"without user, query and fragment, found {url.rpartition('@')[2]!r}"
            )
        model, version = path["model"], path["version"]
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port,
            prefix=quote(path["prefix"], safe=string.punctuation),
            model=None if model is None else unquote(model),
            version=None if version is None else unquote(version),
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.prefix}"


@dataclass(frozen=True, kw_only=True)
class Response:
    """What came back."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


def exchange(
    address: Address, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> Response:
    """A request and its response; raises PlatformError where the endpoint cannot be reached."""
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=TIMEOUT_SECONDS)
    try:
        try:
            connection.request(method, address.prefix + path, body, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            # Who refuses a large body may answer, and hang up, before it has come.
            if body is None:
                raise
        response = connection.getresponse()
        return Response(
            status=response.status,
            reason=response.reason,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=response.read(),
        )
    except TimeoutError as error:
        raise PlatformError(
            f"{address}: no answer to {method} {path} within {TIMEOUT_SECONDS:g} seconds; check that the "
            "endpoint runs, and that its host and port are these"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise PlatformError(
            f"{address}: cannot be reached by {method} {path} ({reason}); check that the endpoint runs, "
            "and that its host and port are these"
        ) from error
    finally:
        connection.close()


class _Problem(msgspec.Struct, frozen=True):
    error: str


def said_by(response: Response) -> str:
    """What a refusal says: the protocol's `error`, or HTTP's reason; and where a redirection leads."""
    said = response.reason
    if "location" in response.headers:
        said = f"{said}, to {response.headers['location']}"
    else:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            said = msgspec.json.decode(response.body, type=_Problem).error.strip() or said
    return printable(said[:300])
