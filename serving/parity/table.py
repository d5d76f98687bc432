"""Tables for people, as text."""

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from serving.parity.rungs import Rung, by_name

WIDTH = 100
"""Characters; wider than most need, so that a log file's lines are the same as a terminal's."""


def rungs_table(rungs: Sequence[Rung]) -> str:
    """The parity ladder, a line a runtime: its largest difference, and the share of its bound it takes."""
    table = plain_table("parity", "compared on", "largest difference", "of its bound", "")
    for rung in by_name(rungs):
        table.add_row(
            rung.name,
            f"{rung.count:,} {rung.sample}",
            f"{rung.largest_difference:.1e}" if rung.largest_difference else "0",
            f"{rung.share_of_bound:.0%}" if 0 < rung.share_of_bound < 1e6 else "",
            "ok" if rung.holds else "FAILS",
        )
    return render(table)


def plain_table(first: str, *others: str) -> Table:
    """An empty table; numbers stand right, the first column left."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right" if name else "left")
    return table


def render(table: Table) -> str:
    """The table as plain text that ends in a line end."""
    out = StringIO()
    Console(file=out, width=WIDTH, color_system=None, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
