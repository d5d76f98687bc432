"""The results as tables in Markdown."""

import statistics
from collections.abc import Iterator
from typing import Any

COLUMNS = (
    "contender",
    "file to model, s",
    "times Bowsprit's",
    "of that training, s",
    "proof, s",
    "accuracy",
    "peak memory, MB",
    "one text, µs",
    "texts/s by 256",
)
OWN = "bowsprit"


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    machine = results["machine"]
    lines = [
        f"Measured on {machine['num_threads']} threads, {machine['cpu']}, Python {machine['python']}.",
        "",
        f"    {results['command']}",
        "",
        "`file to model` is the median of the rounds, with the fastest and slowest; `times Bowsprit's` is",
        "the median of the ratios round by round. `proof` comes on top: it is what checks a bundle before it",
        "is published, and the others have no such thing. The memory is that of training.",
        "",
        *results.get("notes", []),
        "",
    ]
    for name, contenders in results["tasks"].items():
        lines += [f"### {name}", "", *_table(contenders), ""]
    if results["scale"]:
        lines += ["### Time against tokens", "", *_scale_table(results["scale"]), ""]
    lines += [*_limits(results["limits"]), ""]
    return "\n".join(lines)


def _table(contenders: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "| --- " * len(COLUMNS) + "|"
    own = contenders.get(OWN)
    for name, rounds in contenders.items():
        seconds = [each["file_to_model"] for each in rounds]
        ratio = f"{_ratio(rounds, own):.1f}" if own else ""
        training = _median(each["stages"].get("train") for each in rounds)
        proof = _median(each["stages"].get("verify") for each in rounds)
        cells = (
            name,
            f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
            ratio,
            "" if training is None else f"{training:.2f}",
            "" if proof is None else f"{proof:.2f}",
            f"{statistics.median(each['accuracy'] for each in rounds):.4f}",
            f"{max(each['peak_memory'] for each in rounds) / 1e6:,.0f}",
            f"{1e6 * min(each['single_text'] for each in rounds):,.0f}",
            f"{max(each['texts_per_second'] for each in rounds):,.0f}",
        )
        yield "| " + " | ".join(cells) + " |"


def _ratio(rounds: list[dict[str, Any]], own: list[dict[str, Any]]) -> float:
    """The median of the ratios round by round, since a slow moment of the machine meets both."""
    pairs = zip(rounds, own, strict=False)
    return float(statistics.median(one["file_to_model"] / other["file_to_model"] for one, other in pairs))


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _scale_table(scale: list[dict[str, Any]]) -> Iterator[str]:
    names = list(scale[0]["contenders"])
    yield "| tokens | " + " | ".join(names) + " | Bowsprit's training, ns a token and epoch |"
    yield "| --- " * (len(names) + 2) + "|"
    for row in scale:
        cells = [f"{row['contenders'][name][0]['file_to_model']:.2f} s" for name in names]
        speed = row["contenders"].get(OWN, [{"stages": {}}])[0]["stages"].get("tokens_per_second")
        yield f"| {row['tokens']:.0e} | " + " | ".join(cells) + f" | {1e9 / speed:.1f} |" if speed else " |"


def _limits(limits: dict[str, Any]) -> Iterator[str]:
    fetched = ", ".join(
        f"{nanoseconds:.1f} ns from {int(size) / 1e6:,.2f} MB"
        for size, nanoseconds in limits["nanoseconds_per_row_by_table_bytes"].items()
    )
    yield (
        f"What the machine allows: {limits['copied_bytes_per_second'] / 1e9:.1f} GB/s copied; "
        f"a row of two float32 fetched from places in no order: {fetched}."
    )


def summary(results: dict[str, Any], names: tuple[str, ...]) -> str:
    """A line a task: seconds from file to model and accuracy of some contenders."""
    lines = ["| data | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for task, contenders in results["tasks"].items():
        cells = []
        for name in names:
            rounds = contenders.get(name)
            if rounds is None:
                cells.append("")
                continue
            seconds = statistics.median(each["file_to_model"] for each in rounds)
            accuracy = statistics.median(each["accuracy"] for each in rounds)
            cells.append(f"{seconds:.2f} s, {accuracy:.4f}")
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
