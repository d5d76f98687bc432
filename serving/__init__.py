"""Uses the files: loads, verifies and serves a bundle. Imports no torch."""
