"""Reads what the settings name: the data sets, and the list of the rows that could not be used."""

from pathlib import Path

from job.baseline import TestData
from job.corpus.cache import Cache
from job.dataset import DataSpec, TooManyRejected
from job.features.specification import feature_spec
from job.fetch import fetched
from job.inputs import Inputs, read_inputs
from job.settings import Settings, shaping
from serving.errors import PlatformError


def data_specs(settings: Settings) -> dict[str, DataSpec]:
    """The data sets that the settings name, by use: `train`, `validation`, `test`."""
    locations = {
        "train": settings.train_data,
        "validation": settings.validation_data,
        "test": settings.test_data,
    }
    return {
        use: DataSpec(
            location=location,
            format=settings.data_format,
            text_column=settings.text_column,
            label_column=settings.label_column,
            weight_column=settings.weight_column if use == "train" else None,  # others are scored unweighted
            setting=f"BOW_{use.upper()}_DATA",
        )
        for use, location in locations.items()
        if location is not None
    }


def read_data(settings: Settings, rejected: Path, num_threads: int) -> Inputs:
    """Reads the data, fetched where it is named by URLs.

    Where too many rows are bad, lists them in `rejected` before it raises what `read_inputs` raises.
    """
    try:
        with fetched(data_specs(settings), settings.cache_dir) as at_hand:
            return read_inputs(
                at_hand,
                settings.vocabulary_file,
                num_threads=num_threads,
                max_rejected=settings.max_rejected,
                max_vocabulary=settings.max_vocabulary,
                features=feature_spec(settings),
                cache=None if settings.cache_dir is None else Cache(settings.cache_dir),
            )
    except TooManyRejected as error:
        if len(error.rejected):
            try:
                error.rejected.write(rejected)
                error.add_note(f"{error.rejected.listed} rejected rows are listed in {rejected}")
            except PlatformError as another:  # which a retry elsewhere helps, and the data not
                error.add_note(str(another))
        raise


def test_data(settings: Settings, inputs: Inputs, num_threads: int) -> TestData | None:
    """The test data, ready to be read once more; None where there is none."""
    if "test" not in inputs.records:
        return None
    return TestData(
        spec=data_specs(settings).get("test"),
        record=inputs.records["test"],
        settings=shaping(settings),
        cache_dir=settings.cache_dir,
        num_threads=num_threads,
    )
