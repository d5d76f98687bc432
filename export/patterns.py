"""Patterns in RE2's syntax, and whether texts match them."""

from collections.abc import Iterable

from export.graph import Graph


def characters(code_points: Iterable[int]) -> str:
    """Code points as they stand within `[...]` or `[^...]`."""
    return "".join(f"\\x{{{code_point:X}}}" for code_point in code_points)


def at_most_bytes(limit: int) -> str:
    """Matches a text of at most `limit` UTF-8 bytes; RE2 repeats at most 1,000 times, so in steps of that."""
    steps, rest = divmod(limit, 1000)
    return "\\C{0,1000}" * steps + f"\\C{{0,{rest}}}"


def matches_all(graph: Graph, texts: str, pattern: str) -> str:
    """Whether every one of one or more texts matches: bool [1]."""
    return graph.add("ReduceMin", graph.add("RegexFullMatch", texts, pattern=pattern), keepdims=1)


def matches_all_and(graph: Graph, texts: str, pattern: str, condition: str) -> str:
    """Whether every one of any number of texts matches, and a condition, bool [1], holds: bool [1]."""
    # With the condition there is always one to take the least of.
    matches = graph.add("Concat", graph.add("RegexFullMatch", texts, pattern=pattern), condition, axis=0)
    return graph.add("ReduceMin", matches, keepdims=1)
