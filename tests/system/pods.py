"""A pod run for real, by podman and without a cluster."""

import json
from pathlib import Path
from typing import Self

import pytest

from tests.system.conftest import has_installed
from tests.system.engine import Podman, missing_package
from tests.system.manifests import Resource
from tests.system.test_container import copy_sources

IMAGE = "localhost/bowsprit-kubernetes-test"
"""The image that trains; the one that serves is called IMAGE-serve."""


def podman_with(target: str, tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Podman with an image that make builds; podman's pods are held by catatonit."""
    package = missing_package() or (None if has_installed("catatonit", package="catatonit") else "catatonit")
    if package is not None:
        pytest.skip(f"{package} could not be installed: apt-get install {package}, as root")
    podman = Podman(tmp_path_factory.mktemp("podman"))
    done = podman.make(copy_sources(tmp_path_factory.mktemp("checkout")), target, f"IMAGE={IMAGE}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return podman


class Pod:
    """A pod of a template with one container; a volume stands in for each claim."""

    def __init__(
        self,
        podman: Podman,
        name: str,
        template: Resource,
        config_map: Resource,
        *,
        image: str,
        folder: Path,
    ) -> None:
        spec = template["spec"]
        (container,) = spec["containers"]
        container |= {"image": image, "imagePullPolicy": "Never"}
        self._volumes = []
        for claim in filter(None, (each.get("persistentVolumeClaim") for each in spec["volumes"])):
            claim["claimName"] = claim["claimName"].replace("bowsprit", name)
            self._volumes.append(claim["claimName"])
        metadata = {"name": name, "labels": template["metadata"]["labels"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.name = name
        self.podman = podman
        self.container_name = f"{name}-{container['name']}"
        self._file = folder / "pod.json"
        self._file.write_text("\n---\n".join(map(json.dumps, [config_map, pod])))
        # Podman knows no fsGroup: it gives a new volume to whom the image's folder belongs.
        for volume in self._volumes:
            podman("volume", "rm", "--force", volume)
            assert podman("volume", "create", volume).returncode == 0
        self.artifacts = self.volume("artifacts")

    def __enter__(self) -> Self:
        done = self.podman("play", "kube", "--network", "none", str(self._file))
        assert done.returncode == 0, done.stderr
        return self

    def __exit__(self, *_: object) -> None:
        self.podman("pod", "rm", "--force", self.name)
        self.podman("volume", "rm", "--force", *self._volumes)

    def volume(self, of: str) -> Path:
        """The folder that stands in for a claim."""
        done = self.podman("volume", "inspect", f"{self.name}-{of}", "--format", "{{.Mountpoint}}")
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def log(self) -> str:
        """What the container has said."""
        said = self.podman("logs", self.container_name)
        return said.stdout + said.stderr

    def exit_code(self) -> int:
        """What the container ended with, once it has."""
        return int(self.podman("wait", self.container_name).stdout)

    def assert_locked_down(self, *, memory: int, reads: str) -> None:
        """Podman made of the container what the template says, and a folder is there to be read alone."""
        (container,) = json.loads(self.podman("inspect", self.container_name).stdout)
        assert container["HostConfig"]["ReadonlyRootfs"]
        assert not container["EffectiveCaps"]
        assert container["HostConfig"]["Memory"] == memory
        assert container["Config"]["User"] == "65532:65532"
        assert [mount["RW"] for mount in container["Mounts"] if mount["Destination"] == reads] == [False]
