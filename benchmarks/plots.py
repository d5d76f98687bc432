"""The results as plots: accuracy.png (time against accuracy) and scale.png (time against tokens)."""

import math
import statistics
from pathlib import Path
from typing import Any

COLORS = {"bowsprit": "tab:red", "fasttext": "tab:blue", "vw": "tab:green", "sklearn": "tab:gray"}
MARKERS = "osD^v"
SHOWN_BELOW_BEST = 0.1
"""Accuracy that the panels reach down to; what is worse stands at the lower edge, with an arrow."""


def plot(results: dict[str, Any], folder: Path) -> None:
    """Writes the plots that the results have data for."""
    import matplotlib as mpl

    mpl.use("Agg")
    if results["tasks"]:
        _accuracy(results["tasks"], folder / "accuracy.png")
    if results["scale"]:
        _scale(results["scale"], folder / "scale.png")


def _accuracy(tasks: dict[str, Any], path: Path) -> None:
    """A panel a task."""
    from matplotlib import pyplot as plt

    columns = min(2, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, panels = plt.subplots(rows, columns, figsize=(5 * columns, 3.4 * rows + 0.8), squeeze=False)
    for panel in panels.flat[len(tasks) :]:
        panel.set_axis_off()
    names = list(dict.fromkeys(name for contenders in tasks.values() for name in contenders))
    handles = {}
    for panel, (name, contenders) in zip(panels.flat, tasks.items(), strict=False):
        points = {
            contender: [
                statistics.median(each[figure] for each in rounds) for figure in ("file_to_model", "accuracy")
            ]
            for contender, rounds in contenders.items()
        }
        lowest = max(accuracy for _, accuracy in points.values()) - SHOWN_BELOW_BEST
        for contender, (seconds, accuracy) in points.items():
            style = _style(contender, names)
            (handles[contender],) = panel.plot(seconds, max(accuracy, lowest), linestyle="", **style)
            if accuracy < lowest:
                panel.annotate("\u2193", (seconds, lowest), (5, 3), textcoords="offset points")
        panel.set(title=name, xscale="log", xlabel="seconds from file to model", ylabel="test accuracy")
        panel.margins(0.1)
        panel.grid(alpha=0.3)
    figure.tight_layout(rect=(0, 0.8 / figure.get_figheight(), 1, 1))
    figure.legend([handles[name] for name in names], names, loc="lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _scale(scale: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    tokens = [row["tokens"] for row in scale]
    names = list(scale[0]["contenders"])
    for name in names:
        seconds = [
            statistics.median(each["file_to_model"] for each in row["contenders"][name]) for row in scale
        ]
        axes.plot(tokens, seconds, label=name, **_style(name, names))
    axes.set(xscale="log", yscale="log", xlabel="training tokens", ylabel="seconds from file to model")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _style(contender: str, contenders: list[str]) -> dict[str, Any]:
    """A colour for each program, and a marker for each of its settings."""
    family = contender.replace(",", "").split()[0]
    own = [name for name in contenders if name.replace(",", "").split()[0] == family]
    return {"color": COLORS[family], "marker": MARKERS[own.index(contender) % len(MARKERS)]}
