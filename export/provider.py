"""Whether onnxruntime can use an execution provider on this machine."""

import contextlib
import io

import numpy as np
import onnxruntime as ort

from export import bow_graph
from serving.session import CPU, Provider, exact, first_line, session_options


def why_unusable(provider: Provider) -> str | None:
    """Why onnxruntime cannot use a provider here; None when it can.

    A model is loaded to find out, since onnxruntime goes on without a provider whose libraries it lacks.
    """
    name, _ = provider
    if name not in ort.get_available_providers():
        return f"this build of onnxruntime ({ort.__version__}) has no {name}"
    if hasattr(ort, "preload_dlls"):
        # It prints each library that it cannot load, most of which are not needed.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()  # the CUDA libraries that torch's wheels bring
    model = bow_graph.build(np.zeros((2, 1), np.float32), np.zeros(2, np.float32), {})
    providers = exact([provider] if name == CPU[0] else [provider, CPU])
    try:
        session = ort.InferenceSession(model.to_bytes(), session_options(), providers=providers)
        session.run(None, {"bow": np.zeros((1, 1), np.float32)})
    except Exception as error:  # noqa: BLE001 - onnxruntime's error types have no common base but Exception
        return first_line(error)
    return None if name in session.get_providers() else f"onnxruntime could not load {name}"
