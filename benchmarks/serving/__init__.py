"""Compares our server with its peers, and the library with fastText; no part of the project's packages."""
