"""POST /v2/models/NAME/infer: what a request asks, and the answer that it gets.

The one path that is asked thousands of times a second, in two ways: `serving.server.direct` takes what came
whole at once, `serving.server.infer_path` everything else.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from serving.answer import Answer, selection_of
from serving.errors import DataError
from serving.predictor import Predictor
from serving.selection import Selection
from serving.server import protocol
from serving.server.metrics import Metrics
from serving.server.replies import BUNDLE_HEADER, Reply
from serving.server.settings import ServerSettings

INLINE_CHARACTERS = 4096
"""In all texts of a request: fewer are classified by the thread that reads requests, with those of others,
more by one of several, so that short requests need not wait for long ones."""
OUTPUTS = ("log_probs", "label")


class Asked(NamedTuple):
    """A request for predictions, read."""

    predictor: Predictor
    call: protocol.Call
    texts: list[str]
    wanted: Iterable[str]
    """Outputs, by name."""
    selection: Selection | None


class Infer:
    """From a request's bytes to an answer's, but for the model."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics

    def asked(self, predictor: Predictor, body: bytes, header_length: str | None) -> Asked:
        """What a body asks of the bundle that is served; raises DataError where it cannot be answered.

        header_length: the header `Inference-Header-Content-Length`; None where there is none.
        """
        found = protocol.read(body, header_length, self._settings.max_texts)
        texts = _texts(found)
        # No text has more bytes than its request.
        if len(body) > self._settings.max_text_bytes:
            _check_lengths(texts, self._settings.max_text_bytes)
        wanted = _wanted(found.call)
        selection = selection_of(found.call.parameters) if found.call.parameters else None
        return Asked(predictor, found.call, texts, wanted, selection)

    def reply(self, asked: Asked, given: Answer) -> Reply:
        """The answer, ready to be sent; its texts are counted."""
        content, headers = protocol.write(
            asked.call,
            _tensors(given, asked.wanted),
            {
                "model_name": self._settings.model_name,
                "model_version": asked.predictor.version,
                "parameters": {"bundle_id": asked.predictor.bundle_id},
            },
        )
        headers[BUNDLE_HEADER] = asked.predictor.bundle_id
        self._metrics.texts.inc(len(asked.texts))
        return Reply(200, content, headers)


def _texts(found: protocol.Request) -> list[str]:
    """The request's one input: shape [N] or [N, 1]."""
    described = found.call.inputs
    if len(described) != 1 or described[0].name != "text":
        names = ", ".join(repr(each.name[:80]) for each in described[:8]) or "none"
        raise DataError(f"expected one input, 'text', found {names}")
    shape = described[0].shape
    if len(shape) > 1 and shape[1:] != [1]:
        raise DataError(f"input 'text': expected a shape [N] or [N, 1], found {shape}")
    return found.strings["text"]


def _check_lengths(texts: Sequence[str], max_bytes: int) -> None:
    for number, text in enumerate(texts):
        # A character has at most four bytes.
        if len(text) * 4 > max_bytes and len(text.encode()) > max_bytes:
            raise protocol.TooLargeError(
                f"text {number}: expected at most {max_bytes:,} bytes, found {len(text.encode()):,}"
            )


def _wanted(call: protocol.Call) -> Iterable[str]:
    """The outputs that a request asks for, by name; all of them where it names none."""
    if not call.outputs:
        return OUTPUTS
    names = [output.name for output in call.outputs]
    unknown = [name[:80] for name in names if name not in OUTPUTS]
    if unknown or len(set(names)) < len(names):
        raise DataError(f"expected some of the outputs {', '.join(OUTPUTS)}, found {', '.join(names)[:200]}")
    if any("classification" in (output.parameters or ()) for output in call.outputs):
        raise DataError("the parameter classification is not supported: use the request's parameter top_k")
    return names


def _tensors(given: Answer, wanted: Iterable[str]) -> list[protocol.Tensor]:
    return [
        protocol.Tensor(name=name, shape=given.log_probs.shape, data=given.log_probs)
        if name == "log_probs"
        else protocol.Tensor(name=name, shape=given.label_shape, data=given.label)
        for name in wanted
    ]
