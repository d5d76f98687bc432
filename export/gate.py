"""The parity gate: the whole ladder, from the trained model in memory to every file loaded back from disk."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.bundle import Provenance
from serving.bundle import FILES
from serving.parity.ladder import Sample, bag_rungs, climb, dense_rungs, samples
from serving.parity.reference import Bags, Reference
from serving.parity.rungs import Rung, Tolerance
from serving.parity.verify import golden_rung, reference_of, torchscript_rungs
from serving.session import BowModel, Provider
from serving.weights import Parameters


def climb_all(
    folder: Path,
    model: nn.Module,
    parameters: Parameters,
    provenance: Provenance,
    texts: Mapping[str, Sequence[str]],
    tolerance: Tolerance,
    *,
    provider: Provider | None = None,
) -> list[Rung]:
    """Every rung; whether they hold is for `serving.parity.rungs.check` to say.

    The reference is float64 arithmetic on the parameters in memory, so that no file vouches for itself.

    model: on the CPU, in evaluation mode; `parameters` are its own.
    texts: more samples by name, such as validation texts.
    provider: an execution provider, beside the CPU's, that `bow.onnx` runs on.
    """
    reference = reference_of(parameters)
    golden, golden_texts = golden_rung(folder, reference, parameters.labels)
    some = samples(reference, parameters.vocabulary, {"golden texts": golden_texts, **texts})
    rungs = [golden, *_eager_rungs(model, reference, some, tolerance)]
    metadata = provenance.onnx_metadata(parameters.labels)
    rungs += climb(folder, parameters, metadata, reference, some, tolerance)
    if provider is not None:
        num_labels, vocabulary_size = parameters.weight.shape
        bow_model = BowModel(folder / FILES.bow_model, num_labels, vocabulary_size, provider=provider)
        name = f"{FILES.bow_model}, {provider[0]}"
        rungs += dense_rungs(name, bow_model.log_probs, reference, some, tolerance)
    return rungs + torchscript_rungs(folder, reference, some, tolerance)


def _eager_rungs(
    model: nn.Module, reference: Reference, some: Sequence[Sample], tolerance: Tolerance
) -> list[Rung]:
    """The trained model itself: in float64, in float32, and by bags."""
    precise = copy.deepcopy(model).double()

    @torch.no_grad()
    def forward(bow: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(model(torch.from_numpy(bow)))

    @torch.no_grad()
    def forward_precisely(bow: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.asarray(precise(torch.from_numpy(bow).double()))

    @torch.no_grad()
    def score(bags: Bags) -> npt.NDArray[np.float64]:
        given = [bags.ids, bags.offsets, *([] if bags.values is None else [bags.values])]
        return np.asarray(model.score(*map(torch.from_numpy, given)))  # type: ignore[operator]

    return [
        *dense_rungs(
            "eager float64",
            forward_precisely,
            reference,
            some,
            tolerance,
            float32_sums=reference.spec.is_weighted,  # the dense input is float32
        ),
        *dense_rungs("eager float32", forward, reference, some, tolerance),
        *bag_rungs("eager score", score, some, tolerance),
    ]
