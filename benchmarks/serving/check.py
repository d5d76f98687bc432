"""Before any server is timed: are its answers right?"""

import http.client
import json
from typing import Any

import numpy as np

from benchmarks.serving.load import TEXTS
from benchmarks.serving.prepare import Material, bodies, chunks
from benchmarks.serving.servers import Running
from serving.session import Float32, TextModel

MOST = 200
"""Requests of each size."""


def check(server: Running, material: Material) -> dict[int, float]:
    """Compares a server's answers with what the model gives; returns the mean bytes of an answer's body.

    By texts a request. A server with a model of its own must give probabilities that sum to one. Ends the
    program where an answer is wrong.
    """
    model = TextModel(material.model, len(material.bundle.manifest.labels))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    sizes = {}
    for number in TEXTS:
        received = 0
        texts = chunks(material.texts, number)[:MOST]
        requests = bodies(material.texts, number, outputs=server.contender.outputs)[:MOST]
        for some, body in zip(texts, requests, strict=True):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", server.contender.infer, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            received += len(content)
            wrong = (
                f"status {answer.status}, {content[:500]!r}"
                if answer.status != 200
                else what_is_wrong(
                    json.loads(content), model.predict(some), log_probs=server.contender.log_probs
                )
            )
            if wrong:
                raise SystemExit(f"{server.contender.name} answers {some[:2]} with {wrong}")
        sizes[number] = received / len(requests)
    connection.close()
    return sizes


def what_is_wrong(
    answer: dict[str, Any], expected: tuple[Float32, list[str]], *, log_probs: bool = True
) -> str | None:
    """What is wrong with an answer; None where it is right.

    expected: the model's log-probabilities [N, K] and labels [N]. Without `log_probs` the answer is of a
    model of its own, and must have as many probabilities that sum to one.
    """
    outputs = {each["name"]: each for each in answer["outputs"]}
    needed = ("log_probs", "label") if log_probs else ("predict_proba",)
    if not outputs.keys() >= set(needed):
        return f"outputs {[*outputs]} instead of {[*needed]}"
    right, labels = expected
    scores = outputs[needed[0]]
    if scores["shape"] != list(right.shape):
        return f"shape {scores['shape']} instead of {list(right.shape)}"
    found = np.array(scores["data"], np.float64).reshape(right.shape)
    if not log_probs:
        sums = found.sum(axis=1)
        return None if np.allclose(sums, 1) else f"probabilities that sum to {sums}"
    if not np.allclose(found, right, rtol=1e-6, atol=1e-6):
        return f"log-probabilities that differ by up to {np.abs(found - right).max():.1e}"
    if outputs["label"]["data"] != labels:
        return f"the labels {outputs['label']['data'][:2]} instead of {labels[:2]}"
    return None
