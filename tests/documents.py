"""The documents' tables, made from the code: `make docs` writes them, and a test holds them to it.

Each table stands between `<!-- name -->` and `<!-- end -->`.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import report
from job.settings import Settings
from job.training.metrics import LabelMetrics
from serving.bundle import FileNames, MetricsSummary
from serving.errors import ExitCode
from serving.server.metrics import Metrics
from serving.server.settings import ServerSettings
from serving.settings import kinds

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
SERVING = REPOSITORY / "docs" / "serving" / "README.md"


def with_tables(text: str) -> str:
    """The text with every marked table made anew."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def benchmark() -> str:
    """The last benchmark that was kept, in short."""
    results = json.loads((REPOSITORY / "benchmarks" / "results" / "results.json").read_text())
    names = ("bowsprit", "bowsprit, small steps", "fasttext 5 epochs", "fasttext 25 epochs", "vw 5 passes")
    return report.summary(results, (*names, "vw 20 passes", "sklearn sgd", "sklearn logistic"))


def settings(of: kinds.Settings) -> str:
    """Every setting with its type, default and meaning."""
    rows = []
    for name, field in of.model_fields.items():
        variable = kinds.env_name(of, name)
        shown_default = kinds.shown(variable, field.default)
        default = (
            "required"
            if field.is_required()
            else shown_default
            if field.default is None
            else f"`{shown_default}`"
        )
        rows.append((f"`{variable}`", kinds.kind(field), default, field.description or ""))
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


def server_metrics() -> str:
    """Every metric of the server, as Prometheus gets it."""
    rows = []
    for metric in Metrics().families():
        suffix = "_total" if metric.type == "counter" else ""
        rows.append((f"`{metric.name}{suffix}`", metric.type, metric.documentation))
    return _table(("metric", "type", "meaning"), rows)


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


TABLES: dict[str, Callable[[], str]] = {
    "settings": partial(settings, Settings),
    "exit codes": exit_codes,
    "files": files,
    "metrics": metrics,
    "benchmark": benchmark,
    "server settings": partial(settings, ServerSettings),
    "server metrics": server_metrics,
}
MARKED = re.compile(rf"(<!-- ({'|'.join(TABLES)}) -->\n).*?(<!-- end -->)", re.DOTALL)

if __name__ == "__main__":
    for document in (README, SERVING):
        document.write_text(with_tables(document.read_text()))
