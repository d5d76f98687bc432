"""`model.ts`: the model as TorchScript, without the paths and the random parts that torch puts in."""

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold."""


def write(path: Path, model: nn.Module, extra_files: Mapping[str, bytes]) -> None:
    """Writes a model that is on the CPU, with files put beside its code; the same model gives the same bytes.

    `torch.jit.load(path, _extra_files={name: ""})` gives the extra files back.
    """
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # TorchScript is deprecated, and asked for: the README says why.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Saved to memory, since the archive of a file is named after the file.
        torch.jit.save(torch.jit.script(model), archive, _extra_files=dict(extra_files))
    _write_without_traces(path, archive)


def _write_without_traces(path: Path, archive: io.BytesIO) -> None:
    """Writes the archive without its debug records, which hold source paths, and the ID made from them.

    Stored rather than deflated: another zlib would give other bytes.
    """
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as sink:
        for name in sorted(source.namelist()):
            if name.endswith((".debug_pkl", "/.data/serialization_id")):
                continue
            sink.writestr(zipfile.ZipInfo(name, _EPOCH), source.read(name))
