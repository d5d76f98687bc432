import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from job.environment import load_settings
from job.main import main
from job.setting_kinds import env_name
from job.settings import Settings, shaping
from job.stopping import Stop
from serving.errors import ExitCode, SettingsError
from serving.settings.kinds import kind, shown

REPOSITORY = Path(__file__).parents[2]
DEFAULT = {name: field.default for name, field in Settings.model_fields.items()}


def problems_of(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert caught.value.exit_code is ExitCode.SETTINGS
    return str(caught.value).splitlines()


def test_only_the_data_has_to_be_named() -> None:
    """If it failed, a newcomer's first command would need more than a file."""
    settings = load_settings({"BOW_TRAIN_DATA": "train.tsv"})
    assert settings == Settings(train_data="train.tsv")


def test_values_are_read_in_their_types() -> None:
    """If it failed, numbers, switches and paths would reach the stages as text."""
    settings = load_settings(
        {
            "BOW_TRAIN_DATA": "train.tsv",
            "BOW_EPOCHS": "3",
            "BOW_LEARNING_RATE": "1e-2",
            "BOW_SHUFFLE": "false",
            "BOW_OUTPUT_DIR": "/data/out",
            "BOW_MAX_VOCABULARY": "500",
        }
    )
    assert (settings.epochs, settings.learning_rate, settings.shuffle) == (3, 0.01, False)
    assert (settings.output_dir, settings.max_vocabulary) == (Path("/data/out"), 500)


def test_settings_do_not_change() -> None:
    """If it failed, a stage could alter what the manifest says the run was."""
    settings = Settings(train_data="train.tsv")
    with pytest.raises(ValidationError):
        settings.epochs = 3


@pytest.mark.parametrize("blank", ["", "  ", "\r"])
def test_an_empty_value_counts_as_unset(blank: str) -> None:
    """If it failed, `BOW_RUN_NAME=` in an env file would be an error instead of the default."""
    settings = load_settings({"BOW_TRAIN_DATA": "x", "BOW_RUN_NAME": blank, "BOW_EPOCHS": blank})
    assert settings == Settings(train_data="x")


def test_blanks_around_a_value_are_dropped() -> None:
    """If it failed, an env file with Windows line ends would be refused for its invisible characters."""
    assert load_settings({"BOW_TRAIN_DATA": "x\r", "BOW_INIT": " uniform\r"}).init == "uniform"


def test_the_process_environment_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If it failed, the same `environ` would give other settings on another machine or in another folder."""
    monkeypatch.setenv("BOW_EPOCHS", "77")
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("BOW_EPOCHS=78\n")
    assert load_settings({"BOW_TRAIN_DATA": "x"}).epochs == DEFAULT["epochs"]
    assert Settings(train_data="x").epochs == DEFAULT["epochs"]


def test_missing_data_is_asked_for_with_an_example() -> None:
    """If it failed, a newcomer would not learn what to type."""
    assert problems_of() == [
        "BOW_TRAIN_DATA: expected a file, a folder or a glob, or a URL of one; found nothing; "
        "set for example BOW_TRAIN_DATA=data/train.tsv, or BOW_TRAIN_DATA=tutorial to try the job out"
    ]


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("BOW_EPOCH", "BOW_EPOCHS"),
        ("BOW_LERNING_RATE", "BOW_LEARNING_RATE"),
        ("bow_epochs", "BOW_EPOCHS"),
        ("BOW_TRAIN", "BOW_TRAIN_DATA"),
        ("BOW_VOCABULARY", "BOW_MAX_VOCABULARY"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(misspelt: str, meant: str) -> None:
    """If it failed, a misspelt setting would be ignored and the run would quietly use the default."""
    (problem,) = problems_of(BOW_TRAIN_DATA="x", **{misspelt: "3"})
    assert problem.startswith(f"{misspelt}: there is no such setting; did you mean {meant}?")


def test_an_unknown_name_like_no_other_is_refused() -> None:
    """If it failed, advice would name a setting that has nothing to do with the mistake."""
    (problem,) = problems_of(BOW_TRAIN_DATA="x", BOW_ZZZ="3")
    assert problem.startswith("BOW_ZZZ: there is no such setting; unset it")


def test_the_servers_and_other_programs_variables_are_left_alone() -> None:
    """If it failed, one ConfigMap could not hold the job's and the server's variables."""
    environ = {"BOW_TRAIN_DATA": "x", "BOW_SERVE_PORT": "8080", "PATH": "/bin", "ELBOW_X": "1"}
    assert load_settings(environ) == Settings(train_data="x")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "0", "a whole number, at least 1"),
        ("epochs", "many", "a whole number, at least 1"),
        ("epochs", "1.5", "a whole number, at least 1"),
        ("learning_rate", "0", "a number, above 0"),
        ("learning_rate", "nan", "a number, above 0"),
        ("learning_rate", "1e38", "a number, above 0, at most 1e+37"),
        ("weight_decay", "1e38", "a number, at least 0, at most 1e+37"),
        ("num_threads", "1025", "a whole number, at least 1, at most 1024"),
        ("learning_rate", "inf", "a number, above 0"),
        ("validation_split", "1", "a number, at least 0, below 1"),
        ("max_rejected", "1.1", "a number, at least 0, at most 1"),
        ("seed", "4294967296", "a whole number, at least 0, at most 4294967295"),
        ("optimizer", "lion", "one of sgd, adagrad, adam, rmsprop"),
        ("shuffle", "maybe", "true or false"),
        ("device", "gpu", "cpu, cuda or cuda:N"),
        ("device", "cuda:", "cpu, cuda or cuda:N"),
        ("run_name", "latest", "a name of letters"),
        ("run_name", "../up", "a name of letters"),
        ("run_name", ".hidden", "a name of letters"),
        ("run_name", "a.failed", "a name of letters"),
        ("run_name", "a.rejected.jsonl", "a name of letters"),
        ("run_name", "a.checkpoint", "a name of letters"),
        ("max_vocabulary", "all", "a whole number, at least 1"),
        ("parity_atol", "0.001", "a number, above 0, at most 0.0001"),
        ("parity_rtol", "0.001", "a number, above 0, at most 0.0001"),
        ("min_accuracy", "90", "a number, at least 0, at most 1"),
        ("max_drop", "nan", "a number, at least 0, at most 1"),
        ("keep_bundles", "0", "a whole number, at least 1"),
        ("metrics_file", "bowsprit.txt", "a path that ends in .prom"),
    ],
)
def test_a_wrong_value_is_answered_with_what_works(name: str, value: str, expected: str) -> None:
    """If it failed, a message would not say the variable, the range, what was found or what to do."""
    variable = env_name(name)
    data = {"BOW_TRAIN_DATA": "x", "BOW_TEST_DATA": "y"}
    (problem,) = problems_of(**data, **{variable: value})
    assert problem.startswith(f"{variable}: expected {expected}")
    assert f"found {value!r}" in problem
    advised = re.search(rf"set for example {variable}=([^,]+), (the default|or unset it)$", problem)
    assert advised is not None
    load_settings(data | {variable: advised[1]})


@pytest.mark.parametrize(
    ("environ", "variable", "remedy"),
    [
        (
            {"BOW_VALIDATION_DATA": "v", "BOW_VALIDATION_SPLIT": "0.1"},
            "BOW_VALIDATION_SPLIT",
            {"BOW_VALIDATION_SPLIT": "0"},
        ),
        (
            {"BOW_VOCABULARY_FILE": "w", "BOW_MAX_VOCABULARY": "9"},
            "BOW_MAX_VOCABULARY",
            {"BOW_MAX_VOCABULARY": ""},
        ),
        ({"BOW_VOCABULARY_FILE": "w", "BOW_MIN_COUNT": "2"}, "BOW_MIN_COUNT", {"BOW_MIN_COUNT": "1"}),
        (
            {"BOW_DATA_FORMAT": "fasttext", "BOW_TEXT_COLUMN": "t"},
            "BOW_TEXT_COLUMN",
            {"BOW_DATA_FORMAT": "auto"},
        ),
        (
            {"BOW_DATA_FORMAT": "fasttext", "BOW_LABEL_COLUMN": "l"},
            "BOW_LABEL_COLUMN",
            {"BOW_LABEL_COLUMN": ""},
        ),
        (
            {"BOW_DATA_FORMAT": "fasttext", "BOW_WEIGHT_COLUMN": "w"},
            "BOW_WEIGHT_COLUMN",
            {"BOW_WEIGHT_COLUMN": ""},
        ),
        (
            {"BOW_TRAIN_DATA": "tutorial", "BOW_WEIGHT_COLUMN": "w"},
            "BOW_WEIGHT_COLUMN",
            {"BOW_WEIGHT_COLUMN": ""},
        ),
        (
            {"BOW_TRAIN_DATA": "tutorial", "BOW_VOCABULARY_FILE": "w"},
            "BOW_TRAIN_DATA",
            {"BOW_VOCABULARY_FILE": ""},
        ),
        (
            {"BOW_TRAIN_DATA": "tutorial", "BOW_DATA_FORMAT": "csv"},
            "BOW_DATA_FORMAT",
            {"BOW_DATA_FORMAT": "auto"},
        ),
        (
            {"BOW_TRAIN_DATA": "tutorial", "BOW_TEXT_COLUMN": "t"},
            "BOW_TEXT_COLUMN",
            {"BOW_TEST_DATA": "t.tsv"},
        ),
        (
            {"BOW_TRAIN_DATA": "tutorial", "BOW_LABEL_COLUMN": "t"},
            "BOW_LABEL_COLUMN",
            {"BOW_TRAIN_DATA": "t.tsv"},
        ),
        ({"BOW_PATIENCE": "3"}, "BOW_PATIENCE", {"BOW_VALIDATION_SPLIT": "0.1"}),
        ({"BOW_PATIENCE": "3"}, "BOW_PATIENCE", {"BOW_VALIDATION_DATA": "v"}),
        ({"BOW_REQUIRE_GPU": "true", "BOW_DEVICE": "cpu"}, "BOW_DEVICE", {"BOW_DEVICE": "cuda:0"}),
        ({"BOW_MIN_ACCURACY": "0.9"}, "BOW_MIN_ACCURACY", {"BOW_TEST_DATA": "t"}),
        ({"BOW_MAX_DROP": "0"}, "BOW_MAX_DROP", {"BOW_MAX_DROP": ""}),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    environ: dict[str, str], variable: str, remedy: dict[str, str]
) -> None:
    """If it failed, one of two settings would be ignored, or the advice in the message would not help."""
    (problem,) = problems_of(**{"BOW_TRAIN_DATA": "x"} | environ)
    assert problem.startswith(f"{variable}: ")
    load_settings({"BOW_TRAIN_DATA": "x"} | environ | remedy)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam", "rmsprop"])
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
def test_the_largest_numbers_are_diverging_and_no_bug(tmp_path: Path, name: str, optimizer: str) -> None:
    """If it failed, a number that the settings accept would end in a traceback."""
    (tmp_path / "train.tsv").write_text("text\tlabel\na b\tx\nc d\ty\n" * 9)
    environ = {"BOW_TRAIN_DATA": f"{tmp_path}/train.tsv", "BOW_OUTPUT_DIR": f"{tmp_path}/out"}
    environ |= {"BOW_DEVICE": "cpu", "BOW_OPTIMIZER": optimizer, env_name(name): "1e37"}
    assert main([], environ, Stop()) is ExitCode.TRAINING_DIVERGED


def test_the_tutorials_own_test_data_is_enough_for_a_gate() -> None:
    """If it failed, a gate could not be tried out without a file."""
    assert load_settings({"BOW_TRAIN_DATA": "tutorial", "BOW_MIN_ACCURACY": "0.9"}).min_accuracy == 0.9


def test_every_problem_is_reported_at_once() -> None:
    """If it failed, each mistake would cost another round through a scheduler's queue."""
    problems = problems_of(BOW_EPOCH="3", BOW_INIT="ones", BOW_BATCH_SIZE="-1")
    assert [problem.split(":")[0] for problem in problems] == [
        "BOW_EPOCH",
        "BOW_TRAIN_DATA",
        "BOW_BATCH_SIZE",
        "BOW_INIT",
    ]


def test_contradictions_are_reported_together() -> None:
    """If it failed, only the first of several contradictions would be seen."""
    problems = problems_of(
        BOW_TRAIN_DATA="x", BOW_VOCABULARY_FILE="w", BOW_MIN_COUNT="2", BOW_DEVICE="cpu", BOW_REQUIRE_GPU="1"
    )
    assert [problem.split(":")[0] for problem in problems] == ["BOW_MIN_COUNT", "BOW_DEVICE"]


def test_no_message_speaks_the_validators_language() -> None:
    """If it failed, users would read `Input should be...`, `type=int_parsing` or a traceback."""
    wrong = {env_name(name): "\N{SNOWMAN}" for name in Settings.model_fields if name != "train_data"}
    text = "\n".join(problems_of(**wrong))
    assert not re.search(r"Input should|String should|type=|Value error|pydantic|For further", text)


@pytest.mark.parametrize("name", ["BOW_API_TOKEN", "BOW_S3_SECRET", "BOW_DB_PASSWORD", "BOW_ACCESS_KEY"])
def test_secrets_are_never_shown(name: str) -> None:
    """If it failed, a credential in the environment would end in a log."""
    assert shown(name, "hunter2") == "hidden"
    assert "hunter2" not in "\n".join(problems_of(BOW_TRAIN_DATA="x", **{name: "hunter2"}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BOW_TRAIN_DATA", "without user and password"),
        ("BOW_OUTPUT_DIR", "without user and password"),
        ("BOW_CHECKPOINT_DIR", "without user and password"),
        ("BOW_CACHE_DIR", "not a URL"),
        ("BOW_VOCABULARY_FILE", "not a URL"),
        ("BOW_TERMINATION_LOG", "not a URL"),
        ("BOW_METRICS_FILE", "not a URL"),
    ],
)
@pytest.mark.parametrize("scheme", ["s3", "S3", "Https"])
def test_a_url_where_none_is_taken_is_refused_without_its_secret(
    name: str, expected: str, scheme: str
) -> None:
    """If it failed, a folder named `S3:` would be made, or a password would stand in the log."""
    (problem,) = problems_of(**{"BOW_TRAIN_DATA": "x", name: f"{scheme}://key:hunter2@bucket/x.prom"})
    assert problem.startswith(f"{name}: ")
    assert expected in problem
    assert "hunter2" not in problem


def test_a_scheme_in_upper_case_is_asked_for_in_lower_case() -> None:
    """If it failed, a bundle would be published into a local folder named `S3:`."""
    (problem,) = problems_of(BOW_TRAIN_DATA="x", BOW_OUTPUT_DIR="S3://bucket/models")
    assert problem.startswith("BOW_OUTPUT_DIR: ")
    assert "write s3://" in problem


@pytest.mark.parametrize("name", ["OUTPUT_DIR", "CHECKPOINT_DIR", "CACHE_DIR", "METRICS_FILE"])
def test_a_path_to_write_to_is_utf8(name: str) -> None:
    """If it failed, a run would train for hours before a library refuses to write there."""
    (problem,) = problems_of(BOW_TRAIN_DATA="x", **{f"BOW_{name}": "\udcff.prom"})
    assert problem.startswith(f"BOW_{name}: ")
    assert "in UTF-8" in problem
    assert "\\udcff.prom" in problem


def test_a_long_value_is_cut() -> None:
    """If it failed, a file pasted into a variable would fill the terminal."""
    (problem,) = problems_of(BOW_TRAIN_DATA="x", BOW_INIT="z" * 10_000)
    assert len(problem) < 300


def test_shaping_holds_what_changes_the_model_and_nothing_else() -> None:
    """If it failed, equal models would get different names, or different models the same."""
    settings = Settings(train_data="x")
    elsewhere = Settings(
        train_data="y",
        test_data="z",
        output_dir=Path("/out"),
        run_name="r",
        overwrite=True,
        device="cpu",
        num_threads=3,
        log_format="json",
        max_rejected=1,
        min_accuracy=0.9,
        max_drop=0.1,
        keep_bundles=3,
        metrics_file="m.prom",
    )
    assert shaping(settings) == shaping(elsewhere)
    assert set(shaping(settings)) == {
        *("data_format", "text_column", "label_column", "weight_column", "class_weights", "patience"),
        *("validation_split", "min_count", "max_vocabulary"),
        *("seed", "epochs", "batch_size", "optimizer", "learning_rate", "learning_rate_schedule"),
        *("weight_decay", "init", "shuffle", "tokenizer", "lowercase", "weighting", "normalize"),
        *("word_ngrams", "min_word_ngram_count", "max_word_ngrams"),
        *("char_ngrams", "min_char_ngram_count", "max_char_ngrams"),
    }
    assert json.loads(json.dumps(shaping(settings))) == shaping(settings)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_means_and_accepts(name: str) -> None:
    """If it failed, `--help` would list a setting without its meaning."""
    field = Settings.model_fields[name]
    assert field.description
    assert kind(field)
    assert field.default is not None or field.examples or name.endswith("_data")


def test_each_settings_advice_can_be_followed() -> None:
    """If it failed, a message would recommend a default or an example that is itself refused."""
    for name, field in Settings.model_fields.items():
        for value in [*(field.examples or []), *([] if field.default in (None, ...) else [field.default])]:
            if not field.is_required():
                needed = {"BOW_VALIDATION_DATA": "v"} if name == "patience" else {"BOW_TEST_DATA": "t"}
                variable = env_name(name)
                advice = shown(variable, value)
                settings = load_settings({"BOW_TRAIN_DATA": "x"} | needed | {variable: advice})
                assert shown(variable, getattr(settings, name)) == advice


def test_the_tutorials_recipe_is_a_valid_env_file() -> None:
    """If it failed, `make train` would stop at its first line."""
    lines = (REPOSITORY / "recipes/tutorial.env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    settings = load_settings(dict(pairs))
    assert (settings.train_data, settings.epochs, settings.batch_size) == ("tutorial", 100, 1)
    assert (settings.optimizer, settings.learning_rate, settings.learning_rate_schedule) == (
        "sgd",
        0.1,
        "constant",
    )
    assert (settings.init, settings.shuffle, settings.run_name) == ("uniform", False, "tutorial")
