"""Reading the files of a bundle, and refusing what is not one."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle import (
    FILES,
    SCHEMA_VERSION,
    Bundle,
    FileRecord,
    check_files,
    onnx_metadata,
    open_bundle,
    read_lines,
    read_strings,
    strings_to_jsonl,
)
from serving.errors import ArtifactError, ExitCode
from serving.features.specification import FeatureSpec
from tests.serving.conftest import WORDS


def test_a_bundle_has_these_files_and_no_others(trained: Path) -> None:
    """If it failed, a file would be published that nobody checks."""
    assert FILES.hashed == sorted(FILES.hashed)
    assert {path.name for path in trained.iterdir()} == {*FILES.hashed, FILES.manifest, FILES.run}
    assert not {FILES.manifest, FILES.run} & set(FILES.hashed)


def test_the_manifest_is_written_as_it_was_read(bundle: Bundle) -> None:
    """If it failed, the same run would give another ID, or a field would be lost on the way."""
    assert bundle.manifest.to_json() == (bundle.path / FILES.manifest).read_bytes()
    assert bundle.bundle_id == FileRecord.of(bundle.path / FILES.manifest).sha256
    assert bundle.manifest.schema_version == SCHEMA_VERSION == 1
    assert sorted(bundle.manifest.files) == FILES.hashed


def test_labels_and_words_come_in_the_order_of_their_ids(bundle: Bundle) -> None:
    """If it failed, every weight would belong to another word."""
    assert bundle.labels() == bundle.manifest.labels == [f"label {number}é" for number in range(5)]
    assert sorted(bundle.vocabulary()) == sorted(WORDS)
    assert bundle.manifest.vocabulary_size == len(WORDS)


def test_whole_files_pass_and_a_few_may_be_asked_for(copy: Path) -> None:
    """If it failed, `predict` would read files that it does not use, or trust ones that it does."""
    check_files(open_bundle(copy))
    (copy / FILES.golden).unlink()
    check_files(open_bundle(copy), [FILES.labels, FILES.text_model])
    with pytest.raises(
        ArtifactError, match=rf"the bundle is damaged: {FILES.golden} cannot be read \(No such"
    ):
        check_files(open_bundle(copy))


@given(st.lists(st.text()))
def test_any_strings_survive_as_json_lines(tmp_path_factory: pytest.TempPathFactory, some: list[str]) -> None:
    """If it failed, a token with a quote, a line end or a NUL would shift every id after it."""
    path = tmp_path_factory.getbasetemp() / "strings.jsonl"
    content = strings_to_jsonl(some)
    path.write_bytes(content)
    assert content.count(b"\n") == len(some)
    assert read_strings(path) == some


@pytest.mark.parametrize(
    "content", [b"\xff", b'"a', b'"a"\n1\n', b'"a"\n{}\n', b'"a"\nnull\n', b"a\n", b'"\\ud800"\n']
)
def test_lines_of_another_kind_are_refused_with_their_file(tmp_path: Path, content: bytes) -> None:
    """If it failed, a damaged list of words would end in a traceback that names no file."""
    path = tmp_path / "words.jsonl"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{path}: is not what a bundle holds there"):
        read_strings(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """If it failed, an incomplete bundle would end in a traceback."""
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ArtifactError, match=f"{path}: cannot be read .*the bundle is incomplete"):
            read_lines(path, str)


def test_what_is_no_bundle_is_refused_in_words_that_help(tmp_path: Path) -> None:
    """If it failed, a mistyped path would end in a traceback."""
    file = tmp_path / "file"
    file.write_text("{}")
    dangling = tmp_path / "dangling"
    dangling.symlink_to("nowhere")
    for path, message in (
        (tmp_path / "nowhere", "found nothing. Name the folder that the training job published"),
        (file, "found a file"),
        (file / "below", "found nothing"),
        (dangling, "found nothing"),
        (tmp_path, "found no manifest.json in the folder"),
    ):
        with pytest.raises(ArtifactError, match=message) as caught:
            open_bundle(path)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == ExitCode.BUNDLE_DAMAGED == 6


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    """If it failed, an argument that is no path at all would end in a traceback."""
    with pytest.raises(ArtifactError, match="expected a bundle"):
        open_bundle(tmp_path / ("a" * 300))


def test_a_record_is_the_hash_and_size_of_a_file(tmp_path: Path) -> None:
    """If it failed, `sha256sum` would not agree with the manifest."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert FileRecord.of(path) == FileRecord(
        sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", size=3
    )


def test_the_metadata_of_onnx_files_is_json_by_part(bundle: Bundle) -> None:
    """If it failed, a model file away from its bundle could not be told from another."""
    manifest = bundle.manifest
    metadata = onnx_metadata(manifest.labels, manifest.features, manifest.settings, manifest.data)
    assert list(metadata) == [f"bowsprit.{part}" for part in ("labels", "features", "settings", "data")]
    assert msgspec.json.decode(metadata["bowsprit.labels"]) == manifest.labels
    assert msgspec.json.decode(metadata["bowsprit.features"], type=FeatureSpec) == manifest.features
    backwards = dict(reversed(manifest.settings.items()))
    assert metadata == onnx_metadata(manifest.labels, manifest.features, backwards, manifest.data)
