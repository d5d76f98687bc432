"""How settings are read from an environment and shown: for the job and the server.

All but `names` needs pydantic.
"""
