"""Podman on a machine where no engine runs, and an image that stands in for the base of Dockerfile.cuda."""

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.system.conftest import has_installed

# Without a registry there is no python:3.12-slim-bookworm: Debian's own Python in the same Debian stands in.
# The Dockerfile is the real one.
BASE_IMAGE = "localhost/bowsprit-standin-base:bookworm-python3"

PROGRAMS = {
    "podman": "podman",
    "runc": "runc",
    "conmon": "conmon",
    "/usr/lib/podman/netavark": "netavark",
    "newuidmap": "uidmap",
    "debootstrap": "debootstrap",
}
"""What this module calls, and what that calls, each with Debian's package of it."""

# crun fails on the limits that podman sets, and a sandbox has no systemd to manage cgroups or to log to.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--network", "none"),
    # Podman has systemd's timers run an image's health check, and complains where there is no systemd.
    "--no-healthcheck",
)


def missing_package() -> str | None:
    """The first Debian package that is not here and could not be installed either."""
    for program, package in PROGRAMS.items():
        if not has_installed(program, package=package):
            return package
    return None


class Podman:
    """Podman with a configuration of its own; its builds find packages where this machine's pip does."""

    def __init__(self, folder: Path) -> None:
        (folder / "containers.conf").write_text(CONFIGURATION)
        (folder / "pip.conf").write_text(_pip_configuration())
        # A make that runs these tests would have its own flags and variables be ours, too.
        own = ("BOW_", "MAKE", "MFLAGS")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        # A sandbox lets no build step have namespaces of its own.
        self.environ |= {"CONTAINERS_CONF": str(folder / "containers.conf"), "BUILDAH_ISOLATION": "chroot"}
        self.build_flags = ["--pull-never", "--build-arg", f"BASE_IMAGE={BASE_IMAGE}"]
        for path, inside in [
            (folder / "pip.conf", "/etc/pip.conf"),
            *((path, path) for path in _pip_paths()),
        ]:
            self.build_flags += ["--volume", f"{path}:{inside}:ro"]
        if self("image", "exists", BASE_IMAGE).returncode != 0:
            self._make_base_image(folder / "base")

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs one podman command."""
        return self._start(["podman", *arguments])

    def run(self, image: str, *command: str, flags: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Runs a container as locked down as a cluster would, and removes it."""
        return self("run", "--rm", *LOCKED_DOWN, *flags, image, *command)

    def make(self, checkout: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Runs make with podman as its engine."""
        flags = [f"BUILD_FLAGS={' '.join(self.build_flags)}", "RUN_FLAGS=--network none"]
        return self._start(["make", "CONTAINER_ENGINE=podman", *flags, *arguments], checkout, environ)

    def _make_base_image(self, folder: Path) -> None:
        packages = "python3,python3-venv,ca-certificates"
        mirror = _debian_mirror()
        made = self._start(
            ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder), mirror]
        )
        assert made.returncode == 0, made.stdout[-4000:] + made.stderr
        archive = folder.with_suffix(".tar")
        for command in (
            ["tar", "-C", str(folder), "--numeric-owner", "-cf", str(archive), "."],
            ["podman", "import", str(archive), BASE_IMAGE],
            ["rm", "-rf", str(folder), str(archive)],
        ):
            done = self._start(command)
            assert done.returncode == 0, done.stderr

    def _start(
        self, command: list[str], cwd: Path | None = None, environ: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env=self.environ | (environ or {}), capture_output=True, text=True, check=False
        )


def _debian_mirror() -> str:
    """Where this machine's own apt finds Debian."""
    filters = ["Created-By: Packages", "Origin: Debian", "Label: Debian"]
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", *filters],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()[0]


PIP_OPTIONS = (
    *("cert", "constraint", "default-timeout", "extra-index-url", "find-links", "index-url", "no-index"),
    *("proxy", "timeout", "trusted-host"),
)
"""What of pip's configuration says how packages are found."""


def _pip_options() -> dict[str, str]:
    """This machine's pip configuration: its files, and over them the environment."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    entries = sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:"))
    options = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        options[name.rpartition(".")[2]] = " ".join(ast.literal_eval(value).split())
    return {name: options[name] for name in PIP_OPTIONS if name in options}


def _pip_configuration() -> str:
    lines = [f"{name} = {value}" for name, value in _pip_options().items()]
    return "\n".join(["[global]", *lines, ""])


def _pip_paths() -> list[Path]:
    """The files and folders of this machine that its pip configuration names."""
    paths = set()
    for word in " ".join(_pip_options().values()).split():
        if word.startswith("file:"):
            # An index links to files that lie beside it.
            paths.add(Path(urlsplit(word).path).parent)
        elif Path(word).is_absolute() and Path(word).exists():
            paths.add(Path(word))
    return sorted(paths)
