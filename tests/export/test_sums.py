"""The weights of text models: converted to float64 once or row by row, the sums are the same."""

import numpy as np
import onnxruntime as ort
import pytest

from export import sums
from export.graph import nodes
from serving.features.specification import FeatureSpec
from serving.session import session_options
from tests.export.models import random_parameters, text_file, text_model, words
from tests.export.test_ngram_graph import parameters_of

TEXTS = [[], ["w1 w2"], ["w1 w1 w3 ☃", "", "w5"], ["w4 " * 300, *words(200)]]
MODELS = {
    "tokens": random_parameters(7, words(300)),
    "n-grams": parameters_of(words(300), 7, FeatureSpec(char_ngrams=(1, 3), weighting="log", normalize="l2")),
}


@pytest.mark.parametrize("model", MODELS)
def test_weights_of_any_size_are_summed_alike(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a model would give other numbers once it outgrows what is converted at once."""
    parameters = MODELS[model]
    converted = text_file(parameters).to_bytes()
    monkeypatch.setattr(sums, "MAX_CONVERTED", 0)
    by_row = text_file(parameters).to_bytes()
    assert abs(len(by_row) - len(converted)) < 1000  # the file is as small as before
    plain = session_options()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = [
        ort.InferenceSession(content, options)
        for content, options in (
            (converted, session_options()),
            (converted, plain),
            (by_row, session_options()),
        )
    ]
    for texts in TEXTS:
        one, *others = (each.run(["log_probs"], {"text": np.array(texts, dtype=object)})[0] for each in found)
        for other in others:
            np.testing.assert_array_equal(other, one)


def test_a_table_is_converted_up_to_the_limit_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a model of gigabytes would take three times its size in memory."""
    parameters = random_parameters(3, words(10))
    num_bytes = 4 * 3 * 11
    for limit, is_converted in ((num_bytes, True), (num_bytes - 1, False)):
        monkeypatch.setattr(sums, "MAX_CONVERTED", limit)
        graph = text_model(parameters).graph
        tables = [node.input[0] for node in nodes(graph) if node.op_type == "Gather"]
        assert ("weight/double" in tables) == is_converted
        assert ("weight" in tables) == (not is_converted)
