"""`model.ts`: the model as TorchScript, without the paths and the random parts that torch puts in."""

import io
import warnings
import zipfile
from collections.abc import Mapping

import torch
from torch import nn

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can hold."""


def to_bytes(model: nn.Module, extra_files: Mapping[str, bytes]) -> bytes:
    """The archive of a model on the CPU, with files put beside its code; the same model gives the same bytes.

    `torch.jit.load(path, _extra_files={name: ""})` gives the extra files back.
    """
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # TorchScript is deprecated, and asked for: the README says why.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Saved to memory, since the archive of a file is named after the file.
        torch.jit.save(torch.jit.script(model), archive, _extra_files=dict(extra_files))
    return _without_traces(archive)


def _without_traces(archive: io.BytesIO) -> bytes:
    """The archive without its debug records, which hold source paths, and without the ID made from them.

    Stored rather than deflated: another zlib would give other bytes.
    """
    clean = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as sink:
        for name in sorted(source.namelist()):
            if name.endswith((".debug_pkl", "/.data/serialization_id")):
                continue
            sink.writestr(zipfile.ZipInfo(name, _EPOCH), source.read(name))
    return clean.getvalue()
