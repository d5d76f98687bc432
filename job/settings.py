"""Every setting of the job: its environment variable, default, range and meaning.

`--help`, the error messages and the manifest are made from the fields below; `job.environment` reads them.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from job.setting_kinds import (
    PREFIX,
    Count,
    DataPath,
    FolderOrUrl,
    LocalPath,
    Mark,
    OnlyLocal,
    Shaping,
    Share,
    Tolerance,
)
from job.setting_rules import disagreements
from serving.settings.kinds import Form, unwrapped

FLOAT_LIMIT = 1e37
"""What the optimizers can multiply by 10 in float32, as adam's first step does."""


class Settings(BaseSettings):
    """What one run does. Read from `BOW_*` variables by `job.environment`, and never changed afterwards."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True, regex_engine="python-re"
    )

    train_data: Annotated[DataPath, Field(examples=["data/train.tsv", "tutorial"])]
    """The labelled texts to learn from, or the word `tutorial` for the PyTorch tutorial's four sentences,
    which are built in. Files may be compressed (.gz, .zst). What a URL such as s3://bucket/data names is
    copied to BOW_CACHE_DIR, or for the run alone to a temporary folder."""

    validation_data: DataPath | None = None
    """Labelled texts that are not learned from; the model is scored on them after each epoch."""

    test_data: DataPath | None = None
    """Labelled texts on which the finished model is scored, once."""

    data_format: Shaping[Literal["auto", "tsv", "csv", "jsonl", "parquet", "fasttext"]] = "auto"
    """How the data files are written. `auto` goes by each file's name; `fasttext` is `__label__x text`."""

    text_column: Shaping[str | None] = Field(default=None, examples=["sentence"])
    """The column that holds the text. Unset, the usual names are tried (text, sentence and the like)."""

    label_column: Shaping[str | None] = Field(default=None, examples=["category"])
    """The column that holds the label. Unset, the usual names are tried (label, category, class)."""

    weight_column: Shaping[str | None] = Field(default=None, examples=["weight"])
    """The column of the training data that holds how much each row counts in the loss: a number of at least
    0. A row of weight 0 lends the vocabulary its words, and no more. Counts of words, and metrics, go by rows
    alone. Rows without such a number are rejected."""

    max_rejected: Share = 0.01
    """The share of rows that may be unusable (no label, invalid UTF-8) before the job refuses the data.
    Rejected rows are listed beside the bundle, in <run name>.rejected.jsonl, the first 100,000 of them; where
    the job refuses the data and BOW_RUN_NAME is not set, in run.rejected.jsonl."""

    cache_dir: LocalPath | None = Field(default=None, examples=["cache"])
    """A folder that keeps the data sets as they were read, so that the next run with the same, unchanged
    files starts training without reading them. While the job runs, the shuffled rows and the mini-batches
    are there as well instead of in memory. Objects that URLs name are kept too, and fetched again only once
    they changed. What no run used for eight days is removed. It may be deleted at any time, and several jobs
    may share it."""

    output_dir: FolderOrUrl = Path("artifacts")
    """The folder that receives the bundle, as <run name>/, and the pointer `latest`; or its URL, such as
    s3://bucket/models, where objects take their places."""

    run_name: Annotated[
        str | None,
        Field(
            # What the job writes beside bundles has these names.
            pattern=r"^(?!latest$|.*\.(failed|rejected\.jsonl|checkpoint)$)[A-Za-z0-9_-][A-Za-z0-9._-]*$",
            examples=["intents-1"],
        ),
        Form(
            "a name of letters, digits, '.', '_' and '-', not starting with '.', not 'latest', and not "
            "ending in .failed, .rejected.jsonl or .checkpoint"
        ),
    ] = None
    """The bundle's name. Unset, it is made from the settings and the data, so equal runs share a name."""

    overwrite: bool = False
    """Train again and replace a bundle of the same name. Otherwise a run that has its bundle already ends at
    once, without proving it again, and a bundle of another run is an error."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda|cuda:[0-9]{1,3})$"), Form("cpu, cuda or cuda:N")] = (
        "cuda:0"
    )
    """Where to train. Without such a GPU the job trains on the CPU and says why."""

    require_gpu: bool = False
    """Stop with exit code 74 when the GPU cannot be used, instead of training on the CPU."""

    num_threads: Annotated[Count, Field(le=1024)] | None = Field(default=None, examples=[4])
    """CPU threads for reading and training. Unset, as many as the cores this process may use. The model's
    bytes may depend on it."""

    seed: Shaping[Annotated[int, Field(ge=0, le=2**32 - 1)]] = 1
    """Decides every random choice: initial weights, the order of rows, the validation split."""

    epochs: Shaping[Count | None] = Field(default=None, examples=[5])
    """How many times training goes over the data. Time grows in proportion. Unset, chosen by the number of
    training rows: 10 where they are few, 3 where they are many."""

    patience: Shaping[Count | None] = Field(default=None, examples=[3])
    """Stop once the accuracy on validation data has not risen for so many epochs, and keep the weights of the
    best epoch, the first of equals; memory holds a copy of them. Needs validation data. The learning rate
    still falls as if all epochs ran."""

    batch_size: Shaping[Count | None] = Field(default=None, examples=[1024])
    """Texts per update. Larger is faster. Unset, chosen by the number of training rows: about an eighth of
    them, at most 16384."""

    optimizer: Shaping[Literal["sgd", "adagrad", "adam", "rmsprop"]] = "adagrad"
    """How a gradient becomes an update. All but `sgd` keep one or two more numbers per weight in memory."""

    learning_rate: Shaping[Annotated[float, Field(gt=0, le=FLOAT_LIMIT)] | None] = Field(
        default=None, examples=[0.25]
    )
    """The size of the first update. Unset, chosen by the optimizer and the features: 0.25 for adagrad, 0.5
    for normalized words."""

    learning_rate_schedule: Shaping[Literal["constant", "linear"]] = "linear"
    """`linear` lets the learning rate fall to zero at the last update; `constant` keeps it."""

    weight_decay: Shaping[Annotated[float, Field(ge=0, le=FLOAT_LIMIT)]] = 0.0
    """L2 penalty: adds this share of a weight to its gradient. It shrinks the weights of a word only in the
    updates whose texts hold the word."""

    class_weights: Shaping[
        Annotated[str, Form('none, balanced, or a JSON object of numbers above 0, such as {"spam": 5}')]
    ] = "none"
    """How much the rows of each label count in the loss: `none` all the same, `balanced` such that every
    label counts as much as any other, however rare it is; labels that an object leaves out weigh 1. With
    BOW_WEIGHT_COLUMN rows are balanced by their weights, and the two are multiplied."""

    init: Shaping[Literal["zeros", "uniform"]] = "zeros"
    """The weights before training; `uniform` draws between -1/sqrt(V) and 1/sqrt(V), V being the
    number of words, as the tutorial does."""

    shuffle: Shaping[bool] = True
    """Read the rows in a new order each epoch; `false` keeps the files' order, as the tutorial does."""

    validation_split: Shaping[Annotated[float, Field(ge=0, lt=1)]] = 0.0
    """The share of the training rows kept apart as validation data, drawn by label and seed. At 0 every row
    trains."""

    min_count: Shaping[Count] = 1
    """Words seen fewer times than this in the training data are left out of the vocabulary."""

    max_vocabulary: Shaping[Count | None] = Field(default=None, examples=[500000])
    """Keep only this many words, the most frequent. The model holds (words + 1) * labels * 4 bytes. It bounds
    the memory for counting as well: where more than 8 times as many distinct words are held, and more than
    1,048,576, the rarest are dropped, down to half of that; one that comes again is counted from there."""

    tokenizer: Shaping[Literal["whitespace", "words", "characters"]] = "whitespace"
    """What a token is: `whitespace` takes what stands between whitespace, `words` runs of letters, marks,
    numbers, `_` and inner apostrophes, `characters` every code point but whitespace (for scripts without
    spaces; not with BOW_CHAR_NGRAMS)."""

    lowercase: Shaping[bool] = False
    """Take upper-case letters for lower-case ones, code point by code point."""

    word_ngrams: Shaping[Literal["1", "1-2", "1-3"]] = "1"
    """How many tokens in a row make a feature. Longer ones tell `not good` from `good`; the model grows."""

    min_word_ngram_count: Shaping[Count] = 2
    """Word n-grams seen fewer times than this in the training data are left out."""

    max_word_ngrams: Shaping[Count | None] = Field(default=None, examples=[500000])
    """Keep only this many word n-grams, the most frequent."""

    char_ngrams: Shaping[
        Annotated[
            str,
            Field(pattern=r"^(off|[1-8]-[1-8])$"),
            Form("off, or two numbers from 1 to 8 such as 2-5 or 4-4"),
        ]
    ] = Field(default="off", examples=["2-4"])
    """How many code points in a row make a feature, within tokens with a mark at both ends. They see through
    endings and misspellings; training and prediction take several times as long."""

    min_char_ngram_count: Shaping[Count] = 2
    """Character n-grams seen fewer times than this in the training data are left out."""

    max_char_ngrams: Shaping[Count | None] = Field(default=None, examples=[500000])
    """Keep only this many character n-grams, the most frequent."""

    weighting: Shaping[Literal["count", "binary", "log", "tfidf"]] = "count"
    """What a feature counts that stands c times in a text: `count` c, `binary` 1, `log` 1 + ln c, `tfidf` as
    `log`, times ln((1 + N) / (1 + n)) + 1, of N training texts n of which have it."""

    normalize: Shaping[Literal["none", "l2"]] = "none"
    """`l2` divides what the features of a text count by the root of the sum of their squares, so that long
    texts weigh no more than short ones; character n-grams are one group, tokens and word n-grams another."""

    min_accuracy: Share | None = Field(default=None, examples=[0.9])
    """The least test accuracy with which `latest` moves to the new bundle. One below is kept and marked, and
    the job ends with exit code 7. Needs BOW_TEST_DATA."""

    max_drop: Share | None = Field(default=None, examples=[0.02])
    """How much lower than that of the bundle that `latest` names the test accuracy may be; otherwise as
    BOW_MIN_ACCURACY. That bundle is scored anew where its figure is of other test data, which reads the test
    data once more. Without a `latest`, nothing is compared."""

    keep_bundles: Count | None = Field(default=None, examples=[10])
    """How many bundles stay in BOW_OUTPUT_DIR after a new one was published: the newest, and always the new
    one and those that `latest` or another link there leads to. What is not a whole bundle, or holds anything
    else, is never touched; nor, in object storage, what was published while the job ran. Unset, all stay."""

    vocabulary_file: LocalPath | None = Field(default=None, examples=["words.txt"])
    """A fixed vocabulary in UTF-8, one token a line, in its order, instead of the training data's words; or
    the vocabulary.jsonl of a bundle whose features are tokens alone. Not with n-grams."""

    checkpoint_dir: FolderOrUrl | None = Field(default=None, examples=["checkpoints"])
    """The folder or URL that keeps what training has come to, as <run name>.checkpoint, until the run has its
    bundle; the next job of that name goes on from there. Unset, BOW_OUTPUT_DIR, as a hidden file."""

    checkpoint_every: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 300.0
    """Seconds of training between two checkpoints, with one more at its end where it took long; 0 for none
    but those that a signal asks for."""

    preempt_signal: Literal["USR1", "USR2", "HUP"] = "USR1"
    """A signal by which the scheduler says that it will take the machine; taken as SIGTERM and SIGINT are: a
    checkpoint is kept, and the job ends with exit code 75."""

    grace_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """What the scheduler leaves between such a signal and the end; the job warns where that seems too short
    for a checkpoint."""

    log_format: Literal["auto", "console", "json"] = "auto"
    """`console` is for people, `json` is one object a line; `auto` is console on a terminal, else json."""

    metrics_file: Annotated[
        str | None,
        Field(pattern=r"\.prom$", examples=["metrics/intents.prom"]),
        OnlyLocal,
        Form("a path that ends in .prom, in UTF-8 and not a URL"),
    ] = None
    """A file for Prometheus' textfile collector, in a folder that is there, replaced when the job ends, also
    when it fails. Its name without `.prom` is the label `model`, so one for each scheduled job."""

    termination_log: LocalPath = Path("/dev/termination-log")
    """Where the run's result goes as one JSON line of at most 4096 bytes, if there is such a file:
    Kubernetes makes it, and shows what is in it as the container's message."""

    parity_atol: Tolerance = 1e-5
    """How far an exported file's log-probability may be from the original model's, as an absolute number."""

    parity_rtol: Tolerance = 1e-5
    """The same as a share of the original's log-probability; the two are added."""

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load_settings` hands over and nothing else: no process environment, no `.env` file."""
        return (sources["init_settings"],)

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        problems = disagreements(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self


def shaping(settings: Settings) -> dict[str, str | int | float | bool | None]:
    """The settings of which another value gives another model, ready for JSON.

    What a path leads to shapes the model as well (the data, `vocabulary_file`): the data fingerprint's part.
    """
    return {
        name: getattr(settings, name)
        for name, field in Settings.model_fields.items()
        if Mark.SHAPES_MODEL in unwrapped(field)[1]
    }


def not_shaping(settings: Settings) -> dict[str, str | int | float | bool | None]:
    """The other settings, ready for JSON, where a path's bytes that are not UTF-8 are escaped."""
    shaping_names = shaping(settings).keys()
    values = {name: getattr(settings, name) for name in Settings.model_fields if name not in shaping_names}
    return {
        name: str(value).encode(errors="backslashreplace").decode()
        if isinstance(value, (Path, str))
        else value
        for name, value in values.items()
    }
