"""Texts and their features by training's way, by the graph's and by the reference's."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pyarrow as pa
from onnx import TensorProto

from export.graph import Graph, value
from export.ngram_graph import add_feature_ids, fill_lookups
from export.onnx_file import OnnxFile
from export.spelling_graph import add_ids_of_one
from job.corpus.collect import collect, tokenize_rows
from job.corpus.prepare import FeatureLimits, choose_features
from job.corpus.raw_corpus import RawCorpus
from job.dataset import Rows
from job.features.encoder import NgramEncoder
from job.features.ngrams import Limits
from serving.features.specification import FeatureSpec, features
from serving.features.tables import Tables
from serving.session import session_options


def limits(min_count: int) -> FeatureLimits:
    each = Limits(min_count=min_count, max_size=None)
    return FeatureLimits(tokens=each, word_ngrams=each, char_ngrams=each)


def read(texts: Sequence[str], spec: FeatureSpec, *, block_size: int = 1000) -> RawCorpus:
    """The texts as the job reads them, in several blocks."""
    blocks = []
    for start in range(0, len(texts), block_size):
        some = texts[start : start + block_size]
        rows = Rows(texts=pa.array(some, pa.string()), labels=pa.array(["a"] * len(some), pa.string()))
        blocks.append(tokenize_rows(rows, sample=0, features=spec))
    return collect(blocks, sample=0)[0]


def chosen(raw: RawCorpus, spec: FeatureSpec, *, min_count: int) -> list[str]:
    """The names of the features that the job would learn from."""
    return choose_features(raw, spec, limits(min_count)).words


def by_training(raw: RawCorpus, tables: Tables) -> Iterator[list[int]]:
    """The features of each text, in ascending order; so of the others here."""
    encoder = NgramEncoder(raw.tokens, tables)
    for block in raw:
        ids, offsets = encoder(block)
        yield from (sorted(some.tolist()) for some in np.split(ids, offsets[1:-1])[: block.num_rows])


def by_reference(texts: Sequence[str], names: Sequence[str], spec: FeatureSpec) -> Iterator[list[int]]:
    index = {name: place for place, name in enumerate(names)}
    for text in texts:
        yield sorted(index[name] for name in features(text, spec) if name in index)


class FeatureSession:
    """The part of the graph that finds the features, in onnxruntime, in both of its ways."""

    def __init__(self, tables: Tables) -> None:
        self._none = tables.none
        rows, one = Graph(), Graph()
        rows.add("Identity", add_feature_ids(rows, "text", tables), output="ids")
        self._rows = self._session(rows, tables, ["N", "M"])
        one.add("Identity", add_ids_of_one(one, "text", tables), output="ids")
        self._one = self._session(one, tables, ["M"])

    @staticmethod
    def _session(graph: Graph, tables: Tables, shape: Sequence[str]) -> Any:
        built = graph.build(
            inputs=[value("text", TensorProto.STRING, ["N"])],
            outputs=[value("ids", TensorProto.INT64, shape)],
        )
        fill_lookups(built, tables)
        arrays = {name: [array] for name, array in tables.arrays(None).items()}
        content = OnnxFile(graph=built, arrays=arrays, strings={}, metadata={}).to_bytes()
        return ort.InferenceSession(content, session_options(), providers=["CPUExecutionProvider"])

    def run(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Of one or more texts, taken at once."""
        (found,) = self._rows.run(None, {"text": np.array(texts, dtype=object)})
        yield from map(self._known, found)

    def alone(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Of any texts, taken one by one."""
        for text in texts:
            (found,) = self._one.run(None, {"text": np.array([text], dtype=object)})
            assert found[-1] == -1
            yield self._known(found[:-1])

    def _known(self, ids: npt.NDArray[np.int64]) -> list[int]:
        return sorted(ids[ids != self._none].tolist())
