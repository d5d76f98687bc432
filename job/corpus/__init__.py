"""Data sets in memory and on disk: read, kept, numbered, shuffled and split."""
