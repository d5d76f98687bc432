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
SCALE_LABELS = 2
"""Of the tasks whose time is shown against their tokens."""


def least_bytes_per_token(num_labels: int) -> int:
    """What a step fetches for a token at least: an id and a row of A^T, a row number and its gradient."""
    return 2 * (4 + 4 * num_labels)


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
        "is published, and the others have no such thing. The memory is the most that the process held, in",
        "the proof too; what training in memory must hold is ids (4 bytes a token), offsets (8 a row),",
        "weights, the optimizer's state, and what the process holds before it begins, the libraries. In",
        "`Time against tokens` the sizes take turns; the peers run once, Bowsprit in every round.",
        "",
        *results.get("notes", []),
        "",
    ]
    for name, contenders in results["tasks"].items():
        lines += [f"### {name}", "", *_table(contenders), ""]
    failed = results.get("failed", {})
    lines += [*(f"- {which} failed: {reason}" for which, reason in failed.items()), *([""] if failed else [])]
    if results["scale"]:
        lines += ["### Time against tokens", "", *_scale_table(results["scale"]), ""]
    lines += [*_limits(results["limits"]), "", *_gpu(results), ""]
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
            _spread(seconds, ".2f"),
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
    names = list(dict.fromkeys(name for row in scale for name in row["contenders"]))
    own = (
        "training, ns a token and epoch",
        "times the smallest's",
        "peak memory, MB",
        "of what it must hold",
    )
    yield "| tokens | " + " | ".join([*names, *(f"{OWN}: {column}" for column in own)]) + " |"
    yield "| --- " * (len(names) + len(own) + 1) + "|"
    smallest = scale[0]["contenders"].get(OWN)
    for row in scale:
        contenders = row["contenders"]
        cells = [
            f"{statistics.median(each['file_to_model'] for each in contenders[name]):.2f} s"
            if name in contenders
            else "failed"
            for name in names
        ]
        if smallest is None:
            yield f"| {row['tokens']:.0e} | " + " | ".join([*cells, *[""] * len(own)]) + " |"
            continue
        rounds = contenders[OWN]
        times = [_training_time(each) for each in rounds]
        growth = [
            _training_time(one) / _training_time(other) for one, other in zip(rounds, smallest, strict=True)
        ]
        least = max(each["stages"]["least_memory"] + each["memory_before"] for each in rounds)
        memory = [each["peak_memory"] for each in rounds]
        cells += [
            _spread(times, ".1f"),
            _spread(growth, ".2f"),
            f"{statistics.median(memory) / 1e6:,.0f}",
            f"{_spread([each / least for each in memory], '.2f')} of {least / 1e6:,.0f}",
        ]
        yield f"| {row['tokens']:.0e} | " + " | ".join(cells) + " |"


def _spread(values: list[float], form: str) -> str:
    """The median, and the smallest and largest."""
    middle, *ends = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({' to '.join(ends)})"


def _training_time(figures: dict[str, Any]) -> float:
    """Nanoseconds a token and epoch."""
    return float(1e9 / figures["stages"]["tokens_per_second"])


def _gpu(results: dict[str, Any]) -> Iterator[str]:
    """A line a task that was trained on a GPU, or that there was none."""
    found = results["gpu"]
    if "not_measured" in found:
        yield f"On a GPU: not measured ({found['not_measured']})."
        return
    yield f"On {found['name']}, which copies {found['copied_bytes_per_second'] / 1e9:,.0f} GB/s:"
    yield ""
    yield "| task | tokens/s in training | times the CPU's | least GB/s | share of what it copies |"
    yield "| --- | --- | --- | --- | --- |"
    tasks = [(name, results["labels"][name], contenders) for name, contenders in results["tasks"].items()]
    tasks += [(f"{each['tokens']:.0e} tokens", SCALE_LABELS, each["contenders"]) for each in results["scale"]]
    for name, num_labels, contenders in tasks:
        if (rounds := contenders.get(f"{OWN}, GPU")) is None:
            continue
        speed = _speed(rounds)
        times = f"{speed / _speed(own):.1f}" if (own := contenders.get(OWN)) else ""
        moved = speed * least_bytes_per_token(num_labels)
        share = moved / found["copied_bytes_per_second"]
        yield f"| {name} | {speed:,.0f} | {times} | {moved / 1e9:,.1f} | {share:.1%} |"


def _speed(rounds: list[dict[str, Any]]) -> float:
    """Tokens a second in training, the median of the rounds."""
    return float(statistics.median(each["stages"]["tokens_per_second"] for each in rounds))


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
