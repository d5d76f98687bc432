"""What others wrote, such as labels and paths, as it may stand on a terminal."""


def printable(text: str) -> str:
    """The text without what would begin another line, or tell the terminal to do something.

    >>> printable("naïve"), printable("two\\nlines")
    ('naïve', 'two\\\\nlines')
    """
    return text if text.isprintable() else ascii(text)[1:-1]
