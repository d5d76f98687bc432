"""Every setting of the server: its environment variable, default, range and meaning."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.server.variables import COMMAND, PREFIX
from serving.settings.environment import read_settings
from serving.settings.kinds import Form

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ServerSettings(BaseSettings):
    """How bundles are served. Read from `BOW_SERVE_*` variables, and never changed afterwards."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all of IPv4, :: for all."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The TCP port to listen on; 0 for any that is free, which the log then names."""

    workers: Count = 1
    """Processes that answer requests. Each holds the model in memory and uses one core, and a little of
    another for large requests, or its share of the cores where hundreds of texts come at once."""

    model_name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9._-]+$"), Form("letters, digits, '.', '_', '-'")
    ] = "bowsprit"
    """The model's name in the protocol: /v2/models/NAME/infer."""

    providers: str = "CPUExecutionProvider"
    """onnxruntime's execution providers, the preferred one first, with commas between them. One that takes no
    text, as CUDA's, is passed over; the log and the metrics say which one is really used."""

    reload_seconds: SecondsOrNone = 0.0
    """How often to look for another bundle at the same place, such as the one that `latest` names by then;
    0 for never. It is served once it is proven; one that is not is refused, and the old one goes on."""

    max_texts: Count = 1024
    """Texts in a request; more are refused with 413."""

    max_text_bytes: Count = 1 << 20
    """Bytes of a text in UTF-8; longer ones are refused with 413."""

    max_request_bytes: Count = 8 << 20
    """Bytes of a request; larger ones are refused with 413."""

    request_seconds: Seconds = 10.0
    """The time in which a request must have come; slower ones are ended with 408."""

    drain_seconds: SecondsOrNone = 1.0
    """After SIGTERM: how long new connections are still taken, while /v2/health/ready says no and every
    answer asks the client to connect elsewhere. In a cluster, as long as it takes to hear of it."""

    grace_seconds: Seconds = 30.0
    """After that: how long the requests that were begun may take."""

    access_log: bool = True
    """Whether a line is logged for each request. Texts never are."""

    log_format: Literal["auto", "console", "json"] = "auto"
    """`console` is for people, `json` is one object a line; `auto` is console on a terminal, else json."""

    def provider_names(self) -> list[str]:
        """The execution providers, one by one."""
        return [name.strip() for name in self.providers.split(",") if name.strip()]


def server_settings(environ: Mapping[str, str]) -> ServerSettings:
    """Reads the `BOW_SERVE_*` variables; raises `SettingsError` with one line for each problem found."""
    return read_settings(ServerSettings, environ, command=COMMAND)
