"""`verify`: whether a bundle is whole, and every runtime gives the trained model's log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.bundle import FILES, Bundle, check_files, check_id, onnx_metadata, open_bundle
from serving.errors import ArtifactError
from serving.parity.golden import read_golden
from serving.parity.ladder import Sample, bag_rungs, climb, dense_rungs, samples
from serving.parity.reference import Reference, Scores
from serving.parity.rungs import Rung, Tolerance, compare
from serving.weights import Parameters, read_safetensors

GOLDEN_TOLERANCE = Tolerance(atol=1e-9, rtol=1e-9)
"""Two float64 sums of the same terms in another order differ by less."""
GOLDEN_TEXTS = "golden texts"
"""What a rung on the golden examples is said to be on."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found: the bundle, and every rung."""

    bundle: Bundle
    rungs: Sequence[Rung]
    notes: Sequence[str] = ()
    """What else is worth knowing, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """What runtimes are held against: a bundle that is whole, its float64 reference, and what that says."""

    bundle: Bundle
    parameters: Parameters
    reference: Reference
    golden: Rung
    """The reference against the golden examples."""
    samples: Sequence[Sample]


def verify(path: Path, *, expected_id: str | None = None, with_torch: bool = False) -> Verdict:
    """Checks a bundle: hashes, signatures, every weight, golden examples, adversarial texts.

    The original is the float64 reference over the weights in safetensors; the tolerance is the default one,
    whatever the bundle was published with. `with_torch` adds TorchScript, whose code then runs.

    Raises ArtifactError where the bundle is damaged or not the one with `expected_id`. A rung that does not
    hold is in the verdict: `serving.parity.rungs.check` makes an error of it.
    """
    original = read_original(path, expected_id=expected_id)
    reference, some, tolerance = original.reference, original.samples, Tolerance()
    manifest = original.bundle.manifest
    metadata = onnx_metadata(manifest.labels, manifest.features, manifest.settings, manifest.data)
    rungs = [original.golden, *climb(path, original.parameters, metadata, reference, some, tolerance)]
    if with_torch:
        rungs += torchscript_rungs(path, reference, some, tolerance)
    return Verdict(bundle=original.bundle, rungs=rungs)


def read_original(path: Path, *, expected_id: str | None = None) -> Original:
    """Checks the hashes of a bundle, and scores golden, adversarial and every-word texts in float64.

    Raises ArtifactError where the bundle is damaged or not the one with `expected_id`.
    """
    bundle = open_bundle(path)
    check_id(bundle, expected_id)
    check_files(bundle)
    parameters = read_parameters(bundle)
    reference = reference_of(parameters)
    golden, texts = golden_rung(path, reference, bundle.manifest.labels)
    some = samples(reference, parameters.vocabulary, {GOLDEN_TEXTS: texts})
    return Original(bundle=bundle, parameters=parameters, reference=reference, golden=golden, samples=some)


def read_parameters(bundle: Bundle) -> Parameters:
    """The model of a bundle, from its safetensors, vocabulary and labels."""
    labels, vocabulary = bundle.labels(), bundle.vocabulary()
    spec = bundle.manifest.features
    tensors = read_safetensors(bundle.path, spec)
    weight, bias, idf = tensors["weight"], tensors["bias"], tensors.get("idf")
    if (
        weight.shape != (len(labels), len(vocabulary))
        or bias.shape != (len(labels),)
        or (idf is not None and idf.shape != (len(vocabulary),))
    ):
        raise ArtifactError(
            f"{bundle.path / FILES.weights}: expected weights for {len(labels):,} labels and "
            f"{len(vocabulary):,} words, found {list(weight.shape)} and {list(bias.shape)}; get it again"
        )
    return Parameters(weight=weight, bias=bias, vocabulary=vocabulary, labels=labels, spec=spec, idf=idf)


def reference_of(parameters: Parameters) -> Reference:
    """Float64 arithmetic on a model's parameters."""
    return Reference.of(
        parameters.weight, parameters.bias, parameters.vocabulary, parameters.spec, parameters.idf
    )


def torchscript_rungs(
    folder: Path, reference: Reference, some: Sequence[Sample], tolerance: Tolerance
) -> list[Rung]:
    """The rungs of `model.ts`, loaded from disk: both of its methods."""
    from serving.parity.torchscript import TorchScriptModel

    model = TorchScriptModel(folder / FILES.torchscript)
    return [
        *dense_rungs(f"{FILES.torchscript}, forward", model.forward, reference, some, tolerance),
        *bag_rungs(f"{FILES.torchscript}, score", model.score, some, tolerance),
    ]


def golden_rung(folder: Path, reference: Reference, labels: Sequence[str]) -> tuple[Rung, list[str]]:
    """The reference against what was written down when the model was trained, and the texts of that."""
    texts, log_probs = read_golden(folder, labels)
    scores = reference.score(texts)
    rung = compare(
        "reference",
        GOLDEN_TEXTS,
        scores.log_probs,
        Scores(log_probs=log_probs, rounding_scale=scores.rounding_scale),
        GOLDEN_TOLERANCE,
        float32_sums=False,
    )
    return rung, texts
