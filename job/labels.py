"""What may be wrong with the labels of the data: reasons to look at it, and none to refuse it."""

from collections import defaultdict
from collections.abc import Sequence

from job.inputs import Inputs


def unseen(inputs: Inputs) -> dict[str, list[str]]:
    """By use, the labels that the training data lacks; uses without any are left out."""
    known = set(inputs.label_names)
    found = {
        use: sorted(name for name in corpus.label_names if name not in known)
        for use, corpus in inputs.corpora.items()
    }
    return {use: names for use, names in found.items() if names}


def alike(names: Sequence[str]) -> list[list[str]]:
    """Those that case, or whitespace at their ends and its width, alone tells apart: in groups.

    >>> alike(["ham", "spam", "spam ", "Spam"])
    [['spam', 'spam ', 'Spam']]
    """
    groups = defaultdict(list)
    for name in names:
        groups[" ".join(name.split()).casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]
