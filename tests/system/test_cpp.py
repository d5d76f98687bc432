"""examples/cpp: a model gives in C++ what it gives in Python."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import onnxruntime
import pytest

from tests.system.conftest import REPOSITORY, has_installed, install
from tests.system.golden import off_by

pytestmark = pytest.mark.system

HEADERS = "com.github.asus4.onnxruntime@0.4.9"
"""Microsoft publishes onnxruntime's headers outside package registries; this package for npm carries them."""
HEADERS_IN_IT = "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers/"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built against the library that Python's onnxruntime brings."""
    for name, package in (("g++", "g++"), ("cmake", "cmake"), ("npm", "npm")):
        if not has_installed(name, package=package):
            pytest.skip(f"{name} is not installed (Debian's package {package})")
    if not Path("/usr/include/nlohmann/json.hpp").exists():
        install("nlohmann-json3-dev")
    if not Path("/usr/include/nlohmann/json.hpp").exists():
        pytest.skip("nlohmann/json.hpp is not installed (Debian's package nlohmann-json3-dev)")
    folder = tmp_path_factory.mktemp("cpp")
    runtime = onnxruntime_in(folder / "onnxruntime")
    build = folder / "build"
    run("cmake", "-S", str(REPOSITORY / "examples" / "cpp"), "-B", str(build), f"-DONNXRUNTIME={runtime}")
    run("cmake", "--build", str(build))
    return build / "replay"


def onnxruntime_in(folder: Path) -> Path:
    """A folder like an unpacked release archive of onnxruntime: include/ and lib/."""
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("this wheel of onnxruntime has no libonnxruntime.so; onnxruntime-gpu's has")
    for name in ("include", "lib"):
        (folder / name).mkdir(parents=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    run("npm", "pack", "--silent", HEADERS, cwd=folder)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as members:
        for member in members:
            if member.name.startswith(HEADERS_IN_IT):
                content = members.extractfile(member)
                assert content is not None
                (folder / "include" / Path(member.name).name).write_bytes(content.read())
    archive.unlink()
    return folder


def run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def replay(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("recipe", ["intents", "language-id", "topics"])
def test_the_golden_examples_replay_in_cpp(
    program: Path, recipe_bundles: dict[str, Path], recipe: str
) -> None:
    """If it failed, a program in C++ would classify by other features than the model learned."""
    done = replay(program, str(recipe_bundles[recipe]), "Comer 👍🏽")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": ok, replayed 64 golden examples: " in done.stdout
    assert '"Comer 👍🏽": étiquette ' in done.stdout


@pytest.mark.parametrize(("share", "code", "words"), [(0.9, 0, ": ok, "), (1.1, 1, ": DIFFERS, ")])
def test_a_replay_in_cpp_fails_beyond_the_tolerance_alone(
    program: Path, bundle: Path, tmp_path: Path, share: float, code: int, words: str
) -> None:
    """If it failed, a runtime that computes something else would pass, or a good one would not."""
    done = replay(program, str(off_by(share, bundle, tmp_path)))
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout


def test_cpp_says_what_a_wrong_folder_lacks(program: Path, bundle: Path, tmp_path: Path) -> None:
    """If it failed, a model without its examples would count as replayed."""
    shutil.copy(bundle / "model.onnx", tmp_path)
    done = replay(program, str(tmp_path))
    assert done.returncode == 2
    assert "golden.jsonl cannot be read" in done.stderr
