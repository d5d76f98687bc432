"""What the tests of publishing to object storage share: bundles, and storage in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from serving.bundle import open_bundle
from serving.storage import errors as storage_errors
from tests.objects import train


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles; not to be altered."""
    folder = tmp_path_factory.mktemp("bundles")
    return [train(folder, seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="session")
def ids(bundles: list[Path]) -> list[str]:
    """The IDs of these."""
    return [open_bundle(bundle).bundle_id for bundle in bundles]


@pytest.fixture
def storage_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is in memory goes with the test, and a request that failed is tried again at once."""
    monkeypatch.setattr(storage_errors, "FIRST_WAIT", 0.0)
    yield
    MemoryFileSystem.store.clear()
