"""What object storage raises, sorted: what passes if one waits, and what somebody must put right."""

import errno
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from serving.errors import PlatformError

ATTEMPTS = 6
"""How often a request is made at most. The library below makes each twice, where a connection breaks."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt; each further wait is twice as long."""

_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_TRANSIENT_ERRNOS = {errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET, errno.ECONNREFUSED, errno.ETIMEDOUT}
# By name, since the libraries that define them are there only where a URL needs them.
_TRANSIENT_TYPES = {
    *("HTTPClientError", "ConnectionError", "ConnectTimeoutError", "ResponseParserError"),  # botocore
    *("ClientConnectionError", "ClientPayloadError", "FSTimeoutError", "IncompleteReadError"),
}
_CREDENTIAL_TYPES = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
    *("InvalidConfigError", "TokenRetrievalError", "SSOError", "UnauthorizedSSOTokenError"),
}
_STORAGE_TYPES = {"BotoCoreError", "ClientError", "HttpError", "AzureError"}
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

log = logging.getLogger(__name__)
T = TypeVar("T")


def tried(url: str, action: Callable[[], T]) -> T:
    """What `action` returns; errors that may pass are waited for, with longer and longer waits.

    Raises FileNotFoundError and FileExistsError, which say something about an object, as they are, and
    PlatformError for what else the storage, the network or this machine's disk raises.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception as raised:
            error = _behind(raised)
            problem = _problem(url, error, attempt)
            if problem is None:
                raise
            if attempt == ATTEMPTS or not _is_transient(error):
                raise problem from error
            # Jobs that failed together should not come back together.
            wait = FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311
            log.warning(
                "%s: attempt %d of %d failed (%s); trying again in %.1f s",
                *(url, attempt, ATTEMPTS, _reason(error), wait),
            )
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _behind(error: Exception) -> Exception:
    """What an error stands for: fsspec says of what it could not reach over HTTP that it is not there."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and _is_transient(cause):
        return cause
    return error


def is_refused(error: BaseException) -> bool:
    """Whether a conditional write was refused because the object is there."""
    return isinstance(error, FileExistsError) or "PreconditionFailed" in _codes(error)


def is_unsupported(error: BaseException) -> bool:
    """Whether a store does not know conditional writes."""
    return "NotImplemented" in _codes(error) or getattr(error, "errno", None) == errno.ENOSYS


def _problem(url: str, error: Exception, attempts: int) -> PlatformError | None:
    """What to tell; None where it is not about the storage as such."""
    if "NoSuchBucket" in _codes(error):
        return PlatformError(
            f"{url}: expected a bucket of that name, found none; correct the URL, or make the bucket"
            + _check(url, "AWS_ENDPOINT_URL and AWS_REGION")
        )
    missing = isinstance(error, FileNotFoundError | IsADirectoryError)
    if missing or is_refused(error) or is_unsupported(error):
        return None
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        return PlatformError(
            f"{error.filename}: cannot be read or written while copying {url} ({os.strerror(error.errno)}); "
            "check the space and the permissions on this machine (TMPDIR, BOW_CACHE_DIR)"
        )
    if _is_about_credentials(error):
        return PlatformError(
            f"{url}: expected credentials that allow this, found {_reason(error)}; allow listing, reading, "
            "writing and deleting there"
            + _check(url, "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role")
        )
    if _is_transient(error):
        return PlatformError(
            f"{url}: expected an answer, found {_reason(error)} in {attempts} attempts; check the network, "
            "then run again" + _check(url, "AWS_ENDPOINT_URL and AWS_REGION")
        )
    if isinstance(error, OSError) or _names(error) & _STORAGE_TYPES:
        return PlatformError(
            f"{url}: the storage refused ({_reason(error)}); correct the URL"
            + _check(url, "AWS_ENDPOINT_URL and AWS_REGION")
        )
    return None


def _check(url: str, variables: str) -> str:
    return f", and check {variables}" if url.startswith(("s3:", "s3a:")) else ""


def _is_about_credentials(error: Exception) -> bool:
    return isinstance(error, PermissionError) or any(
        _names(each) & _CREDENTIAL_TYPES or _status(each) in (401, 403) for each in _causes(error)
    )


def _is_transient(error: Exception) -> bool:
    return not _is_about_credentials(error) and any(
        isinstance(each, ConnectionError | TimeoutError)
        or _status(each) in _TRANSIENT_STATUS
        or getattr(each, "errno", None) in _TRANSIENT_ERRNOS
        or bool(_names(each) & _TRANSIENT_TYPES)
        for each in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _response(error: BaseException) -> dict[str, dict[str, object]]:
    """What botocore's ClientError holds."""
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _codes(error: BaseException) -> set[object]:
    return {_response(each).get("Error", {}).get("Code") for each in _causes(error)}


def _status(error: BaseException) -> object:
    """The HTTP status that an error carries, by whichever name its library gives it."""
    found = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found or next(
        (getattr(error, name) for name in ("status", "status_code", "code") if hasattr(error, name)), None
    )


def _reason(error: BaseException) -> str:
    """The error in a line; without credentials, should a library ever quote them."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "hidden")
    return text if len(text) <= 300 else text[:297] + "..."
