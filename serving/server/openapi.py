"""The server's interface as an OpenAPI document."""

from importlib.metadata import version

from serving.server.settings import ServerSettings

_TEXTS = {"type": "array", "items": {"type": "string", "pattern": "^[^\\x00]*$"}, "maxItems": 64}


def document(settings: ServerSettings) -> dict[str, object]:
    """OpenAPI 3.1, of this server and its one model."""
    model = f"/v2/models/{settings.model_name}"
    infer = {
        "summary": "Classifies texts.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
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
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bowsprit",
            "version": version("bowsprit"),
            "description": "Raw text in, log-probabilities out: the Open Inference Protocol, version 2.",
        },
        "paths": {
            f"{model}/infer": {"post": infer},
            model: {"get": _get("What the model takes and gives.", "Metadata")},
            f"{model}/ready": {"get": {"summary": "Whether the model is ready.", "responses": ready}},
            "/v2": {"get": _get("What this server is.", "Object")},
            "/v2/models": {"get": _get("The models' names.", "Object")},
            "/v2/health/live": {"get": _get("Whether the server answers.", "Object")},
            "/v2/health/ready": {"get": {"summary": "Whether to send requests.", "responses": ready}},
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
    texts = {**_TEXTS, "maxItems": settings.max_texts}
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
            "data": texts,
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
                "id": {"type": "string"},
                "parameters": {
                    "type": "object",
                    "properties": {
                        "top_k": {"type": "integer", "minimum": 1},
                        "threshold": {"type": "number", "minimum": 0, "maximum": 1},
                    },
                },
                "inputs": {"type": "array", "items": text, "minItems": 1, "maxItems": 1},
                "outputs": {
                    "type": "array",
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


def _get(summary: str, schema: str) -> dict[str, object]:
    answer = _answer("It.", {"$ref": f"#/components/schemas/{schema}"})
    return {"summary": summary, "responses": {"200": answer, "503": _problem("The bundle is being loaded.")}}


def _answer(description: str, schema: dict[str, str]) -> dict[str, object]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problem(description: str) -> dict[str, object]:
    return _answer(description, {"$ref": "#/components/schemas/Error"})
