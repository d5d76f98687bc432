"""How large a model one ONNX file can hold: asked before training, since the answer needs no weights."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.errors import SettingsError

MAX_BYTES = 2**31 - 1
"""Of a protobuf message, and so of an ONNX file without external data."""
GRAPH_BYTES = 1 << 20
"""What the rest of the file takes at most: its nodes, names and constants."""


def text_model_bytes(token_bytes: npt.NDArray[np.int64], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """The size of `model.onnx`, or a little more, for the first 0 to V words of a vocabulary: [V + 1].

    token_bytes: the UTF-8 bytes of each word, [V].
    """
    # A row of A, a word and its id; the two have a tag of one byte each and a number of at most five.
    per_word = 4 * len(labels) + token_bytes + 12
    # Labels stand in a tensor and, as JSON, in the metadata, where a byte takes at most six.
    fixed = GRAPH_BYTES + 4 * len(labels) + sum(16 + 8 * (len(label.encode()) + 12) for label in labels)
    sizes = np.full(len(token_bytes) + 1, fixed, dtype=np.int64)
    sizes[1:] += np.cumsum(per_word)
    return sizes


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
    sizes = text_model_bytes(token_bytes, labels) + table_bytes
    if sizes[-1] <= max_bytes:
        return
    if table_bytes:
        raise SettingsError(
            f"BOW_MAX_CHAR_NGRAMS: {len(token_bytes):,} features for {len(labels):,} labels make a model of "
            f"about {int(sizes[-1]):,} bytes, and an ONNX file holds at most {max_bytes:,}; set it, "
            "BOW_MAX_WORD_NGRAMS and BOW_MAX_VOCABULARY to about "
            f"{int(len(token_bytes) * max_bytes / sizes[-1]):,} features in all"
        )
    fitting = int(np.searchsorted(sizes, max_bytes, side="right")) - 1
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
