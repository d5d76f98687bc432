"""Where records end, against Python's csv module and `bytes.split`."""

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from job.dataset.records import csv_record_ends, csv_record_lines, first_record, split_lines

CSV_BYTES = st.text(alphabet='ab,"\n\r', max_size=30).map(str.encode)


def module_records(data: bytes) -> tuple[list[list[str]], list[int]]:
    """Python's own reading: the rows that are not blank, and the number of \n before each."""
    text = data.decode()
    chunks = io.StringIO(text, newline="")
    reader = csv.reader(chunks)
    rows, lines = [], []
    start = chunks.tell()
    for row in reader:
        if row:
            rows.append(row)
            lines.append(1 + text[:start].count("\n"))
        start = chunks.tell()
    return rows, lines


@settings(max_examples=1000, deadline=None)
@given(CSV_BYTES)
def test_csv_records_end_where_the_csv_module_ends_them(data: bytes) -> None:
    """Otherwise a block could be cut inside a quoted field, or a reject get another row's line."""
    ends, is_open = csv_record_ends(data)
    rows, lines = module_records(data)
    found = csv_record_lines(data, ends, 1).tolist()
    pieces = [data[a:b] for a, b in zip([0, *ends.tolist()], [*ends.tolist(), len(data)], strict=True)]
    records = [piece for piece in pieces if piece.strip(b"\r\n")]
    assert found == lines
    assert [next(csv.reader(io.StringIO(record.decode(), newline=""))) for record in records] == rows
    assert is_open == (open_quotes(data) == 1)


def open_quotes(data: bytes) -> int:
    """A character at a time: 1 where the data end inside a quoted field, else 0."""
    state = "start"
    for character in data.decode():
        if state in ("start", "quote") and character in ",\n\r":
            state = "start"
        elif state == "start":
            state = "quoted" if character == '"' else "plain"
        elif state == "plain":
            state = "start" if character in ",\n\r" else "plain"
        elif state == "quoted":
            state = "quote" if character == '"' else "quoted"
        else:
            state = "quoted" if character == '"' else "plain"
    return int(state == "quoted")


@given(
    st.lists(st.sampled_from([b"a", b"b c", b"", b"\rx", b"x\r"]), max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_lines_keep_their_numbers_and_lose_only_their_terminators(rows: list[bytes], end: bytes) -> None:
    """A wrong number would send the user to the wrong line; a lost character would change the text."""
    if end == b"\n":
        rows = [row.removesuffix(b"\r") for row in rows]
    data = end.join(rows)
    lines, numbers = split_lines(data, 5)
    assert lines.to_pylist() == [row for row in rows if row]
    assert numbers.tolist() == [number for number, row in enumerate(rows, 5) if row]


def test_the_first_record_is_the_first_that_is_not_blank() -> None:
    """Otherwise a file that starts with blank lines would have no header."""
    data = b'\n\r\n"a\nb",c\nd\n'
    assert data[slice(*first_record(data, quoted=True))] == b'"a\nb",c\n'
    assert data[slice(*first_record(data, quoted=False))] == b'"a\n'
    assert first_record(b"\n\n", quoted=False) == (2, 2)
