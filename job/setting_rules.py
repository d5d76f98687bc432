"""The rules that tie settings together: what each says on its own is right, and together it is not."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from job.features.specification import feature_spec
from job.setting_kinds import TUTORIAL, env_name
from job.training import class_weights
from serving.storage.store import is_url, url_problem

if TYPE_CHECKING:
    from job.settings import Settings


def disagreements(settings: "Settings") -> list[str]:
    """One line for each rule that the settings break: the variable to change, and a value that works."""
    rules = (_locations, _data, _tutorial, _vocabulary, _ngrams, _training)
    return [problem for rule in rules for problem in rule(settings)]


def _locations(settings: "Settings") -> Iterator[str]:
    for name in ("train_data", "validation_data", "test_data", "output_dir", "checkpoint_dir"):
        location = getattr(settings, name)
        if is_url(location) and (problem := url_problem(location)) is not None:
            yield f"{env_name(name)}: {problem}"


def _data(settings: "Settings") -> Iterator[str]:
    if settings.validation_data is not None and settings.validation_split > 0:
        yield (
            f"BOW_VALIDATION_SPLIT: {settings.validation_split} asks for a split, and BOW_VALIDATION_DATA "
            "names validation data; set BOW_VALIDATION_SPLIT=0, or unset BOW_VALIDATION_DATA"
        )
    if settings.patience is not None and settings.validation_data is None and not settings.validation_split:
        yield (
            "BOW_PATIENCE: it goes by the accuracy on validation data, and there is none; set "
            "BOW_VALIDATION_SPLIT=0.1, or name it in BOW_VALIDATION_DATA"
        )
    for name, limit in (("min_accuracy", settings.min_accuracy), ("max_drop", settings.max_drop)):
        if limit is not None and settings.test_data is None and settings.train_data != TUTORIAL:
            yield (
                f"{env_name(name)}: {limit} limits the accuracy on test data, and BOW_TEST_DATA names "
                f"none; set BOW_TEST_DATA=data/test.tsv, or unset {env_name(name)}"
            )
    for name in ("text_column", "label_column", "weight_column"):
        column = getattr(settings, name)
        if settings.data_format == "fasttext" and column is not None:
            yield (
                f"{env_name(name)}: {column!r} names a column, and fastText files have none; "
                "unset it, or set BOW_DATA_FORMAT=auto"
            )


def _tutorial(settings: "Settings") -> Iterator[str]:
    if settings.train_data != TUTORIAL:
        return
    if not feature_spec(settings).is_plain:
        yield (
            "BOW_TRAIN_DATA: the tutorial has features of its own; unset BOW_TOKENIZER, BOW_LOWERCASE, "
            "BOW_WORD_NGRAMS, BOW_CHAR_NGRAMS, BOW_WEIGHTING and BOW_NORMALIZE, or name another data set"
        )
    if settings.min_count > 1 or settings.max_vocabulary is not None or settings.vocabulary_file is not None:
        yield (
            "BOW_TRAIN_DATA: the tutorial has a vocabulary of its own; unset BOW_MIN_COUNT, "
            "BOW_MAX_VOCABULARY and BOW_VOCABULARY_FILE, or name another data set"
        )
    names = ["weight_column"]
    if settings.validation_data is None and settings.test_data is None:
        names += ["text_column", "label_column"]
        if settings.data_format != "auto":
            yield (
                f"BOW_DATA_FORMAT: {settings.data_format} is a format of files, and the tutorial is none; "
                "set BOW_DATA_FORMAT=auto, or name another data set in BOW_TRAIN_DATA"
            )
    for name in names:
        column = getattr(settings, name)
        if column is not None:
            yield (
                f"{env_name(name)}: {column!r} names a column, and the tutorial has none; "
                "unset it, or name another data set in BOW_TRAIN_DATA"
            )


def _vocabulary(settings: "Settings") -> Iterator[str]:
    if settings.vocabulary_file is None:
        return
    if settings.max_vocabulary is not None:
        yield (
            f"BOW_MAX_VOCABULARY: {settings.max_vocabulary} limits a vocabulary that BOW_VOCABULARY_FILE "
            "fixes; unset one of the two"
        )
    if settings.min_count > 1:
        yield (
            f"BOW_MIN_COUNT: {settings.min_count} limits a vocabulary that BOW_VOCABULARY_FILE fixes; "
            "set BOW_MIN_COUNT=1, or unset BOW_VOCABULARY_FILE"
        )
    if settings.word_ngrams != "1" or settings.char_ngrams != "off":
        yield (
            "BOW_VOCABULARY_FILE: it names tokens alone, and n-grams are asked for; unset it, or set "
            "BOW_WORD_NGRAMS=1 and BOW_CHAR_NGRAMS=off"
        )


def _ngrams(settings: "Settings") -> Iterator[str]:
    if settings.tokenizer == "characters" and settings.char_ngrams != "off":
        yield (
            "BOW_CHAR_NGRAMS: with BOW_TOKENIZER=characters each code point is a token; "
            "set BOW_CHAR_NGRAMS=off, and BOW_WORD_NGRAMS=1-3 for several of them"
        )
    if settings.char_ngrams != "off" and settings.char_ngrams[-1] < settings.char_ngrams[0]:
        yield (
            f"BOW_CHAR_NGRAMS: {settings.char_ngrams} begins above its end; "
            f"set BOW_CHAR_NGRAMS={settings.char_ngrams[::-1]}"
        )


def _training(settings: "Settings") -> Iterator[str]:
    try:
        class_weights.given(settings.class_weights)
    except ValueError as error:
        yield (
            f"BOW_CLASS_WEIGHTS: expected none, balanced, or a JSON object of numbers above 0; found "
            f"{settings.class_weights[:80]!r} ({error}); set for example BOW_CLASS_WEIGHTS=balanced"
        )
    if settings.require_gpu and settings.device == "cpu":
        yield (
            "BOW_DEVICE: 'cpu' is not a GPU, and BOW_REQUIRE_GPU=true asks for one; "
            "set BOW_DEVICE=cuda:0, or BOW_REQUIRE_GPU=false"
        )
