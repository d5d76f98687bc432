"""The README's tables, made from the code: `make docs` writes them, and a test holds them to it.

Each table stands between `<!-- name -->` and `<!-- end -->`.
"""

import ast
import inspect
import json
import re
import textwrap
from pathlib import Path

from benchmarks import report
from job.metrics import LabelMetrics
from job.setting_kinds import env_name
from job.settings import Settings
from serving.bundle import FileNames, MetricsSummary
from serving.errors import ExitCode
from serving.settings.kinds import kind, shown

README = Path(__file__).parents[1] / "README.md"
MARKED = re.compile(r"(<!-- (settings|exit codes|files|metrics|benchmark) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """The text with every marked table made anew."""
    tables = {"settings": settings(), "exit codes": exit_codes(), "files": files(), "metrics": metrics()}
    tables["benchmark"] = benchmark()
    return MARKED.sub(lambda match: f"{match[1]}{tables[match[2]]}{match[3]}", text)


def benchmark() -> str:
    """The last benchmark that was kept, in short."""
    results = json.loads((README.parent / "benchmarks" / "results" / "results.json").read_text())
    names = ("bowsprit", "bowsprit, small steps", "fasttext 5 epochs", "fasttext 25 epochs", "vw 5 passes")
    return report.summary(results, (*names, "vw 20 passes", "sklearn sgd", "sklearn logistic"))


def settings() -> str:
    """Every setting with its type, default and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        shown_default = shown(env_name(name), field.default)
        default = (
            "required"
            if field.is_required()
            else shown_default
            if field.default is None
            else f"`{shown_default}`"
        )
        rows.append((f"`{env_name(name)}`", kind(field), default, field.description or ""))
    return _table(("variable", "type", "default", "meaning"), rows)


def exit_codes() -> str:
    """Every exit code with its meaning."""
    return _table(("code", "meaning"), [(str(code.value), code.meaning) for code in ExitCode])


def files() -> str:
    """Every file of a bundle."""
    documented = _attribute_docstrings(FileNames)
    return _table(
        ("file", "what it holds"),
        [(f"`{name}`", documented[field]) for field, name in vars(FileNames()).items()],
    )


def metrics() -> str:
    """Every metric, of a data set and of a label."""
    rows = [
        (f"`{name}`", of, meaning)
        for struct, of in ((MetricsSummary, "a data set"), (LabelMetrics, "a label"))
        for name, meaning in _attribute_docstrings(struct).items()
    ]
    return _table(("metric", "of", "meaning"), rows)


def _attribute_docstrings(of: type) -> dict[str, str]:
    """The strings that stand beneath the fields of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(below.value, ast.Constant)
            found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(map(_cell, row)) + " |\n" for row in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
