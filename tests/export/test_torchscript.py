"""`model.ts`: the same bytes everywhere, no trace of where it was made, and the eager model's answers."""

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from export import torchscript
from job.model import BowClassifier, initialize_uniform
from serving.parity.reference import Bags
from serving.parity.torchscript import TorchScriptModel

REPOSITORY = Path(__file__).parents[2]
EXTRA_FILES = {"vocabulary.jsonl": '"é"\n"👍🏽"\n'.encode(), "labels.jsonl": b'"a"\n"b"\n'}


def new_model(num_labels: int = 3, num_words: int = 20) -> BowClassifier:
    generator = torch.Generator().manual_seed(0)
    model = BowClassifier(num_labels, num_words).eval()
    with torch.no_grad():
        model.weight.normal_(generator=generator)
        model.bias.normal_(generator=generator)
    return model


WRITE = """
import sys
from pathlib import Path
import torch
from export import torchscript
from job.model import BowClassifier

model = BowClassifier(3, 20).eval()
with torch.no_grad():
    model.weight.copy_(torch.arange(60).reshape(3, 20))
torchscript.write(Path(sys.argv[1]), model, {"vocabulary.jsonl": b"words", "labels.jsonl": b"labels"})
"""


def test_two_processes_in_two_checkouts_write_the_same_bytes(tmp_path: Path) -> None:
    """If it failed, nobody could rebuild the file, or it would tell where it was made."""
    processes = []
    for number, folder in enumerate((tmp_path / "here", tmp_path / "another" / "folder")):
        for package in ("job", "export", "serving"):
            shutil.copytree(
                REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        environ = {"PYTHONHASHSEED": str(number + 1), "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-c", WRITE, str(folder / "model.ts")]
        processes.append((folder, subprocess.Popen(command, cwd=folder, env=os.environ | environ)))
    contents = []
    for folder, process in processes:
        assert process.wait(timeout=120) == 0
        contents.append((folder / "model.ts").read_bytes())
    assert contents[0] == contents[1]
    for path in (
        tmp_path,
        REPOSITORY,
        Path.cwd(),
        Path.home(),
        Path(sys.prefix),
        Path("/tmp"),
    ):
        assert path == Path("/") or str(path).encode() not in contents[0], path


def test_two_calls_write_the_same_bytes(tmp_path: Path) -> None:
    """If it failed, the same run would have another bundle ID each time."""
    for number in range(3):
        torchscript.write(tmp_path / f"{number}.ts", new_model(), EXTRA_FILES)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_archive_tells_nothing_of_its_time_and_its_source(tmp_path: Path) -> None:
    """If it failed, the file would change with the clock, or name folders of the machine that made it."""
    path = tmp_path / "model.ts"
    torchscript.write(path, new_model(), EXTRA_FILES)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.compress_type == zipfile.ZIP_STORED
            content = archive.read(entry)
            for trace in (str(tmp_path), str(REPOSITORY), ".py", "/home", "/root", "/tmp"):
                assert trace.encode() not in content, entry.filename
        assert archive.namelist() == sorted(archive.namelist())


def test_the_files_beside_the_code_come_back(tmp_path: Path) -> None:
    """If it failed, whoever has model.ts alone would not know its words and labels."""
    path = tmp_path / "model.ts"
    torchscript.write(path, new_model(), EXTRA_FILES)
    found = dict.fromkeys(EXTRA_FILES, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(str(path), _extra_files=found)
    assert found == EXTRA_FILES


@pytest.mark.parametrize(("num_labels", "num_words"), [(2, 1), (3, 20), (150, 400)])
def test_both_methods_answer_as_the_eager_model(tmp_path: Path, num_labels: int, num_words: int) -> None:
    """If it failed, the scripted model would be another than the trained one."""
    model = new_model(num_labels, num_words)
    path = tmp_path / "model.ts"
    torchscript.write(path, model, EXTRA_FILES)
    scripted = TorchScriptModel(path)
    generator = torch.Generator().manual_seed(1)
    for lengths in ([], [0], [0, 0, 0], [3], [0, 5, 0, 1, 0], [2000], [*range(50)]):
        ids = torch.randint(num_words, (sum(lengths),), generator=generator)
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        with torch.no_grad():
            expected = model.score(ids, offsets)
        found = torch.from_numpy(scripted.score(Bags(ids=ids.numpy(), offsets=offsets.numpy())))
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        bow = torch.zeros(len(lengths), num_words)
        for row, part in enumerate(ids.split(lengths) if lengths else ()):
            bow[row] = torch.bincount(part, minlength=num_words)
        with torch.no_grad():
            dense = model(bow)
        found = torch.from_numpy(scripted.forward(bow.numpy()))
        assert found.dtype == torch.float32
        assert found.shape == (len(lengths), num_labels)
        torch.testing.assert_close(found, dense, rtol=1e-6, atol=1e-6)


LOAD = """
import sys
sys.modules["job"] = sys.modules["export"] = sys.modules["serving"] = None
import torch

model = torch.jit.load(sys.argv[1])
log_probs = model.score(torch.tensor([0, 1, 1]), torch.tensor([0, 3, 3]))
torch.testing.assert_close(log_probs.float(), model(torch.tensor([[1.0, 2.0] + [0.0] * 18, [0.0] * 20])))
assert log_probs.shape == (2, 3)
try:
    import job
except ImportError:
    print("alone")
"""


def test_the_file_loads_from_its_path_where_this_project_is_not_installed(tmp_path: Path) -> None:
    """If it failed, TorchScript would be of no use to anybody who has no copy of the training code."""
    path = tmp_path / "model.ts"
    torchscript.write(path, new_model(), EXTRA_FILES)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LOAD, str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("alone\n", 0), done.stderr


def test_a_models_initial_weights_do_not_change_the_code(tmp_path: Path) -> None:
    """If it failed, two models of one size would differ in more than their weights."""
    archives = []
    for model in (BowClassifier(2, 5).eval(), BowClassifier(2, 5).eval()):
        if archives:
            initialize_uniform(model)
        path = tmp_path / f"{len(archives)}.ts"
        torchscript.write(path, model, EXTRA_FILES)
        with zipfile.ZipFile(path) as archive:
            archives.append({name: archive.read(name) for name in archive.namelist()})
    one, other = archives
    assert {name for name in one if one[name] != other[name]} == {"archive/data/0", "archive/data/1"}
