"""Which package may import which, and who may name a device."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("job", "export", "serving")
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which package it reaches for"
            assert node.module is not None
            yield node.module


def packages_imported(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_packages_import_only_what_lies_below_them(path: Path) -> None:
    """If it failed, serving would need torch, or a change in training could break what is deployed."""
    found = packages_imported(path)
    assert "kserve" not in found or path.relative_to(REPOSITORY).parts == ("serving", "kserve_model.py")
    match path.relative_to(REPOSITORY).parts[0]:
        case "serving":
            assert not found & {"job", "export", "pyarrow", "structlog"}
            if path.relative_to(REPOSITORY).parts[1] not in ("settings", "server"):
                assert not found & {"pydantic", "pydantic_settings", "starlette", "uvicorn", "orjson"}
            assert "torch" not in found or path.name == "torchscript.py"
        case "export":
            assert not found & {"job", "pydantic", "pyarrow"}
        case "job":
            assert "export" not in found or path.name == "run.py"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_only_device_names_a_device(path: Path) -> None:
    """If it failed, a stage would run elsewhere than the log says, or break where there is no GPU."""
    if path.name in ("device.py", "settings.py"):  # settings.py holds the default of BOW_DEVICE
        return
    code = ast.unparse(_without_docstrings(ast.parse(path.read_text())))
    assert not re.search(r"['\"]cuda|torch\.cuda|\.cuda\(|['\"]mps['\"]", code)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [
                part
                for part in node.body
                if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return tree


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_is_unpickled(path: Path) -> None:
    """If it failed, a file from elsewhere could run code."""
    assert not packages_imported(path) & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}
    assert "torch.load(" not in path.read_text()
