"""Objects under a URL, by fsspec: the one interface through which the packages use object storage.

fsspec, and what it needs for a scheme, are imported when the first URL is used. Credentials come from where
the libraries look for them, such as AWS_* variables, and never from a URL.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serving.errors import BowspritError, PlatformError, SettingsError
from serving.storage.errors import is_refused, is_unsupported, tried

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PROBE = ".writable"
_CONNECTIONS = 8
"""Objects that are copied at a time."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        # `tried` does the waiting, and says so.
        "config_kwargs": {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": 10,
            "read_timeout": 60,
        },
        "use_listings_cache": False,
    }
}


def is_url(location: object) -> bool:
    """Whether a location is a URL, and not a path on this machine."""
    return isinstance(location, str) and _URL.match(location) is not None


def url_problem(url: str) -> str | None:
    """What is wrong with a URL, without showing a secret in it: URLs are logged, and written to run.json."""
    match = _URL.fullmatch(url)
    assert match is not None
    scheme, rest = match.groups()
    if "@" in rest.partition("/")[0]:
        return (
            f"a URL without user and password is expected, and this one ({scheme}://...) has an '@' before "
            "its path; give credentials in the platform's own variables, such as AWS_ACCESS_KEY_ID"
        )
    if scheme != scheme.lower():
        return f"a URL is expected to begin in lower case, found {scheme}://; write {scheme.lower()}://"
    if scheme in ("http", "https") and "?" in rest:
        return (
            f"a URL without a query is expected, and this one ({scheme}://...) has a '?': what is behind it "
            "may be a signature, and URLs are logged; use s3:// or another scheme with credentials"
        )
    if not rest.strip("/"):
        return f"a URL with a bucket is expected, found {url!r}; name one, for example s3://bucket/path"
    return None


@contextlib.contextmanager
def naming(folder: Path, url: str) -> Iterator[None]:
    """Lets the messages of what is raised inside name `url`, of which `folder` is a copy on this machine."""
    try:
        yield
    except BowspritError as error:
        error.args = (str(error).replace(str(folder), url), *error.args[1:])
        notes = getattr(error, "__notes__", [])
        notes[:] = [note.replace(str(folder), url) for note in notes]
        raise


@dataclass(frozen=True, kw_only=True)
class Object:
    """What a listing says of an object."""

    key: str
    """Relative to the store."""
    size: int | None
    """Bytes; None where the store does not say."""
    version: str | None
    """Changes with the content: the ETag or the time of change; None where the store says neither."""


class Store:
    """The objects under a URL, by keys relative to it.

    Every method raises PlatformError where the store cannot be reached, refuses, or has no such bucket.
    """

    def __init__(self, url: str) -> None:
        """Raises SettingsError where what the URL's scheme needs is not installed."""
        self.url = url.rstrip("/")
        self._fs, path = _file_system(self.url)
        self._path: str = path.rstrip("/")

    def url_of(self, key: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{key}" if key else self.url

    def find(self, key: str) -> Object | None:
        """The object with exactly this key; None where there is none, or only some under it."""
        with contextlib.suppress(FileNotFoundError):
            found = tried(self.url_of(key), lambda: self._fs.info(self._at(key)))
            if found["type"] == "file":
                return _object(key, found)
        return None

    def under(self, prefix: str = "") -> list[Object]:
        """The objects under `prefix`/, however deep, in the order of their keys."""
        self._fs.invalidate_cache()
        try:
            found = tried(self.url_of(prefix), lambda: self._fs.find(self._at(prefix), detail=True))
        except FileNotFoundError:
            return []
        start = f"{prefix}/" if prefix else ""
        return [each for each in self._objects(found) if each.key.startswith(start)]

    def glob(self, pattern: str) -> list[Object]:
        """The objects whose keys match; `**` crosses slashes."""
        self._fs.invalidate_cache()
        found = tried(self.url_of(pattern), lambda: self._fs.glob(self._at(pattern), detail=True))
        return self._objects(found)

    def read(self, key: str) -> bytes | None:
        """The content of a small object; None where there is none."""
        try:
            return bytes(tried(self.url_of(key), lambda: self._fs.cat_file(self._at(key))))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def write(self, key: str, content: bytes) -> None:
        """Makes or replaces an object, in one step where the store is an object store."""
        self._make_room(key)
        tried(self.url_of(key), lambda: self._fs.pipe_file(self._at(key), content))

    def check_writable(self) -> None:
        """Tries whether objects can be made and removed, so that a long run need not find out last."""
        self.write(_PROBE, b"")
        self.delete([_PROBE])

    def write_if_absent(self, key: str, content: bytes) -> bool:
        """Makes an object unless one is there; of several writers one is told True.

        `content` must be one that no other writer has: an answer that was lost on its way is told from
        another's object by it. Where the store does not know conditional writes, two may be told True.
        """
        self._make_room(key)
        path, url = self._at(key), self.url_of(key)
        try:
            tried(url, lambda: self._fs.pipe_file(path, content, mode="create"))
        except Exception as error:
            if is_unsupported(error):
                if self.find(key) is not None:
                    return False
                self.write(key, content)
                return True
            if not is_refused(error):
                raise
            return self.read(key) == content
        return True

    def put(self, file: Path, key: str) -> None:
        """Copies a file there."""
        self._make_room(key)
        tried(self.url_of(key), lambda: self._fs.put_file(str(file), self._at(key)))

    def get(self, key: str, file: Path, *, size: int | None = None) -> None:
        """Copies an object here.

        Raises FileNotFoundError where there is none, PlatformError also where it has not the `size`.
        """
        tried(self.url_of(key), lambda: self._fs.get_file(self._at(key), str(file)))
        if size is not None and (found := file.stat().st_size) != size:
            raise PlatformError(
                f"{self.url_of(key)}: expected {size:,} bytes, got {found:,}; it may have been written to "
                "meanwhile: run again"
            )

    def get_all(self, files: Iterable[tuple[Object, Path]]) -> None:
        """Copies several objects here, as `get` does; a signal leaves those alone that are on their way."""
        _together(partial(self.get, each.key, file, size=each.size) for each, file in files)

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects, one after the other; those that are not there are passed over."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                tried(self.url_of(key), partial(self._fs.rm_file, self._at(key)))

    def delete_all(self, prefix: str) -> None:
        """Removes the objects under `prefix`/."""
        self.delete(each.key for each in self.under(prefix))

    def _at(self, key: str) -> str:
        return f"{self._path}/{key}" if key else self._path

    def _make_room(self, key: str) -> None:
        """Makes the folder, where the store has folders; an object store has none, and is not asked."""
        if getattr(self._fs, "local_file", False) or self._fs.protocol == "memory":
            parent = self._at(key).rpartition("/")[0]
            tried(self.url_of(key), lambda: self._fs.makedirs(parent, exist_ok=True))

    def _objects(self, found: dict[str, dict[str, Any]]) -> list[Object]:
        start = f"{self._path}/"
        # Consoles make an empty object whose key ends in a slash for what they show as a folder.
        named = {
            name.removeprefix(start): info
            for name, info in found.items()
            if name.startswith(start) and not name.endswith("/") and info["type"] == "file"
        }
        return [_object(key, named[key]) for key in sorted(named)]


def _object(key: str, info: dict[str, Any]) -> Object:
    stated = (info.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "updated", "created"))
    version = next((each for each in stated if each), None)
    return Object(key=key, size=info.get("size"), version=None if version is None else str(version))


def _together(calls: Iterable[Callable[[], None]]) -> None:
    """Makes calls, some at a time; after the first error, or a signal, no more of them begin.

    A signal waits for none of them: an object may be large, and whoever sends one waits for seconds.
    """
    pool = ThreadPoolExecutor(_CONNECTIONS)
    try:
        for future in [pool.submit(call) for call in calls]:
            future.result()
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _file_system(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        options = _OPTIONS.get(scheme.replace("s3a", "s3"), {})
        file_system, path = tried(url, lambda: url_to_fs(url, **options))  # some schemes connect at once
    except ImportError as error:
        advice = "pip install 'bowsprit[s3]'" if scheme in ("s3", "s3a") else f"{error}"
        raise SettingsError(
            f"{url}: {scheme}:// needs a library that is not installed here; install it: {advice}"
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"{url}: expected a URL that can be read, such as s3://bucket/path ({error}); correct it"
        ) from error
    if scheme in ("s3", "s3a"):
        file_system.retries = 2
    return file_system, str(path)
