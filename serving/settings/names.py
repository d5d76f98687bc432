"""The names of settings' variables: one that is misspelt is refused. It needs no pydantic, for `health`."""

import difflib
from collections.abc import Collection, Iterable


def unknown_names(
    names: Iterable[str],
    known: Collection[str],
    prefix: str,
    *,
    command: str,
    others: Collection[str] = (),
) -> list[str]:
    """A line for each of the names that begins with the prefix, in any case, and is not known.

    command: what lists the settings with --help.
    others: longer prefixes, whose variables are not these settings' to judge.
    """
    return [
        _unknown(name, known, prefix, command)
        for name in names
        if name.upper().startswith(prefix)
        and not name.upper().startswith(tuple(others))
        and name not in known
    ]


def _unknown(name: str, known: Iterable[str], prefix: str, command: str) -> str:
    # The prefix is left out: with it, every name would look much like every other.
    nearest = difflib.get_close_matches(
        name.upper().removeprefix(prefix), [other.removeprefix(prefix) for other in known], n=1, cutoff=0.5
    )
    advice = f"did you mean {prefix}{nearest[0]}?" if nearest else "unset it"
    return f"{name}: there is no such setting; {advice} ({command} --help lists all settings)"
