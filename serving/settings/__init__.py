"""How settings are read from an environment and shown: for the job and the server. It needs pydantic."""
