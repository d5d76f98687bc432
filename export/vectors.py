"""Steps on vectors of whole numbers that take more than one operator, or one that is hard to read."""

from collections.abc import Iterator, Sequence

import numpy as np

from export.graph import Graph


def places_of(graph: Graph, vector: str) -> str:
    """The places of a vector, by number from 0: int64 [n]."""
    return graph.add("Range", graph.constant(0), graph.add("Size", vector), graph.constant(1))


def where(graph: Graph, vector: str) -> str:
    """Where it is not zero: int64 [W]."""
    return graph.add("Reshape", graph.add("NonZero", vector), graph.constant([-1]))


def after(graph: Graph, first: int, vector: str) -> str:
    """The value before each, and before the first one this."""
    return graph.add("Pad", vector, graph.constant([1, -1]), graph.constant(first))


def part(graph: Graph, vector: str, start: int, end: int | None = None) -> str:
    """`vector[start:end]`."""
    last = np.iinfo(np.int64).max if end is None else end
    return graph.add("Slice", vector, graph.constant([start]), graph.constant([last]))


def joined(graph: Graph, vectors: Sequence[str]) -> str:
    """One vector after the other."""
    return vectors[0] if len(vectors) == 1 else graph.add("Concat", *vectors, axis=0)


def put(graph: Graph, vector: str, parts: Sequence[tuple[str, str]]) -> str:
    """The vector with the parts' values at their places, no two of which are the same."""
    places, values = (joined(graph, each) for each in zip(*parts, strict=True))
    return graph.add("ScatterElements", vector, places, values, axis=0)


def sums_until(graph: Graph, terms: str, *places: str, exclusive: int) -> Iterator[str]:
    """The sums of all terms until each of the places, with or without its own: [W] for each of the places."""
    sums = graph.add("CumSum", terms, graph.constant(0), exclusive=exclusive)
    return (graph.take(sums, some) for some in places)
