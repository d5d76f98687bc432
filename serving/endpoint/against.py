"""`verify --against`: whether an endpoint gives the log-probabilities of the model that a bundle holds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.endpoint.answer import Answer, AnswerError
from serving.endpoint.client import BINARY, CONFIGURED_ID, Endpoint, RefusedError, TensorMetadata
from serving.endpoint.http import Address
from serving.parity.ladder import SHORT, Rows, Sample, batches
from serving.parity.rungs import Rung, Tolerance, broken, compare, merge
from serving.parity.verify import GOLDEN_TEXTS, Verdict, read_original
from serving.printable import printable

INPUT, LOG_PROBS, LABEL = "text", "log_probs", "label"
BUNDLE_ID, BUNDLE_HEADER = "bundle_id", "bowsprit-bundle"
"""Where an answer says which bundle it is of: among its parameters, and in a header."""
_DIVISIBLE = (400, 413, 422)
"""What servers say to more texts, or more bytes, than they take at once."""


def verify_against(path: Path, address: Address, *, expected_id: str | None = None) -> Verdict:
    """Holds what an endpoint answers against a bundle: golden, adversarial and every-word texts.

    The bundle's hashes are checked first, and its float64 reference against its golden examples. Texts are
    sent in JSON, and in binary where the endpoint says that it takes that.

    Raises ArtifactError where the bundle is damaged or not the one with `expected_id`, SettingsError where
    the address is of no endpoint or does not say which model, PlatformError where the endpoint cannot be
    reached or fails. A rung that does not hold is in the verdict: `serving.parity.rungs.check` makes an error
    of it.
    """
    original = read_original(path, expected_id=expected_id)
    endpoint = Endpoint(address)
    signature, shape = _signature(endpoint, len(original.parameters.labels))
    # An endpoint that says nothing passes no check by it.
    rungs = [original.golden, *([signature] if signature.count else [])]
    if not signature.holds:
        return Verdict(bundle=original.bundle, rungs=rungs)
    gate = _Gate(endpoint=endpoint, labels=original.parameters.labels, in_column=shape == 2)
    gate.take_configured_id()
    for binary in (False, True) if BINARY in endpoint.server.extensions else (False,):
        rungs += [gate.rung(sample, binary=binary) for sample in original.samples]
    if gate.bundle_ids:
        rungs.append(_bundle_rung(gate.bundle_ids, original.bundle.bundle_id))
    return Verdict(bundle=original.bundle, rungs=rungs, notes=_notes(gate))


def _signature(endpoint: Endpoint, num_labels: int) -> tuple[Rung, int]:
    """A rung on what the endpoint says of the model's tensors, and how many dimensions texts are sent in."""
    name, said = "endpoint, metadata", endpoint.metadata
    column: list[list[int]] = [[-1], [-1, 1]]
    expected: dict[str, tuple[str, list[list[int]]]] = {
        INPUT: ("BYTES", column),
        LOG_PROBS: ("FP32", [[-1, num_labels], [-1, -1]]),
        LABEL: ("BYTES", column),
    }
    if not said.inputs and not said.outputs:
        return Rung(name=name, sample="tensors", count=0, largest_difference=0, share_of_bound=0), 1
    problems = [] if [each.name for each in said.inputs] == [INPUT] else [f"inputs: expected {INPUT}"]
    found: dict[str, TensorMetadata] = {each.name: each for each in (*said.outputs, *said.inputs)}
    for tensor, (datatype, shapes) in expected.items():
        if tensor not in found:
            problems.append(f"expected a tensor {tensor}")
        elif found[tensor].datatype != datatype or found[tensor].shape not in shapes:
            problems.append(
                f"{tensor}: expected {datatype} of shape {' or '.join(map(str, shapes))}, found "
                f"{found[tensor].datatype} of shape {found[tensor].shape}"
            )
    if problems:
        listed = ", ".join(f"{each.name} {each.datatype} {each.shape}" for each in found.values())
        problem = f"{'; '.join(problems)}; the endpoint has {listed}: it serves another model"
        return broken(name, "tensors", len(expected), printable(problem)), 1
    rung = Rung(name=name, sample="tensors", count=len(expected), largest_difference=0, share_of_bound=0)
    return rung, len(found[INPUT].shape)


class _FailedError(Exception):
    """What an endpoint answered to some texts cannot be compared; the message says why."""


@dataclass(kw_only=True)
class _Gate:
    """Asks an endpoint, and keeps what is learned by the way."""

    endpoint: Endpoint
    labels: Sequence[str]
    in_column: bool
    """Whether texts are sent as [N, 1], as Triton takes them where it batches, and not as [N]."""
    bundle_ids: Counter[str] = field(default_factory=Counter)
    """How many answers were of which bundle."""
    too_long: dict[str, set[int]] = field(default_factory=dict)
    """The rows of long texts that are larger than the endpoint takes, by their sample."""
    split: set[str] = field(default_factory=set)
    """With which words whole batches were refused."""
    empty: str | None = None
    """With which words an empty batch was refused."""

    @property
    def sends_empty(self) -> bool:
        """Whether a batch without texts may be sent: Triton 2.51 has been seen to crash over one."""
        return not self.in_column and self.endpoint.server.name != "triton"

    def take_configured_id(self) -> None:
        """Looks for the bundle's ID in the model's configuration, where the server tells it."""
        parameters = self.endpoint.configuration().get("parameters")
        entry = parameters.get(CONFIGURED_ID) if isinstance(parameters, dict) else None
        if isinstance(entry, dict) and "string_value" in entry:
            self.bundle_ids[str(entry["string_value"])] += 1

    def rung(self, sample: Sample, *, binary: bool) -> Rung:
        """What the endpoint says of a sample; its `label` must name the largest of its `log_probs`."""
        name = f"endpoint, {'binary' if binary else 'JSON'}"
        found: list[tuple[npt.NDArray[np.float32], Rows]] = []
        num_wrong = 0
        try:
            for texts, rows in batches(sample):
                if not texts and not self.sends_empty:
                    continue
                for log_probs, labels, some in self._answers(sample, texts, rows.start, binary=binary):
                    found.append((log_probs, some))
                    num_wrong += _num_wrong(log_probs, labels, self.labels)
        except _FailedError as failed:
            return broken(name, sample.name, len(sample.texts), str(failed))
        # Where everything was refused, nothing was compared.
        parts = found or [(np.empty((0, len(self.labels)), np.float32), slice(0, 0))]
        rung = merge(
            [
                compare(name, sample.name, each, sample.scores.rows(rows), Tolerance(), float32_sums=False)
                for each, rows in parts
            ]
        )
        if num_wrong and rung.problem is None:
            problem = f"`{LABEL}` is not the most probable label in {num_wrong:,} texts"
            return replace(rung, problem=problem)
        return rung

    def _answers(
        self, sample: Sample, texts: Sequence[str], start: int, *, binary: bool
    ) -> list[tuple[npt.NDArray[np.float32], list[str], slice]]:
        """Log-probabilities [N, K] and labels [N] with their rows; in parts where all is too much."""
        shape = [len(texts), 1] if self.in_column else [len(texts)]
        try:
            answer = self.endpoint.infer(INPUT, texts, shape, (LOG_PROBS, LABEL), binary=binary)
            log_probs, labels = answer.floats(LOG_PROBS), self._labels(answer, len(texts))
        except AnswerError as error:
            raise _FailedError(f"the answer to {len(texts):,} texts is malformed: {error}") from error
        except RefusedError as refused:
            if not texts:
                self.empty = str(refused)
                return []
            if len(texts) > 1 and refused.status in _DIVISIBLE:
                self.split.add(str(refused))
                half = len(texts) // 2
                parts = ((texts[:half], start), (texts[half:], start + half))
                return [
                    each
                    for part, place in parts
                    for each in self._answers(sample, part, place, binary=binary)
                ]
            if refused.status == 413 and len(texts[0]) > SHORT and sample.name != GOLDEN_TEXTS:
                self.too_long.setdefault(sample.name, set()).add(start)
                return []
            raise _FailedError(
                f"the endpoint refuses {len(texts):,} texts of {sum(map(len, texts)):,} characters "
                f"({refused})"
            ) from refused
        self._take_id(answer)
        return [(log_probs, labels, slice(start, start + len(texts)))]

    def _labels(self, answer: Answer, num_texts: int) -> list[str]:
        labels, shape = answer.strings(LABEL)
        if shape not in ([num_texts], [num_texts, 1]):
            raise AnswerError(f"{LABEL}: expected the shape {[num_texts]} or {[num_texts, 1]}, found {shape}")
        return labels

    def _take_id(self, answer: Answer) -> None:
        stated: set[Any] = {answer.parameters.get(BUNDLE_ID), answer.headers.get(BUNDLE_HEADER)}
        for each in stated - {None}:
            self.bundle_ids[str(each)] += 1


def _num_wrong(log_probs: npt.NDArray[np.float32], named: Sequence[str], labels: Sequence[str]) -> int:
    """How many labels are not of the largest log-probability; of another shape `compare` tells."""
    if log_probs.shape != (len(named), len(labels)):
        return 0
    place = {label: i for i, label in enumerate(labels)}
    return sum(
        label not in place or row[place[label]] < row.max()
        for row, label in zip(log_probs, named, strict=True)
    )


def _bundle_rung(found: Counter[str], expected: str) -> Rung:
    name, number = "endpoint, bundle ID", found.total()
    others = sorted(found.keys() - {expected})
    if others:
        wrong = number - found[expected]
        problem = f"{wrong:,} are of the bundle {printable(', '.join(others))}; expected {expected}"
        return broken(name, "statements", number, problem)
    return Rung(name=name, sample="statements", count=number, largest_difference=0, share_of_bound=0)


def _notes(gate: _Gate) -> list[str]:
    endpoint = gate.endpoint
    notes = [
        f"texts were sent as [N, 1] to {endpoint.url}"
        if gate.in_column
        else f"texts were sent to {endpoint.url}"
    ]
    if not endpoint.metadata.inputs and not endpoint.metadata.outputs:
        notes.append("the endpoint says nothing of the model's inputs and outputs")
    if BINARY not in endpoint.server.extensions:
        notes.append(f"the endpoint does not say that it takes tensors in binary ({BINARY})")
    if not gate.bundle_ids:
        notes.append("the endpoint does not say which bundle it serves")
    for sample, rows in gate.too_long.items():
        notes.append(f"{len(rows):,} of the {sample} were refused by the endpoint's limits (413), being long")
    if gate.split:
        notes.append(f"batches were refused and sent in parts ({min(gate.split)})")
    if not gate.sends_empty:
        notes.append("no empty batch was sent: a server that batches by itself cannot take one")
    if gate.empty is not None:
        notes.append(f"an empty batch was refused ({gate.empty})")
    return notes
