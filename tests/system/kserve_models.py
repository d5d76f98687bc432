"""The fields of KServe's resources, as its own Python package lists them: it ships no schemas."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCALARS: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}

Fields = Mapping[str, str]
"""The type of each field, by its name in a manifest."""


def read_models(package: Path) -> dict[str, Fields]:
    """The fields of each resource and of what is in them, from the package's generated sources."""
    models = {}
    for path in (package / "models").glob("v1beta1_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                tables = {
                    statement.targets[0].id: ast.literal_eval(statement.value)
                    for statement in node.body
                    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
                }
                types, names = tables["openapi_types"], tables["attribute_map"]
                models[node.name] = {names[field]: types[field] for field in types}
    return models


def unknown_fields(models: Mapping[str, Fields], kind: str, value: Any, where: str = "") -> Iterator[str]:
    """What in a value is not of its type; Kubernetes' own types, such as V1Container, are not looked into."""
    if kind in models:
        for name, each in value.items():
            if name not in models[kind]:
                yield f"{where}.{name}: {kind} has no such field"
            else:
                yield from unknown_fields(models, models[kind][name], each, f"{where}.{name}")
    elif kind.startswith("list["):
        for number, each in enumerate(value):
            yield from unknown_fields(models, kind[5:-1], each, f"{where}[{number}]")
    elif kind in SCALARS and (
        not isinstance(value, SCALARS[kind]) or (isinstance(value, bool) and kind != "bool")
    ):
        yield f"{where}: {value!r} is no {kind}"
