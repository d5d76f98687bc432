"""Retention: of the bundles in the output folder only the newest stay, and nothing else is touched."""

import os
from dataclasses import asdict
from pathlib import Path

from export.publish import staging, storage_errors, written
from serving.bundle import FILES, open_bundle
from serving.errors import ArtifactError


def remove_old(output_dir: Path, keep: int, published: Path) -> list[str]:
    """Removes all but the `keep` newest bundles, by when their manifest was written; returns their names.

    Never removed, and counted first: `published`, and what a link in the folder leads to, `latest` or one of
    the user's own. So more than `keep` may stay.

    A bundle leaves its name in one step, for a staging folder: a job that is killed on the way leaves whole
    bundles, and the next one removes the rest. Call it within `alone`: `latest` must not move meanwhile.

    Raises PlatformError where the storage fails.
    """
    with storage_errors(output_dir):
        entries = list(output_dir.iterdir())
        bundles = [path for path in entries if _is_bundle(path)]
        # pathlib's resolve() raises where a link leads to itself.
        needed = {
            os.path.realpath(path) for path in (published, *entries) if path == published or path.is_symlink()
        }
        others = [path for path in bundles if os.path.realpath(path) not in needed]
        others.sort(key=lambda path: (written(path), path.name), reverse=True)
        old = others[max(0, keep - (len(bundles) - len(others))) :]
        if not old:
            return []
        with staging(output_dir) as folder:
            for path in reversed(old):  # so that a job killed on the way has removed the oldest
                path.rename(folder / path.name)
    return sorted(path.name for path in old)


def _is_bundle(path: Path) -> bool:
    """Whether the job wrote this folder, and all of it: a file of the user's own in it keeps it."""
    if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
        return False
    try:
        files = open_bundle(path).manifest.files
        found = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path)}
    except (ArtifactError, OSError):
        return False
    return found.keys() <= set(asdict(FILES).values()) and all(
        name in files and found.get(name) == files[name].size for name in FILES.hashed
    )
