"""Which model and version a path names."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException

from serving.predictor import Predictor
from serving.server.service import Service


def check_name(model_name: str, path_params: Mapping[str, str]) -> None:
    """Raises HTTPException with 404 where the path names another model."""
    name = path_params.get("name", model_name)
    if name != model_name:
        raise HTTPException(404, f"there is no model {name[:80]!r}; this is {model_name!r}")


def check_version(predictor: Predictor, path_params: Mapping[str, str]) -> None:
    """Raises HTTPException with 404 where the path names another version."""
    wanted = path_params.get("version", predictor.version)
    if wanted != predictor.version:
        raise HTTPException(404, f"there is no version {wanted[:80]!r}; this is {predictor.version!r}")


def named(service: Service, model_name: str, path_params: Mapping[str, str]) -> Predictor:
    """The predictor that the path names; raises HTTPException with 404 or, before there is one, 503."""
    check_name(model_name, path_params)
    if service.predictor is None:
        raise HTTPException(503, "the bundle is being loaded; ask /v2/health/ready")
    check_version(service.predictor, path_params)
    return service.predictor
