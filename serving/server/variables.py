"""The names of the server's variables, for those who do not wait for pydantic; the rest is in `settings`."""

PREFIX = "BOW_SERVE_"
COMMAND = "python -m serving serve"
"""With --help it lists them."""
NAMES = tuple(
    f"{PREFIX}{name}"
    for name in (
        *("HOST", "PORT", "WORKERS", "MODEL_NAME", "PROVIDERS", "RELOAD_SECONDS"),
        *("MAX_TEXTS", "MAX_TEXT_BYTES", "MAX_REQUEST_BYTES", "REQUEST_SECONDS"),
        *("DRAIN_SECONDS", "GRACE_SECONDS", "ACCESS_LOG", "LOG_FORMAT"),
    )
)
"""Those of `ServerSettings`, in its order; a test holds them to it."""
