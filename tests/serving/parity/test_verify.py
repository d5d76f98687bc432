"""`verify`: an untouched bundle holds, a damaged one does not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.bundle import FILES, open_bundle
from serving.errors import ArtifactError
from serving.parity.rungs import check
from serving.parity.verify import verify
from tests.serving.conftest import NUM_LABELS, NUM_WORDS, hold
from tests.serving.damage import (
    Damage,
    in_manifest,
    replaced,
    swap,
    whole,
    with_flipped_bit,
)


def proof_of(folder: Path) -> tuple[str, list[tuple[str, str, int]]]:
    """Which bundle it is, and what was compared, on what and on how much; all of it holds."""
    verdict = hold(folder)
    return verdict.bundle.bundle_id, [(rung.name, rung.sample, rung.count) for rung in verdict.rungs]


@pytest.mark.parametrize("with_torch", [False, True])
@pytest.mark.parametrize("which", ["trained", "tutorial"])
def test_an_untouched_bundle_holds(which: str, with_torch: bool, request: pytest.FixtureRequest) -> None:
    """If it failed, every bundle would be refused where it is deployed."""
    folder: Path = request.getfixturevalue(which)
    verdict = verify(folder, with_torch=with_torch)
    check(verdict.rungs, str(folder))
    names = [
        *("reference", FILES.weights, FILES.bow_model, FILES.text_model, FILES.torchscript),
        f"{FILES.bow_model}, CPUExecutionProvider",
        *([f"{FILES.torchscript}, forward", f"{FILES.torchscript}, score"] if with_torch else []),
    ]
    assert list(dict.fromkeys(rung.name for rung in verdict.rungs)) == names
    assert all(rung.count for rung in verdict.rungs)
    samples = {rung.sample for rung in verdict.rungs if rung.name == FILES.text_model}
    assert samples == {"weights", "golden texts", "adversarial texts", "every-word texts"}
    assert verdict.bundle.bundle_id == open_bundle(folder).bundle_id


def test_every_weight_of_every_file_is_compared(trained: Path) -> None:
    """If it failed, a weight in one of the files could be anything."""
    counts = {rung.name: rung.count for rung in verify(trained).rungs if rung.sample == "weights"}
    files = (FILES.weights, FILES.bow_model, FILES.text_model, FILES.torchscript)
    assert counts == dict.fromkeys(files, NUM_LABELS * NUM_WORDS + NUM_LABELS)


def test_a_bundle_may_be_moved_and_copied(copy: Path, trained: Path, tmp_path: Path) -> None:
    """If it failed, a bundle would hold only in the folder in which it was trained."""
    moved = copy.rename(tmp_path / "élsewhere with spaces")
    link = tmp_path / "latest"
    link.symlink_to(moved)
    assert proof_of(moved) == proof_of(link) == proof_of(trained)


@pytest.mark.parametrize("content", [None, b"", b"not JSON", b"\xff" * 100])
def test_the_run_record_is_no_part_of_the_proof(copy: Path, trained: Path, content: bytes | None) -> None:
    """If it failed, removing times and paths before a bundle is handed on would break it."""
    (copy / FILES.run).unlink()
    if content is not None:
        (copy / FILES.run).write_bytes(content)
    assert proof_of(copy) == proof_of(trained)


def test_another_file_beside_the_bundles_own_does_no_harm(copy: Path, trained: Path) -> None:
    """If it failed, a README or a .DS_Store in the folder would make the bundle unusable."""
    (copy / "README.md").write_text("ours")
    assert proof_of(copy) == proof_of(trained)


def test_the_expected_id_is_found_in_either_case(trained: Path) -> None:
    """If it failed, an ID pasted from elsewhere would refuse the very bundle that it names."""
    bundle_id = open_bundle(trained).bundle_id
    for expected in (bundle_id, bundle_id.upper()):
        assert verify(trained, expected_id=expected).bundle.bundle_id == bundle_id


@pytest.mark.parametrize("alter", [lambda found: "0" * 64, lambda found: found[:-1], lambda found: ""])
def test_another_id_than_the_expected_one_is_refused(trained: Path, alter: Callable[[str], str]) -> None:
    """If it failed, a pinned deployment would take any bundle that is whole."""
    found = open_bundle(trained).bundle_id
    with pytest.raises(ArtifactError, match=f"expected the bundle {alter(found)}, found {found}"):
        verify(trained, expected_id=alter(found))


def test_a_manifest_written_anew_has_another_id(copy: Path, trained: Path) -> None:
    """If it failed, an ID would not pin what stands in the manifest, such as the metrics."""
    in_manifest(lambda manifest: manifest["versions"].update(torch="0"))(copy)
    hold(copy)
    with pytest.raises(ArtifactError, match="this is another bundle"):
        verify(copy, expected_id=open_bundle(trained).bundle_id)


@pytest.mark.parametrize("name", FILES.hashed)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    """If it failed, a bundle that was copied in part would be taken for whole."""
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        verify(copy)


@pytest.mark.parametrize("name", FILES.hashed)
def test_a_folder_in_a_files_place_is_named(copy: Path, name: str) -> None:
    """If it failed, such a bundle would end in a traceback."""
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        verify(copy)


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("name", FILES.hashed)
def test_one_flipped_bit_is_found(copy: Path, name: str, share: float) -> None:
    """If it failed, a disk error could change an answer unseen."""
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(with_flipped_bit(content, int(share * (len(content) - 1)), bit=3))
    with pytest.raises(ArtifactError, match=f"the bundle is damaged: {name} differs"):
        verify(copy)


@pytest.mark.parametrize("name", FILES.hashed)
def test_a_truncated_or_longer_file_is_found(copy: Path, name: str) -> None:
    """If it failed, a download that broke off would be deployed."""
    content = (copy / name).read_bytes()
    for altered in (content[:-1], content + b"\n"):
        (copy / name).write_bytes(altered)
        with pytest.raises(ArtifactError, match=f"{name} differs: {len(altered):,} bytes"):
            verify(copy)


def test_every_damaged_file_is_named_at_once(copy: Path) -> None:
    """If it failed, a user would learn of one broken file an attempt."""
    (copy / FILES.golden).unlink()
    (copy / FILES.labels).write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"{FILES.golden} cannot.*; {FILES.labels} differs"):
        verify(copy)


MANIFESTS: dict[str, tuple[Damage, str]] = {
    "missing": (lambda folder: (folder / FILES.manifest).unlink(), "found no manifest.json"),
    "a folder": (
        lambda folder: [(folder / FILES.manifest).unlink(), (folder / FILES.manifest).mkdir()],  # type: ignore[func-returns-value]
        "cannot be read",
    ),
    "empty": (whole(FILES.manifest, lambda _: b""), "not a manifest that this release can read"),
    "truncated": (whole(FILES.manifest, lambda content: content[: len(content) // 2]), "not a manifest"),
    "not JSON": (whole(FILES.manifest, lambda _: b"schema_version: 1"), "not a manifest"),
    "not UTF-8": (replaced(FILES.manifest, "label 0é".encode(), b"label 0\xff"), "not a manifest"),
    "a list": (whole(FILES.manifest, lambda _: b"[]"), "Expected `object`"),
    "null": (whole(FILES.manifest, lambda _: b"null"), "Expected `object`"),
    "unknown field": (in_manifest(lambda it: it.update(author="me")), "unknown field `author`"),
    "unknown field within": (
        in_manifest(lambda it: it["features"].update(stemming=True)),
        "unknown field `stemming`",
    ),
    "missing field": (in_manifest(lambda it: it.pop("parity")), "missing required field `parity`"),
    "no version": (in_manifest(lambda it: it.pop("schema_version")), "missing .* `schema_version`"),
    "next version": (in_manifest(lambda it: it.update(schema_version=2)), "schema version 2, and .* reads 1"),
    "next version, other fields": (
        whole(FILES.manifest, lambda _: b'{"schema_version": 7, "model": {}}'),
        "schema version 7, and .* reads 1",
    ),
    "version in quotes": (in_manifest(lambda it: it.update(schema_version="1")), "Expected `int`"),
    "endless version": (
        whole(FILES.manifest, lambda _: b'{"schema_version": ' + b"1" * 5000 + b"}"),
        "not a manifest",
    ),
    "another tokenizer": (
        in_manifest(lambda it: it["features"].update(tokenizer="unicode")),
        "Invalid enum value 'unicode'",
    ),
    "4-grams": (in_manifest(lambda it: it["features"].update(word_ngrams=4)), "Expected `int` <= 3"),
    "a label that is no text": (in_manifest(lambda it: it["labels"].append(1)), "Expected `str`"),
    "a file more": (
        in_manifest(lambda it: it["files"].update({"x.bin": it["files"][FILES.labels]})),
        "manifest.json lists .*x.bin",
    ),
    "a file less": (in_manifest(lambda it: it["files"].pop(FILES.torchscript)), "manifest.json lists"),
    "no files": (in_manifest(lambda it: it.update(files={})), "manifest.json lists no file"),
    "another size": (
        in_manifest(lambda it: it["files"][FILES.labels].update(size=1)),
        f"{FILES.labels} differs",
    ),
    "another hash": (
        in_manifest(lambda it: it["files"][FILES.golden].update(sha256="0" * 64)),
        f"{FILES.golden} differs",
    ),
    "settings": (in_manifest(lambda it: it["settings"].update(epochs=99)), "metadata bowsprit.settings"),
    "data": (in_manifest(lambda it: it["data"]["train"].update(rows=1)), "metadata bowsprit.data"),
    "a word more": (in_manifest(lambda it: it.update(vocabulary_size=304)), "303 tokens, .* says 304"),
    "labels in another order": (in_manifest(lambda it: swap(0, 1)(it["labels"])), "labels or their order"),
    "deeply nested": (
        whole(FILES.manifest, lambda _: b'{"x": ' + b"[" * 200_000),
        "not a manifest",
    ),
}


@pytest.mark.parametrize("case", sorted(MANIFESTS))
def test_an_altered_manifest_is_refused(copy: Path, case: str) -> None:
    """If it failed, a manifest of another model or another release would be believed."""
    damage, message = MANIFESTS[case]
    damage(copy)
    with pytest.raises(ArtifactError, match=message):
        verify(copy)
