"""What `python -m export triton` writes, in a real Triton, and the gate of `verify --against` before it."""

import contextlib
import json
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.main import main as export_main
from serving.bundle import FILES, open_bundle
from serving.errors import ExitCode
from serving.main import main as serving_main
from tests.serving.damage import added, in_initializer
from tests.system.conftest import Environment

pytestmark = pytest.mark.system

MODEL = Path(__file__).with_name("triton_model.py")
SECONDS = 60

PARSED = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
config = text_format.Parse(open(sys.argv[1]).read(), ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""

ASKED = """
import json, sys
import numpy as np
import tritonclient.http as client
texts = np.array([[text] for text in json.load(sys.stdin)], dtype=object)
text = client.InferInput("text", list(texts.shape), "BYTES")
text.set_data_from_numpy(texts)
best = client.InferRequestedOutput("log_probs", class_count=1)
server = client.InferenceServerClient(sys.argv[1])
answer = server.infer("bowsprit", [text])
classes = server.infer("bowsprit", [text], outputs=[best]).as_numpy("log_probs")
print(json.dumps({
    "log_probs": answer.as_numpy("log_probs").tolist(),
    "label": [label.decode() for label in answer.as_numpy("label").ravel()],
    "classes": [each.decode() for each in classes.ravel()],
}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with tritonserver, as pytriton's wheel brings it, and Triton's client."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the package nvidia-pytriton is for Linux on x86_64")
    environment = Environment(tmp_path_factory.mktemp("triton") / "venv")
    # Its server is all that is wanted of it, and that is built for numpy 1.
    environment.install("--no-deps", "nvidia-pytriton==0.7.0")
    environment.install("numpy<2", "onnxruntime", "tritonclient[grpc,http]")
    return environment


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A model repository with the bundle twice, one of them under the name `altered`."""
    repository = tmp_path_factory.mktemp("repository") / "models"
    assert export_main(["triton", str(bundle), str(repository)]) == ExitCode.DONE
    assert export_main(["triton", str(bundle), str(repository), "--name", "altered"]) == ExitCode.DONE
    return repository


def test_the_configuration_is_what_triton_means_by_it(
    environment: Environment, repository: Path, bundle: Path
) -> None:
    """If it failed, tritonserver would not load the model, or load it with other settings."""
    done = environment.python("-c", PARSED, str(repository / "bowsprit" / "config.pbtxt"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["backend"], found["max_batch_size"]) == ("onnxruntime", 1024)
    (text,) = found["input"]
    assert text == {"name": "text", "data_type": "TYPE_STRING", "dims": ["1"], "reshape": {}}
    log_probs, label = found["output"]
    assert log_probs == {
        "name": "log_probs",
        "data_type": "TYPE_FP32",
        "dims": ["9"],
        "label_filename": "labels.txt",
    }
    assert label == {"name": "label", "data_type": "TYPE_STRING", "dims": ["1"], "reshape": {}}
    assert found["parameters"]["bowsprit_bundle_id"]["string_value"] == open_bundle(bundle).bundle_id
    assert found["parameters"]["intra_op_thread_count"]["string_value"] == "1"
    assert found["instance_group"] == [{"kind": "KIND_CPU", "count": 1}]
    assert "dynamic_batching" in found


@pytest.fixture(scope="module")
def served(
    environment: Environment, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a real tritonserver over the repository, `altered` being off in one weight."""
    folder = tmp_path_factory.mktemp("served")
    models = shutil.copytree(repository, folder / "models")
    for name in ("bowsprit", "altered"):
        config = models / name / "config.pbtxt"
        text = config.read_text()
        assert 'backend: "onnxruntime"' in text
        config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'))
        shutil.copyfile(MODEL, models / name / "1" / "model.py")
    (models / "altered" / "1" / FILES.text_model).rename(folder / FILES.text_model)
    in_initializer(FILES.text_model, "weight", added((3, 5), 1e-3))(folder)
    (folder / FILES.text_model).rename(models / "altered" / "1" / FILES.text_model)
    with tritonserver(environment, models, folder) as url:
        yield url


@contextlib.contextmanager
def tritonserver(environment: Environment, models: Path, folder: Path) -> Iterator[str]:
    (packages,) = environment.folder.glob("lib/python*/site-packages")
    server = packages / "pytriton" / "tritonserver"
    library = Path(sysconfig.get_config_var("LIBDIR"), str(sysconfig.get_config_var("INSTSONAME")))
    if not library.exists():
        pytest.skip(
            f"{library} is missing, which Triton's Python backend loads (Debian's package libpython3)"
        )
    backends = folder / "backends"
    shutil.copytree(server / "backends" / "python", backends / "python")
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(server / "python_backend_stubs" / version / stub, backends / "python" / stub)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(server / "bin" / "tritonserver"), f"--model-repository={models}"),
                *(f"--backend-directory={backends}", f"--http-port={port}", "--http-address=127.0.0.1"),
                *("--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=5"),
            ],
            # The stub takes no PYTHON* variable; its prefix is that of the first python3.
            env={
                "PATH": f"{environment.folder / 'bin'}:/usr/bin:/bin",
                "LD_LIBRARY_PATH": f"{library.parent}:{packages / 'nvidia_pytriton.libs'}",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + SECONDS
        while not is_ready(port):
            said = (folder / "log").read_text(errors="replace")[-4000:]
            assert process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_deployment_in_triton_passes(served: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, Triton would be sent what it does not take, or the configuration would change answers."""
    url = f"{served}/v2/models/bowsprit"
    code = serving_main(["verify", str(bundle), "--against", url])
    shown = capsys.readouterr()
    assert (code, shown.err) == (ExitCode.DONE, "")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    for name in ("endpoint, JSON", "endpoint, binary", "endpoint, bundle ID 1 statements"):
        (line,) = (line for line in lines if line.startswith(name))
        assert line.endswith("ok")
    assert f"texts were sent as [N, 1] to {url}" in lines


def test_a_deployment_with_one_weight_altered_fails(
    served: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, the gate would let another model through."""
    code = serving_main(["verify", str(bundle), "--against", f"{served}/v2/models/altered"])
    assert code == ExitCode.PARITY_FAILED == 5
    assert "times what is allowed" in capsys.readouterr().err


def test_of_two_models_one_must_be_named(
    served: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, Triton's index would be misread."""
    assert serving_main(["verify", str(bundle), "--against", served]) == ExitCode.SETTINGS
    assert "has 2 models, altered, bowsprit; name one" in capsys.readouterr().err


def test_tritons_own_client_gets_the_golden_answers(
    served: str, environment: Environment, bundle: Path
) -> None:
    """If it failed, the common way to ask Triton would not work, or its classes would have other names."""
    golden = [json.loads(line) for line in (bundle / FILES.golden).read_text().split("\n") if line]
    texts = json.dumps([example["text"] for example in golden])
    done = environment.python("-c", ASKED, served.removeprefix("http://"), stdin=texts)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    labels = [example["label"] for example in golden]
    assert found["label"] == labels
    assert [each.split(":", 2)[2] for each in found["classes"]] == labels
    for log_probs, example in zip(found["log_probs"], golden, strict=True):
        assert log_probs == pytest.approx(example["log_probs"], rel=1e-5, abs=1e-5)
