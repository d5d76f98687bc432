"""Run by schemathesis: what a JSON schema cannot say of a request, so that those that should pass do."""

import os
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if "version" in (case.path_parameters or {}):
        case.path_parameters["version"] = os.environ["VERSION"]
    if not isinstance(case.body, dict):
        return
    for tensor in case.body["inputs"]:
        number = sum(1 if isinstance(each, str) else len(each) for each in tensor["data"])
        tensor["shape"] = [number] + [1] * (len(tensor["shape"]) - 1)
    if case.body.get("outputs"):
        case.body["outputs"] = list({output["name"]: output for output in case.body["outputs"]}.values())
