"""The server's interface as an OpenAPI document."""

from importlib.metadata import version
from typing import Any

from serving.server.settings import ServerSettings

VERSION = version("bowsprit")
"""Of this package. It stands in a file, which no request should wait for."""
_TEXT = {"type": "string", "pattern": "^[^\\x00]*$"}
_EXAMPLE = {
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["where is my parcel"]}],
    "parameters": {"top_k": 1},
}
_VERSION = {
    "parameters": [
        {
            "name": "version",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": "^[0-9a-f]{12}$"},
            "description": "The first 12 digits of a bundle's ID.",
        }
    ]
}


def document(settings: ServerSettings) -> dict[str, object]:
    """OpenAPI 3.1, of this server and its one model."""
    model = f"/v2/models/{settings.model_name}"
    of_version = f"{model}/versions/{{version}}"
    infer = {
        "summary": "Classifies texts.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/InferRequest"},
                    "example": _EXAMPLE,
                }
            },
        },
        "responses": {
            "200": {
                "description": "The log-probabilities and labels.",
                "headers": {"Bowsprit-Bundle": {"schema": {"type": "string"}}},
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferResponse"}}},
            },
            **{
                code: _problem(what)
                for code, what in (
                    ("400", "The request is malformed."),
                    ("408", "The request came too slowly."),
                    ("413", "More than the server takes at a time."),
                    ("415", "The body has a Content-Encoding."),
                    ("503", "The bundle is being loaded."),
                )
            },
        },
    }
    ready = {"200": _answer("Ready.", {"type": "object"}), "503": _answer("Not ready.", {"type": "object"})}
    model_ready = {"summary": "Whether the model is ready.", "responses": ready}
    metadata = _get("What the model takes and gives.", "Metadata")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bowsprit",
            "version": VERSION,
            "description": "Raw text in, log-probabilities out: the Open Inference Protocol, version 2. Its "
            "extension for binary tensors, which this document does not describe, is supported too.",
        },
        "paths": {
            f"{model}/infer": {"post": infer},
            f"{of_version}/infer": {**_VERSION, "post": _or_404(infer)},
            model: {"get": metadata},
            of_version: {**_VERSION, "get": _or_404(metadata)},
            f"{model}/ready": {"get": model_ready},
            f"{of_version}/ready": {**_VERSION, "get": _or_404(model_ready)},
            "/v2": {"get": _get("What this server is.", "Object")},
            "/v2/models": {"get": _get("The models' names.", "Object")},
            "/v2/health/live": {"get": _get("Whether the server answers.", "Object")},
            "/v2/health/ready": {"get": {"summary": "Whether to send requests.", "responses": ready}},
            "/openapi.json": {"get": _get("This document.", "Object")},
            "/metrics": {
                "get": {
                    "summary": "Metrics for Prometheus.",
                    "responses": {
                        "200": {
                            "description": "Metrics.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        }
                    },
                }
            },
        },
        "components": {"schemas": _schemas(settings)},
    }


def _schemas(settings: ServerSettings) -> dict[str, object]:
    row = {"type": "array", "items": _TEXT, "maxItems": settings.max_texts}
    texts = [{"type": "array", "items": each, "maxItems": settings.max_texts} for each in (_TEXT, row)]
    text = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": "text"},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "minItems": 1,
                "maxItems": 2,
                "description": "[N] or [N, 1], for N texts.",
            },
            "datatype": {"const": "BYTES"},
            "data": {"anyOf": texts, "description": "The texts, or rows of them."},
        },
    }
    output = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"enum": ["log_probs", "label"]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"enum": ["FP32", "BYTES"]},
            "data": {"type": "array", "items": {"type": ["number", "string"]}},
        },
    }
    return {
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": ["string", "null"]},
                "parameters": {
                    "type": ["object", "null"],
                    "properties": {
                        "top_k": {"type": ["integer", "null"], "minimum": 1},
                        "threshold": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                    },
                },
                "inputs": {"type": "array", "items": text, "minItems": 1, "maxItems": 1},
                "outputs": {
                    "type": ["array", "null"],
                    "uniqueItems": True,
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"enum": ["log_probs", "label"]}},
                    },
                },
            },
        },
        "InferResponse": {
            "type": "object",
            "required": ["model_name", "model_version", "parameters", "outputs"],
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "parameters": {
                    "type": "object",
                    "required": ["bundle_id"],
                    "properties": {"bundle_id": {"type": "string"}},
                },
                "outputs": {"type": "array", "items": output},
            },
        },
        "Metadata": {
            "type": "object",
            "required": ["name", "versions", "platform", "inputs", "outputs", "labels"],
        },
        "Object": {"type": "object"},
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    }


def _or_404(operation: dict[str, Any]) -> dict[str, Any]:
    """The same of a version, which may not be the one that is served."""
    responses = {**operation["responses"], "404": _problem("Another version is served.")}
    return {**operation, "responses": responses}


def _get(summary: str, schema: str) -> dict[str, Any]:
    answer = _answer("It.", {"$ref": f"#/components/schemas/{schema}"})
    return {"summary": summary, "responses": {"200": answer, "503": _problem("The bundle is being loaded.")}}


def _answer(description: str, schema: dict[str, str]) -> dict[str, object]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problem(description: str) -> dict[str, object]:
    return _answer(description, {"$ref": "#/components/schemas/Error"})
