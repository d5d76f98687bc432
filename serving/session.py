"""The ONNX models in onnxruntime: loaded, their signatures checked, and run."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from serving.errors import ArtifactError, SettingsError

Provider = tuple[str, dict[str, int]]
"""An execution provider's name and its options."""

_ERROR = 3
"""onnxruntime's number for what is no warning any more."""

CPU: Provider = ("CPUExecutionProvider", {})
"""The one that every build of onnxruntime has."""

_EXACT: dict[str, dict[str, int]] = {"CUDAExecutionProvider": {"use_tf32": 0}}
"""Options without which a provider rounds to less than float32: what is multiplied, to 10 bits of 23."""

_LOCATION = re.compile(rb"(?:\n|\x8a\x80{0,8}\0)(?:\x08|\x88\x80{0,8}\0)location")
"""How `location` stands in a protobuf message where that is the key of a tensor's external data: behind the
tag of field 1 and the length 8, each as short as it can be or padded."""

Float32 = npt.NDArray[np.float32]
Strings = npt.NDArray[np.object_]
"""As onnxruntime takes them."""


@dataclass(frozen=True)
class Signature:
    """Names, types and shapes; a None in a shape is any number."""

    inputs: dict[str, tuple[str, list[int | None]]]
    outputs: dict[str, tuple[str, list[int | None]]]


def text_signature(num_labels: int) -> Signature:
    """What `model.onnx` takes and gives."""
    return Signature(
        inputs={"text": ("tensor(string)", [None])},
        outputs={"log_probs": ("tensor(float)", [None, num_labels]), "label": ("tensor(string)", [None])},
    )


def bow_signature(num_labels: int, vocabulary_size: int) -> Signature:
    """What `bow.onnx` takes and gives."""
    return Signature(
        inputs={"bow": ("tensor(float)", [None, vocabulary_size])},
        outputs={"log_probs": ("tensor(float)", [None, num_labels])},
    )


def load(path: Path, signature: Signature, *, providers: Sequence[Provider] = (CPU,)) -> Any:
    """An onnxruntime session of a model file; of the providers, those that come first are preferred.

    Raises ArtifactError where onnxruntime refuses the file, its signature is another, or it names a file that
    holds its weights: of that one nobody knows the hash.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file; the bundle is incomplete: get it again")
    if _has_external_data(path):
        raise ArtifactError(
            f"{path}: expected a model that is one file, found weights that are in another; "
            "the bundle was altered: get it again"
        )
    try:
        session = ort.InferenceSession(
            str(path), session_options(), providers=exact(providers), enable_fallback=0
        )
    # onnxruntime's own error types have no common base but Exception.
    except Exception as error:
        raise ArtifactError(
            f"{path}: onnxruntime {ort.__version__} cannot load it ({first_line(error)}); "
            "get the bundle again, or use onnxruntime 1.20 or later"
        ) from error
    found = Signature(inputs=_described(session.get_inputs()), outputs=_described(session.get_outputs()))
    if found != signature:
        raise ArtifactError(f"{path}: expected {signature}, found {found}; the file is not this bundle's")
    return session


def _has_external_data(path: Path) -> bool:
    """Whether any tensor of an ONNX file, however deep in its graphs, is in another file.

    Given the bytes alone, onnxruntime would still look for that file, in the folder where Python was started.
    """
    tail = b""
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):  # the whole file would stay in memory, in part
                content = tail + block
                if b"location" in content and _LOCATION.search(content):
                    return True
                tail = content[-32:]
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); get the bundle again") from error
    return False


def run(session: Any, path: Path, outputs: Sequence[str], inputs: dict[str, Any]) -> Any:
    """Runs a session; raises ArtifactError where the model fails on its inputs."""
    try:
        return session.run(outputs, inputs)
    # onnxruntime's own error types have no common base but Exception.
    except Exception as error:
        raise ArtifactError(
            f"{path}: fails in onnxruntime {ort.__version__} ({first_line(error)}); get the bundle again"
        ) from error


def exact(providers: Sequence[Provider]) -> list[Provider]:
    """The providers, with the options by which they compute in float32 throughout."""
    if any(provider != CPU for provider in providers):
        ort.set_default_logger_severity(_ERROR)  # while it looks for a GPU's provider it warns of no use
    return [(name, _EXACT.get(name, {}) | options) for name, options in providers]


def session_options() -> Any:
    """What every session here is made with."""
    options = ort.SessionOptions()
    # A short text has no work for two threads, and a server answers requests side by side.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    return options


def strings(texts: Sequence[str]) -> Strings:
    """Texts as an array: [N]."""
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def first_line(error: Exception) -> str:
    """The first line of an error's message; onnxruntime's have many."""
    return str(error).strip().splitlines()[0]


def usable(names: Sequence[str], *, setting: str = "providers") -> list[Provider]:
    """The execution providers that this build of onnxruntime has, and the CPU, which strings need.

    setting: where the names come from, for the message: an argument, or a variable.

    Raises SettingsError where none is usable.
    """
    available = ort.get_available_providers()
    usable: list[Provider] = [(name, {}) for name in dict.fromkeys(names) if name in available]
    if not usable:
        raise SettingsError(
            f"{setting}: expected an execution provider of this onnxruntime ({', '.join(available)}), found "
            f"{', '.join(names) or 'none'}; name one of these, such as {CPU[0]}, which every build has"
        )
    return usable if CPU in usable else [*usable, CPU]


def _described(values: Sequence[Any]) -> dict[str, tuple[str, list[int | None]]]:
    return {
        value.name: (value.type, [size if isinstance(size, int) else None for size in value.shape])
        for value in values
    }


class TextModel:
    """`model.onnx`, ready to take texts."""

    def __init__(self, path: Path, num_labels: int, providers: Sequence[str] = (CPU[0],)) -> None:
        """A provider that does not take the model is passed over, as CUDA's is: a GPU holds no text.

        Raises ArtifactError where the file is not such a model, SettingsError for unknown providers.
        """
        self._path = path
        *preferred, last = usable(providers)
        signature = text_signature(num_labels)
        while preferred:
            with contextlib.suppress(ArtifactError):
                self._session = load(path, signature, providers=[*preferred, last])
                return
            preferred.pop(0)
        self._session = load(path, signature, providers=[last])

    @property
    def provider(self) -> str:
        """The execution provider that is preferred among those that take the model."""
        name: str = self._session.get_providers()[0]
        return name

    def predict(self, texts: Sequence[str]) -> tuple[Float32, list[str]]:
        """The log-probabilities [N, K] and the most probable labels [N] of texts without NUL; N may be 0."""
        log_probs, labels = self._run(["log_probs", "label"], texts)
        return log_probs, labels.tolist()

    def log_probs(self, texts: Sequence[str] | Strings) -> Float32:
        """The log-probabilities alone, [N, K]: the model then looks for no label."""
        (log_probs,) = self._run(["log_probs"], texts)
        found: Float32 = log_probs
        return found

    def _run(self, outputs: Sequence[str], texts: Sequence[str] | Strings) -> Any:
        array = texts if isinstance(texts, np.ndarray) else strings(texts)
        return run(self._session, self._path, outputs, {"text": array})


class BowModel:
    """`bow.onnx`, ready to take word counts."""

    def __init__(
        self, path: Path, num_labels: int, vocabulary_size: int, *, provider: Provider = CPU
    ) -> None:
        self._path = path
        self._session = load(path, bow_signature(num_labels, vocabulary_size), providers=[provider])

    def log_probs(self, bow: Float32) -> Float32:
        """The log-probabilities [N, K] of counts [N, V]."""
        (log_probs,) = run(self._session, self._path, ["log_probs"], {"bow": bow})
        found: Float32 = log_probs
        return found
