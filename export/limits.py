"""How large a model one ONNX file can hold: asked before training, since the answer needs no weights."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from export.token_graph import has_two_lookups
from serving.errors import SettingsError

MAX_BYTES = 2**31 - 1
"""Of a protobuf message, and so of an ONNX file without external data."""
GRAPH_BYTES = 1 << 20
"""What the rest of the file takes at most: its nodes, names and constants."""


def text_model_bytes(
    token_bytes: npt.NDArray[np.int64], labels: Sequence[str], *, has_tables: bool = False
) -> npt.NDArray[np.int64]:
    """The size of `model.onnx`, or a little more, for the first 0 to V words of a vocabulary: [V + 1].

    token_bytes: the UTF-8 bytes of each word, [V].
    has_tables: whether features are found by tables, which are not counted here, rather than by lookups.
    """
    # A word and its id have a tag of one byte each and a number of at most five.
    lookup = _sums(token_bytes + 12)
    number = np.arange(len(lookup))
    has_two = has_two_lookups(number, _sums(token_bytes)) & (not has_tables)
    lookups = lookup * np.where(has_two, 2, 1)
    # Labels stand in a tensor and, as JSON, in the metadata, where a byte takes at most six.
    fixed = GRAPH_BYTES + 4 * len(labels) + sum(16 + 8 * (len(label.encode()) + 12) for label in labels)
    rows = 4 * len(labels) * number  # of A
    return fixed + rows + lookups


def _sums(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of the first 0 to V of them: [V + 1]."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def check_size(
    token_bytes: npt.NDArray[np.int64],
    labels: Sequence[str],
    *,
    table_bytes: int = 0,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Refuses a model that is too large for one ONNX file.

    table_bytes: of what finds n-grams. Raises SettingsError that names the number of features that fits.
    """
    sizes = text_model_bytes(token_bytes, labels, has_tables=table_bytes > 0) + table_bytes
    if sizes[-1] <= max_bytes:
        return
    if table_bytes:
        raise SettingsError(
            f"BOW_MAX_CHAR_NGRAMS: {len(token_bytes):,} features for {len(labels):,} labels make a model of "
            f"about {int(sizes[-1]):,} bytes, and an ONNX file holds at most {max_bytes:,}; set it, "
            "BOW_MAX_WORD_NGRAMS and BOW_MAX_VOCABULARY to about "
            f"{int(len(token_bytes) * max_bytes / sizes[-1]):,} features in all"
        )
    # One word more may make a model smaller: the one with which there is only one lookup.
    fitting = int(np.flatnonzero(sizes <= max_bytes).max(initial=0))
    if fitting < 1:
        raise SettingsError(
            f"BOW_TRAIN_DATA: {len(labels):,} labels are too many for one ONNX file of at most {max_bytes:,} "
            "bytes, whatever the vocabulary; merge labels, or name the right label column in BOW_LABEL_COLUMN"
        )
    raise SettingsError(
        f"BOW_MAX_VOCABULARY: {len(token_bytes):,} words for {len(labels):,} labels make a model of about "
        f"{int(sizes[-1]):,} bytes, and an ONNX file holds at most {max_bytes:,}; "
        f"set BOW_MAX_VOCABULARY={fitting}"
    )
