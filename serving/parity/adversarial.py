"""Texts that break tokenizers and sums: what every runtime must agree on, whatever the training data."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from serving.features.specification import WHITESPACE

LOOK_ALIKES = (0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x180E, 0x00AD, 0x034F, 0x2800, 0x3164, 0x7F, 0x1B)
"""Code points that look or sound like whitespace, and separate nothing."""

REPETITIONS = 2_000
LONGEST = 100_000
MAX_CHARACTERS = 2_000_000
"""Of a text that repeats words, which may be long: where no spaces are written, whole texts are one."""
BATCH_SIZES = (0, 1, 7, 256)


def adversarial_texts(vocabulary: Sequence[str]) -> list[str]:
    """The texts, made from the first and the last words of the vocabulary; the longest comes last."""
    words = [*vocabulary[:8], *vocabulary[-8:]] or ["word"]
    first, last = words[0], words[-1]
    between = [first + chr(point) + last for point in (*WHITESPACE, *LOOK_ALIKES)]
    around = [chr(point) + first + chr(point) for point in (*WHITESPACE, *LOOK_ALIKES)]
    return [
        "",
        " ",
        "\t\n\u3000 \u2029",
        "".join(map(chr, WHITESPACE)),
        "".join(map(chr, WHITESPACE)).join(words),
        "\U0010fffd no \ue000 known \uffff words",
        first,
        f"{first} {first} {last}",
        f"  {first}  {last}  ",
        first.upper() + " " + first.lower() + " " + last.title(),
        *(word[:1].lower() + word[1:].upper() for word in words),
        first + last,
        "".join(words),
        *between,
        *around,
        *(word + mark for word in words for mark in ("\u0301", "\u0323\u0307", "\ufe0f", "\u200d", ".", ",")),
        f"שלום {first} עולם \u200f{last}\u200e \u202b{first}\u202c مرحبا",
        f"👩\u200d👩\u200d👧 {first}👍🏽 🇪🇸 {last} \U0001f9d1\u200d\U0001f680",
        f"{first}\u0001\u0008\u007f{last} \ud7ff{first} \U0010ffff{last}",
        "e\u0301 é \u1e69 s\u0323\u0307 ﬁ İ ß ẞ ς Σ ǆ",
        "x" * 10_000 + " " + last,
        " ".join(["x" * 300] * 3 + words),
        _repeated([first], REPETITIONS, separator=" "),
        _repeated([first, last], 2 * REPETITIONS, separator="\t"),
        _repeated(vocabulary or words, LONGEST, separator=" "),
    ]


def _repeated(words: Sequence[str], number: int, *, separator: str) -> str:
    """So many words, taken in turn, or as few as make a text that is long enough."""
    some = list[str]()
    left = MAX_CHARACTERS
    for word in islice(cycle(words), number):
        some.append(word)
        left -= len(word) + len(separator)
        if left < 0:
            break
    return separator.join(some)


def in_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in batches of 0, 1, 7 and 256, and so on; every batch is full but the last."""
    start = 0
    for size in cycle(BATCH_SIZES):
        if start >= len(texts):
            return
        yield list(texts[start : start + size])
        start += size
