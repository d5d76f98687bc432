"""TorchScript on the ladder: the one module here that imports torch, and only where it is asked for.

Loading a TorchScript file runs what is in it: only for a file whose origin is trusted.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import ArtifactError, SettingsError


class TorchScriptModel:
    """`model.ts`, loaded onto the CPU."""

    def __init__(self, path: Path) -> None:
        try:
            import torch
        except ImportError:
            raise SettingsError(
                "--torch needs torch, which is not installed here; run it without --torch, or where "
                "bowsprit[train] is installed"
            ) from None
        self._torch = torch
        # A file object, since torch would put the path's name into the loaded module.
        with path.open("rb") as file, warnings.catch_warnings():
            # TorchScript is deprecated, and asked for: the README says why.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                self._module: Any = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                raise ArtifactError(
                    f"{path}: torch {torch.__version__} cannot load it ({reason}); get the bundle again"
                ) from error

    def forward(self, bow: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log-probabilities [N, K] of counts [N, V], in float32."""
        with self._torch.no_grad():
            log_probs: npt.NDArray[np.float32] = self._module(self._torch.from_numpy(bow)).numpy()
        return log_probs

    def score(self, ids: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Log-probabilities [N, K] of bags, summed in float64."""
        from_numpy = self._torch.from_numpy
        with self._torch.no_grad():
            log_probs: npt.NDArray[np.float64] = self._module.score(
                from_numpy(ids), from_numpy(offsets)
            ).numpy()
        return log_probs
