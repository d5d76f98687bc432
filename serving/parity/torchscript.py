"""TorchScript on the ladder: the one module here that imports torch, and only where it is asked for.

Loading a TorchScript file runs what is in it: only for a file whose origin is trusted.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import ArtifactError, SettingsError
from serving.parity.reference import Bags
from serving.process import deferred


class TorchScriptModel:
    """`model.ts`, loaded onto the CPU."""

    def __init__(self, path: Path) -> None:
        try:
            with deferred():
                import torch
        except ImportError:
            raise SettingsError(
                "--torch needs torch, which is not installed here; run it without --torch, or where "
                "bowsprit[train] is installed"
            ) from None
        self._torch = torch
        self._path = path
        # A file object, since torch would put the path's name into the loaded module.
        with path.open("rb") as file, warnings.catch_warnings():
            # TorchScript is deprecated, and asked for: the README says why.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                self._module: Any = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]
            # torch raises RuntimeError for most, and IndexError, UnicodeDecodeError and others for some.
            except Exception as error:
                raise self._broken("cannot load it", error) from error

    def forward(self, bow: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log-probabilities [N, K] of counts [N, V], in float32."""
        log_probs: npt.NDArray[np.float32] = self._run("forward", bow)
        return log_probs

    def score(self, bags: Bags) -> npt.NDArray[np.float64]:
        """Log-probabilities [N, K] of bags, summed in float64."""
        values = [] if bags.values is None else [bags.values]
        log_probs: npt.NDArray[np.float64] = self._run("score", bags.ids, bags.offsets, *values)
        return log_probs

    def _run(self, method: str, *arrays: npt.NDArray[Any]) -> Any:
        """Raises ArtifactError where the method is missing or the file's code fails."""
        try:
            with self._torch.no_grad():
                return getattr(self._module, method)(*map(self._torch.from_numpy, arrays)).numpy()
        except Exception as error:
            raise self._broken(f"fails in its {method}", error) from error

    def _broken(self, what: str, error: Exception) -> ArtifactError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return ArtifactError(
            f"{self._path}: torch {self._torch.__version__} {what} ({reason}); get the bundle again"
        )
