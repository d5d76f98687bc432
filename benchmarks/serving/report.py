"""The results as tables, in Markdown and for a terminal."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving.in_process import BATCH, NAMES
from benchmarks.serving.servers import BARE, KSERVE

WIDTH = 120
"""Characters, where the output is no terminal."""
FEWEST = 1000
"""Answers of a round below which its p99.9 says nothing."""
COLUMNS = (
    *("texts", "connections", "server", "requests/s", "texts/s", "p50, ms", "p99, ms", "p99.9, ms"),
    *("CPU, µs", "× KServe SDK", "× bare app"),
)
IN_PROCESS_COLUMNS = ("called", "one text, µs", f"list of {BATCH}, texts/s", "times fastText's")

Round = Mapping[str, float]
"""What one server's turn came to: `requests`, `rate` in requests a second, and seconds."""


def rows(loads: Sequence[Mapping[str, Any]], *, spread: bool = True) -> list[list[str]]:
    """A line a load and server; `spread`: with the slowest and fastest round."""
    found = []
    for load in loads:
        for name, rounds in load["contenders"].items():
            found.append(
                [
                    str(load["texts"]),
                    str(load["connections"]),
                    name,
                    f"{_median(rounds, 'rate'):,.0f}" + (_spread(rounds) if spread else ""),
                    f"{load['texts'] * _median(rounds, 'rate'):,.0f}",
                    *(f"{1e3 * _median(rounds, which):.2f}" for which in ("p50", "p99")),
                    _p999(rounds),
                    f"{1e6 * _median(rounds, 'cpu'):,.0f}",
                    *(_ratio(rounds, load["contenders"].get(peer)) for peer in (KSERVE, BARE)),
                ]
            )
    return found


def in_process_rows(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """A line for what was called; empty where that was not measured."""
    *_, peer = NAMES
    return [
        [
            name,
            f"{1e6 * statistics.median(each[name]['one'] for each in rounds):.1f}",
            f"{statistics.median(BATCH / each[name]['list'] for each in rounds):,.0f}",
            f"{statistics.median(each[peer]['list'] / each[name]['list'] for each in rounds):.2f}",
        ]
        for name in NAMES
        if rounds
    ]


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report."""
    machine, data = results["machine"], results["data"]
    lines = [
        f"Measured on {machine['cpu']}, {machine['num_threads']} cores, Python {machine['python']}, with "
        f"{results['generator']}.",
        "",
        f"    {results['command']}",
        "",
        f"{data['name']}: {data['labels']} labels, {data['features']:,} features"
        f"{'' if data['recipe'] is None else ' by ' + data['recipe']}, texts of {data['characters']:.0f} "
        f"characters on average. {results['rounds']} rounds of {results['seconds']} s for each server and "
        "load; medians of the rounds, with the slowest and fastest, and the medians of the ratios round by "
        "round. `CPU` is what a request takes of the server's processor time.",
        "",
        *_markdown_table(COLUMNS, rows(results["loads"]), left={2}),
        "",
    ]
    if results["in_process"]:
        lines += [
            "In process, on one thread:",
            "",
            *_markdown_table(IN_PROCESS_COLUMNS, in_process_rows(results["in_process"]), left={0}),
            "",
        ]
    for name, versions in results["versions"].items():
        lines.append(f"- {name}: " + ", ".join(f"{package} {each}" for package, each in versions.items()))
    return "\n".join([*lines, ""])


def show(results: Mapping[str, Any], console: Console) -> None:
    """The tables on a terminal."""
    console.print(_table(COLUMNS, rows(results["loads"], spread=False), left={2}, group=1))
    if results["in_process"]:
        console.print(_table(IN_PROCESS_COLUMNS, in_process_rows(results["in_process"]), left={0}))


def _markdown_table(columns: Sequence[str], lines: Iterable[Sequence[str]], *, left: set[int]) -> list[str]:
    sides = " | ".join("---" if place in left else "---:" for place, _ in enumerate(columns))
    return [f"| {' | '.join(cells)} |" for cells in (columns, [sides], *lines)]


def _table(
    columns: Sequence[str], lines: Iterable[Sequence[str]], *, left: set[int], group: int | None = None
) -> Table:
    """With a rule wherever the column `group` changes."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place in left else "right")
    before = None
    for cells in lines:
        if group is not None and before not in (None, cells[group]):
            table.add_section()
            table.add_row()
        before = cells[group] if group is not None else None
        table.add_row(*cells)
    return table


def _median(rounds: Sequence[Round], which: str) -> float:
    return float(statistics.median(each[which] for each in rounds))


def _spread(rounds: Sequence[Round]) -> str:
    rates = [each["rate"] for each in rounds]
    return f" ({min(rates):,.0f} to {max(rates):,.0f})"


def _p999(rounds: Sequence[Round]) -> str:
    if min(each["requests"] for each in rounds) < FEWEST:
        return ""
    return f"{1e3 * _median(rounds, 'p999'):.2f}"


def _ratio(rounds: Sequence[Round], peer: Sequence[Round] | None) -> str:
    """The median of the ratios round by round, since a slow moment of the machine meets both."""
    if peer is None:
        return ""
    ratios = (one["rate"] / other["rate"] for one, other in zip(rounds, peer, strict=True))
    return f"{statistics.median(ratios):.2f}"
